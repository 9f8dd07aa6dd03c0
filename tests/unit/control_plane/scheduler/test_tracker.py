"""The verdict on a job, from what the nodes' files say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ugro.common.config import NodeConfig
from ugro.common.errors import NodeError, Unreachable
from ugro.common.job_spec import agent_of
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.gpu import GpuProcess
from ugro.common.models.job import Job, NodeShare, Placement
from ugro.common.models.job_state import JobState, RankState
from ugro.common.models.node import NodeView
from ugro.common.models.run import Effort, RankFiles, RunFiles
from ugro.control_plane.failure_handler.blame import LATE_LEAVER_PATIENCE, Inquiry, is_symptom, node_addresses
from ugro.control_plane.scheduler.tracker import (
    Phase,
    Runs,
    assess,
    expected_ranks,
    gpu_holders,
    lost_first,
    news_of_ranks,
)
from ugro.testing import builders

NODES = ("gpu-master", "gpu1", "gpu2")
UP = RunFiles(node_time=100.0, claimed=True, uid="u", runner_alive=True)
UNREAD = Unreachable("gpu2", "does not answer")
OVER = replace(UP, runner_alive=False, exit_code=1)


def job(state: JobState = JobState.RUNNING) -> Job:
    shares = tuple(
        NodeShare(node=node, node_rank=rank, first_rank=rank, nproc=1, gpus=(f"GPU-{rank}",))
        for rank, node in enumerate(NODES)
    )
    made = builders.job(state, placement=Placement(shares=shares))
    return made.model_copy(update={"ranks": expected_ranks(made)})


def rank(
    number: int, code: int | None = None, signal: str | None = None, at: float = 90.0, alive: bool = False
) -> RankFiles:
    ended = code is not None or signal is not None
    return RankFiles(number, 1000 + number, alive, code, signal, at if ended else None)


def runs(*files: RunFiles | NodeError) -> dict[str, RunFiles | NodeError]:
    return dict(zip(NODES, files, strict=True))


def running(number: int) -> RunFiles:
    return replace(UP, ranks=(rank(number, alive=True),))


def done(number: int, code: int = 0, exit_code: int = 0) -> RunFiles:
    return replace(UP, runner_alive=False, exit_code=exit_code, ranks=(rank(number, code),))


def test_all_ranks_run() -> None:
    found = assess(job(), runs(running(0), running(1), running(2)))
    assert found.phase == Phase.RUNNING
    assert [(r.rank, r.node, r.pid, r.gpu, r.state) for r in found.ranks] == [
        (n, NODES[n], 1000 + n, f"GPU-{n}", RankState.RUNNING) for n in range(3)
    ]


def test_ranks_that_have_not_begun_are_pending() -> None:
    found = assess(job(), runs(UP, running(1), UP))
    assert found.phase == Phase.RUNNING
    assert [r.state for r in found.ranks] == [RankState.PENDING, RankState.RUNNING, RankState.PENDING]


def test_success_is_when_every_rank_ended_well() -> None:
    assert assess(job(), runs(done(0), done(1), done(2))).phase == Phase.SUCCEEDED
    assert assess(job(), runs(done(0), done(1), running(2))).phase == Phase.RUNNING


def test_an_agent_that_failed_in_its_exit_barrier_does_not_spoil_success() -> None:
    assert assess(job(), runs(done(0), done(1, exit_code=1), done(2))).phase == Phase.SUCCEEDED


def test_an_agent_that_hangs_in_its_exit_barrier_is_waited_for_a_little() -> None:
    hanging = replace(UP, ranks=(rank(2, 0, at=90.0),))
    found = assess(job(), runs(done(0), done(1), hanging))
    assert (found.phase, found.reason) == (Phase.RUNNING, "torchrun is leaving on gpu2")
    assert assess(job(), runs(done(0), done(1), replace(hanging, node_time=106.0))).phase == Phase.SUCCEEDED


@pytest.mark.parametrize(
    "bad",
    [
        done(1, code=3, exit_code=1),
        replace(UP, ranks=(rank(1, signal="KILL"),)),
        replace(OVER, ranks=(rank(1),)),
        replace(OVER, ranks=()),
        replace(OVER, exit_code=None, rebooted=True, ranks=(rank(1),)),
        RunFiles(node_time=100.0),
        replace(OVER, exit_code=None, ranks=(rank(1, alive=True),)),
    ],
)
def test_one_bad_rank_fails_the_job(bad: RunFiles) -> None:
    assert assess(job(), runs(running(0), bad, running(2))).phase == Phase.FAILED


def test_between_the_end_of_a_script_and_its_exit_file_a_rank_is_not_lost() -> None:
    assert assess(job(), runs(running(0), replace(UP, ranks=(rank(1),)), running(2))).phase == Phase.RUNNING


def test_unreachable_is_not_dead() -> None:
    silent = Unreachable("gpu2", "does not answer")
    found = assess(job(), runs(running(0), done(1, code=1, exit_code=1), silent))
    assert found.phase == Phase.UNKNOWN and "gpu2: does not answer" in found.reason
    assert found.ranks[2] == job().ranks[2], "what is not read stays as it was known"


def test_a_silent_node_whose_ranks_had_ended_well_does_not_matter() -> None:
    known = assess(job(), runs(running(0), running(1), done(2)))
    later = job().model_copy(update={"ranks": known.ranks})
    assert assess(later, runs(done(0), done(1), Unreachable("gpu2", "gone"))).phase == Phase.SUCCEEDED


def inquiry(seen: Runs, logs: dict[int, str] | None = None, **known: object) -> Inquiry:
    ranks = assess(job(), seen).ranks
    plain = Inquiry(ranks, seen, {}, lambda r: (logs or {}).get(r, ""), lambda _: "")
    return replace(plain, **known)  # type: ignore[arg-type]


def failure(
    seen: Runs, logs: dict[int, str] | None = None, offsets: dict[str, float] | None = None, node: str = ""
) -> FirstFailure:
    return inquiry(seen, logs, clock_offsets=offsets or {}, node_log=lambda _: node).first()


def test_the_first_failure_is_not_a_rank_that_was_taken_down() -> None:
    seen = runs(
        replace(OVER, ranks=(rank(0, 1, at=90.0),)),
        replace(OVER, ranks=(rank(1, 3, at=91.0),)),
        replace(OVER, ranks=(rank(2, signal="TERM", at=89.0),)),
    )
    lost = (
        "Traceback (most recent call last):\n  x\nRuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]\n"
    )
    found = failure(seen, {0: lost, 1: "bye\n"})
    assert (found.rank, found.node, found.exit_code, found.signal) == (1, "gpu1", 3, None)


def test_among_equals_the_earlier_end_counts_with_clocks_corrected() -> None:
    seen = runs(running(0), replace(OVER, ranks=(rank(1, 1, at=90.0),)), replace(OVER, ranks=(rank(2, 1, at=95.0),)))
    assert failure(seen).rank == 1
    assert failure(seen, offsets={"gpu2": 60.0}).rank == 2


def test_a_killed_rank_is_told_with_its_signal() -> None:
    found = failure(runs(running(0), replace(UP, ranks=(rank(1, signal="KILL"),)), running(2)))
    assert (found.rank, found.signal, found.cause) == (1, "KILL", "killed")


def test_a_rank_that_vanished_goes_before_those_that_miss_it() -> None:
    lost = "RuntimeError: Connection reset by peer\n"
    seen = runs(replace(OVER, ranks=(rank(0, 1),)), replace(OVER, exit_code=None, ranks=(rank(1),)), running(2))
    found = failure(seen, {0: lost})
    assert (found.rank, found.node, found.cause) == (1, "gpu1", "killed")


def test_a_reboot_is_named() -> None:
    seen = runs(running(0), running(1), replace(OVER, exit_code=None, rebooted=True, ranks=(rank(2),)))
    assert failure(seen).cause == "node_rebooted"


def test_torchrun_that_failed_before_its_ranks_began_is_told_from_its_own_log() -> None:
    said = "DistNetworkError: The server socket has failed to listen. name: EADDRINUSE,: address already in use\n"
    found = failure(runs(OVER, UP, UP), node=said)
    assert (found.rank, found.node, found.cause) == (None, "gpu-master", "port_in_use")


def test_a_gpu_is_free_when_the_driver_shows_no_rank_on_it() -> None:
    placed = job().model_copy(update={"ranks": assess(job(), runs(running(0), running(1), running(2))).ranks})

    def view(node: str, uuid: str, pid: int) -> NodeView:
        return builders.node_view(node, builders.gpu(uuid=uuid, processes=(GpuProcess(pid=pid, name="python"),)))

    views = {"gpu-master": view("gpu-master", "GPU-0", 1000), "gpu1": view("gpu1", "GPU-1", 5), "gpu2": UNREAD}
    assert gpu_holders(placed, views) == ["gpu-master: RTX is still held by pid 1000"]
    assert gpu_holders(placed, {"gpu-master": view("gpu-master", "GPU-other", 1000)}) == []


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ([{}, {}, {}], ""),
        ([{"pid": 7, "state": "running"}] * 3, "3 ranks started"),
        ([{"state": "running"}, {}, {}], "rank 0 on gpu-master started"),
        (
            [{"state": "succeeded", "exit_code": 0}, {"state": "running"}, {"state": "running"}],
            "rank 0 on gpu-master ended with exit 0; 2 ranks started",
        ),
        (
            [{"state": "failed", "exit_code": 3}, {"state": "failed", "signal": "KILL"}, {"state": "lost"}],
            "rank 0 on gpu-master ended with exit 3; rank 1 on gpu1 ended by SIGKILL; "
            "rank 2 on gpu2 vanished without an exit code",
        ),
        (
            [{"limit": "warned"}, {"limit": "warned"}, {"limit": "unheard"}],
            "2 ranks got SIGUSR2 before the time limit; "
            "rank 2 on gpu2 got no SIGUSR2 before the time limit: none is caught",
        ),
    ],
)
def test_what_became_of_ranks_is_told_and_counted(now: list[dict[str, object]], said: str) -> None:
    before = expected_ranks(job())
    after = tuple(rank.model_validate(rank.model_dump() | new) for rank, new in zip(before, now, strict=True))
    assert news_of_ranks(before, after) == said


# --- who left --------------------------------------------------------------------------------------------------------

PEER_LOST = "RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]\n"
TIMEOUT = (
    "[rank0]: torch.distributed.DistBackendError: Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=78, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600096 milliseconds before timing out.\n"
)
KILLED_AGENT = replace(OVER, exit_code=137, exit_at=90.0)
REBOOTED = replace(OVER, exit_code=None, rebooted=True, ranks=(rank(1),))
TOLD_TO_END = replace(OVER, exit_at=91.0, ranks=(rank(1, signal="TERM", at=90.0),))


@pytest.mark.parametrize(
    ("left", "logs", "named"),
    [
        # torchrun, launch.sh or rank.py killed while the script lives on
        (replace(KILLED_AGENT, ranks=(rank(1, alive=True),)), {}, (None, "gpu1", 137, "KILL", "killed")),
        (replace(OVER, exit_code=None, ranks=(rank(1, alive=True),)), {}, (None, "gpu1", None, None, "killed")),
        (replace(OVER, exit_at=90.0, ranks=(rank(1, alive=True),)), {}, (1, "gpu1", None, None, "unknown")),
        # killed before any rank began, or with all its ranks
        (replace(KILLED_AGENT, ranks=()), {}, (None, "gpu1", 137, "KILL", "killed")),
        (replace(OVER, exit_code=None, ranks=(rank(1),)), {}, (1, "gpu1", None, None, "killed")),
        # the same, seen when the others have missed it already
        (replace(KILLED_AGENT, ranks=(rank(1, alive=True),)), {0: PEER_LOST}, (None, "gpu1", 137, "KILL", "killed")),
        (replace(OVER, exit_code=None, ranks=(rank(1),)), {0: PEER_LOST}, (1, "gpu1", None, None, "killed")),
        (replace(OVER, exit_code=None, ranks=(rank(1),)), {0: TIMEOUT}, (1, "gpu1", None, None, "killed")),
        (REBOOTED, {0: TIMEOUT}, (1, "gpu1", None, None, "node_rebooted")),
        # torchrun got a signal to end, and ended its rank
        (TOLD_TO_END, {0: PEER_LOST}, (None, "gpu1", 1, None, "killed")),
        # a rank that ends well, and too early
        (done(1), {0: PEER_LOST}, (1, "gpu1", 0, None, "peer_lost")),
        (done(1), {0: TIMEOUT}, (1, "gpu1", 0, None, "collective_timeout")),
        # a rank that ends with any other code before the others miss it
        (done(1, code=7, exit_code=1), {0: PEER_LOST}, (1, "gpu1", 7, None, "unknown")),
        (done(1, code=7, exit_code=1), {0: TIMEOUT}, (1, "gpu1", 7, None, "unknown")),
        # the same, and its node was rebooted before an observation
        (replace(done(1, code=7, exit_code=1), rebooted=True), {}, (1, "gpu1", 7, None, "unknown")),
        (replace(done(1, code=7, exit_code=1), rebooted=True), {0: PEER_LOST}, (1, "gpu1", 7, None, "unknown")),
    ],
)  # fmt: skip
def test_names_what_left_and_not_whom_it_took_down(
    left: RunFiles, logs: dict[int, str], named: tuple[int | None, str, int | None, str | None, str]
) -> None:
    victim = replace(OVER, exit_at=96.0, ranks=(rank(0, 1, at=95.0),)) if logs else running(0)
    found = failure(runs(victim, left, running(2)), logs)
    assert (found.rank, found.node, found.exit_code, found.signal, found.cause) == named


def test_a_reaper_that_was_killed_is_named_itself() -> None:
    found = failure(runs(running(0), replace(KILLED_AGENT, reaper_died=True, ranks=(rank(1, alive=True),)), running(2)))
    said = "reaper.py, which watches torchrun, was ended by SIGKILL (exit 137) while rank 1 still ran"
    assert (found.node, found.cause, found.message) == ("gpu1", "killed", said)


def test_a_rank_with_an_error_of_its_own_goes_before_a_launcher_that_is_killed_later() -> None:
    own = "Traceback (most recent call last):\n  x\nValueError: boom\n"
    seen = runs(
        replace(UP, ranks=(rank(0, 1, at=80.0),)), replace(KILLED_AGENT, ranks=(rank(1, alive=True),)), running(2)
    )
    assert failure(seen, {0: own}).rank == 0
    later = replace(UP, ranks=(rank(0, 1, at=99.0),))
    assert failure(seen | {"gpu-master": later}, {0: own}).node == "gpu1"


def test_a_launcher_that_ends_because_its_rank_failed_is_not_blamed() -> None:
    seen = runs(done(0, code=3, exit_code=1), replace(UP, ranks=(rank(1, alive=True),)), running(2))
    assert (failure(seen).rank, failure(seen).exit_code) == (0, 3)


def test_a_command_that_was_ended_from_outside_is_named_itself() -> None:
    """rank.py ends as its process did: that is no word of its own."""
    ended = replace(UP, runner_alive=False, exit_code=143, exit_at=91.0, ranks=(rank(0, signal="TERM", at=90.0),))
    seen = runs(ended, running(1), running(2))
    assert failure(seen).rank is None, "torchrun has an end of its own"
    found = replace(inquiry(seen), agent=agent_of("none")).first()
    assert (found.rank, found.node, found.signal) == (0, "gpu-master", "TERM")


def test_a_node_that_could_not_begin_goes_before_one_that_only_waited_for_it() -> None:
    logs = {
        "gpu-master": "DistStoreError: Timed out after 601 seconds waiting for clients. 1/3 clients joined.\n",
        "gpu1": "Traceback (most recent call last):\n  x\nModuleNotFoundError: No module named 'torch'\n",
        "gpu2": "",
    }
    seen = runs(replace(OVER, exit_at=700.0), replace(OVER, exit_at=95.0), UP)
    found = Inquiry(assess(job(), seen).ranks, seen, {}, lambda _: "", lambda node: logs[node]).first()
    assert (found.node, found.cause) == ("gpu1", "import_error")


STOPPED = Effort("T", 1.0, 0, 0)


@pytest.mark.parametrize(
    ("third", "state", "named"),
    [
        (running(2), STOPPED, (1, "gpu1")),
        (done(2, code=1, exit_code=1), STOPPED, (1, "gpu1")),
        (done(2, code=1, exit_code=1), None, (1, "gpu1")),
        (running(2), None, (0, "gpu-master")),
    ],
)
def test_the_rank_that_the_others_waited_for_is_named_if_it_can_be_told(
    third: RunFiles, state: Effort | None, named: tuple[int, str]
) -> None:
    waiting = replace(OVER, ranks=(rank(0, 1, at=95.0),))
    absent = replace(UP, ranks=(replace(rank(1, alive=True), effort=state),))
    found = failure(runs(waiting, absent, third), {0: TIMEOUT, 2: TIMEOUT})
    assert (found.rank, found.node) == named and found.cause == "collective_timeout"


# --- who left late ---------------------------------------------------------------------------------------------------

ADDRESSES = {"10.0.0.1": "gpu-master", "10.0.0.2": "gpu1", "10.0.0.3": "gpu2"}
OWN = "Traceback (most recent call last):\n  x\nValueError: bad batch\n"


def lost_to(address: str) -> str:
    return f"RuntimeError: [pair.cc:553] Connection closed by peer [{address}]:11926. This is typically caused by\n"


def victim(number: int, at: float = 90.0) -> RunFiles:
    return replace(OVER, exit_at=at + 1, ranks=(rank(number, 1, at=at),))


def ended(number: int, code: int | None = None, signal: str | None = None, at: float = 98.0) -> RunFiles:
    return replace(OVER, exit_at=at, exit_code=code or 0, ranks=(rank(number, code, signal, at=at),))


LEFT = "left its process group while rank 0"


@pytest.mark.parametrize(
    ("second", "third", "logs", "named"),
    [
        # one still runs
        (victim(1), running(2), {0: PEER_LOST, 1: PEER_LOST}, (2, "peer_lost", f"{LEFT}, 1 still needed it; ")),
        # two do, and an address, or the log of one of them, tells
        (running(1), running(2), {0: lost_to("10.0.0.3")}, (2, "peer_lost", f"{LEFT} still needed it; ")),
        (running(1), running(2), {0: PEER_LOST, 2: OWN}, (2, "python_exception", "ValueError: bad batch")),
        (running(1), running(2), {0: PEER_LOST}, (0, "peer_lost", "RuntimeError")),
        (running(1), running(2), {0: lost_to("10.0.0.33")}, (0, "peer_lost", "RuntimeError")),
        # it ended well, or badly, long after the others had missed it
        (victim(1), ended(2, 0), {0: PEER_LOST, 1: PEER_LOST}, (2, "peer_lost", f"{LEFT}, 1 still needed it and")),
        (running(1), ended(2, 0), {0: lost_to("10.0.0.3")}, (2, "peer_lost", f"{LEFT} still needed it and ended")),
        (victim(1), ended(2, 1), {0: PEER_LOST, 1: PEER_LOST, 2: OWN}, (2, "python_exception", "ValueError: bad")),
        # its torchrun ended it
        (victim(1), ended(2, signal="TERM"), {0: PEER_LOST, 1: PEER_LOST}, (2, "peer_lost", f"{LEFT}, 1 still")),
        # its process is gone, and what runs it is stopped
        (victim(1), replace(UP, ranks=(rank(2),)), {0: PEER_LOST, 1: PEER_LOST}, (2, "killed", "its process is gone")),
        # the first to miss a peer names one that was a victim itself: the third only waits
        (victim(1, at=95.0), running(2), {0: lost_to("10.0.0.2"), 1: PEER_LOST}, (0, "peer_lost", "RuntimeError")),
    ],
)  # fmt: skip
def test_names_who_left_its_group_and_was_still_there(
    second: RunFiles, third: RunFiles, logs: dict[int, str], named: tuple[int, str, str]
) -> None:
    found = inquiry(runs(victim(0), second, third), logs, addresses=ADDRESSES).first()
    assert (found.rank, found.cause) == named[:2]
    assert found.message.startswith(named[2])
    assert is_symptom(found) == (found.rank == 0)


def test_a_rank_whose_process_is_gone_is_lost_once_it_is_known_as_the_first() -> None:
    seen = runs(victim(0), replace(UP, ranks=(rank(1),)), running(2))
    ranks = assess(job(), seen).ranks
    states = [one.state for one in lost_first(ranks, seen, 1)]
    assert states == [RankState.FAILED, RankState.LOST, RankState.RUNNING]
    assert all(lost_first(ranks, seen, first) == ranks for first in (0, 2, None))


def test_the_verdict_is_the_same_after_the_end_of_all() -> None:
    """Of what we ended ourselves, since 95, none counts as having failed, and neither does its torchrun."""
    logs = {0: lost_to("10.0.0.3")}
    ended_by_us = replace(OVER, exit_at=96.0, exit_code=143, ranks=(rank(2, signal="KILL", at=96.0),))
    lost = replace(OVER, exit_code=None, ranks=(rank(1),))
    before = inquiry(runs(victim(0), running(1), running(2)), logs, addresses=ADDRESSES).first()
    after = inquiry(runs(victim(0), lost, ended_by_us), logs, addresses=ADDRESSES, until=95.0).first()
    assert after == before and before.rank == 2


def test_who_may_be_missed_gets_a_little_time_to_end_by_itself() -> None:
    def awaited(second: RunFiles, third: RunFiles, logs: dict[int, str], now: float = 92.0) -> list[int]:
        seen = inquiry(runs(victim(0), second, third), logs, addresses=ADDRESSES)
        return [one.rank for one in seen.awaited(now)]

    lost = {0: PEER_LOST, 1: PEER_LOST}
    assert awaited(running(1), running(2), lost) == [1, 2]
    assert awaited(victim(1), running(2), lost) == [2]
    assert awaited(running(1), running(2), {0: lost_to("10.0.0.3")}) == [2]
    assert awaited(victim(1), replace(UP, ranks=(rank(2),)), lost) == [2], "its exit code may be on its way"
    assert awaited(victim(1), running(2), lost, now=90.0 + LATE_LEAVER_PATIENCE) == []
    assert awaited(victim(1), running(2), {**lost, 2: OWN}) == [2], "its log tells, and it may be saving something yet"
    assert awaited(running(1), ended(2, 1), {**lost, 2: OWN}) == [], "another one failed by itself"
    assert awaited(running(1), ended(2, 0, at=89.0), lost) == [], "another one left before"
    assert awaited(victim(1), victim(2), {**lost, 2: PEER_LOST}) == []
    assert awaited(running(1), running(2), {0: OWN}) == []


def test_addresses_that_several_nodes_share_tell_none() -> None:
    def share(number: int, address: str, train: str | None = None) -> NodeShare:
        config = NodeConfig(name=NODES[number], address=address, train_address=train)
        return NodeShare(node=NODES[number], node_rank=number, first_rank=number, nproc=1, config=config)

    shares = (share(0, "127.0.0.1"), share(1, "10.0.0.2", "10.1.0.2"), share(2, "10.0.0.2", "10.1.0.3"))
    found = node_addresses(Placement(shares=shares, master_addr="10.1.0.1"))
    assert found == {"10.1.0.1": "gpu-master", "10.1.0.2": "gpu1", "10.1.0.3": "gpu2"}


@pytest.mark.parametrize("offset", [-0.002, 0.0, 0.002])
def test_ends_on_two_nodes_closer_than_clocks_can_tell_count_as_one_moment(offset: float) -> None:
    seen = runs(running(0), ended(1, 7, at=90.001), ended(2, 7, at=90.0))
    assert failure(seen, offsets={"gpu2": offset}).rank == 1
    apart = runs(running(0), ended(1, 7, at=90.2), ended(2, 7, at=90.0))
    assert failure(apart, offsets={"gpu2": offset}).rank == 2
    early = runs(victim(0), ended(1, 0, at=90.001), running(2))
    assert failure(early, {0: PEER_LOST}, offsets={"gpu1": offset}).message.startswith("ended with exit code 0 while")


def test_ends_on_one_node_count_exactly() -> None:
    shares = (NodeShare(node="gpu1", node_rank=0, first_rank=0, nproc=2),)
    both = job().model_copy(update={"placement": Placement(shares=shares), "ranks": ()})
    seen = {"gpu1": replace(OVER, ranks=(rank(0, 7, at=90.001), rank(1, 7, at=90.0)))}
    assert Inquiry(assess(both, seen).ranks, seen, {}, lambda _: "", lambda _: "").first().rank == 1
