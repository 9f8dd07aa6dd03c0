"""Puts Python tracebacks together from lines that several ranks may have written through each other."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

MOST_BLOCKS = 64
MOST_STREAMS = 1024
LONGEST = 400
"""Lines of a stream after which an exception is no longer waited for."""

MESSAGE_WITHIN = 3
"""Lines after an exception without words in which the traceback begins that is its message."""

LONGEST_PREFIX = 120
"""Characters before the first words of a traceback that may be some tool's prefix."""

HEADER = "Traceback (most recent call last)"
EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout|NotFound|OutOfMemory)(?:: |:?$)"
)
RAISED = re.compile(r"\b(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): (?=\S)")
_IN_BLOCK = re.compile(
    r"^(?!(?:Epoch|Loss|Step|Iter|Iteration|Train|Training|Val|Validation|Test|Accuracy|Time|Note|Warning|"
    r"Killed|Terminated|Aborted)\b)"
    r"(?:(?:[A-Za-z_]\w*\.)*[A-Z_]\w*(?:\[\w+\]|\(\w+\))?(?:: (?=\S)|(?:(?<=Error)|(?<=Exception))[:]?$|$)|"
    r"(?:[A-Za-z_]\w*\.)+error: )"
)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?')
_NOTEBOOK_FRAME = re.compile(r"^File (?P<file>/[^:\s]+|~[^:\s]+):(?P<line>\d+), in (?P<function>[\w.<>]+)")
_LIBRARY = re.compile(r"site-packages|dist-packages|/lib/python\d|\\lib\\|<frozen|^<|/opt/conda/lib|/python3\.\d+/")
_DIGIT = re.compile(r"\d")
_OUTERMOST = re.compile(r"^(?:<module>|_run_module_as_main|_run_code|_wrap|wrapper|_bootstrap\w*|run_path|main_loop)$")
_PROCESS = re.compile(r"-- Process (\d+) terminated with the following error")
# Where a process reads from another one on its machine, and what it raises when that is gone.
_FROM_A_PROCESS = re.compile(r"multiprocessing[/\\](?:connection|spawn|managers|queues|reduction|resource_sharer)\.py:")
_GONE = re.compile(r"(?:_pickle\.)?(?:EOF|Unpickling|BrokenPipe|Connection(?:Reset|Refused)|FileNotFound)Error\b")
# Whose end of a connection it was: one between ranks, or that of a logger beside the training.
_BETWEEN_RANKS = re.compile(r"torch[/\\]distributed|horovod|deepspeed[/\\]comm|mpi4py|jax[/\\]|xla_|[/\\]ray[/\\]")
_LOGGER = re.compile(
    r"[/\\](?:wandb|tensorboard\w*|comet_ml|mlflow|neptune|clearml|swanlab|aim|visdom|sentry_sdk|prometheus_client|tqdm)"
    r"[/\\]"
)


@dataclass
class Block:
    """One traceback. `handled` ones were not why the process ended, by what stands before them.

    That of a `thread` ends the thread alone, and that of a `child` a process which the log's own one had begun.
    """

    at: int
    indent: int
    prefix: str = ""
    handled: bool = False
    thread: bool = False
    child: bool = False
    libraries: bool = False
    between_ranks: bool = False
    logger: bool = False
    rank: int | None = None
    before: Block | None = None
    explicit: bool = False
    outermost: str = ""
    frame: str = ""
    own_frame: str = ""
    exception: str = ""
    ended_at: int = 0

    @property
    def fatal(self) -> bool:
        """Whether it was uncaught: such a traceback begins where the program or thread did."""
        ends = _OUTERMOST.match(self.outermost) or not self.outermost
        return bool(ends) and not (self.handled or self.thread)

    @property
    def local(self) -> bool:
        """Whether the libraries that it went through have nothing to do with other ranks."""
        return self.logger or (self.libraries and not self.between_ranks)

    @property
    def orphaned(self) -> bool:
        """Whether it only says that another process of the machine is gone, which this one was talking to."""
        return bool(_FROM_A_PROCESS.search(self.frame) and _GONE.match(self.exception))

    @property
    def where(self) -> str | None:
        """`file:line` of the innermost frame in the user's own code, else of the innermost one."""
        return self.own_frame or self.frame or None


