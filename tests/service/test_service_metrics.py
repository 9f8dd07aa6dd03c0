"""The series that a job's training reports, through either backend."""

from __future__ import annotations

import pytest
from door import Door

from ugro.common.errors import InputError
from ugro.common.models.metrics import Axis, Reading, RunProgress, SeriesSource
from ugro.service.schemas.metrics import Metrics, MetricsDocument, TryPattern
from ugro.service.schemas.queries import ShowJob

NAN = float("nan")


def add(
    door: Door,
    job: str,
    values: dict[int, float],
    attempt: int = 1,
    source: SeriesSource = SeriesSource.LOG,
    at: float = 1000.0,
    progress: RunProgress | None = None,
    name: str = "loss",
) -> None:
    kept = door.store.metrics.series(job)
    readings = [Reading(name, value, step, at + step, source) for step, value in values.items()]
    with kept.writing() as alone:
        assert alone
        kept.add(attempt, readings, {}, progress)


def curves(door: Door, job: str, **asked: object) -> MetricsDocument:
    return door.call(Metrics(job=job, **asked))  # type: ignore[arg-type]


def test_shows_the_points_of_each_attempt(door: Door) -> None:
    job = door.submit("pass\n", hold=True)
    add(door, job.id, {1: 4.0, 2: 3.0, 3: NAN, 4: 2.5})
    add(door, job.id, {3: 2.75, 4: 2.25, 5: 2.0}, attempt=2, at=2000.0)
    [loss] = curves(door, job.id).series
    assert (loss.name, loss.source, loss.unit) == ("loss", SeriesSource.LOG, "")
    assert loss.points == ((1.0, 4.0), (2.0, 3.0), (3.0, 2.75), (4.0, 2.25), (5.0, 2.0))
    assert loss.overwritten == ((3.0, None), (4.0, 2.5)) and loss.bad == ()
    assert [(one.attempt, one.count, one.overwritten) for one in loss.segments] == [(1, 4, 2), (2, 3, 0)]
    assert (loss.last, loss.min, loss.max, loss.count, loss.thinned) == (2.0, 2.0, 4.0, 7, False)
    [first] = curves(door, job.id, attempts=(1,)).series
    assert first.points[2:] == ((3.0, None), (4.0, 2.5)) and first.bad == ((3.0, "nan"),)
    [timed] = curves(door, job.id, x=Axis.TIME, start=2003.0, end=2004.0).series
    assert timed.points == ((2003.0, 2.75), (2004.0, 2.25))
    document = curves(door, job.id).as_json()
    assert document["id"] == job.id and document["series"][0]["points"][0] == [1.0, 4.0]
    assert curves(door, job.id, x=Axis.ELAPSED).as_json()["x"] == "elapsed"


def test_prefers_the_more_exact_source_and_continues_it(door: Door) -> None:
    job = door.submit("pass\n", hold=True)
    add(door, job.id, {1: 4.0, 2: 3.0, 3: 2.0})
    add(door, job.id, {1: 4.0001, 2: 3.0001}, source=SeriesSource.EVENT_FILE)
    [loss] = curves(door, job.id).series
    assert loss.source == SeriesSource.EVENT_FILE
    assert loss.points == ((1.0, 4.0001), (2.0, 3.0001), (3.0, 2.0)), "its file lags behind its log"


def test_one_quantity_is_one_series_whatever_its_sources_call_it(door: Door) -> None:
    job = door.submit("pass\n", hold=True)
    add(door, job.id, {1: 4.0, 2: 3.0, 3: 2.0})
    add(door, job.id, {1: 4.0001, 2: 3.0001}, source=SeriesSource.EVENT_FILE, name="train/loss")
    add(door, job.id, {2: 3.5}, source=SeriesSource.EVENT_FILE, name="val/loss")
    add(door, job.id, {1: 0.1}, name="learning_rate")
    series = curves(door, job.id).series
    assert [one.name for one in series] == ["loss", "lr", "val/loss"]
    assert series[0].source == SeriesSource.EVENT_FILE
    assert series[0].points == ((1.0, 4.0001), (2.0, 3.0001), (3.0, 2.0))
    assert curves(door, job.id, names=("train/*",)).series == series[:1], "it is found by what its source calls it, too"
    with pytest.raises(InputError, match="no series called lss") as refused:
        curves(door, job.id, names=("lss",))
    assert refused.value.hint == "its series are: loss, val/loss, lr"


