"""Requests about what a job prints, and their answers."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from annotated_types import Ge, Le

from ugro.service.schemas.base import Document, ErrorDocument, Request, Stream
from ugro.service.schemas.codec import LooksLike
from ugro.service.schemas.ending import JobProgress
from ugro.service.schemas.jobs import JobDocument

if TYPE_CHECKING:
    from ugro.common.masking import Masker

Position = dict[Annotated[str, LooksLike(r"^(rank|node|setup)-\d{1,9}\.log$")], Annotated[int, Ge(0)]]
"""How far logs were read: bytes by `rank-N.log`, and by `node-N.log` for torchrun's own of a node rank, or by
`setup-N.log` for what the setup command says there."""


LONG = 10_000
"""Characters of a line that may be a part of one."""


class LogLine(Document):
    """A line of a log: of a rank, or of torchrun itself or the setup command on the node of that node rank."""

    rank: int | None
    """Global rank; `null`: torchrun or the setup command wrote it."""
    node_rank: int | None
    """Node rank of the torchrun or the setup command that wrote it."""
    text: str
    """The line."""
    setup: bool = False
    """Whether the setup command wrote it."""

    def masked(self, masker: Masker) -> Self:
        """Return it without secrets. A line that is longer than those that are read as one was cut."""
        cut = len(self.text) >= LONG
        return replace(self, text=masker.cut(self.text, cut, cut))


class LogLines(Document):
    """Lines, in the order in which they came.

    `explains`: torchrun's own output, added because the job failed before a rank printed the cause. `nodes`: the job's.
    """

    kind: Literal["lines"] = "lines"
    lines: tuple[LogLine, ...]
    nodes: tuple[str, ...]
    explains: bool = False
    position: Position = field(default_factory=dict)
    """How far the logs were read with them."""


class LogsEnd(Document):
    """The end of the lines: the job in the requested attempt, why there are none, and unreadable nodes."""

    kind: Literal["end"] = "end"
    job: JobDocument
    missing: str | None
    unreadable: tuple[ErrorDocument, ...]
    position: Position = field(default_factory=dict)
    """How far the logs were read."""


class GpuUse(Document):
    """Load of a GPU at the last observation."""

    utilization_percent: int | None
    memory_used_mib: int | None


class NodeUse(Document):
    """A node of a followed job; `silent`: its logs cannot be read now."""

    node: str
    silent: bool
    gpus: tuple[GpuUse, ...]


class UnfinishedLine(Document):
    """A line whose end has not come. `number` distinguishes it from those before and after it in its log."""

    line: LogLine
    number: int

    def masked(self, masker: Masker) -> Self:
        """Return it without secrets, and without the beginning of one."""
        line = replace(self.line, text=masker.cut(self.line.text, False, True))
        return replace(self, line=line)


class JobUpdate(JobProgress):
    """State of a followed job: its pending reason, its trouble and what is proposed."""

    kind: Literal["job"] = "job"
    waits: str = ""
    trouble: str = ""
    nodes: tuple[NodeUse, ...] = ()
    unfinished: UnfinishedLine | None = None


LogUpdate = LogLines | LogsEnd
FollowUpdate = LogLines | LogsEnd | JobUpdate


class ReadLogs(Stream[LogUpdate]):
    """Read the output of a job's ranks: of one `rank` or `node`, the last `tail` lines, of an earlier `attempt`.

    What the setup command prints is part of it, unless a rank is named; with `setup` it is all of it.
    `since`: what arrived on the master since then, in seconds since the epoch.
    """

    function: ClassVar[str] = "logs.read"
    job: str
    rank: int | None = None
    tail: int | None = None
    torchrun: bool = False
    setup: bool = False
    attempt: int | None = None
    node: str | None = None
    since: float | None = None


class Follow(Stream[FollowUpdate]):
    """Follow the output of a job's ranks until it has ended. The last item is the ended job.

    A `LogsEnd` comes between the last `tail` lines and what is new, where `tail` is given. With `position`, what comes
    after it is read, whatever `tail` says: even of an attempt that is over.
    """

    function: ClassVar[str] = "logs.follow"
    resumable: ClassVar[bool] = True
    job: str
    rank: int | None = None
    tail: int | None = None
    torchrun: bool = False
    setup: bool = False
    attempt: int | None = None
    node: str | None = None
    since: float | None = None
    position: Position | None = None

    def rest(self, item: LogLines | LogsEnd | JobUpdate) -> Follow:
        """Return the request for what comes after an item, of the same attempt."""
        position = self.position if self.tail is not None else self.position or {}
        if isinstance(item, JobUpdate):
            return replace(self, attempt=item.job.attempt, position=position)
        return replace(self, position={**(position or {}), **item.position})


# --- pages of one log, and a search in it ----------------------------------------------------------------------------


class Span(Document):
    """A part of a line that has one style."""

    text: str
    """Its text."""
    class_: str
    """Names with spaces between: `bold`, `dim`, `italic`, `underline`, `inverse`, `strike`, `fg-COLOUR`, `bg-COLOUR`.

    COLOUR is `black`, `red`, `green`, `yellow`, `blue`, `magenta`, `cyan`, `white`, or one of them after `bright-`;
    others become the nearest of these.
    """


class NumberedLine(Document):
    """A line of one rank's log."""

    rank: int
    """Global rank."""
    number: int | None
    """Its number in the log, from 1; `null`: the lines before it are still only on the node."""
    offset: int
    """Byte of the log at which it begins."""
    text: str
    """Its text, harmless on a terminal: no escapes, and `�` for control characters. At most 8 KiB of the line."""
    before: int = 0
    """Bytes of the line that are left out before the text."""
    after: int = 0
    """Bytes of the line that are left out after the text."""
    spans: tuple[Span, ...] = ()
    """The text by its styles, where the line has any; empty: all of it is plain."""

    def masked(self, masker: Masker) -> Self:
        """Return it without secrets, and without the part of one where the line was cut."""
        text = masker.cut(self.text, self.before > 0, self.after > 0)
        spans = self.spans
        if text != self.text and spans:  # a value may begin in one span and end in another
            spans = (Span(text=text, class_=""),)
        return replace(self, text=text, spans=spans)


