"""Training series: reading logs as they come, and curves of a million points, next to what reads or draws everything.

The CPU share is that of three jobs that print 1,000 lines a second each, read every two seconds as a tick does.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.report import CPU, Row, Times, clocked, in_turns
from ugro.common.models.metrics import Reading, SeriesSource
from ugro.control_plane.controller.series_feed import SeriesFeed
from ugro.control_plane.metadata_store.metrics_store.curves import Window, curve
from ugro.control_plane.metadata_store.metrics_store.training import JobSeries

JOBS, LINES_PER_SECOND, TICK, TICKS = 3, 1000, 2.0, 15
MILLION, BATCH, PIXELS = 1_000_000, 10_000, 800
ROUNDS = 5
GROUP = "training series"
LINE = "step {step}/1000000 | loss {loss:.6f} | lr 3.0e-04 | grad_norm {norm:.4f} | tokens/s 12,345\n"


def measure() -> Iterator[Row]:
    """The rows of this benchmark."""
    random.seed(7)
    with tempfile.TemporaryDirectory(prefix="ugro-bench-") as name:
        share = _share(Path(name))
        told = f"{JOBS} jobs × {LINES_PER_SECOND} lines/s with four values each"
        yield Row(GROUP, "CPU of one core", 100 * share, "%", 5.0, note=told)
        ratio = share * TICKS * TICK / _written(Path(name) / "board", JOBS * LINES_PER_SECOND * int(TICKS * TICK))
        yield Row(GROUP, "the same, to writing three of the values with tensorboardX", ratio, "×", 1.0)
        kept = _long(Path(name) / "long")
        times = in_turns({"thinned": clocked(_draw(kept, PIXELS)), "all": clocked(_draw(kept, None))}, ROUNDS)
        thinned, everything = _cpu(times["thinned"]), _cpu(times["all"])
        yield Row(GROUP, f"a million points on {PIXELS} pixels", 1000 * thinned, "ms", 100.0)
        yield Row(GROUP, "the same, to reading every point", thinned / everything, "×", 0.2)


def _cpu(times: list[Times]) -> float:
    return statistics.median(one[CPU] for one in times)


def _share(folder: Path) -> float:
    """The CPU time of reading the logs of all jobs, to the time in which they were printed."""
    feeds = []
    for number in range(JOBS):
        logs = folder / f"job-{number}" / "logs"
        logs.mkdir(parents=True)
        feeds.append((logs, SeriesFeed(JobSeries(logs.parent / "metrics"), logs, 1, 0.0)))
    spent, at = 0.0, 1_000_000.0
    for tick in range(TICKS):
        at += TICK
        for logs, _ in feeds:
            _print(logs, tick, at)
        begin = time.process_time()
        for _, feed in feeds:
            feed.read(at)
        spent += time.process_time() - begin
    return spent / (TICKS * TICK)


def _written(folder: Path, lines: int) -> float:
    """The CPU time in which a script writes as many lines' values by itself, of which a tenth is written."""
    from tensorboardX import SummaryWriter

    writer, begin = SummaryWriter(str(folder)), time.process_time()
    for step in range(lines // 10):
        for name in ("loss", "lr", "grad_norm"):
            writer.add_scalar(name, random.random(), step)
    writer.close()
    return 10 * (time.process_time() - begin)


def _print(logs: Path, tick: int, at: float) -> None:
    """What one job prints between two ticks, and the note of the piece that came."""
    count = int(LINES_PER_SECOND * TICK)
    with (logs / "rank-0.log").open("a") as file:
        for step in range(tick * count + 1, (tick + 1) * count + 1):
            file.write(LINE.format(step=step, loss=10 / step + random.random() / 10, norm=random.random()))
        end = file.tell()
    with (logs / "pieces.jsonl").open("a") as file:
        file.write(json.dumps({"at": at, "file": "rank-0.log", "end": end}) + "\n")


def _long(folder: Path) -> JobSeries:
    kept = JobSeries(folder)
    with kept.writing():
        for start in range(0, MILLION, BATCH):
            steps = range(start, start + BATCH)
            found = [Reading("loss", random.gauss(0, 1), step, 1e6 + step, SeriesSource.LOG) for step in steps]
            kept.add(1, found, {}, None)
    return kept


def _draw(kept: JobSeries, pixels: int | None) -> Callable[[], object]:
    def draw() -> object:
        fresh = JobSeries(kept.folder)
        (known,) = fresh.index().series.values()
        with fresh.opened(known) as series:
            return curve(series, known, Window(pixels=pixels))

    return draw


if __name__ == "__main__":
    for row in measure():
        print(row)
