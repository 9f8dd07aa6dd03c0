"""`jobs/<job>/metrics/`: the series that a job's training reported, as they were read and as charts read them.

`readings.jsonl` is the truth: lines of values, and behind each batch of them a line that says how many they are, how
far the logs and files were read for them, and how far the run was then. A batch without that line was cut short; it
does not count, and is read again. `000.series` … (`pyramid`) and `index.json` (what they hold, up to which byte of the
truth) are made of it, and made again where they are lost or damaged. Writers take turns by a lock on the folder; what
the index says is complete, so readers need none.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ugro.common.files import append_line
from ugro.common.models.metrics import Reading, RunProgress, SeriesSource
from ugro.common.text import printable
from ugro.control_plane.metadata_store.locks import alone_on
from ugro.control_plane.metadata_store.metrics_store.pyramid import Growing, Point, Series, size
from ugro.control_plane.metadata_store.records import LONGEST_LINE, state_errors

VERSION = 1

MOST_SERIES = 200
"""Series of a job; values of further names are counted and dropped."""

NAME_LENGTH = 80
"""Characters of a series' name that are kept."""

MOST_STEP = 2**53
"""The largest step: a float could not hold larger ones exactly."""

MOST_PARTS = 1000
"""Times that the steps of a series may go back; after that they stay where they are until they go forward."""

Fields = dict[str, Any]


@dataclass
class Part:
    """A run of points whose steps do not go back: from the point with number `start` on, of one attempt.

    `offset` is added to the steps as printed: where a counter begins again in one attempt, its x continues.
    """

    start: int
    attempt: int
    offset: float = 0.0


@dataclass
class Known:
    """The index's entry of one series: its place, and a summary of its points."""

    name: str
    source: SeriesSource
    unit: str
    file: str
    count: int = 0
    parts: list[Part] = field(default_factory=list)
    x: float = 0.0
    at: float = 0.0
    low: float | None = None
    high: float | None = None
    last: float | None = None
    """Its last finite value."""
    bad: int = 0
    """Number of points that are not finite."""

    def place(self, attempt: int, seen: Iterable[tuple[int | None, float, float]]) -> list[Point]:
        """Return the points of readings of one attempt (step, time, value), and count them. There are many."""
        part = self.parts[-1] if self.parts else None
        if part is None or part.attempt != attempt:
            part = self._begin(Part(self.count, attempt))
        points: list[Point] = []
        before, last, count = self.x, self.at if self.count > part.start else 0.0, self.count
        for step, at, value in seen:
            x = before + 1 if step is None or step > MOST_STEP else step + part.offset
            if x < before and count > part.start:
                self.x, self.count = before, count
                x = self._back(part, step or 0)
                part = self.parts[-1]
            last = at if at > last else last
            points.append((x, last, value))
            before, count = x, count + 1
        self.x, self.at, self.count = before, last, count
        self._sum_up([value for _, _, value in points])
        return points

    def _sum_up(self, values: Sequence[float]) -> None:
        finite = values if all(map(isfinite, values)) else [value for value in values if isfinite(value)]
        self.bad += len(values) - len(finite)
        if finite:
            low, high, self.last = min(finite), max(finite), finite[-1]
            self.low = low if self.low is None else min(low, self.low)
            self.high = high if self.high is None else max(high, self.high)

    def _begin(self, part: Part) -> Part:
        self.parts.append(part)
        self.x = 0.0
        return part

    def _back(self, part: Part, step: int) -> float:
        """Return x of a step that is smaller than that before: of a counter that began again, or of work done again."""
        if len(self.parts) >= MOST_PARTS:
            return self.x
        again = step < (self.x - part.offset) / 2
        offset = self.x if again else part.offset
        self.parts.append(Part(self.count, part.attempt, offset))
        return step + offset


@dataclass
class Index:
    """Content of `index.json`. `bytes` of the truth are in the series; `read` is how far sources were read."""

    bytes: int = 0
    read: Fields = field(default_factory=dict)
    progress: RunProgress | None = None
    dropped: list[str] = field(default_factory=list)
    """Names beyond the limit, the first ones."""
    series: dict[tuple[str, SeriesSource], Known] = field(default_factory=dict)

    def as_text(self) -> str:
        """Return the file's text."""
        told = {"version": VERSION, "bytes": self.bytes, "read": self.read, "dropped": self.dropped}
        series = [asdict(known) for known in self.series.values()]
        progress = asdict(self.progress) if self.progress else None
        return json.dumps(told | {"progress": progress, "series": series})

    @classmethod
    def of(cls, text: str) -> Index:
        """Read it.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: it is no index, or that of another version.
        """
        told = json.loads(text)
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']}")
        made = cls(int(told["bytes"]), dict(told["read"]), _progress(told["progress"]), list(told["dropped"]))
        for one in told["series"]:
            parts = [Part(**part) for part in one.pop("parts")]
            known = Known(**one | {"source": SeriesSource(one["source"]), "parts": parts})
            made.series[known.name, known.source] = known
        return made


