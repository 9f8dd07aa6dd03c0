"""What a job prints, through the service layer: what there is now, or as it comes until the job has ended."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from door import Door
from pydantic import ValidationError

from tests.unit.control_plane.controller.test_tick import STAY
from ugro.common.errors import InputError
from ugro.common.models.event_kind import EventKind
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.service import logs
from ugro.service.logs import LINES
from ugro.service.schemas.logs import Follow, JobUpdate, LogLines, LogsEnd, ReadLogs
from ugro.testing import builders
from ugro.testing.commands import until

COUNTS = "for number in range(5): print('line', number, flush=True)\n"


def texts(door: Door, **asked: object) -> list[str]:
    items = list(door.stream(ReadLogs.checked(asked)))
    assert isinstance(items[-1], LogsEnd)
    return [line.text for part in items if isinstance(part, LogLines) for line in part.lines]


def run_folder(door: Door, job: Job) -> Path:
    return door.project.parent / "node/jobs" / job.id / str(job.attempt) / "node-0"


def test_reads_what_there_is(door: Door) -> None:
    job = door.succeeded(COUNTS, name="demo")
    [lines, end] = door.stream(ReadLogs(job="demo"))
    assert isinstance(lines, LogLines) and lines.nodes == ("here",) and not lines.explains
    assert [(line.rank, line.node_rank, line.text) for line in lines.lines] == [
        (0, None, f"line {n}") for n in range(5)
    ]
    assert isinstance(end, LogsEnd) and (end.job.id, end.missing, end.unreadable) == (job.id, None, ())
    assert texts(door, job=job.id, tail=2) == ["line 3", "line 4"]
    assert texts(door, job=job.id, tail=0) == []
    with pytest.raises(InputError) as refusal:
        texts(door, job=job.id, rank=1)
    assert (refusal.value.message, refusal.value.hint) == ("job-001 has no rank 1", "its ranks are 0 to 0")


def test_reads_what_arrived_since_a_time_and_what_a_node_says(door: Door) -> None:
    job = door.succeeded(COUNTS)
    texts(door, job=job.id)
    every = [f"line {n}" for n in range(5)]
    assert texts(door, job=job.id, since=1.0) == every == texts(door, job=job.id, node="here")
    assert texts(door, job=job.id, since=time.time() + 60) == []
    with pytest.raises(InputError) as refusal:
        texts(door, job=job.id, node="mars")
    assert (refusal.value.message, refusal.value.hint) == ("job-001 has no rank on 'mars'", "its nodes are here")
    with pytest.raises(InputError, match="--since and --tail both say where the lines begin"):
        texts(door, job=job.id, since=1.0, tail=2)
    followed = list(door.stream(Follow(job=job.id, since=time.time() + 60)))
    assert not [part for part in followed if isinstance(part, LogLines)]


def test_long_logs_come_in_parts(door: Door) -> None:
    job = door.succeeded(f"for n in range({2 * LINES + 1}): print(n)\n")
    parts = [part for part in door.stream(ReadLogs(job=job.id)) if isinstance(part, LogLines)]
    assert all(len(part.lines) <= LINES for part in parts)
    assert [line.text for part in parts for line in part.lines] == [str(n) for n in range(2 * LINES + 1)]


def test_torchruns_own_words_explain_a_failure_before_the_ranks(door: Door) -> None:
    job = door.failed("raise SystemExit(3)\n")
    (run_folder(door, job) / "log").write_text("no rendezvous\n")
    before = FirstFailure(rank=None, node="here")
    door.store.jobs.save(job.model_copy(update={"first_failure": before}), EventKind.FAILED, "")
    parts = [part for part in door.stream(ReadLogs(job=job.id)) if isinstance(part, LogLines)]
    assert [(part.explains, [line.text for line in part.lines]) for part in parts] == [(True, ["no rendezvous"])]
    assert [line.node_rank for line in parts[0].lines] == [0]
    [asked, _] = door.stream(ReadLogs(job=job.id, torchrun=True))
    assert isinstance(asked, LogLines) and not asked.explains


def test_says_why_an_earlier_attempt_has_no_logs(door: Door) -> None:
    job = door.failed("raise SystemExit(3)\n")
    again = {"past": (job.latest,), "attempt": 2, "state": JobState.CANCELLED}
    door.store.jobs.save(job.model_copy(update=again), EventKind.CANCELLED, "")
    [end] = door.stream(ReadLogs(job=job.id, attempt=1))
    assert isinstance(end, LogsEnd) and end.job.state == JobState.FAILED
    assert end.missing == "this machine has no logs of attempt 1 of job-001; here has none"
    with pytest.raises(InputError) as refusal:
        next(door.stream(Follow(job=job.id, attempt=1)))
    assert refusal.value.message == "attempt 1 of job-001 is over, so there is nothing to follow"
    with pytest.raises(InputError, match="has no attempt 7"):
        next(door.stream(ReadLogs(job=job.id, attempt=7)))


def test_follows_a_job_to_its_end(door: Door) -> None:
    job = door.submit(COUNTS)
    items = list(door.stream(Follow(job=job.id)))
    updates = [item for item in items if isinstance(item, JobUpdate)]
    assert items[0] == updates[0] and updates[0].job.state == JobState.QUEUED, "who follows knows the job at once"
    assert items[-1] == updates[-1] and updates[-1].job.state == JobState.SUCCEEDED
    assert not any(update.job.state.ended for update in updates[:-1])
    lines = [line.text for part in items if isinstance(part, LogLines) for line in part.lines]
    assert lines == [f"line {n}" for n in range(5)]


def test_follows_the_last_lines_and_what_comes(door: Door) -> None:
    job = door.succeeded(COUNTS)
    _, lines, end, last = door.stream(Follow(job=job.id, tail=2))
    assert isinstance(lines, LogLines) and [line.text for line in lines.lines] == ["line 3", "line 4"]
    assert isinstance(end, LogsEnd) and isinstance(last, JobUpdate) and last.job.state == JobState.SUCCEEDED


def rest_after(door: Door, request: Follow, items: list[Any]) -> list[Any]:
    """What comes after these items for a client that was cut off."""
    for item in items:
        request = request.rest(item)
    return list(door.stream(request))


@pytest.mark.parametrize("tail", [None, 4])
def test_an_interrupted_client_gets_the_rest(door: Door, monkeypatch: pytest.MonkeyPatch, tail: int | None) -> None:
    monkeypatch.setattr(logs, "LINES", 2)
    job = door.succeeded(COUNTS)
    request = Follow(job=job.id, tail=tail)
    items = list(door.stream(request))
    texts = [f"line {n}" for n in range(5)][-(tail or 5) :]
    for count in range(1, len(items)):
        rest = rest_after(door, request, items[:count])
        parts = [part for part in items[:count] + rest if isinstance(part, LogLines)]
        assert [line.text for part in parts for line in part.lines] == texts, count
        assert rest[-1] == items[-1]


def test_the_rest_of_an_attempt_comes_once_another_one_began(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun's own words, which explain a failure, have a position of their own."""
    monkeypatch.setattr(logs, "LINES", 1)
    job = door.failed("raise SystemExit(3)\n")
    folder = door.store.jobs.files(job.id).logs(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "node-0.log").write_text("no\nrendezvous\n")
    (folder / "rank-0.log").write_text("hello\n")
    job = job.model_copy(update={"first_failure": FirstFailure(rank=None, node="here")})
    door.store.jobs.save(job, EventKind.FAILED, "")
    items = list(door.stream(Follow(job=job.id)))
    assert [type(item) for item in items] == [JobUpdate, LogLines, LogLines, LogLines, JobUpdate]
    again = {"past": (job.latest,), "attempt": 2, "state": JobState.QUEUED}
    door.store.jobs.save(job.model_copy(update=again), EventKind.QUEUED, "")
    for count in range(1, 5):
        rest = rest_after(door, Follow(job=job.id), items[:count])
        parts = [part for part in items[:count] + rest if isinstance(part, LogLines)]
        assert [(line.text, part.explains) for part in parts for line in part.lines] == [
            ("hello", False), ("no", True), ("rendezvous", True),
        ]  # fmt: skip
        assert isinstance(rest[-1], JobUpdate) and rest[-1].job.attempt == 1


