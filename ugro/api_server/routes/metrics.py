"""The series that a job's training reports."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from ugro.api_server.errors import RESPONSES
from ugro.api_server.state import Here, document
from ugro.common.models.metrics import Axis
from ugro.service.schemas.metrics import Metrics, MetricsDocument

router = APIRouter(tags=["metrics"], responses=RESPONSES)

Bound = Annotated[float | None, Query(allow_inf_nan=False)]


@router.get("/jobs/{job}/metrics", response_model=MetricsDocument)
async def metrics(
    web: Here,
    job: str,
    names: Annotated[tuple[str, ...], Query(max_length=100, description="Names of series, or patterns")] = (),
    x: Axis = Axis.STEP,
    pixels: Annotated[int | None, Query(ge=1, le=100_000)] = None,
    start: Bound = None,
    end: Bound = None,
    attempt: Annotated[tuple[int, ...], Query(max_length=1000)] = (),
    points: bool = True,
) -> Response:
    """Show the series that the training of a job reports, thinned to what a chart of so many pixels shows."""
    asked = Metrics(job=job, names=names, x=x, pixels=pixels, start=start, end=end, attempts=attempt, points=points)
    return await document(await web.ask(asked))
