"""The state directory: what is written survives, what is broken is told, and nobody acts twice at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from ugro.common.config import JobSpec
from ugro.common.errors import InputError, RecordUnreadable, StateError, StateLocked, UgroError
from ugro.common.files import append_line, write_atomic
from ugro.common.models import CodeVersion, Drain, Job, JobState, NodeView
from ugro.control_plane.metadata_store import MetadataStore, timeline
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.metadata_store.retention import prunable, prune, pruned_at, strays

CODE = CodeVersion(directory="/w", files=1, size_bytes=1)


def submit(store: MetadataStore, name: str | None = None) -> Job:
    return store.submit(store.reserve(), JobSpec(script="t.py", name=name), CODE, now=1.0)


def test_ids_names_and_records(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path / "state")
    first, second = submit(store), submit(store, "exp")
    assert (first.id, second.id, second.name) == ("job-001", "job-002", "exp")
    assert store.find("job-001") == first and store.find("exp") == second
    third = submit(store, "exp")
    assert store.find("exp") == third, "of several with one name, the newest"
    for wrong in ("job-009", "../job-001", "$(x)", ""):
        with pytest.raises(InputError, match="there is no job"):
            store.find(wrong)


def test_every_change_is_an_event(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    store.update(job.id, lambda job: job.model_copy(update={"state": JobState.RUNNING}), "running", "3 ranks")
    assert [(event.kind, event.message) for event in store.events(job.id)] == [
        ("submitted", "t.py"),
        ("running", "3 ranks"),
    ]
    assert store.job(job.id).state == JobState.RUNNING
    assert (tmp_path / "jobs/job-001").stat().st_mode & 0o777 == 0o700


def test_a_torn_event_costs_only_itself(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    with open(store.files(job.id).events, "a") as file:
        file.write('{"at": 1.0, "jo')
    store.save(job, "running", "x")
    assert [event.kind for event in store.events(job.id)] == ["submitted", "running"]


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"id": "job-001"}', '{"id": 1, "surprise": 2}'])
def test_a_broken_record_is_named(tmp_path: Path, broken: str) -> None:
    store = MetadataStore(tmp_path)
    path = store.files(submit(store).id).record
    path.write_text(broken)
    with pytest.raises(StateError, match=str(path)) as caught:
        store.jobs()
    assert caught.value.exit_code == 4 and caught.value.hint


def test_a_submission_that_was_cut_short_is_no_job(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    store.reserve()
    assert store.jobs() == []
    assert submit(store).id == "job-002"


def reserve_ten(home: Path, ids: multiprocessing.Queue[str]) -> None:
    for _ in range(10):
        ids.put(MetadataStore(home).reserve().folder.name)


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
        with pytest.raises(StateLocked, match=f"pid {os.getpid()}") as caught, other.lock(patience=0):
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
    assert store.remembered_node("a") is None
    view = NodeView(node="a", seen_at=1.0, boot_id="b", clock_offset=0.0, cpu_count=2)
    store.remember_nodes([view, view.model_copy(update={"node": "b"})])
    store.remember_nodes([view.model_copy(update={"seen_at": 2.0})])
    remembered = store.remembered_node("a")
    assert remembered and remembered.seen_at == 2.0
    assert store.remembered_node("b")
    for broken in (b'{"nodes": {"1"', b"\xff\xfe", b"[" * 100_000, b"7"):
        (tmp_path / "cluster.json").write_bytes(broken)
        with pytest.raises(StateError, match=r"cluster\.json is not a valid record"):
            store.remembered_node("a")


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
    return store.save(done, "succeeded", "")


def test_ended_jobs_leave_the_index_and_stay_listable(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    jobs = [submit(store, f"n{number}") for number in range(4)]
    for job in jobs[:3]:
        ended(store, job)
    fresh = MetadataStore(tmp_path)
    assert [job.id for job in fresh.live()] == ["job-004"]
    assert [job.id for job in fresh.recent(2)] == ["job-002", "job-003"]
    assert [row.id for row in fresh.summaries()] == ["job-001", "job-002", "job-003"]
    assert fresh.find("n0").id == "job-001" and fresh.find("job-002").name == "n1"


@pytest.mark.parametrize("step", ["_archive.add", "_change"])
def test_a_crash_between_a_record_and_the_indexes_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    target, _, name = step.rpartition(".")
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(getattr(store, target) if target else store, name, Mock(side_effect=RuntimeError))
        ended(store, job)
    fresh = MetadataStore(tmp_path)
    assert fresh.live() == [] and [job.id for job in fresh.recent(5)] == [job.id]
    fresh.settle()
    fresh.settle()
    assert [row.id for row in fresh.summaries()] == [job.id]


def test_a_submission_cut_short_leaves_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MetadataStore(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(store, "_write", Mock(side_effect=RuntimeError))
        submit(store)
    assert store.live() == [] and submit(store).id == "job-002"


def test_a_state_directory_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    done, live = ended(store, submit(store, "old")), submit(store, "on")
    for job in (done, live):
        path = store.files(job.id).record
        fields = json.loads(path.read_text())
        new = ("priority", "abandoned", "predicted_mib", "peak_mib", "last_event")
        path.write_text(
            json.dumps({key: value for key, value in fields.items() if key not in new} | {"schema_version": 1})
        )
    for index in ("cluster.json", "finished.jsonl"):
        (tmp_path / index).unlink()
    fresh = MetadataStore(tmp_path)
    assert [job.id for job in fresh.live()] == [live.id], "looking needs no index"
    assert not (tmp_path / "cluster.json").exists(), "and makes none"
    fresh.update(live.id, lambda job: job.model_copy(update={"priority": 3}), "priority", "")
    submit(fresh)
    assert [row.id for row in fresh.summaries()] == [done.id]
    assert [job.priority for job in fresh.live()] == [3, 0]


def test_a_record_of_a_later_version_is_refused(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    path = store.files(submit(store).id).record
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 99'))
    with pytest.raises(StateError, match="schema_version 99 is not known"):
        MetadataStore(tmp_path).live()


@pytest.mark.parametrize("torn", ["", "{", '{"id": 7}', "\0" * 50])
def test_a_broken_record_names_the_last_good_copy_and_that_copy_works(tmp_path: Path, torn: str) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    store.update(job.id, lambda job: job.model_copy(update={"priority": 7}), "priority", "")
    path = store.files(job.id).record
    path.write_text(torn)
    with pytest.raises(StateError, match=r"job\.json is not a valid record") as caught:
        MetadataStore(tmp_path).job(job.id)
    restore(tmp_path, caught.value)
    assert MetadataStore(tmp_path).job(job.id).priority == 0


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
    assert MetadataStore(tmp_path).rebuild() == (1, 1, [])
    fresh = MetadataStore(tmp_path)
    assert [job.id for job in fresh.live()] == [live.id] and [row.id for row in fresh.summaries()] == [done.id]
    assert list(tmp_path.glob("cluster.json.broken-*"))


def test_events_are_a_timeline_of_jobs_and_nodes(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    store.drain(Drain(node="a", reason="fan", since=1.0))
    assert store.undrain("a") and not store.undrain("a")
    assert [(event.job, event.node, event.kind) for event in store.events()] == [
        (job.id, "", "submitted"), ("", "a", "drained"), ("", "a", "undrained"),
    ]  # fmt: skip
    assert [event.kind for event in store.events(job.id)] == ["submitted"]


def test_pruned_logs_say_so(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    old, new, live = ended(store, submit(store), 10.0), ended(store, submit(store), 100.0), submit(store)
    for job in (old, new, live):
        store.files(job.id).logs(1).mkdir(parents=True)
        (store.files(job.id).logs(1) / "rank-0.log").write_text("x" * 10)
    found = prunable(store, before=50.0)
    assert [(logs.id, logs.bytes) for logs in found] == [(old.id, 10)]
    prune(store, found[0])
    assert pruned_at(store, old.id) and not store.files(old.id).all_logs.exists()
    assert pruned_at(store, new.id) is None and store.job(old.id) == old


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
    store.save(other, "priority", "comes between")
    for _ in range(2):
        MetadataStore(tmp_path).settle()
    assert [event.kind for event in store.events(job.id)] == ["submitted", "succeeded"]
    assert [event.kind for event in store.events() if event.job == job.id] == ["submitted", "succeeded"]


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
        store.save(job, "held", "")
    MetadataStore(tmp_path).update(job.id, lambda job: job, "released", "")
    for events in (store.events(job.id), store.events()):
        assert [event.kind for event in events] == ["submitted", "held", "released"]


def test_a_resident_process_finds_what_another_was_killed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(MetadataStore(tmp_path))
    resident, other = MetadataStore(tmp_path), MetadataStore(tmp_path)
    resident.settle()
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(timeline, "append_line", Mock(side_effect=RuntimeError))
        other.save(job, "held", "")
    resident.settle()
    assert [event.kind for event in resident.events(job.id)] == ["submitted", "held"]
    assert [event.kind for event in resident.changes] == ["held"]


def test_settling_reads_only_the_end_of_a_long_timeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    for number in range(300):
        job = store.save(job, "ranks", f"change {number} " + "x" * 200)
    monkeypatch.setattr(timeline, "read_lines", Mock(side_effect=AssertionError("all of it was read")))
    read = Mock(side_effect=timeline.read_tail)
    monkeypatch.setattr(timeline, "read_tail", read)
    MetadataStore(tmp_path).settle()
    (call,) = read.call_args_list
    assert call.args[2] < 6000 < store.files(job.id).events.stat().st_size


def test_a_very_long_event_is_found_at_the_end_too(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = store.save(submit(store), "failing", "x" * 100_000)
    with open(store.files(job.id).events, "a") as file:
        file.write('{"at": 1.0, "jo' + "y" * 10_000)
    MetadataStore(tmp_path).settle()
    assert [event.kind for event in store.events(job.id)] == ["submitted", "failing"]


@pytest.mark.parametrize("broken", ["", "{", '{"id": "job-001"}', "\0" * 50, '{"schema_version": 99}'])
def test_an_unreadable_record_of_an_ended_job_is_named_and_stops_no_list(tmp_path: Path, broken: str) -> None:
    store = MetadataStore(tmp_path)
    jobs = [ended(store, submit(store, f"n{number}"), at=number) for number in range(3)]
    live = submit(store)
    store.files("job-002").record.write_text(broken)
    fresh, unreadable = MetadataStore(tmp_path), list[RecordUnreadable]()
    assert fresh.recent(3, unreadable.append) == fresh.jobs(["job-001", "job-002", "job-003"], pass_over)
    assert [error.path for error in unreadable] == [store.files("job-002").record]
    assert fresh.live() == [live] and fresh.find("n2") == jobs[2] and len(fresh.summaries()) == 3
    with pytest.raises(RecordUnreadable, match="job-002"):
        fresh.find("n1")
    with fresh.lock():
        fresh.settle()


def test_a_rebuild_leaves_out_what_is_unreadable_and_takes_it_in_once_it_is_restored(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    done, lost, live = (submit(store) for _ in range(3))
    for job in (done, lost):
        ended(store, job)
    store.files(lost.id).record.write_text("")
    counted = MetadataStore(tmp_path).rebuild()
    assert counted[:2] == (1, 1) and [error.path.parent.name for error in counted.unreadable] == [lost.id]
    fresh = MetadataStore(tmp_path)
    assert fresh.live() == [live] and {row.id for row in fresh.summaries()} == {done.id, lost.id}
    restore(tmp_path, counted.unreadable[0])
    fresh = MetadataStore(tmp_path)
    assert [job.id for job in fresh.live()] == [lost.id, live.id], "as it was before it ended: the next tick ends it"
    assert [row.id for row in fresh.summaries()] == [done.id]


def test_an_unreadable_record_of_a_live_job_stops_who_acts_and_not_who_looks(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    lost, fine = submit(store), submit(store)
    path = store.files(lost.id).record
    path.write_text("{")
    for fresh in (MetadataStore(tmp_path), MetadataStore(tmp_path)):
        unreadable = list[RecordUnreadable]()
        assert fresh.live(unreadable.append) == [fine] and [error.path for error in unreadable] == [path]
        with pytest.raises(RecordUnreadable, match=str(path)):
            fresh.live()
        fresh.settle()
        assert [error.path for error in fresh.rebuild().unreadable] == [path], "and it stays among the live ones"


def test_a_record_that_was_put_back_is_told_once(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    for priority in (1, 2):
        job = store.save(job.model_copy(update={"priority": priority}), "priority", str(priority))
    path = store.files(job.id).record
    os.replace(path.with_name("job.json.before"), path)
    for _ in range(2):
        MetadataStore(tmp_path).settle()
    assert [event.kind for event in store.events(job.id)] == ["submitted", "priority", "priority", "restored"]
    assert "again that of" in store.events(job.id)[-1].message and store.job(job.id).priority == 1


def test_what_a_node_said_of_an_ended_job_is_no_restored_record(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = submit(store)
    store.note("a", "cleared", "nothing of it is left", job.id)
    MetadataStore(tmp_path).settle()
    assert [event.kind for event in store.events(job.id)] == ["submitted", "cleared"]


def test_files_that_killed_commands_left_are_found_and_those_being_written_are_not(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    record = store.files(submit(store).id).record
    store.master()
    left = [tmp_path / ".tmp-cluster.json-x1", tmp_path / ".master-7", record.with_name(".tmp-job.json-x2")]
    for path in left:
        path.touch()
    os.utime(record, (1.0, 1.0))
    os.link(record, linked := record.with_name(".tmp-job.json.before-7"))
    assert strays(store, time.time() - 60) == [], "all are of this moment, also the link to an old record"
    assert sorted(strays(store, time.time() + 60)) == sorted([*left, linked])


def test_an_id_is_one_more_than_the_highest_whatever_else_is_there(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    assert store.next_id() == "job-001"
    for name in ("job-009", "job-1000", "job-099", "job-1000.bak", "notes", "job-twelve", ".tmp-job-123456"):
        (tmp_path / "jobs" / name).mkdir(parents=True)
    assert store.next_id() == "job-1001" and store.reserve().folder.name == "job-1001"
