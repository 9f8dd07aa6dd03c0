"""Evidence from a job's logs: possible causes of its end, the ends of processes, the course of the run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ugro.control_plane.diagnosis.ends import ReportedEnd
from ugro.control_plane.diagnosis.entry import CatalogueEntry, EntryKind
from ugro.control_plane.diagnosis.silence import LogSilence
from ugro.control_plane.diagnosis.traceback import Block

_SIZE = r"[\d.]+ ?(?:bytes|[KMGT]i?B)"

# What is worth knowing in the message of a failure, by the names that `ugro explain --json` gives it.
FACTS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"[Tt]ried to allocate (?P<asked>{_SIZE})",
        rf"(?P<free>{_SIZE}) (?:is )?free",
        rf"total capacity of (?P<total>{_SIZE})",
        rf"(?P<total>{_SIZE}) total capacity",
        r"SeqNum=(?P<seq>\d+), OpType=(?P<op>\w+)",
        r"send/recv from rank (?P<suspect>\d{1,6})",
        r"Timeout\(ms\)=(?P<limit_ms>\d+)",
        r"No module named ['\"]?(?P<module>[\w.]+)",
        r"cannot import name '?(?P<name>\w+)",
        r"(?:https?://|host=['\"])(?P<host>[\w.-]+)",
        r"(?:No such file or directory|Permission denied|Is a directory|open files): ['\"](?P<path>[^'\"]+)",
        r"(?:port[: ]+|\]:|:)(?P<port>\d{4,5})\b.*(?:in use|EADDRINUSE)",
    )
)

REFUSED = " error: "
"""Part of the message with which a parser of arguments ends its process."""

ENOUGH_PROGRESS = 50
"""Most lines of progress that are counted after a sighting; more would prove no more."""


@dataclass
class Sighting:
    """Something a log says that may be why the run ended, with the place in the order of lines where it stood."""

    cause: str
    kind: EntryKind
    message: str
    at: int
    rank: int | None = None
    source: str = ""
    entry: CatalogueEntry | None = None
    block: Block | None = None
    facts: dict[str, str] = field(default_factory=dict)
    last_at: int = 0
    progress: int = 0
    talk: int = 0
    count: int = 1
    more: list[str] = field(default_factory=list)

    @property
    def of_one_process(self) -> bool:
        """Whether all that its source says is surely of one process."""
        return self.source.startswith(("rank ", "process ")) or "pid=" in self.source


@dataclass
class Evidence:
    """Evidence from a job's logs. `success_at` is the last line in which a run reported that it reached its end.

    `talk` counts the lines without a finding, outside of tracebacks. `left_at` is the line at which a process reported
    its exit, with nothing wrong before. `before` is the evidence of runs that were started again in the same log, the
    last time at `started_at`. `masters`: a pod called master, which holds rank 0, wrote beside those called worker.
    `cut_short`: a log ends in the middle of a traceback. `complained`: its last line is an error. `silence` is that of
    a run that had made progress, if a log ended in it.
    """

    sightings: list[Sighting] = field(default_factory=list)
    ends: list[ReportedEnd] = field(default_factory=list)
    ranks: set[int] = field(default_factory=set)
    lines: int = 0
    progress: int = 0
    talk: int = 0
    success_at: int = -1
    left_at: int = -1
    started_at: int = 0
    started_progress: int = 0
    before: Evidence | None = None
    last_words: str = ""
    masters: bool = False
    cut_short: bool = False
    complained: bool = False
    silence: LogSilence | None = None
