"""A job that ended resumes as a new attempt: from a checkpoint that is on its nodes or is sent there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
import zipfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from code_folders import plant, tree
from kept_worlds import KeptWorlds

from ugro.common.config import Inventory
from ugro.common.errors import InputError, NodeRefused
from ugro.common.job_spec import CheckpointRules, JobSpec
from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Attempt, Job, NodeShare, Placement, Wish
from ugro.common.models.job_state import JobState
from ugro.common.models.place import Place
from ugro.control_plane.failure_handler.handler import script_of
from ugro.control_plane.failure_handler.recovery.lost_work import resume_command
from ugro.control_plane.failure_handler.recovery.next_attempt import NextAttempt, next_attempt, words_for
from ugro.control_plane.metadata_store import MetadataStore, removal
from ugro.control_plane.metadata_store.checkpoint_store import CheckpointListing, CheckpointStore, newest_whole, ran_at
from ugro.control_plane.metadata_store.checkpoint_store.store import outdated, roots
from ugro.control_plane.scheduler.submission import adopt, choose_code, choose_new_code, new_code, require_room, submit
from ugro.nodes.pool import Pool
from ugro.nodes.transport import Outcome
from ugro.testing import builders
from ugro.testing.cluster import Bed
from ugro.testing.transport import Silencing

STRIDE = min(5, int(os.environ.get("UGRO_CRASH_STRIDE", "5")))
"""UGRO_CRASH_STRIDE=1 kills at every step."""

# The first attempt leaves a checkpoint beside its code on the node of rank 0 alone; the next ones say what they got.
SCRIPT = """\
import os, sys, zipfile
home = os.environ["HOME"]
if "UGRO_RESUME_FROM" not in os.environ:
    if os.environ["RANK"] == "0":
        os.makedirs("out", exist_ok=True)
        with zipfile.ZipFile("out/checkpoint-70.pt", "w") as file:
            file.writestr("archive/data.pkl", "x" * 1000)
    sys.exit(3)
path = os.environ["UGRO_RESUME_FROM"]
with open(f"{home}/resumed-{os.environ['RANK']}-{os.environ['UGRO_ATTEMPT']}", "w") as said:
    print(path, zipfile.is_zipfile(path), *sys.argv[1:], sep="\\n", file=said)
