"""`history/<node>/`: what every GPU of a node showed, idle or not, one line for each GPU and sample.

Three files, each coarser and longer: `raw.jsonl` has every sample of the last hours, `looks.jsonl` the mean of each
minute, `quarters.jsonl` of each quarter of an hour. A file that is long enough becomes the older half (`raw.1.jsonl`),
so that what is kept is bounded. A sample that is due for a coarser file is the mean, lowest and highest of the finer
one since its last line. Time in which no node answered has no lines.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ugro.common.fields import NAME
from ugro.common.files import append_line
from ugro.common.models.metrics import EVERY_SECONDS, GpuLook, GpuRange
from ugro.control_plane.metadata_store.records import LONGEST_LINE, read_tail, state_errors, whole_lines

TAIL = 4096
"""Bytes in which the last look is surely found. Its time is this machine's; that of the file may be a file server's."""

REACH = 2**18
"""Bytes from the end of a finer file in which all that a coarser line is the mean of is found."""

LIMIT = 48 * 2**20
"""Bytes of a file before it is put aside, whatever its age: 30 days of eight GPUs, a line a minute."""

EARLY = 1.0
"""Seconds that a line may come early: samples are not there at every moment."""

DAY = 86400.0
SAMPLE_SECONDS = 2.0


@dataclass(frozen=True)
class Tier:
    """A file of a history: a line each `every` seconds, for at least `span` seconds."""

    name: str
    every: float
    span: float


RAW = Tier("raw", SAMPLE_SECONDS, 2 * 3600.0)
MINUTES = Tier("looks", EVERY_SECONDS, 30 * DAY)
QUARTERS = Tier("quarters", 900.0, 366 * DAY)
TIERS = (RAW, MINUTES, QUARTERS)

MEANS = ("utilization_percent", "memory_used_mib", "temperature_c", "power_w", "sm_clock_mhz")
"""Fields of which a coarser line has the mean and the range; of all others it has the last sample's value."""


