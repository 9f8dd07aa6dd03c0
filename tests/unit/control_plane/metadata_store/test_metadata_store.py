"""The state directory: what is written survives, what is broken is reported, and nothing is done twice at once."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ugro.common.config import Inventory
from ugro.common.errors import InputError, RecordNewer, RecordUnreadable, StateError, StateLocked, UgroError
from ugro.common.files import append_line, write_atomic
from ugro.common.job_spec import JobSpec
from ugro.common.models.drain import Drain
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.control_plane.failure_handler.handler import FailureHandler
from ugro.control_plane.failure_handler.watchdog import watch
from ugro.control_plane.failure_handler.watchdog.sights import WatchMemory
from ugro.control_plane.metadata_store import MetadataStore, cluster_file, job_registry, locks, retention, timeline
from ugro.control_plane.metadata_store.records import pass_over, replace_record, stop_where_held
from ugro.control_plane.metadata_store.retention import prunable, prune, pruned_at, remove_stray, strays
from ugro.nodes.pool import Pool
from ugro.testing import builders
from ugro.testing.builders import CODE
from ugro.testing.commands import Ugro


def submit(store: MetadataStore, name: str | None = None) -> Job:
    return store.jobs.submit(store.jobs.reserve(), JobSpec(script="t.py", name=name), CODE, now=1.0)


def test_ids_names_and_records(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path / "state")
    first, second = submit(store), submit(store, "exp")
    assert (first.id, second.id, second.name) == ("job-001", "job-002", "exp")
    assert store.jobs.find("job-001") == first and store.jobs.find("exp") == second
    third = submit(store, "exp")
    assert store.jobs.find("exp") == third, "of several with one name, the newest"
    for wrong in ("job-009", "../job-001", "$(x)", ""):
        with pytest.raises(InputError, match="there is no job"):
            store.jobs.find(wrong)


def test_every_change_is_an_event(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    builders.change(store, job.id, "running", "3 ranks", state=JobState.RUNNING)
    assert [(event.kind, event.message) for event in store.timeline.of_job(job.id)] == [
        ("submitted", "t.py"),
        ("running", "3 ranks"),
    ]
    assert store.jobs.job(job.id).state == JobState.RUNNING
    assert (tmp_path / "jobs/job-001").stat().st_mode & 0o777 == 0o700


def test_a_torn_event_costs_only_itself(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    with open(store.jobs.files(job.id).events, "a") as file:
        file.write('{"at": 1.0, "jo')
    store.jobs.save(job, "running", "x")
    assert [event.kind for event in store.timeline.of_job(job.id)] == ["submitted", "running"]


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"id": "job-001"}', '{"id": 1, "surprise": 2}'])
def test_a_broken_record_is_named(tmp_path: Path, broken: str) -> None:
    store = MetadataStore(tmp_path)
    path = store.jobs.files(submit(store).id).record
    path.write_text(broken)
    with pytest.raises(StateError, match=str(path)) as caught:
        store.jobs.all()
    assert caught.value.exit_code == 4 and caught.value.hint


def test_a_submission_that_was_cut_short_is_no_job(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    store.jobs.reserve()
    assert store.jobs.all() == []
    assert submit(store).id == "job-002"


def reserve_ten(home: Path, ids: multiprocessing.Queue[str]) -> None:
    for _ in range(10):
        ids.put(MetadataStore(home).jobs.reserve().folder.name)


def test_many_submissions_at_once_get_distinct_ids(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ids: multiprocessing.Queue[str] = context.Queue()
    workers = [context.Process(target=reserve_ten, args=(tmp_path, ids)) for _ in range(4)]
    for worker in workers:
        worker.start()
    got = {ids.get(timeout=30) for _ in range(40)}
    for worker in workers:
        worker.join()
    ids.close()
    assert len(got) == 40


def test_only_one_acts_and_the_other_is_told_who(tmp_path: Path) -> None:
    one, other = MetadataStore(tmp_path), MetadataStore(tmp_path)
    with one.lock():
        with pytest.raises(StateLocked, match=rf"pytest.*\(pid {os.getpid()}\)") as caught, other.lock(patience=0):
            pass
        assert caught.value.exit_code == 4
    with other.lock(patience=0):
        pass


def test_a_state_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file"):
        submit(MetadataStore(tmp_path / "file" / "state"))


def test_nodes_are_remembered(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    assert store.config.remembered_node("a") is None
    view = builders.node_view("a")
    store.config.remember_nodes([view, view.model_copy(update={"node": "b"})])
    store.config.remember_nodes([view.model_copy(update={"seen_at": 2.0})])
    remembered = store.config.remembered_node("a")
    assert remembered and remembered.seen_at == 2.0
    assert store.config.remembered_node("b")
    for broken in (b'{"nodes": {"1"', b"\xff\xfe", b"[" * 100_000, b"7"):
        (tmp_path / "cluster.json").write_bytes(broken)
        with pytest.raises(StateError, match=r"cluster\.json is not a valid record"):
            store.config.remembered_node("a")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "f.json"
    write_atomic(path, "old")

    def crash(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, crash)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["f.json"]


def test_lines_are_appended_whole(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text('{"a": 1}\n{"torn')
    append_line(path, json.dumps({"b": 2}))
    assert path.read_text().splitlines() == ['{"a": 1}', '{"torn', '{"b": 2}']


def ended(store: MetadataStore, job: Job, at: float = 5.0) -> Job:
    done = job.model_copy(update={"state": JobState.SUCCEEDED, "started_at": 1.0, "ended_at": at})
    return store.jobs.save(done, "succeeded", "")


def test_ended_jobs_leave_the_index_and_stay_listable(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    jobs = [submit(store, f"n{number}") for number in range(4)]
    for job in jobs[:3]:
        ended(store, job)
    fresh = MetadataStore(tmp_path)
    assert [job.id for job in fresh.jobs.live()] == ["job-004"]
    assert [job.id for job in fresh.jobs.recent(2)] == ["job-002", "job-003"]
    assert [row.id for row in fresh.jobs.summaries()] == ["job-001", "job-002", "job-003"]
    assert fresh.jobs.ended_ids() == {"job-001", "job-002", "job-003"}
    assert fresh.jobs.find("n0").id == "job-001" and fresh.jobs.find("job-002").name == "n1"


@pytest.mark.parametrize("step", ["_index._archive.add", "_tables.change"])
def test_a_crash_between_a_record_and_the_indexes_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    target, _, name = step.rpartition(".")
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(attrgetter(target)(store.jobs), name, Mock(side_effect=RuntimeError))
        ended(store, job)
    fresh = MetadataStore(tmp_path)
    assert fresh.jobs.live() == [] and [job.id for job in fresh.jobs.recent(5)] == [job.id]
    fresh.jobs.settle()
    fresh.jobs.settle()
    assert [row.id for row in fresh.jobs.summaries()] == [job.id]


def test_a_submission_cut_short_leaves_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MetadataStore(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(store.jobs, "_write", Mock(side_effect=RuntimeError))
        submit(store)
    assert store.jobs.live() == [] and submit(store).id == "job-002"


def test_a_state_directory_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    done, live = ended(store, submit(store, "old")), submit(store, "on")
    for job in (done, live):
        path = store.jobs.files(job.id).record
        fields = json.loads(path.read_text())
        new = ("priority", "abandoned", "predicted_mib", "peak_mib", "last_event")
        path.write_text(
            json.dumps({key: value for key, value in fields.items() if key not in new} | {"schema_version": 1})
        )
    for index in ("cluster.json", "cluster.json.before", "finished.jsonl"):
        (tmp_path / index).unlink()
    fresh = MetadataStore(tmp_path)
    assert [job.id for job in fresh.jobs.live()] == [live.id], "looking needs no index"
    assert not (tmp_path / "cluster.json").exists(), "and makes none"
    builders.change(fresh, live.id, "priority", priority=3)
    submit(fresh)
    assert [row.id for row in fresh.jobs.summaries()] == [done.id]
    assert fresh.jobs.ended_ids() == {done.id}
    assert [job.priority for job in fresh.jobs.live()] == [3, 0]


def test_of_a_record_of_the_second_version_every_attempt_ran_its_one_code(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    again, spec = resumable(store)
    path = store.jobs.files(store.jobs.reopen(again, spec, "").id).record
    fields = json.loads(path.read_text())
    del fields["code"]["attempt"], fields["code"]["digest"]
    past = {"attempt": 1, "state": "failed", "started_at": 1.0, "ended_at": 5.0, "placement": None, "reason": "boom"}
    path.write_text(json.dumps(fields | {"schema_version": 2, "past": [past]}))
    found = MetadataStore(tmp_path).jobs.job(again.id)
    assert [one.code for one in found.past] == [found.code] == [CODE] and found.earlier_code == ()
    path.write_text(json.dumps(fields | {"schema_version": 2, "past": [7]}))
    with pytest.raises(StateError, match="not a valid record"):
        MetadataStore(tmp_path).jobs.job(again.id)


def test_a_record_of_a_later_version_is_refused(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    path = store.jobs.files(submit(store).id).record
    path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 99'))
    with pytest.raises(StateError, match="schema_version 99 is not known"):
        MetadataStore(tmp_path).jobs.live()


def newer(path: Path, **more: object) -> bytes:
    """Have a record as a newer UGRO would write it; returns its content."""
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return path.read_bytes()


@pytest.mark.parametrize("more", [{"schema_version": 99}, {"colour": "red"}, {"code": vars(CODE) | {"lfs": 1}}])
def test_a_record_of_a_newer_ugro_is_named_so_and_left_alone(tmp_path: Path, more: dict[str, object]) -> None:
    store = MetadataStore(tmp_path)
    job, other = submit(store, "theirs"), submit(store, "mine")
    store.jobs.save(job.model_copy(update={"state": JobState.RUNNING}), "running", "")
    path = store.jobs.files(job.id).record
    content, before = newer(path, **more), path.with_name("job.json.before").read_bytes()
    for again in range(2):
        store = MetadataStore(tmp_path)
        with pytest.raises(RecordNewer, match="was written by a newer UGRO") as caught:
            store.jobs.live()
        assert "cp " not in caught.value.hint and "before" not in caught.value.hint
        assert store.jobs.find("mine").id == other.id and [one.id for one in store.jobs.live(pass_over)] == [other.id]
        store.jobs.settle()
        assert [type(error) for error in store.rebuild().unreadable] == [RecordNewer], again
    assert (path.read_bytes(), path.with_name("job.json.before").read_bytes()) == (content, before)


def test_a_record_of_a_newer_ugro_that_holds_nothing_stops_nobody_and_stays_what_it_is(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    waiting, over, other = submit(store), submit(store), submit(store)
    ended(store, over)
    for job in (waiting, over):
        newer(store.jobs.files(job.id).record, schema_version=99, colour="red")
    store = MetadataStore(tmp_path)
    assert len(store.rebuild().unreadable) == 2
    assert [job.id for job in store.jobs.live(stop_where_held)] == [other.id]
    assert [row.id for row in store.jobs.summaries()] == [over.id], "an ended job is no live one for being unreadable"


def test_a_spec_and_a_watchdogs_memory_of_a_newer_ugro_are_left_alone(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    files = store.jobs.files(submit(store).id)
    files.watchdog.write_text(WatchMemory(attempt=1, looked_at=1.0).model_dump_json())
    for path in (files.spec, files.watchdog):
        newer(path, schema_version=99)
    with pytest.raises(RecordNewer, match="schema_version 99"):
        MetadataStore(tmp_path).jobs.spec("job-001")
    with pytest.raises(RecordNewer, match="newer UGRO"):
        watch.hang_of(store, store.jobs.job("job-001"))


async def test_what_is_undecided_about_a_job_of_a_newer_ugro_stays_so(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    store.decisions.remember_undecided(job.id)
    newer(store.jobs.files(job.id).record, schema_version=99)
    inventory = Inventory(nodes={"here": builders.this_machine()})
    handler = FailureHandler(store, inventory, Pool(inventory))
    await handler.handle({})
    assert store.decisions.undecided() == [job.id] and "newer UGRO" in store.bus.troubles[0].message


def test_lines_of_a_newer_ugro_are_read_as_far_as_they_are_known_and_stay(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job, other = submit(store), submit(store)
    ended(store, job)
    for path in (tmp_path / "finished.jsonl", tmp_path / "events.jsonl", store.jobs.files(job.id).events):
        lines = [json.dumps(json.loads(line) | {"colour": "red"}) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{line}\n" for line in lines))
    store = MetadataStore(tmp_path)
    assert (
        [row.id for row in store.jobs.summaries()] == [job.id]
        and store.timeline.of_cluster()
        and store.timeline.of_job(job.id)
    )
    store.rebuild()
    ended(store, other)
    first, second = (tmp_path / "finished.jsonl").read_text().splitlines()
    assert json.loads(first)["colour"] == "red" and json.loads(second)["id"] == other.id


def test_what_a_newer_ugro_keeps_in_the_clusters_tables_is_named_and_holds(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    submit(store)
    store.config.drain(Drain(node="gpu1", reason="fan", since=1.0))
    path = tmp_path / "cluster.json"
    tables = json.loads(path.read_text())
    (row,) = tables["drains"].values()
    row["until"] = 9.0
    path.write_text(json.dumps(tables | {"shelves": {"1": {"a": 1}}}))
    store = MetadataStore(tmp_path)
    assert store.config.drains()["gpu1"].reason == "fan"
    (problem,) = store.problems()
    assert "newer UGRO" in problem.message and "drains" in problem.message and "until" in problem.message
    store.metrics.remember_speed("GPU-1", "A", 1.0)
    store.rebuild()
    after = json.loads(path.read_text())
    assert after["shelves"] == {"1": {"a": 1}} and next(iter(after["drains"].values()))["until"] == 9.0


@pytest.mark.parametrize("where", ["top", "meta"])
def test_tables_of_a_later_version_are_refused_and_a_rebuild_leaves_them(tmp_path: Path, where: str) -> None:
    store = MetadataStore(tmp_path)
    submit(store)
    path = tmp_path / "cluster.json"
    tables = json.loads(path.read_text())
    (tables if where == "top" else tables["meta"]["1"])["schema_version"] = 99
    path.write_text(json.dumps(tables))
    content = path.read_bytes()
    for act in (MetadataStore(tmp_path).jobs.live, MetadataStore(tmp_path).rebuild):
        with pytest.raises(RecordNewer, match="schema_version 99"):
            act()
    assert path.read_bytes() == content and not list(tmp_path.glob("cluster.json.broken-*"))


@pytest.mark.parametrize("torn", ["", "{", '{"id": 7}', "\0" * 50])
def test_a_broken_record_names_the_last_good_copy_and_that_copy_works(tmp_path: Path, torn: str) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    builders.change(store, job.id, "priority", priority=7)
    path = store.jobs.files(job.id).record
    path.write_text(torn)
    with pytest.raises(StateError, match=r"job\.json is not a valid record") as caught:
        MetadataStore(tmp_path).jobs.job(job.id)
    restore(tmp_path, caught.value)
    assert MetadataStore(tmp_path).jobs.job(job.id).priority == 0


def restore(home: Path, error: UgroError) -> None:
    """Do what the hint of an unreadable record says."""
    _, _, command = error.hint.partition(": ")
    env = os.environ | {"UGRO_HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command, shell=True, check=True, env=env)


def test_a_broken_cluster_file_is_put_aside_by_a_rebuild(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    done, live = ended(store, submit(store)), submit(store)
    (tmp_path / "cluster.json").write_text("{")
    (tmp_path / "finished.jsonl").unlink()
    assert MetadataStore(tmp_path).rebuild()[:3] == (1, 1, [])
    fresh = MetadataStore(tmp_path)
    assert [job.id for job in fresh.jobs.live()] == [live.id] and [row.id for row in fresh.jobs.summaries()] == [
        done.id
    ]
    assert list(tmp_path.glob("cluster.json.broken-*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "napping"}, "state: found 'napping': 'queued', 'held', .* is expected"),
        ({"code": 7}, "code: found 7: keys with values are expected"),
        ({"command": "t.py"}, "command: found 't.py': a list is expected"),
        ({"priority": "high"}, "priority: found 'high': a whole number is expected"),
        ({"submitted_at": float("nan")}, "submitted_at: found nan: a number is expected"),
        ({"name": "\ud800"}, "text that is no Unicode"),
        ({"name": None}, "name: found nothing: text is expected"),
    ],
)
def test_what_is_wrong_with_a_record_is_told_in_our_words(tmp_path: Path, change: dict[str, object], said: str) -> None:
    store = MetadataStore(tmp_path)
    path = store.jobs.files(submit(store).id).record
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordUnreadable, match=rf"is not a valid record: {said}"):
        MetadataStore(tmp_path).jobs.job("job-001")
    path.write_text("{\n")
    with pytest.raises(RecordUnreadable, match="is not a valid record: no JSON at line 2, column 1"):
        MetadataStore(tmp_path).jobs.job("job-001")


def test_events_are_a_timeline_of_jobs_and_nodes(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    store.config.drain(Drain(node="a", reason="fan", since=1.0))
    assert store.config.undrain("a") and not store.config.undrain("a")
    assert [(event.job, event.node, event.kind) for event in store.timeline.of_cluster()] == [
        (job.id, "", "submitted"), ("", "a", "drained"), ("", "a", "undrained"),
    ]  # fmt: skip
    assert [event.kind for event in store.timeline.of_job(job.id)] == ["submitted"]


def test_pruned_logs_say_so(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    old, new, live = ended(store, submit(store), 10.0), ended(store, submit(store), 100.0), submit(store)
    for job in (old, new, live):
        store.jobs.files(job.id).logs(1).mkdir(parents=True)
        (store.jobs.files(job.id).logs(1) / "rank-0.log").write_text("x" * 10)
    found = prunable(store, before=50.0)
    assert [(logs.id, logs.bytes) for logs in found] == [(old.id, 10)]
    prune(store, found[0])
    assert pruned_at(store, old.id) and not store.jobs.files(old.id).all_logs.exists()
    assert pruned_at(store, new.id) is None and store.jobs.job(old.id) == old


@pytest.mark.parametrize("step", range(1, 5))
def test_a_kill_between_a_record_and_its_timelines_loses_no_event_and_doubles_none(tmp_path: Path, step: int) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    other = submit(store)
    pid = os.fork()
    if pid == 0:
        try:
            die_at(step, lambda: ended(store, job))
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    store.jobs.save(other, "priority", "comes between")
    for _ in range(2):
        MetadataStore(tmp_path).jobs.settle()
    assert [event.kind for event in store.timeline.of_job(job.id)] == ["submitted", "succeeded"]
    assert [event.kind for event in store.timeline.of_cluster() if event.job == job.id] == ["submitted", "succeeded"]


def die_at(step: int, act: Callable[[], object]) -> None:
    """As `kill -9` before or after the first or second line that goes to a timeline."""
    steps = iter(range(1, step + 1))

    def may_die() -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def append(path: Path, line: str) -> None:
        may_die()
        append_line(path, line)
        may_die()

    timeline.append_line = append  # type: ignore[attr-defined]
    act()


def test_a_change_that_follows_a_kill_at_once_keeps_the_event_that_was_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(store := MetadataStore(tmp_path))
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(timeline, "append_line", Mock(side_effect=RuntimeError))
        store.jobs.save(job, "held", "")
    builders.change(MetadataStore(tmp_path), job.id, "released")
    for events in (store.timeline.of_job(job.id), store.timeline.of_cluster()):
        assert [event.kind for event in events] == ["submitted", "held", "released"]


def test_a_resident_process_finds_what_another_was_killed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(MetadataStore(tmp_path))
    resident, other = MetadataStore(tmp_path), MetadataStore(tmp_path)
    resident.jobs.settle()
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(timeline, "append_line", Mock(side_effect=RuntimeError))
        other.jobs.save(job, "held", "")
    resident.jobs.settle()
    assert [event.kind for event in resident.timeline.of_job(job.id)] == ["submitted", "held"]
    assert [event.kind for event in resident.bus.read(0).events] == ["held"]


def test_settling_reads_only_the_end_of_a_long_timeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    for number in range(300):
        job = store.jobs.save(job, "ranks", f"change {number} " + "x" * 200)
    monkeypatch.setattr(timeline, "read_lines", Mock(side_effect=AssertionError("all of it was read")))
    read = Mock(side_effect=timeline.read_tail)
    monkeypatch.setattr(timeline, "read_tail", read)
    MetadataStore(tmp_path).jobs.settle()
    (call,) = read.call_args_list
    assert call.args[2] < 6000 < store.jobs.files(job.id).events.stat().st_size


def test_a_very_long_event_is_found_at_the_end_too(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = store.jobs.save(submit(store), "failing", "x" * 100_000)
    with open(store.jobs.files(job.id).events, "a") as file:
        file.write('{"at": 1.0, "jo' + "y" * 10_000)
    MetadataStore(tmp_path).jobs.settle()
    assert [event.kind for event in store.timeline.of_job(job.id)] == ["submitted", "failing"]


@pytest.mark.parametrize("broken", ["", "{", '{"id": "job-001"}', "\0" * 50, '{"schema_version": 99}'])
def test_an_unreadable_record_of_an_ended_job_is_named_and_stops_no_list(tmp_path: Path, broken: str) -> None:
    store = MetadataStore(tmp_path)
    jobs = [ended(store, submit(store, f"n{number}"), at=number) for number in range(3)]
    live = submit(store)
    store.jobs.files("job-002").record.write_text(broken)
    fresh, unreadable = MetadataStore(tmp_path), list[RecordUnreadable]()
    assert fresh.jobs.recent(3, unreadable.append) == fresh.jobs.all(["job-001", "job-002", "job-003"], pass_over)
    assert [error.path for error in unreadable] == [store.jobs.files("job-002").record]
    assert fresh.jobs.live() == [live] and fresh.jobs.find("n2") == jobs[2] and len(fresh.jobs.summaries()) == 3
    with pytest.raises(RecordUnreadable, match="job-002"):
        fresh.jobs.find("n1")
    with fresh.lock():
        fresh.jobs.settle()


def test_a_rebuild_leaves_out_what_is_unreadable_and_takes_it_in_once_it_is_restored(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    done, lost, live = (submit(store) for _ in range(3))
    for job in (done, lost):
        ended(store, job)
    store.jobs.files(lost.id).record.write_text("")
    counted = MetadataStore(tmp_path).rebuild()
    assert counted[:2] == (1, 1) and [error.path.parent.name for error in counted.unreadable] == [lost.id]
    fresh = MetadataStore(tmp_path)
    assert fresh.jobs.live() == [live] and {row.id for row in fresh.jobs.summaries()} == {done.id, lost.id}
    restore(tmp_path, counted.unreadable[0])
    fresh = MetadataStore(tmp_path)
    assert [job.id for job in fresh.jobs.live()] == [lost.id, live.id], (
        "as it was before it ended: the next tick ends it"
    )
    assert [row.id for row in fresh.jobs.summaries()] == [done.id]


def test_an_unreadable_record_of_a_live_job_stops_who_acts_and_not_who_looks(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    lost, fine = submit(store), submit(store)
    path = store.jobs.files(lost.id).record
    path.write_text("{")
    for fresh in (MetadataStore(tmp_path), MetadataStore(tmp_path)):
        unreadable = list[RecordUnreadable]()
        assert fresh.jobs.live(unreadable.append) == [fine] and [error.path for error in unreadable] == [path]
        with pytest.raises(RecordUnreadable, match=str(path)):
            fresh.jobs.live()
        fresh.jobs.settle()
        assert [error.path for error in fresh.rebuild().unreadable] == [path], "and it stays among the live ones"


def test_a_record_that_was_put_back_is_told_once(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    for priority in (1, 2):
        job = builders.change(store, job.id, "priority", str(priority), priority=priority)
    path = store.jobs.files(job.id).record
    os.replace(path.with_name("job.json.before"), path)
    for _ in range(2):
        MetadataStore(tmp_path).jobs.settle()
    assert [event.kind for event in store.timeline.of_job(job.id)] == ["submitted", "priority", "priority", "restored"]
    assert "again that of" in store.timeline.of_job(job.id)[-1].message and store.jobs.job(job.id).priority == 1


def test_what_a_node_said_of_an_ended_job_is_no_restored_record(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    store.timeline.note("a", "cleared", "no processes of it remain on a", job.id)
    MetadataStore(tmp_path).jobs.settle()
    assert [event.kind for event in store.timeline.of_job(job.id)] == ["submitted", "cleared"]


def test_files_that_killed_commands_left_are_found_and_those_being_written_are_not(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    record = store.jobs.files(submit(store).id).record
    store.config.master()
    left = [tmp_path / ".tmp-cluster.json-x1", tmp_path / ".master-7", record.with_name(".tmp-job.json-x2")]
    for path in left:
        path.touch()
    left.append(record.with_name(".tmp-code-x3"))
    (left[-1] / "snapshot").mkdir(parents=True)
    os.utime(record, (1.0, 1.0))
    os.link(record, linked := record.with_name(".tmp-job.json.before-7"))
    assert strays(store, time.time() - 60) == [], "all are of this moment, also the link to an old record"
    found = strays(store, time.time() + 60)
    assert sorted(found) == sorted([*left, linked])
    for path in found:
        remove_stray(path)
    assert strays(store, time.time() + 60) == []


def test_an_id_is_one_more_than_the_highest_whatever_else_is_there(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    assert store.jobs.next_id() == "job-001"
    for name in ("job-009", "job-1000", "job-099", "job-1000.bak", "notes", "job-twelve", ".tmp-job-123456"):
        (tmp_path / "jobs" / name).mkdir(parents=True)
    assert store.jobs.next_id() == "job-1001" and store.jobs.reserve().folder.name == "job-1001"


# Records that are gone, or are not those of their job


@pytest.mark.parametrize("with_copy", [True, False])
def test_a_live_job_whose_record_is_gone_is_unreadable_and_comes_back(tmp_path: Path, with_copy: bool) -> None:
    store = MetadataStore(tmp_path)
    job, other = submit(store, "lost"), submit(store)
    running = store.jobs.save(job.model_copy(update={"state": JobState.RUNNING}), "running", "")
    store.jobs.save(running, "ranks", "")
    record = store.jobs.files(job.id).record
    record.unlink()
    if not with_copy:
        record.with_name("job.json.before").unlink()
    for read in (
        lambda fresh: fresh.jobs.live(),
        lambda fresh: fresh.jobs.find(job.id),
        lambda fresh: fresh.jobs.all(),
    ):
        with pytest.raises(RecordUnreadable, match=f"{record} is gone") as caught:
            read(MetadataStore(tmp_path))
    fresh = MetadataStore(tmp_path)
    fresh.jobs.settle()
    assert [error.path for error in fresh.rebuild().unreadable] == [record]
    with pytest.raises(RecordUnreadable):
        fresh.jobs.live()
    assert fresh.jobs.live(pass_over) == [other]
    if with_copy:
        restore(tmp_path, caught.value)
        assert [job.id for job in MetadataStore(tmp_path).jobs.live()] == [job.id, other.id]


def test_a_live_job_whose_folder_is_gone_is_unreadable_until_a_rebuild_lets_go_of_it(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job, other = submit(store), submit(store)
    store.jobs.save(job.model_copy(update={"state": JobState.RUNNING}), "running", "")
    shutil.rmtree(store.jobs.files(job.id).folder)
    fresh = MetadataStore(tmp_path)
    fresh.jobs.settle()
    with pytest.raises(RecordUnreadable, match="is gone") as caught:
        fresh.jobs.live()
    restore(tmp_path, caught.value)
    assert MetadataStore(tmp_path).jobs.live() == [other]


def test_a_failed_submission_leaves_nothing_in_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MetadataStore(tmp_path)
    files = store.jobs.reserve()
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(store.jobs, "_write", Mock(side_effect=RuntimeError))
        store.jobs.submit(files, JobSpec(script="t.py"), CODE, now=1.0)
    shutil.rmtree(files.folder)
    assert MetadataStore(tmp_path).jobs.live() == []
    store.jobs.settle()
    assert "job-001" not in (tmp_path / "cluster.json").read_text()


def test_the_record_of_another_job_is_not_believed(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job, other = submit(store), submit(store)
    builders.change(store, job.id, "priority", priority=4)
    record = store.jobs.files(job.id).record
    shutil.copy(store.jobs.files(other.id).record, record)
    for read in (
        lambda fresh: fresh.jobs.live(),
        lambda fresh: fresh.jobs.job(job.id),
        lambda fresh: fresh.jobs.find(job.id),
    ):
        with pytest.raises(RecordUnreadable, match=r"job-001/job\.json .* it is that of job-002") as caught:
            read(MetadataStore(tmp_path))
    restore(tmp_path, caught.value)
    assert [job.id for job in MetadataStore(tmp_path).jobs.live()] == [job.id, other.id]


# The indexes


def torn(path: Path, how: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    match how:
        case "deleted":
            path.unlink()
        case "emptied":
            path.write_text("")
        case "truncated":
            path.write_text(path.read_text()[:-40])
        case "junk":
            path.write_text("".join([*lines[:-1], "x" * (len(lines[-1]) - 1), "\n"]))
        case "a line less, another longer":
            path.write_text("".join([*lines[1:], "y" * 2000, "\n"]))


@pytest.mark.parametrize("how", ["deleted", "emptied", "truncated", "junk", "a line less, another longer"])
def test_a_torn_archive_is_told_until_it_is_made_anew(tmp_path: Path, how: str) -> None:
    store = MetadataStore(tmp_path)
    for number in range(3):
        ended(store, submit(store, f"n{number}"))
    last = submit(store)
    resident = MetadataStore(tmp_path)
    assert resident.problems() == [] == MetadataStore(tmp_path).problems()
    torn(tmp_path / "finished.jsonl", how)
    for fresh in (resident, MetadataStore(tmp_path)):
        (problem,) = fresh.problems()
        assert str(tmp_path / "finished.jsonl") in problem.message and "ugro state rebuild" in problem.hint
    ended(MetadataStore(tmp_path), last)
    assert resident.problems() and MetadataStore(tmp_path).problems(), "one more line makes up for none"
    MetadataStore(tmp_path).rebuild()
    assert resident.problems() == [] == MetadataStore(tmp_path).problems()
    assert len(resident.jobs.summaries()) == 4


def test_an_archive_that_a_crash_left_one_line_longer_is_no_torn_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MetadataStore(tmp_path)
    ended(store, submit(store))
    job = submit(store)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(cluster_file.TransactionStorage, "commit", Mock(side_effect=RuntimeError))
        ended(store, job)
    assert len((tmp_path / "finished.jsonl").read_text().splitlines()) == 2
    fresh = MetadataStore(tmp_path)
    assert fresh.problems() == []
    fresh.jobs.settle()
    assert fresh.problems() == [] and len(fresh.jobs.summaries()) == 2


def test_the_archive_is_read_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MetadataStore(tmp_path)
    ended(store, submit(store))
    assert store.problems() == []
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=AssertionError("it was read")))
    assert store.problems() == []


BREAKS = ["", "{", "[1, 2]", None]
"""Contents of a broken `cluster.json`; None: it is gone."""


def broken_cluster(home: Path, content: str | None) -> Path:
    path = home / "cluster.json"
    path.unlink() if content is None else path.write_text(content)
    return path


@pytest.mark.parametrize("content", BREAKS)
def test_a_rebuild_takes_what_a_broken_cluster_file_said_from_its_copy(tmp_path: Path, content: str | None) -> None:
    store = MetadataStore(tmp_path)
    done, live = ended(store, submit(store)), submit(store)
    store.metrics.remember_speed("GPU-1", "RTX", 3.5)
    store.cleanup.remember_leftovers(done, ["c"])
    store.config.drain(Drain(node="b", reason="noise", since=time.time()))
    store.config.undrain("b")
    store.config.drain(Drain(node="a", reason="fan", since=time.time()))
    path = broken_cluster(tmp_path, content)
    for look in (lambda fresh: fresh.jobs.live(), lambda fresh: fresh.config.drains(), lambda fresh: submit(fresh)):
        with pytest.raises(RecordUnreadable, match=str(path)) as caught:
            look(MetadataStore(tmp_path))
    assert "cluster.json.before" in caught.value.hint and "ugro state rebuild" in caught.value.hint
    rebuilt = MetadataStore(tmp_path).rebuild()
    assert rebuilt[:2] == (1, 1)
    said = "\n".join(rebuilt.mended)
    assert "a (fan)" in said and f"{path}.before" in said
    kept = list(tmp_path.glob("cluster.json.broken-*"))
    assert [one.read_text() for one in kept] == ([] if content is None else [content])
    assert all(str(one) in said for one in kept)
    fresh = MetadataStore(tmp_path)
    assert {node: drain.reason for node, drain in fresh.config.drains().items()} == {"a": "fan"}, (
        "its copy is one change older"
    )
    assert fresh.metrics.speeds() == {"GPU-1": ("RTX", 3.5)} and fresh.cleanup.leftovers() == {(done.id, 1): ("c",)}
    assert fresh.jobs.live() == [live] and fresh.rebuild().mended == []


@pytest.mark.parametrize("content", BREAKS)
@pytest.mark.parametrize("copy", ["gone", "torn"])
def test_without_a_copy_a_rebuild_knows_the_drains_and_says_what_is_lost(
    tmp_path: Path, content: str | None, copy: str
) -> None:
    store = MetadataStore(tmp_path)
    live = submit(store)
    store.config.drain(Drain(node="a", reason="fan", since=time.time()))
    path = broken_cluster(tmp_path, content)
    spare = path.with_name("cluster.json.before")
    spare.unlink() if copy == "gone" else spare.write_text("{")
    said = "\n".join(MetadataStore(tmp_path).rebuild().mended)
    fresh = MetadataStore(tmp_path)
    assert set(fresh.config.drains()) == {"a"} and fresh.jobs.live() == [live]
    if (content, copy) != (None, "gone"):  # as of the first version, which had no such file
        assert "speeds" in said and "ugro measure" in said and "a (fan)" in said


def test_a_drain_holds_while_there_is_no_cluster_file_at_all(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    submit(store)
    store.config.drain(Drain(node="a", reason="fan", since=time.time()))
    for path in tmp_path.glob("cluster.json*"):
        path.unlink()
    assert set(MetadataStore(tmp_path).config.drains()) == {"a"}
    MetadataStore(tmp_path).config.remember_nodes([])
    fresh = MetadataStore(tmp_path)
    assert set(fresh.config.drains()) == {"a"} and [job.id for job in fresh.jobs.live()] == ["job-001"]


def ugro(forked: Ugro, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command on a cluster whose only node is this machine."""
    inventory = home / "inventory.yaml"
    inventory.write_text(f"nodes:\n  here: {{address: 127.0.0.1, local: true, base_dir: {home}/node}}\n")
    env = os.environ | {"UGRO_HOME": str(home), "UGRO_INVENTORY": str(inventory)}
    return forked(*words, cwd=os.getcwd(), env=env)


