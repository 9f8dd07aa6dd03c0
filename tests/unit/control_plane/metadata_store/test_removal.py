"""What ended jobs left, and its removal: the decisions, the node's side with real files, and the state directory."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from code_folders import plant

from ugro.cli.main import cli
from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import Declined, InputError, NodeRefused
from ugro.common.job_spec import JobSpec
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Job, NodeShare, Placement, Summary
from ugro.common.models.job_state import JobState
from ugro.control_plane.metadata_store import MetadataStore, removal
from ugro.control_plane.metadata_store.removal import DiskUse, Going, KeptBecause, NodeFolder, chosen, decide
from ugro.control_plane.metadata_store.retention import require_code, snapshots_of, strays
from ugro.nodes.code_sync import list_beside
from ugro.nodes.pool import Pool
from ugro.nodes.remote.footprint import footprint as footprints
from ugro.nodes.remote.footprint.footprint import JobFootprint, Removal, footprint, remove_jobs
from ugro.nodes.remote.run.process_manager import make_folder
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders
from ugro.testing.builders import CODE
from ugro.testing.transport import Parrot

JOB = builders.job(JobState.FAILED, name="job-001")
SAVED = Checkpoint(step=20, kind="torch", name="step-20.pt", bytes=10, saved_at=1.0, places=())
NODE = builders.this_machine(python=sys.executable)
PART = NodeFolder(NODE, JobFootprint("job-001", "u", 100, 3, False, ()))
USE = DiskUse(JOB, logs=5, has_code=True, snapshots=7, record=1, parts=(PART,))


# --- decisions --------------------------------------------------------------------------------------------------------


def summary(number: int, at: float) -> Summary:
    name = f"job-{number:03d}"
    return Summary(
        id=name, name=name, state=JobState.FAILED, run="", submitted_at=1.0, started_at=None, ended_at=at
    )  # fmt: skip


def test_chooses_by_age_and_keeps_the_last_ones() -> None:
    rows = [summary(1, 50.0), summary(2, 10.0), summary(3, 30.0), summary(4, 90.0)]
    assert chosen(rows, 60.0, 0) == ["job-002", "job-003", "job-001"]
    assert chosen(rows, 60.0, 2) == ["job-002", "job-003"], "of the four, the two that ended last stay"
    assert chosen(rows, 1000.0, 9) == [] and chosen([], 60.0, 0) == []


@pytest.mark.parametrize(
    ("use", "consent", "expected"),
    [
        (USE, False, (True, True, None)),
        (replace(USE, checkpoints=(SAVED,)), False, (True, False, KeptBecause.CHECKPOINTS)),
        (replace(USE, checkpoints=(SAVED,)), True, (True, True, None)),
        (replace(USE, unseen=("gpu1: too many files",)), False, (True, False, KeptBecause.UNSEEN)),
        (replace(USE, unseen=("gpu1: too many files",)), True, (True, True, None)),
        (replace(USE, silent=(NODE,)), True, (True, False, KeptBecause.SILENT)),
        (DiskUse(JOB, has_code=True), False, (False, True, None)),  # all of its files are shared with other jobs
        (replace(USE, parts=(replace(PART, found=replace(PART.found, running=True)),)), True,
         (True, False, KeptBecause.RUNNING)),
        (DiskUse(JOB, logs=5), False, (True, False, None)),
        (replace(USE, parts=(replace(PART, found=replace(PART.found, links=("jobs/job-001",))),)), True,
         (True, False, KeptBecause.LINKED)),
        (DiskUse(JOB), False, (False, False, None)),
        (DiskUse(JOB, checkpoints=(SAVED,)), False, (False, False, None)),
    ],
)  # fmt: skip
def test_nothing_resumable_goes_without_consent(
    use: DiskUse, consent: bool, expected: tuple[bool, bool, KeptBecause | None]
) -> None:
    assert decide(use, set(), set(), consent) == Going(use, *expected)


def test_what_is_undecided_or_may_still_run_stays() -> None:
    assert decide(USE, {"job-001"}, set(), True) == Going(USE, False, False, KeptBecause.UNDECIDED)
    assert decide(USE, set(), {"job-001"}, True) == Going(USE, True, False, KeptBecause.OWED)
    due = replace(USE, outputs_due=True)
    assert decide(due, set(), set(), False) == Going(due, True, False, KeptBecause.OUTPUTS)
    assert decide(due, set(), set(), True) == Going(due, True, True)


def test_a_place_is_that_of_the_run_unless_the_inventory_still_means_it() -> None:
    moved, newer = NODE.model_copy(update={"base_dir": "/old"}), NODE.model_copy(update={"python": "other"})

    def ran(config: NodeConfig | None) -> Job:
        share = NodeShare(node="here", node_rank=0, first_rank=0, nproc=1, config=config)
        return JOB.model_copy(update={"placement": Placement(shares=(share,))})

    assert removal.places(Inventory(nodes={"here": newer}), ran(NODE)) == [newer]
    assert removal.places(Inventory(nodes={"here": NODE}), ran(moved)) == [moved]
    assert removal.places(Inventory(nodes={"else": NODE}), ran(NODE)) == [NODE]
    assert removal.places(Inventory(nodes={"else": NODE}), ran(None)) == []


# --- on a node --------------------------------------------------------------------------------------------------------


@pytest.fixture
def node(home: Path) -> LocalTransport:
    return LocalTransport(NODE)


@pytest.fixture
def jobs(home: Path) -> Path:
    return home / ".ugro/jobs"


async def populate(node: LocalTransport, jobs: Path, job: str = "job-001", uid: str = "u") -> Path:
    await make_folder(node, "~/.ugro", job, uid)
    files = ("code/t.py", "code/a b\n$(x)/c", "code.tmp-1/m", "code.next-2/put", "resume-2/code/c.pt", "1/node-0/log")
    return plant(jobs / job, dict.fromkeys((*files, "code.sha256"), "x"))


async def test_removes_all_that_the_node_side_made(node: LocalTransport, jobs: Path) -> None:
    await populate(node, jobs)
    other = await populate(node, jobs, "job-002", "v")
    seen = {job.id: job.files for job in (await footprint(node)).jobs}
    assert seen == {"job-001": 8, "job-002": 8}, "also a checkpoint that was sent, and a replacement cut short"
    assert await remove_jobs(node, [("job-001", "u"), ("job-009", "w")]) == {
        "job-001": Removal.GONE, "job-009": Removal.ABSENT,
    }  # fmt: skip
    assert os.listdir(jobs) == ["job-002"] and (other / "code/t.py").exists()
    assert await remove_jobs(node, [("job-001", "u")]) == {"job-001": Removal.ABSENT}


async def test_a_node_without_a_base_directory_has_nothing(node: LocalTransport, home: Path) -> None:
    assert await remove_jobs(node, [("job-001", "u")]) == {"job-001": Removal.ABSENT}
    assert os.listdir(home) == []


@pytest.mark.parametrize("uid", ["v", "", "u\nv"])
async def test_leaves_what_carries_another_mark(node: LocalTransport, jobs: Path, uid: str) -> None:
    folder = await populate(node, jobs)
    assert await remove_jobs(node, [("job-001", uid)]) == {"job-001": Removal.OTHER}
    (folder / "uid").unlink()
    assert await remove_jobs(node, [("job-001", "u")]) == {"job-001": Removal.OTHER}
    (folder / "uid").symlink_to("1/uid")
    (folder / "1/uid").write_text("u\n")
    assert await remove_jobs(node, [("job-001", "u")]) == {"job-001": Removal.OTHER}
    assert (folder / "code/t.py").exists()


@pytest.mark.parametrize("name", ["../job-001", "job-001/..", "job-*", ".", "", "job-001/code", "-rf", "$(x)"])
async def test_takes_only_the_name_of_a_job(node: LocalTransport, jobs: Path, name: str) -> None:
    folder = await populate(node, jobs)
    (jobs / "uid").write_text("u\n")
    (folder / "code/uid").write_text("u\n")
    assert (await remove_jobs(node, [(name, "u")]))[name] in (Removal.OTHER, Removal.ABSENT)
    assert (folder / "code/t.py").exists() and (jobs / "uid").exists()


async def test_follows_no_link(node: LocalTransport, jobs: Path, tmp_path: Path) -> None:
    outside = plant(tmp_path / "outside", {"uid": "u\n", "data/keep": "k", "code/t.py": "x"})
    folder = await populate(node, jobs)
    (folder / "code/out").symlink_to(outside)
    shutil.rmtree(folder / "1/node-0")
    (folder / "1/node-0").symlink_to(outside)
    (folder / "notes").symlink_to(outside)
    assert await remove_jobs(node, [("job-001", "u")]) == {"job-001": Removal.LINK}
    assert sorted(os.listdir(folder)) == ["1", "notes"], "what is not UGRO's stays"
    (jobs / "job-002").symlink_to(outside)
    assert await remove_jobs(node, [("job-002", "u"), ("job-002", "v")]) == {"job-002": Removal.OTHER}
    assert await remove_jobs(node, [("job-002", "u")]) == {"job-002": Removal.LINK}
    shutil.move(jobs, tmp_path / "elsewhere")
    plant(tmp_path / "elsewhere/job-003", {"uid": "u\n", "code/t.py": "x"})
    jobs.symlink_to(tmp_path / "elsewhere")
    assert await remove_jobs(node, [("job-003", "u")]) == {"job-003": Removal.GONE}, "its owner linked it to a disk"
    assert not (tmp_path / "elsewhere/job-003").exists() and jobs.is_symlink()
    assert sorted(os.listdir(outside)) == ["code", "data", "uid"] and (outside / "data/keep").exists()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "61.5"], env=os.environ | {"UGRO_RUN": "u/1/0"}, start_new_session=True) as running:
        yield running
        running.kill()


async def test_what_runs_stays(node: LocalTransport, jobs: Path, process: subprocess.Popen[bytes]) -> None:
    folder = await populate(node, jobs)
    await populate(node, jobs, "job-002", "v")
    told = await remove_jobs(node, [("job-001", "u"), ("job-002", "v")])
    assert told == {"job-001": Removal.RUNNING, "job-002": Removal.GONE} and (folder / "code/t.py").exists()


async def test_what_was_cut_short_is_done_again(node: LocalTransport, jobs: Path) -> None:
    folder = await populate(node, jobs)
    for name in ("code.sha256", "code", "1"):  # the mark goes last
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert await remove_jobs(node, [("job-001", "u")]) == {"job-001": Removal.GONE}


@pytest.mark.parametrize("size", ["-5 1", f"{10**30} 1", "1 -1", "9" * 5000 + " 1", "many 1", "1"])
async def test_believes_no_impossible_size(size: str) -> None:
    said = f"base\0/b\0yes\0job\0job-001\0u\0{size}\0\0end\0".encode()
    with pytest.raises(NodeRefused, match="its answer is incomplete"):
        await footprint(Parrot(said))


@pytest.mark.parametrize("said", ["", "end\0", "removal\0job-001\0burnt\0end\0", "removal\0job-002\0gone\0end\0", "x"])
async def test_believes_no_senseless_answer(said: str) -> None:
    with pytest.raises(NodeRefused, match="its answer"):
        await remove_jobs(Parrot(said.encode()), [("job-001", "u")])


# --- in the state directory -------------------------------------------------------------------------------------------


def submitted(store: MetadataStore, **spec: object) -> Job:
    files = store.jobs.reserve()
    plant(files.snapshot(1), {"t.py": "print(1)"})
    list_beside(files.snapshot(1)).write_text("{}")
    return store.jobs.submit(files, JobSpec.model_validate({"script": "t.py"} | spec), CODE, time.time())


def ended(store: MetadataStore, **fields: object) -> Job:
    job = submitted(store)
    plant(store.jobs.files(job.id).logs(1), {"rank-0.log": "said"})
    changes = {"state": JobState.FAILED, "ended_at": 5.0, **fields}
    return store.jobs.save(job.model_copy(update=changes), "failed", "")


def on(*nodes: NodeConfig) -> Placement:
    return Placement(shares=tuple(
        NodeShare(node=node.name, node_rank=rank, first_rank=rank, nproc=1, config=node)
        for rank, node in enumerate(nodes)
    ))  # fmt: skip


def test_a_removed_job_is_gone_and_its_number_with_it(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    first, second = ended(store), ended(store)
    with store.jobs.removing(second) as free:
        assert free
        store.jobs.forget(second)
    for fresh in (MetadataStore(tmp_path), MetadataStore(tmp_path)):
        assert [row.id for row in fresh.jobs.summaries()] == [first.id] and not fresh.problems()
        assert not fresh.jobs.files(second.id).folder.exists()
        with pytest.raises(InputError, match="there is no job"):
            fresh.jobs.find(second.id)
        fresh.rebuild()
    assert MetadataStore(tmp_path).jobs.next_id() == "job-003" == submitted(store).id
    assert [event.kind for event in store.timeline.of_cluster()][-2:] == ["removed", "submitted"]


@pytest.mark.parametrize("text", ["", "x", "-1", "9" * 5000, "\0"])
def test_a_broken_number_stops_no_launch(tmp_path: Path, text: str) -> None:
    store = MetadataStore(tmp_path)
    submitted(store)
    (tmp_path / "jobs/.removed").write_text(text)
    assert store.jobs.next_id() == "job-002"


@pytest.mark.parametrize("at", ["replace", "rename", "rmtree"])
def test_a_removal_that_is_cut_short_leaves_a_readable_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    store = MetadataStore(tmp_path)
    other, job = ended(store), ended(store)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), store.jobs.removing(job):
        where = {"replace": store.jobs._index._archive, "rename": os, "rmtree": shutil}[at]
        patched.setattr(where, at, die)
        store.jobs.forget(job)
    fresh = MetadataStore(tmp_path)
    assert not fresh.problems() and fresh.jobs.find(other.id) == other
    fresh.jobs.settle()
    known = {row.id for row in fresh.jobs.summaries()}
    fresh.rebuild()
    rebuilt = {row.id for row in fresh.jobs.summaries()}
    assert known <= rebuilt == ({other.id} if at == "rmtree" else {other.id, job.id})
    assert fresh.jobs.next_id() == "job-003"
    if at == "rmtree":
        assert [path.name for path in strays(fresh, time.time() + 10)] == [f".tmp-{job.id}-{job.uid}"]
    else:
        with fresh.jobs.removing(fresh.jobs.job(job.id)) as free:
            assert free
            fresh.jobs.forget(job)
        assert [row.id for row in fresh.jobs.summaries()] == [other.id]


def test_what_is_being_removed_cannot_be_resumed(tmp_path: Path) -> None:
    store, another = MetadataStore(tmp_path), MetadataStore(tmp_path)
    job = ended(store)
    again = job.model_copy(update={"attempt": 2, "state": JobState.QUEUED, "ended_at": None})
    with store.jobs.removing(job) as free, another.jobs.removing(job) as second:
        assert free and not second
        with pytest.raises(InputError, match="being removed"):
            another.jobs.reopen(again, another.jobs.spec(job.id), "")
    another.jobs.reopen(again, another.jobs.spec(job.id), "")
    with store.jobs.removing(job) as free:
        assert not free, "it is a queued one now"


def test_what_is_needed_is_not_removed(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job, live = ended(store), submitted(store)
    removal.require_removable(store, job)
    with pytest.raises(InputError, match="has not ended: it is queued"):
        removal.require_removable(store, live)
    store.decisions.remember_undecided(job.id)
    with pytest.raises(InputError, match="still to be decided"):
        removal.require_removable(store, job)
    store.decisions.remember_undecided(job.id, False)
    store.cleanup.remember_leftovers(job, ["gpu1"])
    with pytest.raises(InputError, match="has not confirmed"):
        removal.require_removable(store, job)
    store.cleanup.remember_leftovers(job, [])
    waits = submitted(store, after=[job.id])
    with pytest.raises(InputError, match=f"{waits.id} waits for {job.id}"):
        removal.require_removable(store, job)


def test_launches_that_were_cut_short_go_once_nobody_is_at_them(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    submitted(store)
    cut, busy = store.jobs.reserve(), store.jobs.reserve()
    plant(cut.folder / "snapshot.tmp", {"big": "x"})
    with store.alone_with(busy.folder.name):
        assert strays(store, time.time() + 10) == [cut.folder]
        assert strays(store, time.time() - 10) == []


@pytest.mark.parametrize("text", ["", "../../etc", "job-001/snapshot/../..", "job-001/logs", "\0", "job-1/snapshot-x"])
def test_a_broken_note_of_the_last_snapshot_is_none(tmp_path: Path, text: str) -> None:
    store = MetadataStore(tmp_path)
    store.jobs.note_snapshot(tmp_path, store.jobs.files("job-001").snapshot(2))
    assert store.jobs.last_snapshot(tmp_path) == tmp_path / "jobs/job-001/snapshot-2"
    [note] = (tmp_path / "snapshots").iterdir()
    note.write_text(text)
    assert store.jobs.last_snapshot(tmp_path) is None and store.jobs.last_snapshot(tmp_path / "other") is None


# --- both -------------------------------------------------------------------------------------------------------------


def save_checkpoint(code: Path) -> None:
    with zipfile.ZipFile(code / "checkpoint-20.pt", "w") as file:
        file.writestr("archive/data.pkl", "x" * 100)


@pytest.fixture
def gone() -> NodeConfig:
    return NodeConfig(name="gone", address="127.0.0.1", port=9, user="nobody")


async def surveyed(store: MetadataStore, pool: Pool, inventory: Inventory, *jobs: Job) -> list[DiskUse]:
    return list((await removal.survey(store, inventory, pool, jobs)).uses)


async def test_collects_what_cannot_be_resumed(home: Path, node: LocalTransport, jobs: Path, tmp_path: Path) -> None:
    store, inventory = MetadataStore(tmp_path / "state"), Inventory(nodes={"here": NODE})
    plain, saved = (ended(store, placement=on(NODE)) for _ in range(2))
    for job in (plain, saved):
        await populate(node, jobs, job.id, job.uid)
    save_checkpoint(jobs / saved.id / "code")
    async with Pool(inventory) as pool:
        uses = await surveyed(store, pool, inventory, plain, saved)
        assert [len(use.checkpoints) for use in uses] == [0, 1] and uses[0].parts[0].found.files == 8
        going = [decide(use, (), (), False) for use in uses]
        assert [one.kept for one in going] == [None, KeptBecause.CHECKPOINTS]
        for one in going:
            assert (await removal.collect(store, pool, one)).going == one
        assert os.listdir(jobs) == [saved.id]
        assert snapshots_of(store, plain.id) == [] and len(snapshots_of(store, saved.id)) == 1
        assert not store.jobs.files(saved.id).all_logs.exists() and store.jobs.job(plain.id) == plain
        with pytest.raises(InputError, match="was removed by `ugro gc`"):
            require_code(store, plain)
        require_code(store, saved)
        plant(store.jobs.files(plain.id).snapshot(2), {"t.py": "newer"})
        require_code(store, plain.changed(code=replace(CODE, attempt=2)))
        shutil.rmtree(store.jobs.files(plain.id).snapshot(2))
        assert [removal.has_more(store, job.id) for job in (plain, saved)] == [False, True]
        store.rebuild()
        [use] = await surveyed(store, pool, inventory, saved)
        await removal.collect(store, pool, decide(use, (), (), True))
    assert os.listdir(jobs) == []


@pytest.mark.parametrize("at", ["prune", "remove_jobs", "prune_snapshots", "rmtree"])
async def test_a_collection_that_is_cut_short_is_done_again(
    home: Path, node: LocalTransport, jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    store, inventory = MetadataStore(tmp_path / "state"), Inventory(nodes={"here": NODE})
    job = ended(store, placement=on(NODE))
    await populate(node, jobs, job.id, job.uid)
    snapshot, rmtree = store.jobs.files(job.id).snapshot(1), shutil.rmtree

    def die(*_: object) -> None:
        raise asyncio.CancelledError

    def die_inside(path: Path, **options: bool) -> None:
        if path.name != ".tmp-gone-snapshot" or not path.exists():
            return rmtree(path, **options)
        raise asyncio.CancelledError

    async with Pool(inventory) as pool:
        [use] = await surveyed(store, pool, inventory, job)
        with monkeypatch.context() as patched, pytest.raises(asyncio.CancelledError):
            if at == "rmtree":
                patched.setattr(shutil, at, die_inside)
            else:
                patched.setattr(removal, at, die)
            await removal.collect(store, pool, decide(use, (), (), False))
        assert store.jobs.job(job.id) == job and removal.has_more(store, job.id) == snapshot.exists() == (
            at != "rmtree"
        )
        if at == "rmtree":
            with pytest.raises(InputError, match="was removed"):
                require_code(store, job)
            assert strays(store, time.time() + 10) == [store.jobs.files(job.id).folder / ".tmp-gone-snapshot"]
        else:
            require_code(store, job)
            assert (snapshot / "t.py").exists()
        fresh = MetadataStore(tmp_path / "state")
        before = fresh.jobs.summaries()
        fresh.rebuild()
        assert fresh.jobs.summaries() == before
        [use] = await surveyed(fresh, pool, inventory, job)
        await removal.collect(fresh, pool, decide(use, (), (), False))
    assert os.listdir(jobs) == [] and not removal.has_more(store, job.id)


async def test_a_job_of_an_unreachable_node_stays(
    home: Path, node: LocalTransport, jobs: Path, tmp_path: Path, gone: NodeConfig
) -> None:
    store, inventory = MetadataStore(tmp_path / "state"), Inventory(nodes={"here": NODE, "gone": gone})
    job = ended(store, placement=on(NODE, gone))
    await populate(node, jobs, job.id, job.uid)
    async with Pool(inventory) as pool:
        found = await removal.survey(store, inventory, pool, [job])
        [going] = removal.decide_all(store, found, False)
        assert (going.kept, [*found.silent]) == (KeptBecause.SILENT, ["gone"])
        assert (await removal.collect(store, pool, going)).going.code is False
        assert (jobs / job.id / "code/t.py").exists() and snapshots_of(store, job.id)


async def test_what_an_unreachable_node_owes_is_remembered_and_done_when_it_answers(
    home: Path, node: LocalTransport, jobs: Path, tmp_path: Path, gone: NodeConfig
) -> None:
    store, inventory = MetadataStore(tmp_path / "state"), Inventory(nodes={"here": NODE, "gone": gone})
    job = ended(store, placement=on(NODE, gone))
    await populate(node, jobs, job.id, job.uid)
    async with Pool(inventory) as pool:
        [use] = await surveyed(store, pool, inventory, job)
        said = await removal.remove(store, pool, use)
        assert said["here"] == Removal.GONE and isinstance(said["gone"], Exception)
    assert not jobs.joinpath(job.id).exists() and not store.jobs.files(job.id).folder.exists()
    [owed] = MetadataStore(tmp_path / "state").cleanup.removals()
    assert (owed.job, owed.uid, owed.config) == (job.id, job.uid, gone)
    async with Pool(inventory) as pool:
        await removal.remove_owed(store, pool, [owed])  # still unreachable: no error for what a command was asked to do
    assert store.cleanup.removals() == [owed]
    await populate(node, jobs, job.id, job.uid)
    async with Pool(inventory, lambda _: LocalTransport(NODE)) as pool:
        await removal.remove_owed(store, pool, [owed])
    assert store.cleanup.removals() == [] and not (jobs / job.id).exists()


async def test_the_masters_own_record_is_no_file_of_others(home: Path, node: LocalTransport, jobs: Path) -> None:
    store, inventory = MetadataStore(home / ".ugro"), Inventory(nodes={"here": NODE})
    job = ended(store, placement=on(NODE))
    await populate(node, jobs, job.id, job.uid)
    async with Pool(inventory) as pool:
        [use] = await surveyed(store, pool, inventory, job)
        assert await removal.remove(store, pool, use) == {"here": Removal.GONE}
    assert not (jobs / job.id).exists() and store.cleanup.removals() == []


async def test_a_removal_that_is_cut_short_on_a_node_is_remembered(
    home: Path, node: LocalTransport, jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, inventory = MetadataStore(tmp_path / "state"), Inventory(nodes={"here": NODE})
    job = ended(store, placement=on(NODE))
    await populate(node, jobs, job.id, job.uid)

    async def broken_off(*_: object) -> None:
        raise asyncio.CancelledError

    async with Pool(inventory) as pool:
        [use] = await surveyed(store, pool, inventory, job)
        monkeypatch.setattr(removal, "remove_jobs", broken_off)
        with pytest.raises(asyncio.CancelledError):
            await removal.remove(store, pool, use)
        assert store.jobs.job(job.id) == job and [one.job for one in store.cleanup.removals()] == [job.id]
        monkeypatch.setattr(removal, "remove_jobs", footprints.remove_jobs)
        await removal.remove(store, pool, use)
    assert store.cleanup.removals() == [] and not (jobs / job.id).exists()


# --- the commands -----------------------------------------------------------------------------------------------------


Ugro = Callable[..., Result]


@pytest.fixture
def ugro(home: Path, monkeypatch: pytest.MonkeyPatch) -> Ugro:
    monkeypatch.setenv("UGRO_HOME", str(home / "state"))
    inventory = home / "inventory.yaml"
    inventory.write_text(f"nodes:\n  here: {{address: 127.0.0.1, local: true, python: {sys.executable}}}\n")

    def call(*args: str, typed: str = "") -> Result:
        return CliRunner().invoke(cli, ["--inventory", str(inventory), *args], input=typed, standalone_mode=False)

    return call


def placed(home: Path, checkpoint: bool = False) -> Job:
    """A job that ended, with its folder on the node."""
    job = ended(MetadataStore(home / "state"), placement=on(NODE))
    folder = plant(home / ".ugro/jobs" / job.id, {"code/t.py": "x" * 2**20, "code.sha256": "x"})
    (folder / "uid").write_text(f"{job.uid}\n")
    if checkpoint:
        save_checkpoint(folder / "code")
    return job


def test_gc_shows_what_goes_and_does_it_when_told(ugro: Ugro, home: Path) -> None:
    plain, saved, last = placed(home), placed(home, checkpoint=True), placed(home)
    environment = plant(home / ".ugro/setups" / ("a" * 32), {"log": "x" * 2**20})
    for path in (environment / "log", environment):
        os.utime(path, (0, 0))
    shown = ugro("gc", "--keep", "1")
    assert shown.return_value == 0, shown.exception
    assert f"{plain.id}  logs 0 KiB, code 0 KiB, here 1 MiB\n" in shown.stdout
    assert f"{saved.id}  logs 0 KiB; its code and node folders stay: it has checkpoints (step 20" in shown.stdout
    assert f"setups/{environment.name} on here  1 MiB, its setup did not end well\n" in shown.stdout
    assert (
        "1 MiB of environments, 1 MiB on here would be removed: ugro gc --older-than 30d --keep 1 --delete"
        in shown.stdout
    )
    assert last.id not in shown.stdout
    told = json.loads(ugro("gc", "--keep", "1", "--json").stdout)
    assert not told["deleted"] and [node["node"] for node in told["nodes"]] == ["here"]
    assert [(job["id"], job["kept"]) for job in told["jobs"]] == [(plain.id, None), (saved.id, "checkpoints")]
    assert len(os.listdir(home / ".ugro/jobs")) == 3
    done = ugro("gc", "--keep", "1", "--delete")
    assert done.return_value == 0 and " removed" in done.stdout, done.exception
    assert sorted(os.listdir(home / ".ugro/jobs")) == [saved.id, last.id] and not environment.exists()
    again = ugro("gc", "--keep", "1")
    assert f"{saved.id}  its code and node folders stay" in again.stdout and "nothing to remove" in again.stdout
    assert ugro("gc", "--keep", "1", "--with-checkpoints", "--delete").return_value == 0
    assert os.listdir(home / ".ugro/jobs") == [last.id]
    with pytest.raises(InputError, match="was removed by `ugro gc`"):
        raise ugro("resume", saved.id, "--yes").exception or AssertionError


def test_rm_of_several_goes_on_past_one_that_is_none(ugro: Ugro, home: Path) -> None:
    one, other = placed(home), placed(home)
    done = ugro("rm", one.id, "nosuch", other.id, "--yes")
    assert done.return_value == 2 and "there is no job 'nosuch'" in done.stderr
    assert f"{one.id} was removed" in done.stdout and f"{other.id} was removed" in done.stdout


def test_what_is_torn_goes_only_with_consent_too(ugro: Ugro, home: Path) -> None:
    torn, last = placed(home, checkpoint=True), placed(home)
    saved = home / ".ugro/jobs" / torn.id / "code/checkpoint-20.pt"
    saved.write_bytes(saved.read_bytes()[:-5])
    shown = ugro("gc", "--keep", "1", "--delete").stdout
    assert f"{torn.id}  logs 0 KiB; its code and node folders stay: it has checkpoints (step 20" in shown
    assert "on here (checkpoint-20.pt was cut short" in shown and last.id not in shown
    refused = ugro("rm", torn.id, "--yes")
    assert isinstance(refused.exception, InputError) and "it has checkpoints" in refused.exception.message
    assert saved.exists()


def test_rm_asks_and_names_what_could_be_resumed(ugro: Ugro, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, saved = placed(home), placed(home, checkpoint=True)
    for words in ((), ("--json",)):
        refused = ugro("rm", plain.id, *words)
        assert isinstance(refused.exception, InputError) and "not a terminal" in refused.exception.message
        assert f"ugro rm {plain.id} --yes" in refused.exception.hint
    done = ugro("rm", plain.id, plain.name, "--yes")
    assert done.return_value == 0, done.exception
    assert f"{plain.id} was removed" in done.stdout and "on here" in done.stderr
    refused = ugro("rm", saved.id, "--yes")
    assert isinstance(refused.exception, InputError)
    assert "it has checkpoints; nothing was removed" in refused.exception.message
    assert "checkpoints: step 20" in refused.stderr
    assert (home / ".ugro/jobs" / saved.id / "code/checkpoint-20.pt").exists()
    monkeypatch.setattr("ugro.cli.prompts.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    assert isinstance(ugro("rm", saved.id, typed="y\nn\n").exception, Declined)
    assert MetadataStore(home / "state").jobs.job(saved.id) == saved
    told = ugro("rm", saved.id, "--yes", "--with-checkpoints", "--json")
    [document] = json.loads(told.stdout)["removed"]
    assert document["nodes"] == [{"node": "here", "state": "gone", "error": None}]
    assert [one["step"] for one in document["checkpoints"]] == [20]
    assert os.listdir(home / "state/jobs") == [".removed"] and os.listdir(home / ".ugro/jobs") == []
    assert json.loads(ugro("status", "--json").stdout)["jobs"] == []
