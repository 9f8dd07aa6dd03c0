"""Times in the query of a route."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import BeforeValidator

from ugro.common.units import parse_past

Past = Annotated[
    float | None,
    BeforeValidator(lambda text: parse_past(text) if isinstance(text, str) else text),
    Query(description="A time in the past: 2h (ago), 22:30, or ISO 8601", json_schema_extra={"type": "string"}),
]
"""A parameter of a route: seconds since the epoch, as people say a time."""
