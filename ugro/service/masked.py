"""Masks secrets in what leaves the service functions: answers, items of streams, errors.

This is the one place for it. The command line, the socket, HTTP and live views all ask through `local.function_of`,
which has this around each function. Nothing is done where no secret is set.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from ugro.common.errors import UgroError
from ugro.common.masking import Masker
from ugro.service.context import Context
from ugro.service.plan import Plan
from ugro.service.schemas.launch import Draft

COME_BACK = (Plan, Draft)
"""Documents that their receiver sends back to be carried out: they are what the user typed, and stay that."""


def masked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a service function whose answers and errors have no secret in them."""
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def stream(context: Context, request: Any) -> AsyncIterator[Any]:
            with _masked_errors(context):
                items = function(context, request)
                try:
                    async for item in items:
                        yield _without_secrets(context.store.secrets.masker, item)
                finally:
                    await items.aclose()

        return stream

    @functools.wraps(function)
    async def call(context: Context, request: Any) -> Any:
        with _masked_errors(context):
            return _without_secrets(context.store.secrets.masker, await function(context, request))

    return call


def _without_secrets(masker: Masker, found: Any) -> Any:
    return found if isinstance(found, COME_BACK) else masker.document(found)


@contextlib.contextmanager
def _masked_errors(context: Context) -> Iterator[None]:
    try:
        yield
    except UgroError as error:
        mask = context.store.secrets.masker
        if mask:
            error.message, error.hint = mask.text(error.message), mask.text(error.hint)
            error.args = tuple(mask.text(part) if isinstance(part, str) else part for part in error.args)
        raise