"""


class KeptBed(Bed):
    """A bed in which the failure that a test begins with is that of the test before, if it is the same."""

    def __init__(self, home: Path, worlds: KeptWorlds) -> None:
        super().__init__(home)
        self._worlds = worlds

    async def failed(self, text: str, **fields: object) -> Job:
        key = self._worlds.key(text, fields)
        if kept := self._worlds.recall(key):
            return kept
        return self._worlds.keep(key, await self.until(self.submit(text, **fields), JobState.FAILED))


@pytest.fixture
def home_folder(kept_home_folder: Path) -> Path:
    return kept_home_folder


@pytest.fixture
def bed(home: Path, kept_worlds: KeptWorlds) -> KeptBed:
    return KeptBed(home, kept_worlds)


async def failed(bed: KeptBed, **fields: object) -> Job:
    return await bed.failed(SCRIPT, **fields)


async def found(bed: KeptBed, job: Job, step: int | None = None) -> Checkpoint:
    store = CheckpointStore(bed.store, bed.inventory, bed.pool)
    return newest_whole((await store.find(job, bed.store.jobs.spec(job.id), {})).checkpoints, step)


def reopened(bed: KeptBed, job: Job, checkpoint: Checkpoint | None, **wanted: str) -> NextAttempt:
    planned = next_attempt(job, bed.store.jobs.spec(job.id), SCRIPT, checkpoint, wanted)
    bed.store.jobs.reopen(planned.job, planned.spec, "from the test")
    return planned


def said(bed: KeptBed, rank: int, attempt: int = 2) -> list[str]:
    return (bed.home / f"resumed-{rank}-{attempt}").read_text().splitlines()


async def test_every_rank_goes_on_from_the_checkpoint_of_the_node_that_has_it(bed: KeptBed) -> None:
    job = await failed(bed, args=("--batch-size", "8"), checkpoints=CheckpointRules(resume="--from={path}"))
    checkpoint = await found(bed, job)
    assert (checkpoint.step, checkpoint.name, list(checkpoint.whole_at)) == (70, "out/checkpoint-70.pt", ["a"])
    planned = reopened(bed, job, checkpoint, batch_size="1")
    assert planned.changes == (ArgumentChange(name="--batch-size", before="8", after="1"),)
    ended = await bed.until(job, JobState.SUCCEEDED)
    own, sent = (
        str(bed.home / "a/jobs/job-001/code/out/checkpoint-70.pt"),
        str(bed.home / "b/jobs/job-001/resume-2/code/checkpoint-70.pt"),
    )
    assert said(bed, 0) == [own, "True", "--batch-size", "1", f"--from={own}"]
    assert said(bed, 1) == [sent, "True", "--batch-size", "1", f"--from={sent}"]
    assert (ended.attempt, ended.command) == (2, ("t.py", "--batch-size", "1"))
    [first] = ended.past
    assert (first.attempt, first.state, first.cause) == (1, JobState.FAILED, "unknown")
    assert bed.store.jobs.spec(job.id).args == ("--batch-size", "1")
    assert '"8"' in bed.store.jobs.files(job.id).spec_of(1).read_text()
    assert bed.kinds(job)[5:] == ["failed", "resumed", "starting", "placed", "running", "succeeded"]


async def test_a_node_that_lost_its_disk_after_the_checkpoint_was_brought_gets_it_back(bed: KeptBed) -> None:
    job = await failed(bed)
    store = CheckpointStore(bed.store, bed.inventory, bed.pool)
    checkpoint = await found(bed, job)
    held = await store.bring(job, checkpoint)
    assert [path.name for path in held.iterdir()] == ["checkpoint-70.pt"]
    assert store.kept(job) == {"70-attempt-1": checkpoint.model_copy(update={"places": ()})}
    shutil.rmtree(bed.home / "a")
    reopened(bed, job, checkpoint.model_copy(update={"places": ()}))
    await bed.until(job, JobState.SUCCEEDED)
    assert said(bed, 0)[:2] == [str(bed.home / "a/jobs/job-001/resume-2/code/checkpoint-70.pt"), "True"]


async def test_a_checkpoint_behind_a_link_of_the_job_is_found_and_weights_of_its_code_are_none(bed: KeptBed) -> None:
    (bed.home / "bigdisk").mkdir()
    linked = SCRIPT.replace('os.makedirs("out", exist_ok=True)', 'os.symlink(f"{home}/bigdisk", "out")')
    (bed.project / "checkpoint-500.pt").write_bytes(b"PK\x05\x06" + bytes(18))
    os.utime(bed.project / "checkpoint-500.pt", (time.time() + 1000,) * 2)
    job = await bed.failed(linked)
    checkpoint = await found(bed, job)
    assert (checkpoint.step, checkpoint.name) == (70, "out/checkpoint-70.pt")
    (bed.home / "a/jobs/job-001/code/gone").symlink_to("nowhere")
    listing = await CheckpointStore(bed.store, bed.inventory, bed.pool).find(job, bed.store.jobs.spec(job.id), {})
    assert [one.step for one in listing.checkpoints] == [70], "what came with the code is on both nodes, and none"
    assert listing.unseen(job) == [f"a: {bed.home}/a/jobs/job-001/code/gone: a link to nothing"]
    reopened(bed, job, checkpoint)
    await bed.until(job, JobState.SUCCEEDED)
    assert said(bed, 0)[1] == said(bed, 1)[1] == "True"


async def test_a_silent_node_of_any_attempt_is_named_where_checkpoints_are_looked_for(bed: KeptBed) -> None:
    job = await failed(bed, nodes=("a",))
    planned = next_attempt(job, bed.store.jobs.spec(job.id), SCRIPT, await found(bed, job), {}, "b")
    bed.store.jobs.reopen(planned.job, planned.spec, "from the test")
    job = await bed.until(job, JobState.SUCCEEDED)
    bed.nodes["a"].silent = True
    listing = await CheckpointStore(bed.store, bed.inventory, bed.pool).find(job, bed.store.jobs.spec(job.id), {})
    assert listing.unseen(job) == ["a did not say what it has"]


async def listed(bed: KeptBed, job: Job, inventory: Inventory) -> tuple[CheckpointStore, CheckpointListing]:
    """What is found with an inventory that was edited after the job ended."""
    store = CheckpointStore(bed.store, inventory, bed.pool)
    return store, await store.find(job, bed.store.jobs.spec(job.id), {})


async def test_checkpoints_on_a_node_that_left_the_inventory_are_found_and_sent_from_there(bed: KeptBed) -> None:
    job = await failed(bed, nodes=("a",))
    bed.inventory = Inventory(nodes={"b": bed.inventory.nodes["b"]})
    _, listing = await listed(bed, job, bed.inventory)
    [one] = listing.checkpoints
    assert (one.step, list(one.whole_at), listing.unseen(job)) == (70, ["a"], [])
    async with bed.pool as pool:
        survey = await removal.survey(bed.store, bed.inventory, pool, [job])
    assert survey.uses[0].checkpoints == (one,), "those who remove see the same"
    planned = next_attempt(job, bed.store.jobs.spec(job.id), SCRIPT, one, {}, "b")
    bed.store.jobs.reopen(planned.job, planned.spec, "from the test")
    await bed.until(job, JobState.SUCCEEDED)
    assert said(bed, 0)[:2] == [str(bed.home / "b/jobs/job-001/resume-2/code/checkpoint-70.pt"), "True"]


async def test_a_node_that_left_the_inventory_and_cannot_be_asked_is_named(bed: KeptBed) -> None:
    job = await failed(bed, nodes=("a",))
    rest = Inventory(nodes={"b": bed.inventory.nodes["b"]})
    bed.nodes["a"].silent = True
    _, listing = await listed(bed, job, rest)
    assert (listing.checkpoints, listing.unseen(job)) == ([], ["a did not say what it has"])
    share = job.placement.shares[0].model_copy(update={"config": None}) if job.placement else None
    assert share
    told = job.model_copy(update={"placement": Placement(shares=(share,))})  # as an earlier UGRO noted it
    _, listing = await listed(bed, told, rest)
    assert listing.unseen(told) == ["a: its folder (it is not in the inventory any more)"]


async def test_an_entry_that_was_edited_means_another_place(bed: KeptBed) -> None:
    job = await failed(bed, nodes=("a",))
    a, b = bed.inventory.nodes.values()
    moved = Inventory(nodes={"a": a.model_copy(update={"address": "127.0.0.9"}), "b": b})
    store, listing = await listed(bed, job, moved)
    [one] = listing.checkpoints
    assert set(one.whole_at) == {"a", "a (127.0.0.1)"}, "here both addresses are those of one machine"
    only_there = one.model_copy(update={"places": one.places[-1:]})
    assert [place.node for place in only_there.places] == ["a (127.0.0.1)"]
    assert (await store.bring(job, only_there) / "checkpoint-70.pt").exists()
    python = Inventory(nodes={"a": a.model_copy(update={"max_temperature": 80}), "b": b})
    assert list(ran_at(python, job).values()) == [python.nodes["a"]], "other details are as they are now"


async def test_a_checkpoint_that_is_gone_when_it_is_needed_is_a_launch_that_failed(bed: KeptBed) -> None:
    job = await failed(bed)
    checkpoint = await found(bed, job)
    (bed.home / "a/jobs/job-001/code/out/checkpoint-70.pt").unlink()
    reopened(bed, job, checkpoint)
    ended = await bed.until(job, JobState.FAILED)
    assert ended.first_failure and ended.first_failure.cause == "launch_failed"
    assert "there is nothing at" in ended.first_failure.message


async def test_a_checkpoint_that_no_node_gives_is_not_brought(bed: KeptBed) -> None:
    job = await failed(bed)
    checkpoint = await found(bed, job)
    (bed.home / "a/jobs/job-001/code/out/checkpoint-70.pt").unlink()
    store = CheckpointStore(bed.store, bed.inventory, bed.pool)
    with pytest.raises(NodeRefused):
        await store.bring(job, checkpoint)
    assert store.kept(job) == {}


async def test_two_processes_that_bring_one_checkpoint_leave_one_whole_copy(bed: KeptBed) -> None:
    job = await failed(bed)
    checkpoint = await found(bed, job)
    stores = [CheckpointStore(MetadataStore(bed.store.home), bed.inventory, bed.pool) for _ in range(3)]
    first, *others = await asyncio.gather(*(store.bring(job, checkpoint) for store in stores))
    assert others == [first, first] and zipfile.is_zipfile(first / "checkpoint-70.pt")
    assert not list(bed.store.jobs.files(job.id).folder.glob(".tmp-*")), "nothing half brought is left"
    assert list(stores[0].kept(job)) == ["70-attempt-1"]


async def test_checkpoints_of_a_live_job_are_found_where_it_was_started_after_the_inventory_was_edited(
    bed: KeptBed,
) -> None:
    stay = SCRIPT.replace("    sys.exit(3)\n", "    import time; time.sleep(600)\n")
    job = await bed.until(bed.submit(stay), JobState.RUNNING)
    while not (bed.home / "a/jobs/job-001/code/out/checkpoint-70.pt").exists():
        await bed.tick()
    elsewhere = {
        name: config.model_copy(update={"base_dir": f"{bed.home}/elsewhere"})
        for name, config in bed.inventory.nodes.items()
    }
    edited = bed.inventory.model_copy(update={"nodes": elsewhere})
    async with Pool(edited, lambda config: Silencing(config)) as pool:
        store = CheckpointStore(bed.store, edited, pool)
        job = bed.store.jobs.job(job.id)
        listing = await store.find(job, bed.store.jobs.spec(job.id), {})
        assert [one.step for one in listing.checkpoints] == [70]
        assert (await store.bring(job, listing.checkpoints[0]) / "checkpoint-70.pt").exists()
    builders.cancel(bed.store, job.id)
    await bed.until(job, JobState.CANCELLED)


async def test_what_an_earlier_attempt_left_on_a_node_is_cleared_and_the_new_one_lives(bed: KeptBed) -> None:
    stay = SCRIPT.replace("    sys.exit(3)\n", "    import time; time.sleep(600)\n")
    job = await bed.until(bed.submit(stay), JobState.RUNNING)
    while not all(rank.pid for rank in bed.store.jobs.job(job.id).ranks):
        await bed.tick()
    pid = bed.store.jobs.job(job.id).ranks[1].pid
    bed.nodes["b"].silent = True
    await bed.until(job, JobState.UNKNOWN)
    builders.cancel(bed.store, job.id, Wish.ABANDON)
    ended = await bed.until(job, JobState.CANCELLED)
    planned = next_attempt(ended, bed.store.jobs.spec(job.id), SCRIPT, None, {}, "a")
    bed.store.jobs.reopen(planned.job, planned.spec, "")
    assert bed.store.cleanup.leftovers() == {(job.id, 1): ("b",)}
    bed.nodes["b"].silent = False
    resumed = await bed.until(job, JobState.RUNNING)
    assert resumed.nodes == ("a",) and not bed.store.cleanup.leftovers()
    assert not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text()
    assert bed.store.jobs.job(job.id).state == JobState.RUNNING
    builders.cancel(bed.store, job.id)
    await bed.until(job, JobState.CANCELLED)


# The decision


def job(state: JobState = JobState.FAILED, **fields: object) -> Job:
    return builders.job(state, **fields)


CHECKPOINT = Checkpoint(
    step=5, kind="torch", name="c-5.pt", bytes=1, saved_at=1.0, places=(Place(node="a", path="/c"),)
)


def test_only_a_job_that_ended_is_resumed() -> None:
    with pytest.raises(InputError, match="has not ended: it is running"):
        next_attempt(job(JobState.RUNNING), JobSpec(script="t.py"), "", None, {})


def test_the_next_attempt_is_queued_as_if_new_and_remembers() -> None:
    before = job(attempt=2, ended_at=9.0, reason="broke", resume_from=CHECKPOINT, past=(), abandoned=("b",))
    spec = JobSpec(script="t.py", hold=True, after=("job-000",), not_before=5.0, nodes=("a", "b"))
    made = next_attempt(before, spec, "UGRO_RESUME_FROM", CHECKPOINT, {}, "1")
    assert (made.job.state, made.job.attempt, made.job.ended_at, made.job.abandoned) == (JobState.QUEUED, 3, None, ())
    assert made.job.past == (
        Attempt(
            attempt=2,
            state=JobState.FAILED,
            started_at=None,
            ended_at=9.0,
            placement=None,
            code=before.code,
            reason="broke",
            step=5,
        ),
    )
    assert (made.spec.hold, made.spec.after, made.spec.not_before, made.spec.nodes) == (False, (), None, 1)
    assert [change.text for change in made.changes] == ["--nodes a,b → 1"]


@pytest.mark.parametrize(
    ("nodes", "refused"),
    [("a,b", False), (None, False), ("a", True), ("1", True), ("3", True), ("2", False), ("a,c", False)],
)
def test_as_many_ranks_go_on_as_have_a_part_of_their_own(nodes: str | None, refused: bool) -> None:
    shares = tuple(NodeShare(node=name, node_rank=rank, first_rank=rank, nproc=1) for rank, name in enumerate("ab"))
    before, spec = job(placement=Placement(shares=shares)), JobSpec(script="t.py", nodes=("a", "b"))
    of_two = CHECKPOINT.model_copy(update={"ranks": 2, "kind": "ranks", "name": "c-{rank}.pt"})
    with pytest.raises(InputError, match="has the parts of 2 ranks") if refused else contextlib.nullcontext():
        assert next_attempt(before, spec, "UGRO_RESUME_FROM", of_two, {}, nodes).job.resume_from == of_two


@pytest.mark.parametrize(
    ("script", "declared", "words"),
    [
        ("os.environ['UGRO_RESUME_FROM']", "", ""),
        ("add('--resume-from-checkpoint')", "", "--resume-from-checkpoint {path}"),
        ("HfArgumentParser(TrainingArguments)", "", "--resume_from_checkpoint {path}"),
        ("LightningCLI(Model)", "", "--ckpt_path {path}"),
        ("nothing", "-r {path}", "-r {path}"),
    ],
)
def test_how_a_script_is_told(script: str, declared: str, words: str) -> None:
    assert words_for(JobSpec(script="t.py", checkpoints=CheckpointRules(resume=declared)), script) == words


def test_a_script_that_shows_no_way_is_asked_for_one() -> None:
    with pytest.raises(InputError, match="does not show how it resumes") as refusal:
        words_for(JobSpec(script="t.py"), "add('--resume')")
    assert "--resume-with" in refusal.value.hint


def test_where_checkpoints_are_looked_for() -> None:
    spec = JobSpec(
        script="t.py", args=("--output_dir", "out", "--lr", "1", "--ckpt-dir=/data", "--log_dir", "~/l", "-o")
    )
    assert roots(spec, "/code") == ["/code", "/code/out", "/data", "~/l"]
    assert roots(JobSpec(script="t.py", checkpoints="ck"), "/code") == ["/code/ck"]


def test_which_kept_checkpoints_stay() -> None:
    spec = JobSpec(script="t.py", checkpoints=CheckpointRules(keep_last=2, keep_every=100))
    kept = [CHECKPOINT.model_copy(update={"step": step}) for step in (50, 100, 150, 200, 250, 300)]
    assert [one.step for one in outdated(kept, spec)] == [50, 150]
    earlier = [CHECKPOINT.model_copy(update={"step": step, "attempt": 1}) for step in (350, 450)]
    later = [CHECKPOINT.model_copy(update={"step": step, "attempt": 2}) for step in (250, 350)]
    assert outdated([*earlier, *later], spec) == earlier, "the last ones are those of the latest attempt"


async def test_copies_that_the_rules_do_not_keep_go_when_another_comes(bed: KeptBed) -> None:
    job = await failed(bed, checkpoints=CheckpointRules(keep_last=1))
    store = CheckpointStore(bed.store, bed.inventory, bed.pool)
    checkpoint = await found(bed, job)
    for step in (60, 70, 50):
        await store.bring(job, checkpoint.model_copy(update={"step": step}))
    assert list(store.kept(job)) == ["50-attempt-1", "70-attempt-1"], "the one that was just asked for stays"
    names = [path.name for path in bed.store.jobs.files(job.id).checkpoints.iterdir()]
    assert sorted(names) == ["50-attempt-1", "50-attempt-1.json", "70-attempt-1", "70-attempt-1.json"]


# With other code

BROKEN = """\
import os, sys, zipfile
if os.environ["RANK"] == "0":
    os.makedirs("out", exist_ok=True)
    with zipfile.ZipFile("out/checkpoint-70.pt", "w") as file:
        file.writestr("archive/data.pkl", "x" * 1000)
