"""Series are read in the copies of logs: as pieces come, across restarts, and again where they are lost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from ugro.common.models.metrics import RunProgress, SeriesSource
from ugro.control_plane.controller.series_feed import SeriesFeed
from ugro.control_plane.metadata_store.metrics_store.curves import Window, curve
from ugro.control_plane.metadata_store.metrics_store.training import JobSeries


class Copies:
    """Copies of the logs of an attempt, as `log_streamer` writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "logs" / "1"
        self.folder.mkdir(parents=True)
        self.series = folder / "metrics"

    def come(self, text: str | bytes, at: float, rank: int = 0) -> None:
        name = f"rank-{rank}.log"
        with open(self.folder / name, "ab") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
            end = file.tell()
        with open(self.folder / "pieces.jsonl", "a") as file:
            file.write(json.dumps({"at": at, "file": name, "end": end}) + "\n")

    def feed(self, began: float | None = 1000.0) -> SeriesFeed:
        return SeriesFeed(JobSeries(self.series), self.folder, 1, began)

    def points(self, name: str = "loss", **window: object) -> list[tuple[float, float | None]]:
        kept = JobSeries(self.series)
        known = kept.index().series[name, SeriesSource.LOG]
        with kept.opened(known) as series:
            return curve(series, known, Window(**window)).points  # type: ignore[arg-type]


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return Copies(tmp_path)


def lines(steps: Iterable[int]) -> str:
    return "".join(f"step {step}/500 loss {step}.5\n" for step in steps)


def test_lines_are_read_as_they_come(copies: Copies) -> None:
    feed = copies.feed()
    assert not feed.read(1000.0) and not copies.series.exists(), "where nothing came nothing is made"
    whole = lines(range(1, 31))
    for at, start in enumerate(range(0, len(whole), 7)):
        copies.come(whole[start : start + 7], 1001.0 + at)
        feed.read(1001.0 + at)
    assert copies.points() == [(step, step + 0.5) for step in range(1, 31)]
    progress = JobSeries(copies.series).index().progress
    assert isinstance(progress, RunProgress) and (progress.step, progress.steps) == (30, 500) and progress.rate


def test_each_process_continues_where_another_one_stopped(copies: Copies) -> None:
    whole = lines(range(1, 101))
    for at, start in enumerate(range(0, len(whole), 333)):
        copies.come(whole[start : start + 333], 1001.0 + at)
        copies.feed().read(1001.0 + at)
    assert copies.points() == [(step, step + 0.5) for step in range(1, 101)]
    old, new = copies.feed(), copies.feed()
    for number in range(101, 121):
        copies.come(lines([number]), 2000.0 + number)
        (old if number % 2 else new).read(2000.0 + number)
    assert [x for x, _ in copies.points()] == list(range(1, 121))


def test_what_a_line_needs_of_those_before_is_read_once_more(copies: Copies) -> None:
    copies.come("Epoch 1:  10%|█         | 10/100 [00:01<00:09, 10.00it/s]\r{'loss': '0.5', 'epoch': '0.1'}\n", 1001.0)
    copies.feed().read(1001.0)
    copies.come("{'loss': '0.4', 'epoch': '0.2'}\n", 1002.0)
    copies.feed().read(1002.0)
    assert [y for _, y in copies.points()] == [0.5, 0.4]


def test_series_are_read_again_where_they_are_lost(copies: Copies) -> None:
    copies.come(lines(range(1, 51)), 1010.0)
    copies.come(lines(range(51, 101)), 1020.0)
    copies.feed().read(1020.0)
    before = copies.points()
    (copies.series / "readings.jsonl").unlink()
    copies.feed().read(1030.0)
    assert copies.points() == before and len(before) == 100


def test_a_piece_counts_as_having_come_bit_by_bit(copies: Copies) -> None:
    copies.come(lines(range(1, 101)), 1100.0)
    copies.feed().read(1100.0)
    times = [x for x, _ in copies.points(axis="time")]
    assert 1000.0 < times[0] < 1005.0 and times[-1] == 1100.0 and times == sorted(times)


