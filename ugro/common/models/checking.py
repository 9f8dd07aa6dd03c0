"""Checks that data from outside has the types that it should have."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import TypeAdapter


@functools.cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return what makes values of a type from data, and JSON from such values."""
    return TypeAdapter(kind)
