"""Checks that data from outside has the types that it should have."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import TypeAdapter, ValidationError


@functools.cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return what makes values of a type from data, and JSON from such values."""
    return TypeAdapter(kind)


def reasons(error: ValidationError) -> str:
    """Return what is wrong with data, without the data: it may be a secret."""
    found = error.errors(include_input=False, include_context=False, include_url=False)
    return "; ".join(": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in found)
