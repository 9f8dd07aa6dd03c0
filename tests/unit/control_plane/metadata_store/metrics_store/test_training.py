"""The series of a job: what is kept of a batch, whatever happens to the files, and what a chart shows of them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from math import inf, isnan, nan
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ugro.common.errors import StateError
from ugro.common.models.metrics import Axis, Reading, RunProgress, SeriesSource
from ugro.control_plane.metadata_store.metrics_store import training
from ugro.control_plane.metadata_store.metrics_store.curves import Curve, Window, curve
from ugro.control_plane.metadata_store.metrics_store.training import MOST_PARTS, MOST_SERIES, JobSeries

LOG = SeriesSource.LOG


def readings(steps: Sequence[int | None], name: str = "loss", at: float = 1000.0) -> list[Reading]:
    return [Reading(name, float(step or 0), step, at + number, LOG) for number, step in enumerate(steps)]


def add(folder: Path, found: Sequence[Reading], attempt: int = 1, **read: int) -> JobSeries:
    kept = JobSeries(folder)
    with kept.writing() as alone:
        assert alone
        kept.add(attempt, found, read, None)
    return kept


def shown(folder: Path, window: Window | None = None, name: str = "loss") -> Curve:
    kept = JobSeries(folder)
    known = kept.index().series[name, LOG]
    with kept.opened(known) as series:
        return curve(series, known, window or Window())


def steps(found: Curve) -> list[float]:
    return [x for x, _ in found.points]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "metrics"


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_batch_is_lines_that_jq_reads(folder: Path) -> None:
    found = [
        Reading("loss", 2.5, 7, 1000.25, LOG),
        Reading("mem", nan, 7, 1000.25, LOG, "GiB"),
        Reading("x\u202e\n", -inf, None, 1001.0, LOG),
    ]
    kept = JobSeries(folder)
    assert kept.index().series == {} and not folder.exists(), "reading writes nothing"
    with kept.writing():
        kept.add(1, found, {"logs/1": {"pieces": 3}}, RunProgress(5.0, step=7, steps=9))
    lines = [json.loads(line) for line in (folder / "readings.jsonl").read_text().splitlines()]
    head = {"attempt": 1, "source": "log"}
    values = {"loss": 2.5, "mem": "nan"}
    assert lines[0] == head | {"at": 1000.25, "step": 7, "values": values, "units": {"mem": "GiB"}}
    assert list(lines[1]["values"].values()) == ["-inf"] and "\n" not in next(iter(lines[1]["values"]))
    assert lines[2]["lines"] == 2 and lines[2]["read"] == {"logs/1": {"pieces": 3}}
    index = JobSeries(folder).index()
    assert index.progress == RunProgress(5.0, step=7, steps=9) and index.read == {"logs/1": {"pieces": 3}}
    assert index.series["mem", LOG].unit == "GiB" and index.series["mem", LOG].bad == 1


def test_a_resumed_attempt_is_a_segment_of_its_own(folder: Path) -> None:
    add(folder, readings(range(1, 51)))
    add(folder, readings(range(41, 61), at=2000.0), attempt=2)
    found = shown(folder)
    assert steps(found) == list(range(1, 61))
    assert [(one.attempt, one.start, one.end, one.overwritten) for one in found.segments] == [
        (1, 1.0, 50.0, 10),
        (2, 41.0, 60.0, 0),
    ]
    assert [x for x, _ in found.overwritten] == list(range(41, 51))
    assert steps(shown(folder, Window(attempts=(1,)))) == list(range(1, 51))
    by_time = shown(folder, Window(Axis.ELAPSED, origin=1000.0))
    assert steps(by_time) == [*range(40), *range(1000, 1020)]


def test_a_late_line_of_an_earlier_attempt_overwrites_nothing(folder: Path) -> None:
    add(folder, readings(range(1, 11)))
    add(folder, readings(range(6, 21)), attempt=2)
    add(folder, readings([11, 12]))
    assert [one.attempt for one in shown(folder).segments] == [1, 1, 2]
    assert steps(shown(folder)) == list(range(1, 21))


def test_a_counter_that_begins_again_counts_on(folder: Path) -> None:
    add(folder, readings([*range(1, 101), *range(1, 101)]))
    assert steps(shown(folder)) == list(range(1, 201))


def test_steps_that_go_back_a_little_are_computed_again(folder: Path) -> None:
    add(folder, readings([*range(1, 101), *range(91, 121)]))
    found = shown(folder)
    assert steps(found) == list(range(1, 121)) and len(found.overwritten) == 10


def test_values_without_a_step_count_by_one(folder: Path) -> None:
    add(folder, readings([None, None, 10, None]))
    assert steps(shown(folder)) == [1, 2, 10, 11]


def test_limits_are_kept(folder: Path) -> None:
    many = [Reading(f"s{number}", 1.0, 1, 1.0, LOG) for number in range(MOST_SERIES + 5)]
    many.append(Reading("n" * 500, 1.0, 2**80, 1.0, LOG))
    add(folder, many)
    index = JobSeries(folder).index()
    assert len(index.series) == MOST_SERIES and index.dropped[:2] == [f"s{MOST_SERIES}", f"s{MOST_SERIES + 1}"]
    assert max(map(len, index.dropped)) <= training.NAME_LENGTH
    add(folder, readings([2, 1] * MOST_PARTS, name="s0"))
    assert len(JobSeries(folder).index().series["s0", LOG].parts) == MOST_PARTS


def test_a_thinned_window_keeps_what_stands_out(folder: Path) -> None:
    values = [Reading("loss", 99.0 if step == 777 else 1.0, step, 1.0 + step, LOG) for step in range(5000)]
    add(folder, values)
    found = shown(folder, Window(pixels=50))
    assert found.thinned and len(found.points) <= 200 and (777.0, 99.0) in found.points
    zoomed = shown(folder, Window(pixels=50, start=770, end=780))
    assert steps(zoomed) == list(range(770, 781)) and not zoomed.thinned


# --- what happens to files -------------------------------------------------------------------------------------------


def test_another_process_waits_its_turn(folder: Path) -> None:
    with JobSeries(folder).writing() as first, JobSeries(folder).writing() as second:
        assert first and not second


def test_writers_that_take_turns_see_each_other(folder: Path) -> None:
    one, other = JobSeries(folder), JobSeries(folder)
    for number, kept in enumerate([one, other, one, other]):
        with kept.writing():
            kept.add(1, readings(range(number * 100, number * 100 + 100)), {"n": number}, None)
    assert steps(shown(folder)) == list(range(400))


@pytest.mark.parametrize("lost", ["index.json", "000.series", "both", "cut", "foreign", "older"])
def test_series_are_made_again_from_the_readings(folder: Path, lost: str) -> None:
    add(folder, readings(range(300)))
    add(folder, readings(range(300, 5000)))
    before = shown(folder)
    if lost in ("index.json", "000.series"):
        (folder / lost).unlink()
    elif lost == "both":
        (folder / "index.json").unlink()
        (folder / "000.series").write_bytes(b"rubbish" * 10_000)
    elif lost == "cut":
        os.truncate(folder / "000.series", 1000)
    elif lost == "foreign":
        (folder / "index.json").write_text('{"version": 1, "bytes": "x", "series": 3}')
    else:
        (folder / "index.json").write_text('{"version": 0}')
    assert shown(folder) == before
    add(folder, readings(range(5000, 5010)))
    assert steps(shown(folder)) == list(range(5010))


def test_a_batch_that_was_cut_short_does_not_count(folder: Path) -> None:
    add(folder, readings(range(10)), logs=1)
    whole = (folder / "readings.jsonl").read_bytes()
    add(folder, readings(range(10, 20)), logs=2)
    for cut in (len(whole) + 5, len(whole) + 300, (folder / "readings.jsonl").stat().st_size - 2):
        os.truncate(folder / "readings.jsonl", cut)
        index = JobSeries(folder).index()
        assert index.read == {"logs": 1} and steps(shown(folder)) == list(range(10))
        add(folder, readings(range(10, 20)), logs=2)
        assert steps(shown(folder)) == list(range(20))
        assert JobSeries(folder).index().read == {"logs": 2}


def test_foreign_lines_are_passed_over(folder: Path) -> None:
    add(folder, readings(range(10)))
    foreign = ['{"at": 1', "[]", '{"lines": "x"}', '{"values": {"loss": 1}}', "\x00\xff", "1" * 5000, '"lines"', "{}"]
    with open(folder / "readings.jsonl", "a") as file:
        file.write("\n".join([*foreign, '{"attempt":1,"source":"log","at":1,"step":1e3,"values":{"loss":[]}}', ""]))
    add(folder, readings(range(10, 20)))
    (folder / "index.json").unlink()
    assert steps(shown(folder)) == list(range(20))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=30), st.integers(0, 2000))
def test_damage_of_the_readings_costs_only_its_lines(
    tmp_path_factory: pytest.TempPathFactory, rubbish: bytes, place: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "metrics"
    add(folder, readings(range(10)))
    add(folder, readings(range(10, 20)))
    path = folder / "readings.jsonl"
    data = path.read_bytes()
    place = min(place, len(data))
    path.write_bytes(data[:place] + rubbish + data[place:])
    (folder / "index.json").unlink()
    index = JobSeries(folder).index()
    add(folder, readings(range(20, 30)))
    found = steps(shown(folder))
    assert found[-10:] == list(range(20, 30)) and len(found) >= (20 if rubbish else 30)
    assert all(known.count for known in index.series.values())


def test_a_full_disk_is_an_error_and_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = add(folder, readings(range(10)))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with kept.writing(), pytest.raises(StateError, match="No space left"):
            kept.add(1, readings(range(10, 20)), {}, None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with kept.writing(), pytest.raises(StateError, match="No space left"):
            kept.add(1, readings(range(10, 20)), {}, None)
    with kept.writing():
        kept.add(1, readings(range(20, 30)), {}, None)
    assert steps(shown(folder)) == list(range(30))


def test_what_is_no_number_is_named(folder: Path) -> None:
    add(folder, [Reading("loss", value, step, 1.0, LOG) for step, value in enumerate([1.0, nan, inf, 2.0])])
    found = shown(folder)
    assert found.points == [(0.0, 1.0), (1.0, None), (2.0, None), (3.0, 2.0)]
    assert found.bad == [(1.0, "nan"), (2.0, "inf")] and not any(isnan(x) for x, _ in found.points)