class GpuHistory:
    """A folder for each node, so that no name of a node can meet that of another's file.

    Raises (from any method):
        StateError: a file or folder cannot be read or written, with its name.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "history"

    def add(self, node: str, looks: Sequence[GpuLook]) -> None:
        """Keep what the GPUs of a node showed, in each file for which it is time."""
        if not looks:
            return
        now = looks[0].at
        with state_errors(self._folder / node):
            (self._folder / node).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._append(node, RAW, looks, now)
            for finer, tier in itertools.pairwise(TIERS):
                if (since := self._due(node, tier, now)) is not None:
                    recent = [look for look in self._recent(node, finer) if since < look.at <= now]
                    self._append(node, tier, means(recent), now)

    def rename(self, old: str, new: str) -> list[str]:
        """Give the history of a node another name, unless that has one. Return `history` if it was done."""
        with state_errors(self._folder / old):
            if not (self._folder / old).is_dir() or (self._folder / new).exists():
                return []
            os.rename(self._folder / old, self._folder / new)
        return ["history"]

    def _due(self, node: str, tier: Tier, now: float) -> float | None:
        """The time since when a file has no line, if it is time for one; None: it is not."""
        last = self._last(node, tier)
        if last is not None and 0 <= now - last < tier.every - EARLY:
            return None
        return now - tier.every if last is None or last > now else max(last, now - tier.every)

    def _last(self, node: str, tier: Tier) -> float | None:
        found = read_tail(self._path(node, tier), GpuLook, TAIL) or read_tail(self._path(node, tier, 1), GpuLook, TAIL)
        return found[-1].at if found else None

    def _recent(self, node: str, tier: Tier) -> Iterator[GpuLook]:
        path = self._path(node, tier)
        if not path.exists() or path.stat().st_size < REACH:
            yield from read_tail(self._path(node, tier, 1), GpuLook, REACH)
        yield from read_tail(path, GpuLook, REACH)

    def _append(self, node: str, tier: Tier, looks: Iterable[GpuLook], now: float) -> None:
        path = self._path(node, tier)
        if path.exists() and (path.stat().st_size > LIMIT or now - _first(path, now) > tier.span):
            os.replace(path, self._path(node, tier, 1))
        append_line(path, "\n".join(look.model_dump_json(exclude_none=True) for look in looks))

    def nodes(self) -> list[str]:
        """The nodes that have a history, also those that left the inventory."""
        with state_errors(self._folder):
            names = os.listdir(self._folder) if self._folder.exists() else []
        return sorted(name for name in names if NAME.fullmatch(name))

    def read(self, node: str, since: float, every: float = EVERY_SECONDS) -> list[GpuLook]:
        """The samples of a node's GPUs since that moment, in their order; an incomplete line is passed over.

        A sample each `every` seconds, or coarser: from a finer file as far back as it goes, before that from the next.
        """
        found: list[GpuLook] = []
        with state_errors(self._folder / node):
            for tier in TIERS:
                if tier.every * 1.5 <= every and tier is not QUARTERS:
                    continue
                until = found[0].at if found else None
                found[:0] = [look for look in self._since(node, tier, since) if until is None or look.at < until]
                if found and tier.every < QUARTERS.every and found[0].at - since < tier.every:
                    break
        return found

    def _since(self, node: str, tier: Tier, since: float) -> Iterator[GpuLook]:
        for half in (1, 0):
            path = self._path(node, tier, half)
            if path.exists():
                yield from (look for look in _lines_from(path, since) if look.at >= since)

    def _path(self, node: str, tier: Tier, half: int = 0) -> Path:
        return self._folder / node / (f"{tier.name}.{half}.jsonl" if half else f"{tier.name}.jsonl")


def means(looks: Iterable[GpuLook]) -> list[GpuLook]:
    """Return a line for each GPU: the mean of its samples, with the lowest and highest of them."""
    by_gpu: dict[str, list[GpuLook]] = {}
    for look in looks:
        by_gpu.setdefault(look.uuid, []).append(look)
    return [_mean(seen) for seen in by_gpu.values()]


def _mean(seen: Sequence[GpuLook]) -> GpuLook:
    last = seen[-1]
    changed: dict[str, object] = {}
    ranges: dict[str, object] = {}
    for name in MEANS:
        values = [(value, look.range) for look in seen if (value := getattr(look, name)) is not None]
        if values:
            mean = statistics.fmean(value for value, _ in values)
            changed[name] = round(mean, 1) if name == "power_w" else round(mean)
            spans = [getattr(range_, name, None) or (value, value) for value, range_ in values]
            ranges[name] = (min(low for low, _ in spans), max(high for _, high in spans))
    reasons = [look.throttled for look in seen if look.throttled is not None]
    changed["throttled"] = tuple(dict.fromkeys(one for told in reasons for one in told)) if reasons else None
    changed["job"] = next((look.job for look in reversed(seen) if look.job), None)
    changed["jobs"] = next((look.jobs for look in reversed(seen) if look.jobs), None)
    changed["program"] = next((look.program for look in reversed(seen) if look.program), None)
    changed["range"] = GpuRange.model_validate(ranges) if len(seen) > 1 and ranges else last.range
    return last.model_copy(update=changed)


def _first(path: Path, otherwise: float) -> float:
    """Return the time of a file's first sample, if it can be read."""
    with path.open("rb") as file:
        found = list(whole_lines([file.readline(LONGEST_LINE)], GpuLook))
    return found[0].at if found else otherwise


def _lines_from(path: Path, since: float) -> Iterator[GpuLook]:
    """The looks of a file, without most of those before a moment: looks are in order of time."""
    with path.open("rb") as file:
        low, high = 0, file.seek(0, os.SEEK_END)
        while high - low > 2**16:
            middle = (low + high) // 2
            file.seek(middle)
            file.readline(LONGEST_LINE)
            found = next(iter(whole_lines(iter(lambda: file.readline(LONGEST_LINE), b""), GpuLook)), None)
            if found is not None and found.at < since:
                low = middle
            else:
                high = middle
        file.seek(low)
        if low:
            file.readline(LONGEST_LINE)
        yield from whole_lines(iter(lambda: file.readline(LONGEST_LINE), b""), GpuLook)
