"""What jobs print: pages of a rank's log by line, a search in all of it, and the log itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from ugro.api_server.errors import RESPONSES
from ugro.api_server.state import Here, document
from ugro.service.context import Context
from ugro.service.log_pages import raw
from ugro.service.schemas.logs import LogHits, LogPage, PageOfLog, SearchLog

router = APIRouter(tags=["logs"], responses=RESPONSES)

TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The log, as a file"}
}

Number = Annotated[int | None, Query(ge=1, le=2**31)]


@router.get("/jobs/{job}/logs", response_model=LogPage)
async def page(
    web: Here,
    job: str,
    rank: Annotated[int, Query(ge=0, le=100_000)] = 0,
    attempt: Number = None,
    from_line: Number = None,
    count: Annotated[int, Query(ge=1, le=1000)] = 200,
    direction: Literal["forward", "backward"] = "backward",
) -> Response:
    """Read lines of one rank's log: the last ones, unless it is said from which line on (`direction=forward`)."""
    asked = PageOfLog(job=job, rank=rank, attempt=attempt, from_line=from_line, count=count, direction=direction)
    return await document(await web.ask(asked))


@router.get("/jobs/{job}/logs/search", response_model=LogHits)
async def search(
    web: Here,
    job: str,
    query: Annotated[str, Query(min_length=1, max_length=1000)],
    rank: Annotated[int, Query(ge=0, le=100_000)] = 0,
    attempt: Number = None,
    regex: bool = False,
    from_offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Search one rank's log for a text, from an offset on, for at most 2 s; `next_offset` says where to continue."""
    asked = SearchLog(
        job=job, query=query, rank=rank, attempt=attempt, regex=regex, from_offset=from_offset, limit=limit
    )
    return await document(await web.ask(asked))


@router.get("/jobs/{job}/logs/raw", response_model=None, responses=TEXT)
async def download(
    web: Here, job: str, rank: Annotated[int, Query(ge=0, le=100_000)] = 0, attempt: Number = None
) -> Response:
    """Read all of one rank's log as it was printed, with secrets masked; a file for a browser."""
    context = web.serving.context()
    try:
        name, pieces = await raw(context, PageOfLog(job=job, rank=rank, attempt=attempt))
    except BaseException:
        await context.close()
        raise
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_then_closed(context, pieces), headers=headers, media_type="text/plain")


async def _then_closed(context: Context, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for piece in pieces:
            yield piece
    finally:
        await context.close()