import old
raise ValueError("a mistake")
"""
MENDED = """\
import os, zipfile
import new
path = os.environ["UGRO_RESUME_FROM"]
with open(f"{os.environ['HOME']}/resumed-{os.environ['RANK']}-{os.environ['UGRO_ATTEMPT']}", "w") as said:
    print(path, zipfile.is_zipfile(path), new.WORD, os.path.exists("old.py"), sep="\\n", file=said)
"""


async def broken(bed: KeptBed, **fields: object) -> Job:
    """A job that failed by a mistake in its script, and a project where that is corrected."""
    (bed.project / "old.py").write_text("")
    job = await bed.failed(BROKEN, **fields)
    (bed.project / "old.py").unlink()
    (bed.project / "t.py").write_text(MENDED)
    (bed.project / "new.py").write_text("WORD = 'mended'")
    return job


def reopened_with_new_code(bed: KeptBed, job: Job, checkpoint: Checkpoint | None) -> Job:
    spec = bed.store.jobs.spec(job.id)
    with new_code(bed.store, job, spec, choose_new_code(job.code.directory, spec)) as code:
        assert code.script == (bed.project / "t.py").read_text()
        planned = next_attempt(job, spec, code.script, checkpoint, {})
        return bed.store.jobs.reopen(adopt(bed.store, planned.job, code), planned.spec, "new code")


def on_node(bed: KeptBed, node: str, job: str = "job-001") -> dict[str, bytes]:
    code = tree(bed.home / node / "jobs" / job / "code")
    return {name: found[0] for name, found in code.items() if ".pyc" not in name}


async def test_a_mended_script_goes_on_from_the_checkpoint(bed: KeptBed) -> None:
    job = await broken(bed)
    again = reopened_with_new_code(bed, job, await found(bed, job))
    assert script_of(bed.store, again) == MENDED
    assert "mistake" in script_of(bed.store, again.as_of(1)), "what the first attempt ran is known as long as the job"
    ended = await bed.until(job, JobState.SUCCEEDED)
    assert said(bed, 0)[1:] == said(bed, 1)[1:] == ["True", "mended", "False"]
    assert said(bed, 0)[0] == str(bed.home / "a/jobs/job-001/code/out/checkpoint-70.pt")
    assert set(on_node(bed, "a")) == {"t.py", "new.py", "out/checkpoint-70.pt"}
    assert set(on_node(bed, "b")) == {"t.py", "new.py"}
    [first] = ended.past
    digests = [first.code.digest, ended.code.digest]
    assert None not in digests and digests[0] != digests[1]
    assert (first.code.attempt, ended.code.attempt) == (1, 2)
    for node in ("a", "b"):
        assert (bed.home / node / "jobs/job-001/code.sha256").read_text().strip() == ended.code.digest


@pytest.mark.long
async def test_an_attempt_after_that_has_the_same_code_unless_it_is_asked_for_other(bed: KeptBed) -> None:
    job = await broken(bed)
    (bed.project / "new.py").write_text("raise RuntimeError('not mended yet')")
    reopened_with_new_code(bed, job, None)
    job = await bed.until(job, JobState.FAILED)
    (bed.project / "new.py").write_text("WORD = 'at last'")
    planned = next_attempt(job, bed.store.jobs.spec(job.id), MENDED, None, {})
    bed.store.jobs.reopen(planned.job, planned.spec, "")
    job = await bed.until(job, JobState.FAILED)
    assert [past.code.attempt for past in job.past] == [1, 2] and job.code.attempt == 2
    with pytest.raises(InputError, match="no checkpoint is from the latest attempt") as refusal:
        await found(bed, job)  # it began from nothing
    assert "other branches have step 70 (attempt 1); choose one with --from STEP" in refusal.value.hint
    checkpoint = await found(bed, job, 70)
    reopened_with_new_code(bed, job, checkpoint)
    job = await bed.until(job, JobState.SUCCEEDED)
    assert [past.code.attempt for past in job.past] == [1, 2, 2] and job.code.attempt == 4
    assert said(bed, 1, 4)[2] == "at last"


@pytest.mark.long
async def test_a_node_that_missed_new_code_gets_it_when_it_is_launched_on_and_a_new_one_just_has_it(
    bed: KeptBed,
) -> None:
    job = await broken(bed, nodes=("a",))
    (bed.project / "new.py").write_text("raise RuntimeError('not mended yet')")
    spec = bed.store.jobs.spec(job.id)
    with new_code(bed.store, job, spec, choose_new_code(job.code.directory, spec)) as code:
        planned = next_attempt(job, spec, code.script, None, {}, "b")
        bed.store.jobs.reopen(adopt(bed.store, planned.job, code), planned.spec, "")
    job = await bed.until(job, JobState.FAILED)
    assert job.nodes == ("b",) and "old.py" in on_node(bed, "a") and set(on_node(bed, "b")) == {"t.py", "new.py"}
    (bed.project / "new.py").write_text("WORD = 'at last'")
    spec = bed.store.jobs.spec(job.id)
    with new_code(bed.store, job, spec, choose_new_code(job.code.directory, spec)) as code:
        planned = next_attempt(job, spec, code.script, await found(bed, job, 70), {}, "a,b")
        bed.store.jobs.reopen(adopt(bed.store, planned.job, code), planned.spec, "")
    job = await bed.until(job, JobState.SUCCEEDED)
    assert set(on_node(bed, "a")) == {"t.py", "new.py", "out/checkpoint-70.pt"}
    assert said(bed, 0, 3)[1:] == said(bed, 1, 3)[1:] == ["True", "at last", "False"]


async def test_a_resumption_with_new_code_that_is_killed_before_its_record_changed_nothing(
    bed: KeptBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await broken(bed)
    checkpoint = await found(bed, job)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(bed.store.jobs, "reopen", Mock(side_effect=RuntimeError))
        reopened_with_new_code(bed, job, checkpoint)
    assert bed.store.jobs.job(job.id) == job and "mistake" in script_of(bed.store, job)
    assert not list(bed.store.jobs.files(job.id).folder.glob(".tmp-*"))
    (bed.project / "new.py").write_text("WORD = 'mended once more'")
    reopened_with_new_code(bed, job, checkpoint)
    await bed.until(job, JobState.SUCCEEDED)
    assert said(bed, 1)[2] == "mended once more"


async def test_a_conflict_is_refused_before_anything_changes_and_at_the_launch_too(bed: KeptBed) -> None:
    job = await broken(bed)
    plant(bed.project, {"out/checkpoint-70.pt": "of the person"})
    spec, there = bed.store.jobs.spec(job.id), on_node(bed, "a")
    with new_code(bed.store, job, spec, choose_new_code(job.code.directory, spec)) as code:
        with pytest.raises(InputError, match=r"^a: the job wrote files .*: out/checkpoint-70\.pt$"):
            await require_room(bed.store, bed.pool, bed.inventory.nodes, job, code)
        bed.nodes["a"].silent = True
        await require_room(bed.store, bed.pool, bed.inventory.nodes, job, code)
    bed.nodes["a"].silent = False
    reopened_with_new_code(bed, job, None)
    ended = await bed.until(job, JobState.FAILED)
    assert ended.first_failure and "out/checkpoint-70.pt" in ended.first_failure.message
    assert on_node(bed, "a") == there, "a node that was silent before refuses at the launch, and loses nothing"


@pytest.mark.parametrize("gone", ["t.py", "."])
async def test_without_the_script_or_its_directory_there_is_no_new_code(bed: KeptBed, gone: str) -> None:
    job = await broken(bed)
    shutil.rmtree(bed.project) if gone == "." else (bed.project / gone).unlink()
    with pytest.raises(InputError, match=r"is not there|there is no script 't\.py'") as refusal:
        choose_new_code(job.code.directory, bed.store.jobs.spec(job.id))
    assert "without --new-code" in refusal.value.hint


async def test_an_ignored_script_is_no_new_code(bed: KeptBed) -> None:
    job = await broken(bed)
    (bed.project / ".ugroignore").write_text("t.py\n")
    with pytest.raises(InputError, match=r"t\.py is ignored"):
        choose_new_code(job.code.directory, bed.store.jobs.spec(job.id))


async def test_new_code_is_of_the_jobs_directory_wherever_somebody_stands(
    bed: KeptBed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(bed.project)
    (bed.project / "t.py").write_text(BROKEN)
    spec = JobSpec(script="t.py")
    job = submit(bed.store, spec, choose_code(spec))
    monkeypatch.chdir(tmp_path)
    assert list(choose_new_code(job.code.directory, bed.store.jobs.spec(job.id)).files) == ["t.py"]


class Killed(BaseException):
    """The end of a controller: nothing catches it."""


def dying_after(steps: int, ran: list[list[str]]) -> Callable[..., Awaitable[Outcome]]:
    """`Silencing.run` of a controller that ends before one more script is run; `ran` gets what was run, in short."""
    run = Silencing.run

    async def dying(node: Silencing, script: str, args: Sequence[str] = (), **options: Any) -> Outcome:
        ran.append([word for word in args if len(word) < 20])
        if len(ran) > steps:
            raise Killed
        return await run(node, script, args, **options)

    return dying


@pytest.mark.long
async def test_a_controller_that_is_killed_anywhere_is_carried_on_to_the_new_code(
    bed: KeptBed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = await broken(bed)
    reopened_with_new_code(bed, job, await found(bed, job))
    before = shutil.copytree(bed.home, tmp_path / "before", symlinks=True)
    for step in range(0, 60, STRIDE):
        shutil.rmtree(bed.home)
        shutil.copytree(before, bed.home, symlinks=True)
        bed.store = MetadataStore(bed.store.home)
        ran: list[list[str]] = []
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            patched.setattr(Silencing, "run", dying_after(step, ran))
            await bed.tick()
        ended = await bed.until(job, JobState.SUCCEEDED, JobState.FAILED)
        at = f"killed at step {step} of {ran}"
        assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2), f"{at}: {ended.reason}"
        assert said(bed, 0)[1:] == said(bed, 1)[1:] == ["True", "mended", "False"], at
        assert set(on_node(bed, "a", job.id)) == {"t.py", "new.py", "out/checkpoint-70.pt"}, at
        assert set(on_node(bed, "b", job.id)) == {"t.py", "new.py"}, at
        if len(ran) <= step:
            assert step > 10
            return
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize(
    ("cause", "anew", "command"),
    [
        ("python_exception", False, "ugro resume job-001 --new-code"),
        ("import_error", True, "ugro resume job-001 --from 0 --new-code"),
        ("bad_arguments", False, "ugro resume job-001 --new-code"),
        ("peer_lost", False, "ugro resume job-001"),
        (None, True, "ugro resume job-001 --from 0"),
    ],
)
def test_the_command_to_go_on_works_as_it_is_told(cause: str | None, anew: bool, command: str) -> None:
    assert resume_command(job(), (), cause, anew) == command
