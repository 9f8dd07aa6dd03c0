"""What is drawn, or said now and then, while a job is followed or waited for."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group
from rich.text import Text

from ugro.cli.output import RANK_COLOURS, STATE_STYLES, console, phase
from ugro.common.models.job import Job
from ugro.common.models.node import NodeView
from ugro.common.text import duration, printable, size
from ugro.control_plane.controller.job_steps import CANCEL_GRACE
from ugro.nodes.remote.logs.log_streamer import Line, Unfinished

if TYPE_CHECKING:
    from ugro.cli.app import App

UNFINISHED_SECONDS = 5.0
"""Between two states of a line without its end in a pipe; so long it has to have none before the first of them."""

UNFINISHED_WIDTH = 300
"""Characters of it that are shown there, the last ones."""


def prefix(line: Line, nodes: tuple[str, ...]) -> tuple[str, str]:
    """Who says a line, and the colour that goes with it: `[rank 0]`, or the node for torchrun's own words."""
    if line.rank is not None:
        return f"[rank {line.rank}]", RANK_COLOURS[line.rank % len(RANK_COLOURS)]
    name = nodes[line.node_rank] if line.node_rank is not None and line.node_rank < len(nodes) else "?"
    return f"[{name}]", "dim"


class News:
    """Tells what is new from what was said before."""

    def __init__(self) -> None:
        self._said = ""

    def is_new(self, text: str) -> bool:
        """Whether a text is one, and another than the last one."""
        before, self._said = self._said, text
        return text not in ("", before)


class View:
    """What is drawn below the log: the line that rank 0 has begun, and how the job stands.

    It is drawn anew several times a second, whatever is waited for meanwhile.
    """

    def __init__(self, job: Job, width: int) -> None:
        self._job, self._width = job, width
        self._nodes, self._reason = Text(), ""
        self._begun: Unfinished | None = None

    def show(self, app: App, job: Job, silent: list[str], reason: str, begun: Unfinished | None) -> None:
        """What is drawn from now on."""
        views, nodes = app.store.config.remembered_nodes(), Text()
        for node in job.nodes:
            nodes.append(f"  {node} ", "bold")
            nodes.append("silent", "red") if node in silent else nodes.append(_gpus_in_words(views.get(node)))
        self._job, self._nodes, self._begun = job, nodes, begun
        self._reason = "; ".join(filter(None, (printable(reason), stopping_in_words(job))))

    def __rich__(self) -> Group:
        job, style = self._job, STATE_STYLES[phase(self._job)]
        seconds = duration(time.time() - since_when(job))
        head = ((f" {job.id} ", "reverse"), " ", (phase(job), style), f" {seconds}")
        status = Text.assemble(*head, self._nodes, f"  {self._reason}" if self._reason else "")
        return Group(*([_begun_line(self._begun.line, self._width)] if self._begun else []), status)


def _gpus_in_words(view: NodeView | None) -> str:
    gpus = view.gpus if view else ()
    return " ".join(
        f"{'-' if gpu.utilization_percent is None else gpu.utilization_percent}% {size(gpu.memory_used_mib or 0)}"
        for gpu in gpus
    )


def _begun_line(line: Line, width: int) -> Text:
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

    def due(self, begun: Unfinished | None, now: float) -> Line | None:
        """The line if it is time to print it, and it says something new. `now` is of the monotonic clock."""
        number = begun.number if begun else None
        if begun is None or number != self._number:
            self._number, self._due, self._shown = number, now + UNFINISHED_SECONDS, News()
            return None
        if now < self._due or not self._shown.is_new(text := _newest(printable(begun.line.text), UNFINISHED_WIDTH)):
            return None
        self._due = now + UNFINISHED_SECONDS
        return replace(begun.line, text=text)


def since_when(job: Job) -> float:
    """Since when a job runs, waits, or is being ended; in seconds since the epoch."""
    if job.stopping and job.last_event:
        return job.last_event.at
    return job.started_at or job.submitted_at


def stopping_in_words(job: Job) -> str:
    """What happens to a job whose ranks are being ended; nothing of any other."""
    if not job.stopping:
        return ""
    asked = "cancel was asked for; " if job.wish else ""
    return f"{asked}SIGTERM, after {CANCEL_GRACE:.0f} s SIGKILL"


class Stops:
    """Says that a job is stopping, once, where that is not drawn."""

    def __init__(self, drawn: bool) -> None:
        self._drawn, self._news = drawn, News()

    def tell(self, job: Job) -> None:
        """Say it if it is so, and new."""
        if self._news.is_new(words := stopping_in_words(job)) and not self._drawn:
            click.echo(f"{job.id} is stopping: {words}", err=True)


class Waiting:
    """Drawn on stderr while a job is waited for: what it does, and since when. Elsewhere it says only what is new."""

    def __init__(self, job: Job, text: str) -> None:
        self._job, self._text = job, text
        shown = console(stderr=True)
        self._stops, self._status = Stops(shown.is_terminal), shown.status(self)

    def __enter__(self) -> Waiting:
        self._status.start()
        self.tell(self._job)
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def tell(self, job: Job) -> None:
        """What becomes of the job."""
        self._job = job
        self._stops.tell(job)

    def __rich__(self) -> Text:
        if words := stopping_in_words(self._job):
            return Text(f"{self._job.id} is stopping ({duration(time.time() - since_when(self._job))}): {words}")
        return Text(self._text)


class NoLive:
    """Stands for the live line where there is no terminal to draw it on; what is said beside it goes to stderr."""

    def __init__(self) -> None:
        self.console: Console = console(stderr=True)

    def __enter__(self) -> NoLive:
        return self

    def __exit__(self, *_: object) -> None:
        return None
