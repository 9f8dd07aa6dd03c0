"""Read a rank's log as it streams: the values it prints, and how far the run is. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ugro.common.models.metrics import Reading, RunProgress, SeriesSource
from ugro.common.text import printable
from ugro.control_plane.training_metrics.columns import Table, header_of, row_of
from ugro.control_plane.training_metrics.pace import Pace
from ugro.control_plane.training_metrics.pairs import Pair, Value, in_unit, pairs_in, rates_in, values_of
from ugro.control_plane.training_metrics.pattern import Pattern
from ugro.control_plane.training_metrics.shapes import Shapes
from ugro.control_plane.training_metrics.step_count import StepCount
from ugro.control_plane.training_metrics.steps import LINE_LENGTH, Progress, progress_in, progress_places

BAR_SECONDS = 1.0
"""Least time between two states of a progress bar that are read."""

MOST_SERIES = 200
"""Series of a job that are kept."""

THROUGHPUT = "steps_per_second"
"""Name of the series that is derived where the script prints no throughput."""

_SPEEDS = ("it/s", "s/it")
_ENDS = re.compile(r"[\r\n]")
_PREFIX = re.compile(r"\s*(?:\[(?:rank|default)\d{1,6}\]:?|\d{1,6}:(?=\s)|\([A-Za-z]{1,40} pid=[^)]{1,80}\))\s?")
_COUNT = re.compile(r"\d{1,12}/(\d{1,12})(?=[ \[])")
_BAR_END = re.compile(r"(?:it/s|s/it)[^\]\r\n]{0,1000}\]")
_BAR_SHAPE = re.compile(r"%\||% ?[━╸─]| \[\d[\d:]{0,12}<|it \[\d")
_TELLING = re.compile(
    r"(?:loss|acc|accuracy|acc@?\d|ppl|perplexity|f1|bleu|rouge\w?|map\w{0,6}|iou|auc|reward|score|bpb|wer|cer|mse|mae"
    r"|_runtime)(?:_(?:step|epoch|mean|avg))?$",
    re.IGNORECASE,
)
"""Names that show a training even where the line has no step."""

_NO_SERIES = frozenset((
    "step", "steps", "global_step", "globalstep", "iter", "iteration", "iterations", "epoch", "epochs", "num_updates",
    "micro_step", "batch", "train", "train_epoch", "train/global_step", "trainer/global_step", "total_steps",
    "max_steps", "eta", "time_left", "left", "remaining", "rank", "local_rank", "world_size", "pid", "ip", "port",
    "host", "gpu", "node", "line", "seed", "v_num", "version", "cuda", "device", "ts", "timestamp", "date",
    "_timestamp", "_step", "_runtime",
))  # fmt: skip
"""Names of numbers that are no series: what is counted, when, and where, in lower case."""

_FRACTIONS = ("epoch", "Epoch")
"""Names of an epoch with decimals."""

_ENDS_OF_PLACES = (".py", ".cc", ".cpp", ".cu", ".h", "rank")
"""Ends of names of source files and ranks: `train.py:12`, `mpirank:2`."""

_THROUGHPUT = re.compile(r"(?i)tps|tok\w*/s|per_sec|/sec|it/s|throughput|samplespersec|samples/s|wps|ups|steps_per_s")
_VALIDATION = re.compile(
    r"(?<![\w./-])(val(?:id|idation|idating)?|eval(?:uation|uating)?|test(?:ing)?)(?![\w./=])|\((val|test)\)"
)
"""Prefixes of values that are not of the training data."""

_KIND = re.compile(r"(?:^|[_/ ])(?:train|val|valid|validation|eval|test)", re.IGNORECASE)


class LineReader:
    """Reads one rank's log. It keeps what a line needs of those before it: the step, a bar, a table's header."""

    def __init__(self, pattern: Pattern | None = None) -> None:
        self.dropped: set[str] = set()
        """Names that were left out because there are too many series; at most `MOST_SERIES` of them."""
        self.pattern = pattern
        self._line = ""
        self._bar = ""
        self._bar_total = ""
        self._bar_at = float("-inf")
        self._table: Table | None = None
        self._shapes = Shapes()
        self._count = StepCount()
        self._pace = Pace()
        self._told_at: float | None = None
        self._units: dict[str, str] = {}
        self._prints_throughput = False

    @property
    def progress(self) -> RunProgress | None:
        """Return how far the run is; None: nothing says so."""
        count = self._count
        if self._told_at is None:
            return None
        return RunProgress(self._told_at, count.step, count.steps, count.epoch, count.epochs, self._pace.rate)

    def feed(self, text: str, at: float) -> list[Reading]:
        """Return the values in the next piece of the log, which arrived at `at`. A line may come in several pieces."""
        *lines, rest = _ENDS.split(text)
        found: list[Reading] = []
        for line in lines:
            if self._line:
                line, self._line = self._line + line, ""
            if line:
                self._read(line[:LINE_LENGTH], at, found)
        self._line = (self._line + rest[:LINE_LENGTH])[:LINE_LENGTH]
        if self._bar and at - self._bar_at >= BAR_SECONDS:
            self._bar_at = at
            self._read_bar(self._bar, at, found)
            self._bar = ""
        return found

    def begin_pace(self, at: float) -> None:
        """Measure the pace from here on: what was fed so far came at other times than was said, its end at `at`."""
        self._pace = Pace()
        if self._count.step is not None:
            self._pace.add(self._count.step, at)

    def _read(self, line: str, at: float, found: list[Reading]) -> None:
        if ("it/s" in line or "s/it" in line or "%|" in line) and _BAR_SHAPE.search(line):
            line = self._keep_bar(line, at)
        if self.pattern is not None and (read := self.pattern.read(line)):
            self._take(values_of(read[0]), read[1], SeriesSource.LOG, at, found)
            return
        if self._table is None and not _may_tell(line.lower()):
            return
        line = _bare(line)
        if self._table is None and (said := self._shapes.read(line)):
            self._take_line(*said, at, found)
        elif not self._read_table(line, at, found):
            self._read_values(line, at, found)

    def _read_values(self, line: str, at: float, found: list[Reading]) -> None:
        """Take the values of a line of a shape that is not known."""
        pairs = pairs_in(line)
        lower = line.lower()
        places = progress_places(lower)
        progress = places and places.read(lower)
        has_step = progress is not None and progress.step is not None and not progress.bar
        if has_step or any(_is_telling(pair.name) for pair in pairs):
            pairs = _of_validation(line, sorted([*pairs, *rates_in(line, pairs)], key=lambda pair: pair.start))
            kept = [pair for pair in pairs if pair.name in _FRACTIONS or _is_series(pair.name)]
            if kept and self._table is None and len(lower) == len(line):
                self._shapes.learn(line, kept, places)
            self._take_line(values_of(pairs), progress, at, found)

    def _take_line(self, values: Sequence[Value], progress: Progress | None, at: float, found: list[Reading]) -> None:
        if self._bar and (progress is None or progress.step is None or progress.bar):
            # the line is printed at the step that the bar before it shows
            self._advance(progress_in(_bare(self._bar)), [], at, found)
        self._take(values, progress, SeriesSource.LOG, at, found)

    def _keep_bar(self, line: str, at: float) -> str:
        """Keep the newest state of a bar, and return what stands behind the bar on its line."""
        rest = ""
        if not line.endswith("]") and (match := _BAR_END.search(line)):
            line, rest = line[: match.end()], line[match.end() :]
        total = match[1] if (match := _COUNT.search(line, max(0, line.find("%")))) else ""
        if "v_num=" in line:  # Lightning counts epochs from 0
            self._count.first_epoch = 0
        if self._bar and total != self._bar_total:  # another bar: of an evaluation, or of the next epoch
            self._advance(progress_in(_bare(self._bar)), [], at, [])
        self._bar, self._bar_total = line, total
        return rest

    def _read_bar(self, bar: str, at: float, found: list[Reading]) -> None:
        bar = _bare(bar)
        if self._read_table(bar, at, found):
            return
        progress = progress_in(bar)
        if progress is None or not progress.bar:
            return
        if not self._count.trusts(progress):
            return
        title = bar.partition("%|")[0] if "%|" in bar else ""
        cut = max(bar.rfind(speed) for speed in _SPEEDS)
        pairs = pairs_in(bar[cut:]) if cut >= 0 else []
        if pairs and "]" not in bar[cut:]:
            pairs.pop()  # the end of a cut line may be a part of a number
        values = values_of([*pairs_in(title.rpartition(":")[0]), *pairs])
        self._take(values, progress, SeriesSource.BAR, at, found)

    def _read_table(self, line: str, at: float, found: list[Reading]) -> bool:
        """Take a table's header or row; return whether the line is one."""
        if header := header_of(line):
            self._table = header
            return True
        if self._table is None or (row := row_of(self._table, line)) is None:
            return False
        pairs, progress = row
        self._take(values_of(pairs), progress, SeriesSource.BAR if progress else SeriesSource.LOG, at, found)
        return True

    def _take(
        self, values: Sequence[Value], progress: Progress | None, source: SeriesSource, at: float, found: list[Reading]
    ) -> None:
        """Add the values of a line to what was found, after the step that it says."""
        self._advance(progress, values, at, found)
        step = self._count.step
        for name, value, unit in values:
            known = self._units.get(name)
            if known is None:
                if not _is_series(name) or not self._has_room(name):
                    continue
                self._units[name] = known = unit
                self._prints_throughput = self._prints_throughput or bool(_THROUGHPUT.search(name))
            if known != unit and (converted := in_unit(value, unit, known)) is not None:
                value = converted
            found.append(Reading(name, value, step, at, source, known))

    def _advance(self, progress: Progress | None, values: Sequence[Value], at: float, found: list[Reading]) -> None:
        """Note how far the run is, and the pace."""
        fraction = None
        for name, value, _ in values:
            if name in _FRACTIONS:
                fraction = value
                break
        if not self._count.take(progress, fraction, with_values=bool(values)):
            return
        self._told_at, step = at, self._count.step
        pace = self._pace.add(step, at) if step is not None else None
        if pace is not None and not self._prints_throughput and self._has_room(THROUGHPUT):
            self._units[THROUGHPUT] = "/s"
            found.append(Reading(THROUGHPUT, pace, step, at, SeriesSource.DERIVED, "/s"))

    def _has_room(self, name: str) -> bool:
        if name in self._units or len(self._units) < MOST_SERIES:
            return True
        if len(self.dropped) < MOST_SERIES:
            self.dropped.add(name)
        return False


