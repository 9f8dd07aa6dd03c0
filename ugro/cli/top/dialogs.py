"""What `ugro top` shows over its tables: a question, and its keys."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

_BOX = "{ align: center middle; } Vertical { width: auto; max-width: 90%; height: auto; border: round $primary; padding: 1 2; } Static { width: auto; height: auto; }"  # noqa: E501


class Confirmation(ModalScreen[bool]):
    """Asks for a yes. Anything but `y` is none."""

    CSS = f"Confirmation {_BOX}"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)"),
        Binding("n,escape,q,enter", "dismiss(False)"),
    ]

    def __init__(self, text: str, command: str) -> None:
        super().__init__()
        self._text, self._command = text, command

    def compose(self) -> ComposeResult:
        yield Vertical(
            Static(self._text, markup=False),
            Static(f"the same: {self._command}", markup=False),
            Static("y: yes    n: no", markup=False),
        )


class Help(ModalScreen[None]):
    """The keys."""

    CSS = f"Help {_BOX}"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter,question_mark,h", "dismiss")]

    def __init__(self, readonly: bool) -> None:
        super().__init__()
        self._readonly = readonly

    def compose(self) -> ComposeResult:
        keys = {
            "Tab": "from the GPUs to the jobs and back",
            "j k, arrows": "another row; the last line has the command that prints the same",
            "o": "sort by the next column",
            "/": "only rows with these words; Escape shows all",
            "l, Enter": "follow the logs of the job; Escape comes back",
            "c": "cancel the job, after a question" + (" (not with --readonly)" if self._readonly else ""),
            "q": "quit; jobs keep running",
        }
        yield Vertical(Static("\n".join(f"{key:<12} {words}" for key, words in keys.items()), markup=False))
