"""Earlier attempts of a job stay within reach: their logs, why they failed, where they ran, and from where."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from ugro.common.errors import InputError
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Attempt, Job, NodeShare, Placement, Rank
from ugro.common.models.job_state import JobState
from ugro.common.models.place import Place
from ugro.control_plane.failure_handler.recovery.next_attempt import next_attempt
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.scheduler.attempts import attempts, in_attempt, missing_logs, next_after
from ugro.service.words import begins
from ugro.testing.cluster import Master

FAILURE = FirstFailure(rank=1, node="here", exit_code=1, cause="python_exception", message="ValueError: no batch")
CHECKPOINT = Checkpoint(
    step=20, kind="torch", name="c-20.pt", bytes=1, saved_at=1.0, places=(Place(node="here", path="/c"),), attempt=1
)
BAR = b"\r 10%|#    | 10/100\r 11%|#    | 11/100\r 12"


def placed(store: MetadataStore, job: Job, why: str) -> Job:
    """The job as it runs with two ranks on the node, and the events of that."""
    placement = Placement(shares=(NodeShare(node="here", node_rank=0, first_rank=0, nproc=2),))
    job = store.jobs.save(
        job.model_copy(update={"placement": placement, "state": JobState.STARTING, "reason": ""}), "starting", why
    )
    job = store.jobs.save(job, "placed", "ranks meet at 127.0.0.1:29500 on here")
    return store.jobs.save(job.model_copy(update={"state": JobState.RUNNING, "started_at": time.time()}), "running", "")


def failed(store: MetadataStore, job: Job) -> Job:
    ranks = tuple(Rank(rank=rank, local_rank=rank, node="here", exit_code=1) for rank in range(2))
    over = {"state": JobState.FAILED, "ended_at": time.time(), "first_failure": FAILURE, "ranks": ranks}
    return store.jobs.save(
        job.model_copy(update=over | {"reason": "rank 1 on here failed first"}), "failed", "it failed"
    )


def twice_failed(master: Master) -> MetadataStore:
    """job-001, whose first attempt failed, and whose second, from step 20, failed just so."""
    master.ugro("launch", "t.py", "--hold")
    store = MetadataStore(master.home)
    first = failed(store, placed(store, store.jobs.job("job-001"), "on here: its turn"))
    script = "UGRO_RESUME_FROM"
    planned = next_attempt(first, store.jobs.spec(first.id), script, CHECKPOINT, {}, time_limit=4 * 3600.0)
    again = store.jobs.reopen(planned.job, planned.spec, "from c-20.pt (step 20)")
    failed(store, placed(store, again, "on here: its turn"))
    return store


def leave(master: Master, attempt: int, rank: int, text: bytes) -> Path:
    """What a rank printed, on its node."""
    folder = master.root / "node" / "jobs" / "job-001" / str(attempt) / "node-0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank-{rank}.log").write_bytes(text)
    return folder


def test_the_logs_of_an_earlier_attempt_come_from_where_they_are_still(master: Master) -> None:
    store = twice_failed(master)
    for attempt in (1, 2):
        leave(master, attempt, 0, b"attempt %d\n" % attempt + BAR)
        leave(master, attempt, 1, b"ValueError: no batch\n")
    assert "attempt 2" in master.ugro("logs", "job-001").stdout
    first = master.ugro("logs", "job-001", "--attempt", "1")
    assert first.stdout.splitlines() == [
        "[rank 0] attempt 1", "[rank 1] ValueError: no batch", "[rank 0]  12%|#    | 11/100",
    ]  # fmt: skip
    assert first.stderr == ""
    shutil.rmtree(master.root / "node")
    assert master.ugro("logs", "job-001", "--attempt", "1").stdout == first.stdout, "a copy stays"
    assert master.json("logs", "job-001", "--attempt", "1", "--rank", "1") == [
        {"rank": 1, "node_rank": None, "text": "ValueError: no batch", "setup": False}
    ]
    shutil.rmtree(store.jobs.files("job-001").logs(1))
    gone = master.ugro("logs", "job-001", "--attempt", "1")
    assert (gone.stdout, gone.stderr) == (
        "", "this machine has no logs of attempt 1 of job-001; here has none\n",
    )  # fmt: skip


def test_an_attempt_that_is_none_is_refused_with_those_there_are(master: Master) -> None:
    twice_failed(master)
    for command in ("logs", "explain"):
        refused = master.ugro(command, "job-001", "--attempt", "3", code=2).stderr
        assert refused == "error: job-001 has no attempt 3\nnext:  its attempts are 1 and 2\n"
        assert "at least 1" in master.ugro(command, "job-001", "--attempt", "0", code=2).stderr
    followed = master.ugro("logs", "-f", "job-001", "--attempt", "1", code=2).stderr
    assert followed.startswith("error: attempt 1 of job-001 is over")
    master.ugro("launch", "t.py", "--hold")
    assert "it has attempt 1 alone" in master.ugro("logs", "job-002", "--attempt", "2", code=2).stderr
    assert "its ranks are 0 to 1" in master.ugro("logs", "job-001", "--attempt", "1", "--rank", "2", code=2).stderr


def test_an_earlier_attempt_is_explained(master: Master) -> None:
    twice_failed(master)
    trace = b'Traceback (most recent call last):\n  File "t.py", line 7, in <module>\nValueError: no batch\n'
    leave(master, 1, 1, b"step 12/100\n" + trace)
    found = master.json("explain", "job-001", "--attempt", "1")
    assert (found["attempt"], found["cause"], found["rank"], found["node"]) == (1, "python_exception", 1, "here")
    assert (found["where"], found["step"], found["consequences"]) == ("t.py:7", 12, 1)
    assert found["next_attempt"] == {
        "attempt": 2, "state": "failed", "step": 20, "epoch": None, "from": "step 20 of attempt 1",
    }  # fmt: skip
    assert (found["resume"], found["lost_seconds"]) == (None, None), "nobody resumes from there any more"
    told = master.ugro("explain", "job-001", "--attempt", "1").stdout
    assert told.startswith("job-001, attempt 1 (failed): ")
    assert told.endswith("then:   attempt 2 from step 20 of attempt 1: failed\n")
    latest = master.json("explain", "job-001")
    assert (latest["attempt"], latest["next_attempt"]) == (2, None) and latest["resume"]


def test_status_tells_of_all_attempts(master: Master) -> None:
    twice_failed(master)
    shown = master.ugro("status", "job-001").stdout.splitlines()
    [at] = [number for number, line in enumerate(shown) if line.startswith("ATTEMPT")]
    assert [line.split()[:2] for line in shown[at + 1 : at + 3]] == [["1", "failed"], ["2", "failed"]]
    assert "the beginning" in shown[at + 1] and "step 20 of attempt 1" in shown[at + 2]
    job = master.json("status", "job-001")
    assert [(one["attempt"], one["nodes"], one["step"], one["source"]) for one in job["attempts"]] == [
        (1, ["here"], None, None), (2, ["here"], 20, 1),
    ]  # fmt: skip
    assert job["attempts"][0]["first_failure"] == vars(FAILURE)
    assert job["past"][0]["cause"] == "python_exception" and job["time_limit"] == 4 * 3600


def test_why_tells_of_the_latest_attempt_alone(master: Master) -> None:
    twice_failed(master)
    assert master.json("why", "job-001")["reasons"] == [
        "on here: its turn", "ranks meet at 127.0.0.1:29500 on here", "rank 1 on here failed first",
    ]  # fmt: skip


def test_an_attempt_that_an_earlier_ugro_wrote_down_has_its_cause(master: Master) -> None:
    """Of what failed it kept the cause and the words."""
    store = twice_failed(master)
    job = store.jobs.job("job-001")
    old = job.past[0].model_copy(update={"first_failure": None, "followed": 0})
    job = store.jobs.save(job.model_copy(update={"past": (old,)}), "test", "")
    assert in_attempt(job, 1).first_failure == FirstFailure(
        rank=None, node="", cause="python_exception", message="rank 1 on here failed first"
    )
    found = master.json("explain", "job-001", "--attempt", "1")
    assert (found["cause"], found["rank"], found["node"]) == ("python_exception", None, None)
    assert found["evidence"] == ["rank 1 on here failed first"]


def test_attempts_in_order(master: Master) -> None:
    job = twice_failed(master).jobs.job("job-001")
    assert [one.attempt for one in attempts(job)] == [1, 2] and attempts(job)[1] == job.latest
    assert in_attempt(job, None) == in_attempt(job, 2) == job
    first = in_attempt(job, 1)
    assert (first.attempt, first.past, first.resume_from, first.nodes) == (1, (), None, ("here",))
    assert [one and one.attempt for one in (next_after(job, 1), next_after(job, 2))] == [2, None]
    with pytest.raises(InputError):
        in_attempt(job, 3)
    epoch = Attempt.model_validate(job.latest.model_dump() | {"step": None, "epoch": 3, "source": None})
    assert [begins(one) for one in (job.past[0], job.latest, epoch)] == [
        "the beginning", "step 20 of attempt 1", "epoch 3",
    ]  # fmt: skip


def test_says_why_there_are_no_logs(master: Master) -> None:
    job = twice_failed(master).jobs.job("job-001")
    never = job.model_copy(update={"placement": None})
    assert missing_logs(never, [], []) == "attempt 2 of job-001 never ran, so it printed nothing"
    assert missing_logs(job, ["here"], []).endswith("; here is no longer in the inventory")
    assert missing_logs(job, [], ["here"]).endswith("; here cannot be reached")


def test_numbered_lines_of_all_ranks(master: Master) -> None:
    twice_failed(master)
    for rank in range(2):
        leave(master, 2, rank, b"".join(b"line %d of rank %d\n" % (n, rank) for n in range(1, 2502)) + b"x" * 9000)
    shown = master.ugro("logs", "job-001", "--since-line", "2501").stdout.splitlines()
    cut = f"2502: {'x' * 8192} … (808 B after this)"
    assert shown == [
        line for rank in range(2) for line in (f"[rank {rank}] 2501: line 2501 of rank {rank}", f"[rank {rank}] {cut}")
    ]
    assert len(master.ugro("logs", "job-001", "--since-line", "1", "--rank", "1").stdout.splitlines()) == 2502
    hits = master.ugro("logs", "job-001", "--grep", "ne 250", "--since-line", "2500").stdout.splitlines()
    assert hits == [f"[rank {rank}] {n}: line {n} of rank {rank}" for rank in range(2) for n in (2500, 2501)]
    assert len(master.ugro("logs", "job-001", "--grep", "of rank").stdout.splitlines()) == 5002
    [hit] = master.json("logs", "job-001", "--grep", "^line (7|9999) ", "--regex", "--rank", "0")
    assert (hit["rank"], hit["number"], hit["text"]) == (0, 7, "line 7 of rank 0")
    assert master.ugro("logs", "job-001", "--grep", "nowhere").stdout == ""
    assert master.json("logs", "job-001", "--since-line", "9999") == []


def test_options_that_make_no_numbered_lines(master: Master) -> None:
    twice_failed(master)
    for option in (["-f"], ["--tail", "3"], ["--torchrun"]):
        refused = master.ugro("logs", "job-001", "--grep", "x", *option, code=2).stderr
        assert "show numbered lines and cannot be combined with --" in refused
    assert "add --grep TEXT" in master.ugro("logs", "job-001", "--regex", code=2).stderr
    assert "no output of rank 1" in master.ugro("logs", "job-001", "--grep", "x").stderr
    leave(master, 2, 0, b"something\n")
    assert "is no regular expression" in master.ugro("logs", "job-001", "--regex", "--grep", "(", code=2).stderr
    assert "at most 1000 characters" in master.ugro("logs", "job-001", "--grep", "x" * 1001, code=2).stderr
