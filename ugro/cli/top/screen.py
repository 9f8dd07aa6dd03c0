"""The screen of `ugro top`. It shows what the live view has, and asks before it ends a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import App as TextualApp
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable, Input, Static

from ugro.cli.top.asking import Asking
from ugro.cli.top.dialogs import Confirmation, Help
from ugro.cli.top.logs import Log
from ugro.cli.top.rows import GPU_COLUMNS, JOB_COLUMNS, NARROW, Row, SortColumn, Use, gpu_rows, job_rows, summary
from ugro.common.errors import UgroError
from ugro.common.text import duration, printable
from ugro.service.schemas.ending import Cancel
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.live import LiveView

STALE = 5.0
"""Seconds without contact before that is shown."""

OF_THE_TABLES = ("follow", "cancel", "sort", "filter", "clear_filter")
"""The actions of keys that mean a row or the order of the rows."""


class Handed(Message):
    """A call that another thread hands over."""

    def __init__(self, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        super().__init__()
        self.function, self.args = function, args


class RowTable(DataTable[Text]):
    """A table whose rows keep their keys, and the cursor its row, whatever changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
    ]

    def __init__(self, columns: Mapping[str, SortColumn], by: str, id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=1)
        self.columns_by_title, self.by = columns, by
        self.rows_shown: Sequence[Row] = ()

    def on_mount(self) -> None:
        for title in self.columns_by_title:
            self.add_column(title, key=title)

    def next_order(self) -> str:
        """Sort by the next column; return its title."""
        titles = list(self.columns_by_title)
        self.by = titles[(titles.index(self.by) + 1) % len(titles)]
        return self.by

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self.rows_shown[self.cursor_row] if 0 <= self.cursor_row < len(self.rows_shown) else None

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows. Only cells that changed are drawn again, unless rows came, went or moved."""
        if [row.key for row in rows] == [row.key for row in self.rows_shown]:
            for before, row in zip(self.rows_shown, rows, strict=True):
                for title, old, new in zip(self.columns_by_title, before.texts(), row.texts(), strict=True):
                    if old != new:
                        self.update_cell(row.key, title, new, update_width=True)
            self.rows_shown = rows
            return
        kept = self.current.key if self.current else None
        self.clear()
        for row in rows:
            self.add_row(*row.texts(), key=row.key)
        self.rows_shown = rows
        keys = [row.key for row in rows]
        if kept in keys:
            self.move_cursor(row=keys.index(kept), animate=False)


class Top(TextualApp[None]):
    """GPUs above, jobs below; the last line has the command that prints the same."""

    TITLE = "ugro top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Static { height: 1; width: 100%; }
    #summary { text-style: bold; }
    RowTable { scrollbar-size-horizontal: 0; }
    RowTable > .datatable--header { background: $panel; color: $text-muted; }
    #gpus { height: auto; max-height: 50%; }
    #jobs { height: 1fr; margin-top: 1; }
    #lost { background: $error; color: $text; display: none; }
    #filter { display: none; height: 1; border: none; padding: 0; }
    #command { color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "quit"),
        Binding("question_mark,h", "help", "help"),
        Binding("slash", "filter", "filter"),
        Binding("o", "sort", "sort"),
        Binding("l,enter", "follow", "logs"),
        Binding("c", "cancel", "cancel"),
        Binding("escape", "clear_filter", show=False),
    ]

    def __init__(self, asking: Asking, every: float = 2.0, readonly: bool = False) -> None:
        super().__init__(ansi_color=True)
        self.asking, self.every, self.readonly = asking, every, readonly
        self.view: LiveView | None = None
        self.words, self.use = "", Use()
        self._seen_at, self._trouble = time.monotonic(), ""

    def compose(self) -> ComposeResult:
        yield Static("reading the cluster …", id="summary", markup=False)
        yield Static("", id="lost", markup=False)
        yield RowTable(GPU_COLUMNS, "GPU", id="gpus")
        yield RowTable(JOB_COLUMNS, "STATE", id="jobs")
        yield Input(placeholder="only rows with these words; Enter keeps them, Escape shows all", id="filter")
        yield Static("", id="command", markup=False)

    def on_mount(self) -> None:
        self.query_one("#jobs").focus()
        self.set_interval(1.0, self._each_second)
        self.asking.watch(self.every, partial(self.hand, self.take), partial(self.hand, self.lost))

    def on_unmount(self) -> None:
        self.asking.end()

    def hand(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function in the loop of the screen, from any thread; a screen that has ended calls nothing."""
        self.post_message(Handed(function, args))

    @on(Handed)
    def _take_over(self, handed: Handed) -> None:
        handed.function(*handed.args)

    # --- what is shown -----------------------------------------------------------------------------------------------

    def take(self, view: LiveView) -> None:
        """Show a new view."""
        self.view, self._seen_at, self._trouble = view, time.monotonic(), ""
        self.use.take(view)
        self._draw()

    def lost(self, error: UgroError) -> None:
        """Remember why there is no new view."""
        self._trouble = error.message
        self._each_second()

    def _each_second(self) -> None:
        away = time.monotonic() - self._seen_at
        band = self.query_one("#lost", Static)
        band.display = bool(self._trouble) or (self.view is not None and away > max(STALE, 3 * self.every))
        band.update(f"no contact for {duration(away)}: {printable(self._trouble) or 'the cluster is being read'}")
        self._draw()

    def _draw(self) -> None:
        if self.view is None:
            return
        gpus, jobs = self.query_one("#gpus", RowTable), self.query_one("#jobs", RowTable)
        self.query_one("#summary", Static).update(f"{time.strftime('%H:%M:%S')}  {summary(self.view)}")
        gpus.show(gpu_rows(self.view, self.use, gpus.by, self.words, self.size.width < NARROW))
        jobs.show(job_rows(self.view, time.time(), jobs.by, self.words))
        self._tell_command()

    @on(DataTable.RowHighlighted)
    def _tell_command(self) -> None:
        row = self._listing().current
        keys = "q quit  ? help  / filter  o sort  l logs" + ("" if self.readonly else "  c cancel")
        self.query_one("#command", Static).update(f"{row.command if row else 'ugro status'}    {keys}")

    def on_descendant_focus(self) -> None:
        self._tell_command()

    def _listing(self) -> RowTable:
        return self.focused if isinstance(self.focused, RowTable) else self.query_one("#jobs", RowTable)

    # --- what keys do ------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Over the logs the keys of the tables do nothing: their rows are not in sight."""
        return action not in OF_THE_TABLES or not isinstance(self.screen, Log)

    def action_help(self) -> None:
        self.push_screen(Help(self.readonly))

    def action_sort(self) -> None:
        self.notify(f"sorted by {self._listing().next_order()}", timeout=2)
        self._draw()

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def action_clear_filter(self) -> None:
        self.query_one("#filter", Input).value = ""
        self._leave_filter()

    @on(Input.Changed)
    def _filtered(self, event: Input.Changed) -> None:
        self.words = event.value
        self._draw()

    @on(Input.Submitted)
    def _leave_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = bool(field.value)
        self.query_one("#jobs").focus()

    @on(DataTable.RowSelected, "#jobs")
    def action_follow(self) -> None:
        if job := self._job():
            self.push_screen(Log(job, self.asking, self.hand))

    def action_cancel(self) -> None:
        job = self._job()
        if job is None or self.view is None:
            return
        found = self.view.jobs[job]
        if self.readonly or found.state.ended:
            why = "started with --readonly" if self.readonly else f"{job} has ended: {found.state.value}"
            self.notify(why, severity="warning", markup=False)
            return
        where = f" on {', '.join(found.nodes)}" if found.nodes else ""
        name = "" if found.name == job else f" ({found.name})"
        text = f"Cancel {job}{name}?" + (f" Its ranks{where} end: SIGTERM, then SIGKILL." if where else "")
        self.push_screen(
            Confirmation(printable(text), f"ugro cancel {job}"), lambda yes: self._cancel(job) if yes else None
        )

    def _cancel(self, job: str) -> None:
        self.asking.call(
            Cancel(job=job),
            partial(self.hand, self._cancelled),
            partial(self.hand, self._refused),
        )

    def _cancelled(self, job: JobDocument) -> None:
        over = f"{job.id} had already ended: {job.state.value}" if job.state.ended else f"{job.id} is being cancelled"
        self.notify(over, markup=False)

    def _refused(self, error: UgroError) -> None:
        self.notify(printable(f"{error.message}; {error.hint}"), severity="error", markup=False, timeout=10)

    def _job(self) -> str | None:
        row = self.query_one("#jobs", RowTable).current
        return row.key if row else None
