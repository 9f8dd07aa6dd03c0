"""The logs of a job, over the tables of `ugro top`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import RichLog, Static

from ugro.cli.render.logs import prefix
from ugro.cli.top.asking import Asking
from ugro.common.errors import UgroError
from ugro.common.text import printable
from ugro.service.schemas.logs import FollowUpdate, JobUpdate, LogLines

KEPT = 10_000
"""Lines that stay on the screen; `ugro logs` has all."""


class Log(Screen[None]):
    """Follows what the ranks of a job print."""

    CSS = "Log Static { height: 1; width: 100%; text-style: bold; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss")]

    def __init__(self, job: str, asking: Asking, hand: Callable[..., None]) -> None:
        """`hand` calls a function in the loop of the screen, from any thread."""
        super().__init__()
        self._job, self._asking, self._hand = job, asking, hand
        self._end: Callable[[], None] = lambda: None

    def compose(self) -> ComposeResult:
        yield Static(f"ugro logs -f {self._job}    Escape comes back", markup=False)
        yield RichLog(max_lines=KEPT, wrap=True, markup=False, highlight=False)

    def on_mount(self) -> None:
        self.query_one(RichLog).focus()
        self._end = self._asking.follow(self._job, partial(self._hand, self._take), partial(self._hand, self._take))

    def on_unmount(self) -> None:
        self._end()

    def _take(self, item: FollowUpdate | UgroError) -> None:
        if not self.is_mounted:
            return
        log = self.query_one(RichLog)
        match item:
            case LogLines():
                for line in item.lines:
                    who, style = prefix(line, item.nodes)
                    log.write(Text.assemble((f"{who} ", style), printable(line.text)))
            case JobUpdate() if item.job.state.ended:
                log.write(Text(f"{item.job.id} {item.job.state.value}", "bold"))
            case UgroError():
                log.write(Text(printable(f"{item.message}; {item.hint}"), "bold red"))