def test_what_is_wrong_with_the_indexes_is_told_by_commands(forked: Ugro, tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    ended(store, submit(store))
    store.config.drain(Drain(node="here", reason="fan", since=time.time()))
    assert json.loads(ugro(forked, tmp_path, "status", "--json").stdout)["problems"] == []
    assert ugro(forked, tmp_path, "sweep").stderr == ""
    archive, cluster = tmp_path / "finished.jsonl", tmp_path / "cluster.json"
    archive.write_text("")
    (problem,) = json.loads(ugro(forked, tmp_path, "status", "--all", "--json").stdout)["problems"]
    assert set(problem) == {"code", "message", "hint"}
    line = f"{problem['message']} ({problem['hint']})"
    assert str(archive) in line and "ugro state rebuild" in line
    assert line in ugro(forked, tmp_path, "status").stdout
    swept = ugro(forked, tmp_path, "sweep")
    assert (swept.returncode, swept.stderr) == (0, f"{line}\n")
    cluster.write_text("[1, 2]")
    told = ugro(forked, tmp_path, "state", "rebuild").stdout
    (aside,) = tmp_path.glob("cluster.json.broken-*")
    assert str(aside) in told and "here (fan)" in told and "indexed 0 live and 1 ended jobs" in told
    cluster.unlink()
    mended = json.loads(ugro(forked, tmp_path, "state", "rebuild", "--json").stdout)["mended"]
    assert mended[0] == f"{cluster} is gone" and "here (fan)" in mended[-1]
    assert ugro(forked, tmp_path, "sweep").stderr == ""


def test_commands_go_on_beside_a_job_of_a_newer_ugro(forked: Ugro, tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job, other = submit(store, "theirs"), submit(store, "mine")
    store.jobs.save(job.model_copy(update={"state": JobState.RUNNING}), "running", "")
    path = store.jobs.files(job.id).record
    content = newer(path, schema_version=99)
    for words, code in (("sweep", 0), ("state rebuild", 4), ("status", 0), ("cancel mine", 0), ("cancel job-001", 4)):
        done = ugro(forked, tmp_path, *words.split())
        said = done.stdout + done.stderr
        assert done.returncode == code, (words, said)
        assert "cp /" not in said and ("newer UGRO" in said or words == "cancel mine"), (words, said)
    assert path.read_bytes() == content and MetadataStore(tmp_path).jobs.job(other.id).state == JobState.CANCELLED


# Full disks


def test_a_line_that_the_disk_took_in_part_is_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "f.jsonl", os.write
    append_line(path, '{"a": 1}')
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
        append_line(path, '{"b": 2}')
    append_line(path, '{"c": 3}')
    assert path.read_text().splitlines() == ['{"a": 1}', '{"b', '{"c": 3}']


def test_on_a_full_disk_the_lock_is_taken_and_old_logs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MetadataStore(tmp_path)
    job = ended(store, submit(store))
    logs = store.jobs.files(job.id).logs(1)
    logs.mkdir(parents=True)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(path: Path, text: str) -> None:
        if logs.exists():
            raise full
        write_atomic(path, text)

    monkeypatch.setattr(retention, "write_atomic", write)
    with monkeypatch.context() as patched:
        patched.setattr(locks, "_write_over", Mock(side_effect=full))
        with store.lock():
            prune(store, prunable(store, time.time())[0])
    assert not logs.exists() and pruned_at(store, job.id)
    with pytest.raises(StateError, match="denied"), monkeypatch.context() as patched:
        patched.setattr(locks, "_write_over", Mock(side_effect=PermissionError(errno.EACCES, "denied")))
        with store.lock():
            pass


# Jobs that are resumed


def resumable(store: MetadataStore) -> tuple[Job, JobSpec]:
    """A job that failed, as its next attempt, and what that one is asked for."""
    job = submit(store, "exp")
    failed = job.model_copy(update={"state": JobState.FAILED, "started_at": 1.0, "ended_at": 5.0})
    failed = store.jobs.save(failed, "failed", "boom")
    again = failed.model_copy(update={"state": JobState.QUEUED, "attempt": 2, "ended_at": None})
    return again, store.jobs.spec(job.id).model_copy(update={"args": ("--lr", "0.1")})


def test_a_resumed_job_is_a_live_one_and_what_it_was_asked_before_is_kept(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    again, spec = resumable(store)
    submit(store, "other")
    resident = MetadataStore(tmp_path)
    assert resident.jobs.spec(again.id).args == ()
    store.jobs.reopen(again, spec, "from step 10")
    for seen in (resident, MetadataStore(tmp_path)):
        assert seen.jobs.spec(again.id).args == ("--lr", "0.1")
        assert [job.id for job in seen.jobs.live()] == [again.id, "job-002"]
        assert seen.jobs.find("exp").attempt == 2
        assert seen.jobs.summaries() == [] and seen.jobs.recent(5) == [], "it has not ended, whatever it did before"
    assert JobSpec.model_validate_json(store.jobs.files(again.id).spec_of(1).read_text()).args == ()
    assert [event.kind for event in store.timeline.of_job(again.id)] == ["submitted", "failed", "resumed"]
    assert prunable(store, time.time()) == [], "the logs of its first attempt stay"
    ended(store, store.jobs.job(again.id), at=9.0)
    fresh = MetadataStore(tmp_path)
    assert [(row.id, row.state, row.ended_at) for row in fresh.jobs.summaries()] == [
        (again.id, JobState.SUCCEEDED, 9.0)
    ]
    assert fresh.jobs.find("exp").state == JobState.SUCCEEDED and fresh.problems() == []


@pytest.mark.parametrize("step", range(1, 6))
def test_a_resumption_that_is_killed_anywhere_is_done_or_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    store = MetadataStore(tmp_path)
    again, spec = resumable(store)
    steps = iter(range(1, step + 1))

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if next(steps) == step:
                raise RuntimeError
            return act(*args)

        return call

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(job_registry, "write_atomic", dying(write_atomic))
        patched.setattr(job_registry, "replace_record", dying(replace_record))
        patched.setattr(cluster_file, "replace_record", dying(replace_record))
        patched.setattr(timeline, "append_line", dying(append_line))
        store.jobs.reopen(again, spec, "from step 10")
    fresh = MetadataStore(tmp_path)
    fresh.jobs.settle()
    done = step == 5  # the record is written, and only its event is not
    assert fresh.jobs.job(again.id).attempt == (2 if done else 1)
    assert [job.id for job in fresh.jobs.live()] == ([again.id] if done else [])
    assert [row.state for row in fresh.jobs.summaries()] == ([] if done else [JobState.FAILED])
    if not done:
        fresh.jobs.reopen(again, spec, "from step 10")
    assert JobSpec.model_validate_json(fresh.jobs.files(again.id).spec_of(1).read_text()).args == ()
    assert fresh.jobs.spec(again.id).args == ("--lr", "0.1")
    assert [event.kind for event in fresh.timeline.of_job(again.id)] == ["submitted", "failed", "resumed"]
