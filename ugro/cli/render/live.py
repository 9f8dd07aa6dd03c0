"""What is drawn, or said now and then, while a job is followed or waited for."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ugro.cli.output import STATE_STYLES, console
from ugro.cli.render.logs import prefix, print_lines
from ugro.common.text import duration, printable, size
from ugro.service.schemas.ending import JobProgress
from ugro.service.schemas.logs import JobUpdate, LogLine, LogLines, NodeUse, UnfinishedLine
from ugro.service.words import phase, progress_in_words, stopping_in_words

UNFINISHED_SECONDS = 5.0
"""Between two states of a line without its end in a pipe; so long it has to have none before the first of them."""

UNFINISHED_WIDTH = 300
"""Characters of it that are shown there, the last ones."""

REFRESHES = 4
"""How often a second the live line is drawn."""


class News:
    """Distinguishes new texts from the one before."""

    def __init__(self) -> None:
        self._said = ""

    def is_new(self, text: str) -> bool:
        """Whether a text is not empty and differs from the last one."""
        before, self._said = self._said, text
        return text not in ("", before)


class Following:
    """Shows how a followed job stands: on a terminal in a live line below its log, elsewhere in words, where new."""

    def __init__(self, out: Console) -> None:
        self._out, self._live = out, ExitStack()
        self._beside = out if out.is_terminal else console(stderr=True)
        self._view: View | None = None
        self._stops, self._now_and_then = Stops(out.is_terminal), NowAndThen()
        self._waits, self._troubles = News(), News()

    def __enter__(self) -> Following:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.close()

    def update(self, update: JobUpdate) -> None:
        """Show what is new of the job."""
        if update.job.state.ended:
            return
        if self._waits.is_new(update.waits) and not self._out.is_terminal:
            click.echo(f"{update.job.id} waits: {printable(update.waits)}", err=True)
        if self._troubles.is_new(update.trouble):
            self._beside.print(Text(printable(update.trouble), "yellow"), soft_wrap=True)
        self._stops.tell(update)
        if self._out.is_terminal:
            self._draw(update)
        elif line := self._now_and_then.due(update.unfinished, time.monotonic()):
            print_lines(self._out, LogLines(lines=(line,), nodes=update.job.nodes))

    def _draw(self, update: JobUpdate) -> None:
        if self._view:
            self._view.show(update)
            return
        self._view = View(update, self._out.width)
        self._live.enter_context(Live(self._view, console=self._out, refresh_per_second=REFRESHES, transient=True))


class View:
    """What is drawn below the log: the line that rank 0 has begun, and how the job stands.

    It is drawn again several times a second, whatever is waited for meanwhile.
    """

    def __init__(self, update: JobUpdate, width: int) -> None:
        self._update, self._width = update, width

    def show(self, update: JobUpdate) -> None:
        """Take what is drawn from now on."""
        self._update = update

    def __rich__(self) -> Group:
        update, job = self._update, self._update.job
        head = ((f" {job.id} ", "reverse"), " ", (phase(job), STATE_STYLES[phase(job)]), f" {_seconds(update)}")
        progress = progress_in_words(job.progress) if job.progress else ""
        reason = "; ".join(filter(None, (progress, printable(job.reason or update.waits), _stopping(update))))
        status = Text.assemble(
            *head, f"  {reason}" if reason else "", *map(_node, update.nodes), no_wrap=True, overflow="ellipsis"
        )
        begun = update.unfinished
        return Group(*([_begun_line(begun.line, self._width)] if begun else []), status)


def _seconds(progress: JobProgress) -> str:
    return duration(time.time() - (progress.since or 0.0))


def _stopping(progress: JobProgress) -> str:
    """Return what happens to a job whose ranks are being ended; nothing of any other."""
    return stopping_in_words(progress.job.cancel_requested, progress.grace) if progress.job.stopping else ""


def _node(node: NodeUse) -> Text:
    gpus = " ".join(
        f"{'-' if gpu.utilization_percent is None else gpu.utilization_percent}% {size(gpu.memory_used_mib or 0)}"
        for gpu in node.gpus
    )
    return Text.assemble((f"  {node.node} ", "bold"), ("unreachable", "red") if node.silent else gpus)


def _begun_line(line: LogLine, width: int) -> Text:
    """A line that has no end yet, on one line of a terminal; of a long one what came last."""
    who, style = prefix(line, ())
    text = _newest(printable(line.text), width - len(who) - 1)
    return Text.assemble((who, style), " ", text, no_wrap=True, overflow="ellipsis")


def _newest(text: str, width: int) -> str:
    return text if len(text) <= width else f"…{text[1 - max(2, width) :]}"


class NowAndThen:
    """Says how a line stands that has no end for some time, where it cannot be drawn: a progress bar in a pipe."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._due = 0.0
        self._shown = News()

    def due(self, begun: UnfinishedLine | None, now: float) -> LogLine | None:
        """The line if it is time to print it, and it says something new. `now` is of the monotonic clock."""
        number = begun.number if begun else None
        if begun is None or number != self._number:
            self._number, self._due, self._shown = number, now + UNFINISHED_SECONDS, News()
            return None
        if now < self._due or not self._shown.is_new(text := _newest(printable(begun.line.text), UNFINISHED_WIDTH)):
            return None
        self._due = now + UNFINISHED_SECONDS
        return replace(begun.line, text=text)


class Stops:
    """Says that a job is stopping, once, where that is not drawn."""

    def __init__(self, drawn: bool) -> None:
        self._drawn, self._news = drawn, News()

    def tell(self, progress: JobProgress) -> None:
        """Say it if it is so, and new."""
        if self._news.is_new(words := _stopping(progress)) and not self._drawn:
            click.echo(f"{progress.job.id} is stopping: {words}", err=True)


class WaitDisplay:
    """Drawn on stderr while a job is waited for: what it does, and since when. Elsewhere it says only what is new."""

    def __init__(self, progress: JobProgress, text: str) -> None:
        self._progress, self._text = progress, text
        shown = console(stderr=True)
        self._stops, self._status = Stops(shown.is_terminal), shown.status(self)

    def __enter__(self) -> WaitDisplay:
        self._status.start()
        self.tell(self._progress)
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def tell(self, progress: JobProgress) -> None:
        """Take how the job stands now."""
        self._progress = progress
        self._stops.tell(progress)

    def __rich__(self) -> Text:
        if words := _stopping(self._progress):
            return Text(f"{self._progress.job.id} is stopping ({_seconds(self._progress)}): {words}")
        return Text(self._text)
