"""Any training log as lines: decoded, without terminal escapes, the prefixes of launchers understood and taken off."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ugro.common.text import printable

MAX_LINE = 2000
"""Bytes of a line that are looked at together; what goes beyond counts as a line of its own."""

QUOTED = 400
"""Characters of a line that are kept."""

LOGGERS_HEAD = 120
"""Characters at the beginning of a line in which a logger names the level."""

LONGEST_REST = 64 * 1024
"""Bytes that are kept while a line does not end."""


@dataclass(frozen=True)
class PlainLine:
    """A line without its prefixes; its indentation is kept, since tracebacks live from it.

    `source` names one of interleaved writers (`rank 3`, a pod, a host); `rank` is known where the prefix names one.
    """

    text: str
    rank: int | None = None
    source: str = ""
    level: str = ""

    @property
    def quiet(self) -> bool:
        """Whether it is a warning or less, by its level or by its text."""
        return self.level in _QUIET or _WARNING.search(self.text) is not None

    @property
    def chatty(self) -> bool:
        """Whether its level is less than that of a warning."""
        return self.level in _CHATTY

    @property
    def loud(self) -> bool:
        """Whether its level is that of an error."""
        return self.level in _LOUD


def split(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The raw lines of a log, as one list for each chunk; a progress bar is one line for each time it was drawn."""
    rest = b""
    for chunk in chunks:
        text = rest + chunk
        half = b"\r" if text.endswith(b"\r") else b""  # of \r\n, perhaps
        parts = text.removesuffix(half).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest = parts.pop() + half
        if len(rest) > LONGEST_REST:
            parts, rest = [*parts, rest], b""
        yield [piece for part in parts for piece in (_pieces(part) if len(part) > MAX_LINE else (part,))]
    if rest:
        yield list(_pieces(rest))