def test_a_long_log_is_read_in_passes(copies: Copies) -> None:
    copies.come(lines(range(1, 3001)), 1010.0)
    feed, passes = copies.feed(), 1
    while feed.read(1010.0, 10_000):
        passes += 1
    assert passes > 5 and [x for x, _ in copies.points()] == list(range(1, 3001))


def test_lines_without_values_are_noted_now_and_then(copies: Copies) -> None:
    feed = copies.feed()
    for number in range(20):
        copies.come("x" * 60_000 + "\n", 1001.0 + number)
        feed.read(1001.0 + number)
    notes = (copies.series / "readings.jsonl").read_text().splitlines()
    assert len(notes) == 1 and json.loads(notes[0])["read"]["logs/1"]["files"]["rank-0.log"] > 1_000_000


def test_bytes_that_are_no_text_do_no_harm(copies: Copies) -> None:
    copies.come(b"\xff\xfe\x00step 1 loss 0.5\n" + "step 2 loss 0.25 é".encode()[:-1], 1001.0)
    feed = copies.feed()
    feed.read(1001.0)
    copies.come("é".encode()[1:] + b"\r\n" + b"\x80" * 100_000 + b"\nstep 3 loss 1\n", 1002.0)
    with open(copies.folder / "pieces.jsonl", "a") as file:
        file.write('nonsense\n{"at": "x"}\n{"at": 1, "file": "../../etc/passwd", "end": 9}\n')
    feed.read(1002.0)
    assert [x for x, _ in copies.points()][1:] == [2, 3]


def paces(copies: Copies) -> list[float]:
    kept = JobSeries(copies.series)
    known = kept.index().series["steps_per_second", SeriesSource.DERIVED]
    with kept.opened(known) as series:
        return [y for _, y in curve(series, known, Window()).points if y is not None]


def assert_one_a_second(copies: Copies) -> None:
    progress = JobSeries(copies.series).index().progress
    assert isinstance(progress, RunProgress) and progress.rate == pytest.approx(1.0, rel=0.1)
    assert min(paces(copies)) > 0.5 and max(paces(copies)) <= 2.0


def test_lines_from_while_no_process_read_are_no_pace_of_a_moment(copies: Copies) -> None:
    feed = copies.feed()
    for second in range(1, 31):
        copies.come(lines([second]), 1000.0 + second)
        feed.read(1000.0 + second)
    feed = copies.feed()
    feed.read(1038.0, seen=False)
    copies.come(lines(range(31, 40)), 1039.0)
    for second in range(39, 45):
        feed.read(1000.0 + second)
        copies.come(lines([second + 1]), 1001.0 + second)
    feed.read(1045.0)
    assert_one_a_second(copies)


def test_processes_that_read_now_and_then_see_the_same_pace(copies: Copies) -> None:
    for second in range(3, 60, 2):
        copies.come(lines([second - 1, second]), 1000.0 + second)
        copies.feed().read(1000.0 + second)
    assert_one_a_second(copies)


def test_what_comes_in_several_round_trips_or_passes_came_over_the_same_time(copies: Copies) -> None:
    text = [f"{'x' * 80}\n" * 9 + line + "\n" for line in lines(range(1, 61)).splitlines()]
    feed = copies.feed()
    copies.come(text[0], 1001.0)
    feed.read(1001.0)
    feed = copies.feed()
    for start in range(1, 41, 10):
        copies.come("".join(text[start : start + 10]), 1041.0)
    while feed.read(1041.0, 9000):
        pass
    for second in range(42, 52):
        copies.come(text[second - 1], 1000.0 + second)
        feed.read(1000.0 + second)
    assert_one_a_second(copies)
    assert [x for x, _ in copies.points()] == list(range(1, 52))