class JobSeries:
    """The series of one job, in its folder `metrics/`.

    Raises (from any method):
        StateError: a file cannot be read or written, with its name. What the last batch left half done does not count.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._readings = folder / "readings.jsonl"
        self._index_file = folder / "index.json"
        self._index = Index()
        self._growing: dict[str, Growing] = {}
        self._seen: tuple[int, ...] | None = None
        self._names: set[str] = set()
        """Names of series that can be kept as they are."""

    # --- reading -----------------------------------------------------------------------------------------------------

    def index(self) -> Index:
        """Return the index. An outdated or damaged one is rebuilt first, unless another process writes just now."""
        with state_errors(self.folder):
            if not self._readings.exists():
                return Index()
            self._load()
            if not self._is_current():
                with alone_on(self.folder) as alone:
                    if alone:
                        self._catch_up()
            return self._index

    @contextlib.contextmanager
    def opened(self, known: Known) -> Iterator[Series]:
        """Give the points of a series."""
        with contextlib.ExitStack() as stack, state_errors(path := self.folder / known.file):
            data: Any = b""
            if known.count:
                file = stack.enter_context(open(path, "rb"))
                data = stack.enter_context(mmap.mmap(file.fileno(), size(known.count), access=mmap.ACCESS_READ))
            yield Series(data, known.count)

    # --- writing -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[bool]:
        """Hold the lock for adding; False: another process adds just now."""
        with state_errors(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
        with alone_on(self.folder) as alone:
            if alone:
                with state_errors(self.folder):
                    self._load()
                    if not self._is_current():
                        self._catch_up()
            yield alone

    def read_so_far(self, source: str) -> Any:
        """Return how far a source was read, as it was noted; None: it was not. Within `writing`."""
        return self._index.read.get(source)

    @property
    def progress(self) -> RunProgress | None:
        """Return how far the run was. Within `writing`."""
        return self._index.progress

    def add(
        self, attempt: int, readings: Sequence[Reading], read: Mapping[str, Any], progress: RunProgress | None
    ) -> None:
        """Add a batch, within `writing`. `read` replaces what was known of how far these sources were read."""
        end = {"read": dict(read), "progress": asdict(progress) if progress else None}
        readings = [one if one.name in self._names else self._named(one) for one in readings]
        try:
            with state_errors(self._readings):
                lines = list(_lines(attempt, readings))
                append_line(self._readings, "\n".join([*lines, json.dumps({"lines": len(lines)} | end)]))
                self._take([(attempt, readings)], end)
                self._save()
        except BaseException:
            self._seen = None  # what memory says is ahead of the files
            raise

    def _named(self, reading: Reading) -> Reading:
        """A reading with a name that can be shown and kept."""
        if len(self._names) < MOST_SERIES and printable(reading.name[:NAME_LENGTH]) == reading.name:
            self._names.add(reading.name)
            return reading
        return reading._replace(name=printable(reading.name)[:NAME_LENGTH])

    def _take(self, batch: Iterable[tuple[int, Iterable[Reading]]], end: Fields) -> None:
        """Add the readings of a batch, those of an attempt behind its number, to their series."""
        pending: dict[tuple[SeriesSource, int], dict[str, list[tuple[int | None, float, float]]]] = {}
        units: dict[str, str] = {}
        for attempt, readings in batch:
            last: SeriesSource | None = None
            for name, value, step, at, source, unit in readings:
                if source is not last:
                    last, by_name = source, pending.setdefault((source, attempt), {})
                if (seen := by_name.get(name)) is None:
                    seen, units[name] = by_name.setdefault(name, []), unit
                seen.append((step, at, value))
        for (source, attempt), by_name in pending.items():
            for name, seen in by_name.items():
                if known := self._known((name, source), units[name]):
                    before = known.count
                    self._append(known, before, known.place(attempt, seen))
        self._index.read |= end["read"]
        self._index.progress = _progress(end["progress"]) or self._index.progress

    def _known(self, key: tuple[str, SeriesSource], unit: str) -> Known | None:
        series = self._index.series
        if (known := series.get(key)) is None:
            if len(series) >= MOST_SERIES:
                if key[0] not in self._index.dropped and len(self._index.dropped) < MOST_SERIES:
                    self._index.dropped.append(key[0])
                return None
            known = series[key] = Known(*key, unit, f"{len(series):03d}.series")
        return known

    def _append(self, known: Known, before: int, points: Sequence[Point]) -> None:
        path, growing = self.folder / known.file, self._growing.get(known.file)
        with open(path, "r+b" if path.exists() else "w+b") as file:
            if growing is None:
                growing = self._growing[known.file] = Growing.of(Series(file.read(size(before)), before))
            file.seek(size(growing.count))
            file.write(growing.add(points))

    def _save(self) -> None:
        self._index.bytes = self._there()
        fresh = self._index_file.with_name(f".tmp-index-{os.getpid()}")
        fresh.write_text(self._index.as_text())  # not synced: what a power cut loses is made again
        os.replace(fresh, self._index_file)
        self._seen = self._stamp()

    # --- what is there -----------------------------------------------------------------------------------------------

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._index_file)
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _load(self) -> None:
        """Read the index, unless it is the one that is known."""
        seen = self._stamp()
        if seen is not None and seen == self._seen:
            return
        self._index, self._growing, self._seen = Index(), {}, None
        if seen is not None:
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                self._index = Index.of(self._index_file.read_text(errors="replace"))
                self._seen = seen

    def _there(self) -> int:
        return self._readings.stat().st_size if self._readings.exists() else 0

    def _is_current(self) -> bool:
        """Return whether the series hold all of the truth, judged by their sizes."""
        return self._index.bytes == self._there() and self._is_whole()

    def _is_whole(self) -> bool:
        for known in self._index.series.values():
            path = self.folder / known.file
            if known.count and (not path.exists() or path.stat().st_size < size(known.count)):
                return False
        return True

    def _catch_up(self) -> None:
        """Take what the truth says beyond the index; all of it where the index or a series is damaged."""
        if self._index.bytes > self._there() or not self._is_whole():
            self._index = Index()
        self._growing = {}
        with contextlib.suppress(FileNotFoundError), open(self._readings, "rb") as file:
            file.seek(self._index.bytes)
            waiting: list[bytes] = []
            while line := file.readline(LONGEST_LINE):
                if b'"lines"' not in line or (end := _end(line)) is None:
                    waiting.append(line)
                    continue
                batch = waiting[max(0, len(waiting) - end["lines"]) :]
                self._take(map(_readings_of, batch), end)
                waiting.clear()
        self._save()


def _lines(attempt: int, readings: Iterable[Reading]) -> Iterator[str]:
    """The lines of a batch: values of one source, step and time stand together. By hand, since there are many."""
    texts: dict[str, str] = {}  # of names and units, as JSON has them
    values: dict[str, float] = {}
    units: dict[str, str] = {}
    last: Reading | None = None
    for one in readings:
        name, value, step, at, source, unit = one
        if last and (step != last.step or at != last.at or source is not last.source or name in values):
            yield _line(attempt, last, texts, values, units)
            values, units = {}, {}
        last, values[name] = one, value
        if name not in texts:
            texts[name] = json.dumps(name)
        if unit:
            units[name] = unit
            if unit not in texts:
                texts[unit] = json.dumps(unit)
    if last:
        yield _line(attempt, last, texts, values, units)


def _line(
    attempt: int, of: Reading, texts: Mapping[str, str], values: Mapping[str, float], units: Mapping[str, str]
) -> str:
    found = ", ".join([
        f"{texts[name]}: {value!r}" if isfinite(value) else f'{texts[name]}: "{value}"'
        for name, value in values.items()
    ])  # fmt: skip
    told = ", ".join([f"{texts[name]}: {texts[unit]}" for name, unit in units.items()])
    more = f', "units": {{{told}}}' if told else ""
    step = "null" if of.step is None else of.step
    head = f'"attempt": {attempt}, "source": "{of.source.value}", "at": {of.at!r}, "step": {step}'
    return f'{{{head}, "values": {{{found}}}{more}}}'


def _end(line: bytes) -> Fields | None:
    """The line behind a batch; None: it is another one, or damaged."""
    try:
        told = json.loads(line)
        _progress(told["progress"])
        return told if isinstance(told["read"], dict) and isinstance(told["lines"], int) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _readings_of(line: bytes) -> tuple[int, list[Reading]]:
    """The attempt and the readings of a line of the truth; none where it is damaged, or something else."""
    try:
        told = json.loads(line)
        source, step, at, units = SeriesSource(told["source"]), told["step"], float(told["at"]), told.get("units", {})
        if not (isfinite(at) and (step is None or (isinstance(step, int) and isfinite(float(step))))):
            return 0, []
        return int(told["attempt"]), [
            Reading(name, float(value), step, at, source, str(units.get(name, "")))
            for name, value in told["values"].items()
        ]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return 0, []


def _progress(fields: Any) -> RunProgress | None:
    return RunProgress(**fields) if fields else None