def test_thins_a_long_series_to_what_a_chart_shows(door: Door) -> None:
    job = door.submit("pass\n", hold=True)
    values = {step: float(step % 7) for step in range(10_000)}
    add(door, job.id, values | {4321: 99.0})
    [loss] = curves(door, job.id, pixels=100).series
    assert loss.thinned and len(loss.points) <= 400 and (4321.0, 99.0) in loss.points and loss.count == 10_000
    [whole] = curves(door, job.id).series
    assert len(whole.points) == 10_000 and not whole.thinned
    assert curves(door, job.id, points=False).series[0].points == ()


def test_says_why_there_is_none(door: Door) -> None:
    job = door.submit("pass\n", hold=True)
    answer = curves(door, job.id)
    assert answer.series == () and answer.hint == "it has not started" and answer.progress is None
    add(door, job.id, {1: 4.0}, progress=RunProgress(1000.0, step=1, steps=11, rate=2.0))
    shown = curves(door, job.id).progress
    assert shown and (shown.step, shown.steps, shown.left, shown.eta) == (1, 11, 5.0, 1005.0)
    assert shown.percent == pytest.approx(100 / 11)
    assert door.call(ShowJob(job=job.id)).answer.progress is None, "it does not run"
    with pytest.raises(InputError, match="no series called lss"):
        curves(door, job.id, names=("lss",))
    with pytest.raises(InputError, match="there is no job"):
        curves(door, "job-999")


def test_says_where_no_rank_printed_anything(door: Door) -> None:
    job = door.failed("raise SystemExit(3)\n")
    for log in door.store.jobs.files(job.id).all_logs.rglob("rank-*.log"):
        log.write_bytes(b"")
    assert curves(door, job.id).hint == f"no rank printed anything: see `ugro explain {job.id}`"
    job = door.failed("print('hello', flush=True)\nraise SystemExit(3)\n")
    assert curves(door, job.id).hint.startswith("nothing in its logs reads as a series")


PRINTS = """
import time
for step in range(1, 41):
    loss = "nan" if step == 13 else f"{4 / step:.4f}"
    print(f"step {step}/40 loss: {loss} lr: 1.0e-04", flush=True)
raise SystemExit(3)
"""


def test_reads_what_a_script_printed(door: Door) -> None:
    job = door.failed(PRINTS)
    answer = curves(door, job.id)
    assert [one.name for one in answer.series] == ["loss", "lr"] and not answer.reading
    loss, rate = answer.series
    expected = [(float(step), None if step == 13 else round(4 / step, 4)) for step in range(1, 41)]
    assert list(loss.points) == expected and loss.bad == ((13.0, "nan"),)
    assert {y for _, y in rate.points} == {1e-4} and rate.count == 40
    assert answer.progress and (answer.progress.step, answer.progress.steps, answer.progress.percent) == (40, 40, 100)
    folder = door.store.jobs.files(job.id).series
    for path in folder.iterdir():
        path.unlink()
    assert curves(door, job.id).series == answer.series, "they are read again from the logs"


def test_tries_a_pattern_on_a_file(door: Door) -> None:
    log = door.project / "log"
    log.write_text("nothing\n@7 L=0.5 G=nan\n@8 L=0.25 G=1\n")
    pattern = r"@(?P<step>\d+) L=(?P<loss>\S+) G=(?P<grad_norm>\S+)"
    tried = door.call(TryPattern(pattern=pattern, path=str(log)))
    assert (tried.matched, tried.read) == (2, 3) and tried.lines[0].number == 2
    assert [(one.name, one.step, one.value, one.bad) for one in tried.lines[0].values] == [
        ("loss", 7, 0.5, None),
        ("grad_norm", 7, None, "nan"),
    ]
    log.write_text("@1 L=1 G=1 " + "x" * 5000 + " @2 L=2 G=2\n@3 L=3 G=3\n")
    tried = door.call(TryPattern(pattern=pattern, path=str(log)))
    assert (tried.matched, tried.read) == (2, 2) and len(tried.lines[0].text) == 2000, "of a long line its beginning"
    with pytest.raises(InputError, match="is refused"):
        door.call(TryPattern(pattern="(a+)+(?P<loss>x)", path=str(log)))
    with pytest.raises(InputError, match="No such file"):
        door.call(TryPattern(pattern=pattern, path=str(log) + ".gone"))


def test_reads_a_job_with_its_own_pattern(door: Door) -> None:
    script = "for n in range(1, 6): print(f'@{n}~{1 / n}')\nraise SystemExit(3)\n"
    job = door.failed(script, metrics={"pattern": r"@(?P<step>\d+)~(?P<loss>\S+)"})
    [loss] = curves(door, job.id).series
    assert loss.points == tuple((float(n), 1 / n) for n in range(1, 6))