def _pieces(line: bytes) -> Iterator[bytes]:
    """A line that is too long, cut between words where it has some.

    Its end, in which a launcher says after a long command how that ended, stays together.
    """
    start = 0
    while start < len(line):
        end = len(line)
        if end - start > MAX_LINE:
            latest = min(start + MAX_LINE, end - MAX_LINE // 4)
            end = line.rfind(b" ", start + MAX_LINE // 2, latest)
            end = end if end > 0 else latest
        yield line[start:end]
        start = end


_TIME = r"\d{1,2}:\d\d:\d\d(?:[.,]\d+)?"
_LEVEL = r"(?:DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|CRITICAL|FATAL)"
_PREFIX = re.compile(
    "|".join(
        (
            # who
            r"[ ]{0,12}\[(?:rank|default|Rank|RANK|GPU|gpu)[ :=_]?(?P<rank_a>\d+)\]:?[ ]?",
            r"\[\d+,(?:mpirank:)?(?P<rank_b>\d+)(?:,[\w-]+)?\](?:<std(?:err|out)>)?:[ ]?",
            r"(?:[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d [\d:]{8} \d{4})?\[(?P<rank_g>\d{1,5})\]<std(?:err|out)>:[ ]?",
            r"\[(?P<rank_c>\d{1,4})\]:[ ]?(?=[ ]*\S)",
            r"[ ]{0,4}(?P<rank_d>\d{1,4}): (?=[ ]*\S)",
            r"(?:Rank|rank|RANK)[ _-]?(?P<rank_e>\d+)[ ]?(?:[:|>]|\s-)[ ]?",
            r"\((?:rank|Rank)[ :=]?(?P<rank_f>\d+)\):?[ ]?",
            r"\[?pod/(?P<pod>[\w.-]+)(?:/[\w.-]+)?\]?:?[ ]",
            r"\((?P<ray>(?:[\w.]+(?:\([^)]*\))? )?(?:pid=\d+(?:, ip=[\d.]+)?|raylet)[^)]{0,40})\)[ ]?",
            r"\[?(?P<host>[A-Za-z][\w.-]{0,60}-\d+|(?:node|worker|gpu|host|rank|trainer|ip)[\w-]*\d+)"
            r"(?:\]:?[ ]?|\s*\|[ ]?|: )",
            r"(?P<address>\d{1,3}(?:\.\d{1,3}){3}|[a-z][\w.-]{0,60}\d[\w.-]{0,60}): "
            r"(?=\[|Traceback |[ ]{2}|[A-Za-z_.]{0,60}(?:Error|Exception)\b)",
            r"<[\w.-]{0,60}>[ ]+(?=\[)",
            r"[0-9a-f]{8}[ ](?=\[rank=)",
            # when
            rf"\[\d{{4}}-\d\d-\d\d {_TIME} (?P<letter>[IWEF]) \d+ \d+\] (?:\(\w+\) )?(?:[\w./-]+:\d+: )?",
            rf"\[?(?:task )?\d{{4}}[-/]\d\d[-/]\d\d[T _]{_TIME}(?:[.,]\d+)?"
            r"(?:Z|[ ]?[+-]\d\d:?\d\d)?\]?(?:\s*[-|]|:)?[ ]?",
            rf"\[?\d\d[-/]\d\d(?:[-/]\d{{2,4}})?[ T]{_TIME}\]?(?:\s*[-|]|:)?[ ]?",
            rf"\[?{_TIME}\]?(?:\s*[-|]|:)?[ ]",
            rf"\[?(?:[A-Z][a-z]{{2}} )?[A-Z][a-z]{{2}} [ \d]?\d {_TIME}(?: \d{{4}}\])?[ ]"
            r"(?:[\w.-]+ (?=kernel:|systemd))?",
            r"\[ *\d{1,9}\.\d{3,6}\][ ]",
            r"\d+\.\d+s\s+\d+\s",
            # what kind
            r"\[?(?P<glog>[IWEF]) ?(?:\d{4} [\d:.]+ +)?(?:\d+ +)?[\w./-]+:\d+\][ ]?",
            rf"[\[<(]?(?P<level>{_LEVEL})[\])>]?(?::[\w.]+:| *[|:-](?= )|(?<=[\])>]):?|(?= +\S))[ ]?",
            r"\[[\w./-]+\.(?:py|cpp|cc|cu):\d+(?::\w+)?\][ ]?",
            rf"[\w.]{{1,80}}(?: -|:| \|)[ ](?={_LEVEL}\b)",
            rf"[\w.]{{3,80}}: (?=\[{_LEVEL}\])",
            r"[ ]{0,8}\|{1,2} ",
            r"kernel: ",
            r"std(?:out|err) [FP] ",
            r'\{"log":"',
        )
    )
)
# What a rank says often ends up behind a progress bar that another one draws.
_GLUED = re.compile(r"\[rank(\d{1,9})\]:[ ]?(?=Traceback|\[[EF]\d* )")
# The level in the head that some logger writes, whatever else stands in it. A word of the message is not written so,
# nor one that comes after the name of an exception or in advice ("set NCCL_DEBUG=INFO").
_NAMED_LEVEL = re.compile(
    r"(?:(?!Error\b|Exception\b|\b[Ss]et |\b[Uu]se |[Ll]evel )[^\n])*?(?:"
    rf"(?<![\w=])(?P<word>{_LEVEL})(?=[\]|>):\t]|\s+[-|]|\s*\d\d|\s+[\w./-]+[:\]])|(?<=NCCL )(?P<nccl>INFO)\b|"
    r"[\[<] ?(?P<low>(?i:debug|info|notice|warn(?:ing)?|error)) *[\]>]|"
    r"\blevel\W{1,4}(?P<logfmt>(?i:debug|info|notice|warn(?:ing)?|error))\b|\[NeMo (?P<letter>[IWE]) )"
)
_INNER_RANK = re.compile(r"\[(?:PG [^\]]{0,80} )?[Rr]ank (\d+)\]|:\d+:\d+ \[(\d+)\] (?:\S+ )?NCCL ")
_MOST_PREFIXES = 10


def read(raw: bytes) -> PlainLine:
    """One raw line understood. Never raises, whatever the bytes are."""
    text = printable(raw.replace(b"\0", b"").decode("utf-8", "replace"))
    rank, source, level, at = None, "", "", 0
    for _ in range(_MOST_PREFIXES):
        match = _PREFIX.match(text, at)
        if not match or match.end() == at:
            break
        found = match.groupdict()
        if level and (found["rank_c"] or found["rank_d"]):
            break  # after its level, a line says what it has to say
        at = match.end()
        level = level or found["level"] or _LETTERS.get(found["glog"] or found["letter"] or "", "")
        number = next((value for name, value in found.items() if name.startswith("rank_") and value), None)
        rank = int(number) if number and rank is None else rank
        source = source or found["pod"] or found["ray"] or found["host"] or found["address"] or ""
    if rank is None and (glued := _GLUED.search(text, at)):
        rank, at = int(glued[1]), glued.end()
    if not level and (named := _NAMED_LEVEL.match(text[:LOGGERS_HEAD])):
        level = next(filter(None, named.groups())).upper()
        level = _LETTERS.get(level, level)
    return PlainLine(text[at:], rank, f"rank {rank}" if rank is not None else source, level)


_LOUD = ("ERROR", "CRITICAL", "FATAL")
_CHATTY = ("DEBUG", "INFO", "NOTICE")
_QUIET = (*_CHATTY, "WARN", "WARNING")
_WARNING = re.compile(
    r"\b\w*Warning: |(?:site|dist)-packages/\S+\.py:\d+: (?!\w*(?:[Ee]rror|Exception)\b)|"
    r"^warnings?[:.]|\bwarn\(|^\s*(?:raise|assert|except|if|return|#)\b|"
    r"⚠|(?i:\b(?:accepting|continuing|falling back|ignoring|will be ignored|skipping|proceed(?:ing)?|retrying)\b)"
)
_LETTERS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "FATAL"}


def inner_rank(text: str) -> int | None:
    """The rank that a line names inside itself: `[PG 3 Rank 4] …`, or the GPU that NCCL names."""
    match = _INNER_RANK.search(text)
    return int(match[1] or match[2]) if match else None


def quote(text: str, match: re.Match[str]) -> str:
    """The part of a long line that stands around what was found in it, from the beginning of a word if it can be."""
    if match.end() <= QUOTED:
        return text[:QUOTED]
    start = max(0, match.start() - QUOTED // 4)
    start = text.find(" ", start, match.start()) + 1 or start
    return text[start : start + QUOTED]