@dataclass
class Blocks:
    """The tracebacks in progress, by stream."""

    open: dict[str, list[Block]] = field(default_factory=dict)
    _context: dict[str, tuple[str, int]] = field(default_factory=dict)
    _last: dict[str, Block] = field(default_factory=dict)

    def end(self, at: int) -> bool:
        """A log ended; returns whether it did so in the middle of a traceback."""
        cut = any(
            block.frame and not block.handled
            for blocks in self.open.values()
            for block in blocks[-1:]
            if at - block.at < LONGEST
        )
        self.open.clear()
        self._context.clear()
        self._last.clear()
        return cut

    def forget(self, before: int) -> None:
        """Wait no longer for the ends of tracebacks that began before a line."""
        for stream, blocks in list(self.open.items()):
            if blocks[-1].at < before:
                del self.open[stream]

    def begin(self, stream: str, text: str, at: int) -> bool:
        """Whether a line begins a traceback, or says what the next one will be."""
        if HEADER in text:
            together = len(text) - text.index(HEADER) > len(HEADER) + 40  # the lines were joined to one
            if not together:
                self._begin(stream, text, at)
            return not together
        told = BEGINNING.search(text)
        if told:
            _remember(self._context, stream, (text.strip(), at))
        return told is not None

    def take(self, stream: str, text: str, at: int) -> Block | None:
        """The traceback in progress that a line belongs to; it has its exception when the line ended it."""
        blocks = self.open.get(stream)
        if not blocks or BEGINNING.search(text):
            return None
        block, text = _written_by(blocks, text)
        stripped = text.strip()
        if at - block.at > LONGEST:
            self._close(stream, block)
            return None
        if match := _FRAME.search(text) or _NOTEBOOK_FRAME.match(stripped):
            _add_frame(block, match)
        elif len(text) - len(text.lstrip()) <= block.indent and _IN_BLOCK.match(stripped):
            block.exception, block.ended_at = stripped, at
            self._close(stream, block)
            alike = self._last.get(stream)
            if alike and alike.at > block.at and alike.exception == stripped:
                block.frame = alike.frame  # another one was written through it, which took its frames
            _remember(self._last, stream, block)
        elif stripped and not text[:1].isspace():
            return None  # of another traceback
        return block

    def _begin(self, stream: str, text: str, at: int) -> None:
        context, said_at = self._context.pop(stream, ("", -10))
        context = context if at - said_at <= 8 else ""
        before = text[: text.index(HEADER)]
        block = Block(at, len(text) - len(text.lstrip()), before[:LONGEST_PREFIX] if before.strip() else "")
        block.handled = any(words in context or words in text for words in _HARMLESS)
        block.thread = _THREAD in context
        block.child = _CHILD.match(context) is not None
        if match := _PROCESS.search(context):
            block.rank = int(match[1])
        if context.startswith((_DURING, _CAUSED)):
            block.before = self._last.get(stream)
            block.explicit = context.startswith(_CAUSED)
            if block.before and block.before.before:
                block.before.before.before = None  # a chain may be endless
        else:
            _carry(self._last.get(stream), block, at)
        blocks = self.open.setdefault(stream, [])
        blocks.append(block)
        if len(blocks) > MOST_BLOCKS:
            blocks.pop(0)
        if len(self.open) > MOST_STREAMS:
            self.open.pop(next(iter(self.open)))

    def _close(self, stream: str, block: Block) -> None:
        blocks = self.open[stream]
        blocks.remove(block)
        if not blocks:
            del self.open[stream]


def _carry(last: Block | None, block: Block, at: int) -> None:
    """Take a traceback that is the message of another exception, such as a `RemoteError`, for what brought it about."""
    if last and last.exception.endswith(":") and at - last.ended_at <= MESSAGE_WITHIN:
        block.before, block.outermost, block.own_frame = last, last.outermost, last.own_frame


def _written_by(blocks: list[Block], text: str) -> tuple[Block, str]:
    """The traceback that a line is of, and the line without what some tool writes before each line of it.

    Nothing has to know that tool: what stood before the traceback's first words stands before the others, too.
    """
    for block in reversed(blocks):
        length = len(block.prefix)
        if length and _DIGIT.sub("0", text[:length]) == _DIGIT.sub("0", block.prefix):
            return block, text[length:]
    return blocks[-1], text


def _add_frame(block: Block, match: re.Match[str]) -> None:
    place = f"{match['file']}:{match['line']}"
    block.outermost = block.outermost or (match["function"] or "").strip()
    block.frame = place
    block.between_ranks |= _BETWEEN_RANKS.search(match["file"]) is not None
    block.logger |= _LOGGER.search(match["file"]) is not None
    if _LIBRARY.search(match["file"]):
        block.libraries = True
    else:
        block.own_frame = place


def _remember(into: dict[str, T], stream: str, value: T) -> None:
    """Keep the latest for each stream, and only so many streams."""
    into.pop(stream, None)
    into[stream] = value
    if len(into) > MOST_STREAMS:
        into.pop(next(iter(into)))


_DURING = "During handling of the above exception"
_CAUSED = "The above exception was the direct cause"
_HARMLESS = ("Exception ignored in", "--- Logging error ---", "Error in atexit")
_THREAD = "Exception in thread"
_CHILD = re.compile(
    r"^(?:Process (?:\S*Process|\S*[Ww]orker|\S*[Ll]oader)-[\d:]+|"
    r"Exception in (?:\w+ )?(?:sub)?(?:worker|process|child)(?:[ #]*\d+)?:?)$"
)
_CONTEXTS = (_DURING, _CAUSED, *_HARMLESS, _THREAD, "terminated with the following error")

BEGINNING = re.compile("|".join((*map(re.escape, (HEADER, *_CONTEXTS)), _CHILD.pattern)))
"""Lines that begin a traceback, or announce the next one."""