class LogPart(Document):
    """State of one rank's log, in every page and every search result."""

    job: str
    attempt: int
    rank: int
    ranks: int
    """Number of ranks of the job."""
    size: int
    """Bytes of the log that are on the master."""
    lines: int
    """Lines in them; a last line whose end has not come counts."""
    unfinished: bool
    """Whether the end of the last line has not come."""
    behind: int | None
    """Bytes that are still only on the node; `null`: unknown, since it was not asked or does not answer."""
    unreadable: ErrorDocument | None
    """Why the node cannot be read now."""


class LogPage(LogPart):
    """Lines of one rank's log, in order; fewer than were asked for where they are long or the log ends."""

    shown: tuple[NumberedLine, ...]


class LogHits(LogPart):
    """Lines that a search found, in order; of a long line, what surrounds the match."""

    hits: tuple[NumberedLine, ...]
    next_offset: int | None
    """Where the search continues, after as many hits as were asked for or 2 s; `null`: the whole log was searched."""


class PageOfLog(Request[LogPage]):
    """Read lines of one rank's log by their number.

    `forward`: from `from_line` on (`null`: the first). `backward`: those that end with it (`null`: the last). An
    interior page of a log reads what is on the master; at the end of it the node is asked for more.
    """

    function: ClassVar[str] = "log_pages.page"
    job: str
    rank: Annotated[int, Ge(0)] = 0
    attempt: int | None = None
    from_line: Annotated[int, Ge(1)] | None = None
    count: Annotated[int, Ge(1), Le(1000)] = 200
    direction: Literal["forward", "backward"] = "forward"


class SearchLog(Request[LogHits]):
    """Search one rank's log for a text, or for a regular expression of Python's, from an offset on, for at most 2 s.

    An offset is that of a line, or `next_offset` of the search before. A query has at most 1,000 characters. Escapes in
    the log are part of its text.
    """

    function: ClassVar[str] = "log_pages.search"
    job: str
    query: str
    rank: Annotated[int, Ge(0)] = 0
    attempt: int | None = None
    regex: bool = False
    from_offset: Annotated[int, Ge(0)] = 0
    limit: Annotated[int, Ge(1), Le(1000)] = 100
