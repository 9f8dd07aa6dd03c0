"""The two ways to the service functions: in this process, or in the resident controller over its socket."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Protocol, TypeVar

from ugro.common.errors import UgroError
from ugro.service.schemas.base import Notice, Request, Stream
from ugro.service.schemas.code import CodeDocument

if TYPE_CHECKING:
    from ugro.service.code import WorkingCode

Answer = TypeVar("Answer")
Tell = Callable[[Notice], None]
"""Takes what a function reports while it works."""


class Backend(Protocol):
    """Answers requests. `tell` takes what the function reports meanwhile."""

    def call(self, request: Request[Answer], tell: Tell | None = None) -> Answer:
        """Return the answer.

        Raises:
            UgroError: what the function raises.
        """

    def stream(self, request: Stream[Answer], tell: Tell | None = None) -> Generator[Answer, None, None]:
        """Yield the items of the answer as they come.

        Raises:
            UgroError: what the function raises.
        """

    def bring(self, code: WorkingCode) -> CodeDocument:
        """Bring files of this machine to where the functions run, for the requests that name them by the document."""

    def close(self, rest: bool = True) -> None:
        """End the session. With `rest`, what was begun on nodes for it is finished first."""

    @property
    def troubles(self) -> list[UgroError]:
        """Errors of the disk that the functions did without."""