@pytest.mark.parametrize("name", ["../etc", "rank-0.error", "rank-x.log", "log"])
def test_a_position_names_logs_alone(name: str) -> None:
    with pytest.raises(ValidationError):
        Follow.checked({"job": "job-001", "position": {name: 1}})


def test_an_update_says_how_the_job_stands(door: Door) -> None:
    job = door.until(door.submit("print('half', end='', flush=True)\n" + STAY), JobState.RUNNING)
    folders = set(Path(tempfile.gettempdir()).glob("ugro-logs-*"))
    with closing(door.stream(Follow(job=job.id, tail=1))) as updates:
        running = next(item for item in updates if isinstance(item, JobUpdate) and item.unfinished)
    until(lambda: set(Path(tempfile.gettempdir()).glob("ugro-logs-*")) == folders, 10)  # it goes with the reader
    assert running.unfinished and running.unfinished.line.text == "half" and running.unfinished.line.rank == 0
    assert [(node.node, node.silent) for node in running.nodes] == [("here", False)]
    assert (running.waits, running.trouble) == ("", "") and running.since == pytest.approx(
        job.started_at or 0, abs=0.01
    )
    builders.cancel(door.store, job.id)
    *_, ended = door.stream(Follow(job=job.id))
    assert isinstance(ended, JobUpdate) and ended.job.state == JobState.CANCELLED


def test_an_update_says_what_a_job_waits_for(door: Door) -> None:
    door.submit("", hold=True)
    job = door.submit("", after=("job-001",))
    with closing(door.stream(Follow(job=job.id))) as updates:
        waiting = next(item for item in updates if isinstance(item, JobUpdate) and item.waits)
    assert waiting.job.state == JobState.QUEUED and waiting.waits == "waits for job-001 to succeed"
