"""Answers requests in this process."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ugro.common.errors import UgroError
from ugro.service.backend import Answer, Tell
from ugro.service.context import Context
from ugro.service.masked import masked
from ugro.service.schemas.base import Request, Stream
from ugro.service.schemas.code import CodeDocument

if TYPE_CHECKING:
    from ugro.service.code import WorkingCode


def function_of(request: Request[Any] | Stream[Any]) -> Callable[..., Any]:
    """Return the service function that answers a request. What it answers has no secrets in it."""
    module, _, name = request.function.partition(".")
    return masked(getattr(importlib.import_module(f"ugro.service.{module}"), name))


class Local:
    """Answers in this process, on the state directory, as cron and a lone user do."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._runner = asyncio.Runner()

    def call(self, request: Request[Answer], tell: Tell | None = None) -> Answer:
        self.context.tell = tell or _nobody
        answer: Answer = self._runner.run(function_of(request)(self.context, request))
        return answer

    def stream(self, request: Stream[Answer], tell: Tell | None = None) -> Generator[Answer, None, None]:
        self.context.tell = tell or _nobody
        items: AsyncIterator[Answer] = function_of(request)(self.context, request)
        try:
            with suppress(StopAsyncIteration):
                while True:
                    yield self._runner.run(_next(items))
        finally:
            if close := getattr(items, "aclose", None):
                self._runner.run(close())

    def bring(self, code: WorkingCode) -> CodeDocument:
        self.context.code[code.document.directory] = code  # the functions read the files where they are
        return code.document

    def close(self, rest: bool = True) -> None:
        with self._runner:
            if self.context.is_open:  # a loop is not worth its making only to end it
                self._runner.run(self.context.close(rest))

    @property
    def troubles(self) -> list[UgroError]:
        return self.context.store.bus.troubles


async def _next(items: AsyncIterator[Answer]) -> Answer:
    return await anext(items)


def _nobody(_: object) -> None:
    pass