def _may_tell(lower: str) -> bool:
    """Return whether a line can have values, by words of which each such line has one. It is asked for every line."""
    return (
        "loss" in lower or "step" in lower or "epoch" in lower or "iter" in lower or "acc" in lower or "val" in lower
        or "train" in lower or "ppl" in lower or "score" in lower or "reward" in lower or "num_updates" in lower
        or "test" in lower or "map50" in lower or "gpu_mem" in lower
    )  # fmt: skip


@lru_cache(4096)
def _is_series(name: str) -> bool:
    lower = name.lower()
    return lower not in _NO_SERIES and not lower.endswith(_ENDS_OF_PLACES)


@lru_cache(4096)
def _is_telling(name: str) -> bool:
    return bool(_TELLING.search(name))


def _bare(line: str) -> str:
    """Return a line without escapes and the label of its rank."""
    if "\x1b" in line or not line.isprintable():
        line = printable(line)
    match = _PREFIX.match(line) if line[:1] in "[( \t0123456789" else None
    return line[match.end() :] if match else line


def _of_validation(line: str, pairs: list[Pair]) -> list[Pair]:
    """Return a line's values with names that say so where the line begins with a word for other data: `val/loss`."""
    head = line[: pairs[0].start].lower() if pairs else ""
    if not ("val" in head or "test" in head) or not (match := _VALIDATION.search(head)):
        return pairs
    kind = {"v": "val/", "e": "eval/", "t": "test/"}[(match[1] or match[2])[0]]
    return [pair if _KIND.search(pair.name) else pair.renamed(kind + pair.name) for pair in pairs]
