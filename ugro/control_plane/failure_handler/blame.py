"""Who failed first: the rank, the launcher or the node that left, never those it took down. Pure.

Everything that left is a suspect. What speaks for itself (an error of its own, a signal from outside, a reboot) goes
before what only says that another one was missed. Among equals the earlier end counts, by the master's clock.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ugro.common.models.job import FirstFailure, Rank, RankState
from ugro.common.text import some
from ugro.control_plane.scheduler.tracker import Runs
from ugro.nodes.run_files import RunFiles

if TYPE_CHECKING:
    from ugro.control_plane.diagnosis import Finding

SYMPTOMS = ("peer_lost", "collective_timeout", "rendezvous_timeout")
"""What a rank says that waited for one that was not there."""

ITSELF, UNCLEAR, LEFT_EARLY, SYMPTOM = range(4)
"""How much a suspect's end says of it, the most first."""

SIGNALLED = 128
"""A shell tells a death by signal N as the exit code 128 + N."""


@dataclass(frozen=True)
class _Suspect:
    """`at` is in the master's clock; infinite where nobody knows."""

    weight: int
    at: float
    failure: FirstFailure


def first_failure(
    ranks: tuple[Rank, ...],
    runs: Runs,
    clock_offsets: Mapping[str, float],
    rank_log: Callable[[int], str],
    node_log: Callable[[str], str],
) -> FirstFailure:
    """The rank that failed first, or what left on a node. `rank_log` and `node_log` give the ends of the logs."""
    return _Inquiry(ranks, runs, clock_offsets, rank_log, node_log).first()


class _Inquiry:
    def __init__(
        self,
        ranks: tuple[Rank, ...],
        runs: Runs,
        clock_offsets: Mapping[str, float],
        rank_log: Callable[[int], str],
        node_log: Callable[[str], str],
    ) -> None:
        self._ranks = ranks
        self._runs = runs
        self._offsets = clock_offsets
        self._rank_log = rank_log
        self._node_log = node_log

    def first(self) -> FirstFailure:
        left = [suspect for node in self._runs for suspect in self._of_node(node)]
        vanished = any(math.isinf(suspect.at) and suspect.weight == ITSELF for suspect in left)
        failed = list(self._of_ranks(UNCLEAR if vanished else ITSELF))
        suspects = [*failed, *left]
        if all(suspect.weight == SYMPTOM or suspect.failure.cause in SYMPTOMS for suspect in suspects):
            suspects += list(self._early_leavers(failed)) or list(self._absent(failed))
        if not suspects:
            rank = self._ranks[0]
            return FirstFailure(rank=None, node=rank.node, message="it ended and left no trace of why")
        return min(_waited_last(suspects), key=lambda one: (one.weight, one.at, _order(one.failure))).failure

    # --- ranks -----------------------------------------------------------------------------------------------------

    def _of_ranks(self, unknown: int) -> Iterator[_Suspect]:
        """Ranks that left an exit code or a signal; `unknown` is the weight of those whose log does not say why."""
        for rank in self._ranks:
            if rank.state != RankState.FAILED:
                continue
            finding = self._finding(rank)
            weight = SYMPTOM if finding.consequence else unknown if finding.cause == "unknown" else ITSELF
            failure = FirstFailure(
                rank=rank.rank,
                node=rank.node,
                exit_code=rank.exit_code,
                signal=rank.signal,
                cause=finding.cause,
                message=finding.message,
            )
            yield _Suspect(weight, self._at(rank.ended_at, rank.node), failure)

    def _finding(self, rank: Rank) -> Finding:
        from ugro.control_plane.diagnosis import Finding, diagnose  # here: a tenth of a second, and few ticks need it

        if rank.limit == "ended":
            return Finding("time_limit", "its time limit was reached")
        found = diagnose(self._rank_log(rank.rank), rank.exit_code, rank.signal)
        return Finding("host_oom", rank.oom) if rank.oom and found.cause == "killed" else found

    def _early_leavers(self, failed: list[_Suspect]) -> Iterator[_Suspect]:
        """Ranks that ended with 0 while others, which only miss somebody, still needed them."""
        first = min(failed, key=lambda one: one.at, default=None)
        if first is None:
            return
        for rank in self._ranks:
            at = self._at(rank.ended_at, rank.node)
            if rank.state == RankState.SUCCEEDED and at <= first.at:
                missed = [str(one.failure.rank) for one in failed]
                words = f"ended with exit code 0 while rank {some(missed)} still needed it"
                failure = FirstFailure(
                    rank=rank.rank,
                    node=rank.node,
                    exit_code=0,
                    cause=first.failure.cause,
                    message=f"{words}: {first.failure.message}",
                )
                yield _Suspect(LEFT_EARLY if first.weight == SYMPTOM else ITSELF, at, failure)

    def _absent(self, failed: list[_Suspect]) -> Iterator[_Suspect]:
        """The rank that others waited for until their time was over: it is stopped, or the only one that still runs."""
        waited = [one for one in failed if one.failure.cause == "collective_timeout"]
        running = [rank for rank in self._ranks if rank.state == RankState.RUNNING]
        stopped = [rank for rank in running if self._is_stopped(rank)]
        alone = len(running) == 1 and len(running) + len(failed) == len(self._ranks)
        if not waited or not (len(stopped) == 1 or alone):
            return
        rank = (stopped or running)[0]
        how = "is stopped by a signal (state T)" if stopped else "still ran"
        who = some([str(one.failure.rank) for one in waited])
        message = f"{how} while rank {who} waited for it in vain: {waited[0].failure.message}"
        failure = FirstFailure(rank=rank.rank, node=rank.node, cause="collective_timeout", message=message)
        yield _Suspect(ITSELF, -math.inf, failure)

    def _is_stopped(self, rank: Rank) -> bool:
        run = self._runs[rank.node]
        ranks = run.ranks if isinstance(run, RunFiles) else ()
        return any(one.rank == rank.rank and one.effort and one.effort.state in ("T", "t") for one in ranks)

    # --- nodes and their launchers -----------------------------------------------------------------------------------

    def _of_node(self, node: str) -> Iterator[_Suspect]:
        """What left on a node besides ranks that speak for themselves."""
        run = self._runs[node]
        if not isinstance(run, RunFiles):
            return
        mine = [rank for rank in self._ranks if rank.node == node]
        lost = next((rank for rank in mine if rank.state == RankState.LOST), None)
        if run.rebooted and (lost or run.exit_code is None):  # else all of it had ended before
            yield self._unseen(node, lost, "node_rebooted", "the node was rebooted")
        elif not run.claimed:
            yield self._unseen(node, lost, "unknown", "the job's folder is gone from the node")
        elif run.over and not all(rank.state == RankState.SUCCEEDED for rank in mine):
            yield from self._of_launcher(node, run, mine)

    def _of_launcher(self, node: str, run: RunFiles, mine: list[Rank]) -> Iterator[_Suspect]:
        alive = [rank for rank in mine if rank.state == RankState.RUNNING]
        lost = [rank for rank in mine if rank.state == RankState.LOST]
        failed = [rank for rank in mine if rank.state == RankState.FAILED]
        if not (alive or lost) and any(rank.signal != "TERM" or rank.limit == "ended" for rank in failed):
            return  # torchrun ends when a rank of its own does
        with_ranks = f" while rank {some([str(rank.rank) for rank in alive])} still ran" if alive else ""
        if run.exit_code is None:
            # A rank that is gone as well may be named: whatever took its launcher took it, too.
            words = "torchrun and the rank vanished without an exit code: killed from outside"
            if alive or not lost:
                words = f"launch.sh vanished without an exit code{with_ranks}: killed from outside"
            yield self._unseen(node, lost[0] if lost and not alive else None, "killed", words)
        elif run.exit_code > SIGNALLED:
            ended_by = _signal_name(run.exit_code - SIGNALLED)
            failure = FirstFailure(
                rank=None,
                node=node,
                exit_code=run.exit_code,
                signal=ended_by,
                cause="killed",
                message=f"torchrun was ended by SIG{ended_by} (exit {run.exit_code}){with_ranks}",
            )
            yield _Suspect(ITSELF, self._at(run.exit_at, node), failure)
        elif alive or lost:
            yield self._told_by_torchrun(node, run, mine, alive, lost)
        elif run.exit_code:
            failure = FirstFailure(
                rank=None,
                node=node,
                exit_code=run.exit_code,
                cause="killed",
                message=f"torchrun was told to end (exit {run.exit_code}) and ended its ranks by SIGTERM",
            )
            yield _Suspect(UNCLEAR, self._at(run.exit_at, node), failure)

    def _told_by_torchrun(
        self, node: str, run: RunFiles, mine: list[Rank], alive: list[Rank], lost: list[Rank]
    ) -> _Suspect:
        """torchrun ended by itself, and at least one of its ranks left no exit code."""
        from ugro.control_plane.diagnosis import diagnose  # here, too

        found = diagnose(self._node_log(node), run.exit_code, None)
        without = [rank for rank in (*lost, *alive) if rank.pid is not None]
        named = next((rank.rank for rank in mine if rank.rank == found.rank), None)
        rank = named if named is not None else without[0].rank if len(without) == 1 else None
        message = found.message
        if alive:
            message += f"; what started the rank (rank.py) is gone, and the script still ran as pid {alive[0].pid}"
        only_ended = all(one.state == RankState.FAILED for one in mine if one not in without)
        weight = SYMPTOM if found.consequence else ITSELF if only_ended else UNCLEAR
        failure = FirstFailure(rank=rank, node=node, cause=found.cause, message=message)
        return _Suspect(weight, self._at(run.exit_at, node), failure)

    def _unseen(self, node: str, rank: Rank | None, cause: str, message: str) -> _Suspect:
        """Something left without a word, so nobody knows when."""
        failure = FirstFailure(rank=rank.rank if rank else None, node=node, cause=cause, message=message)
        return _Suspect(ITSELF, math.inf, failure)

    def _at(self, moment: float | None, node: str) -> float:
        return math.inf if moment is None else moment - self._offsets.get(node, 0.0)


def _waited_last(suspects: list[_Suspect]) -> list[_Suspect]:
    """The suspects, with those that waited in vain behind what left before they gave up."""
    left = [one for one in suspects if one.weight <= UNCLEAR and one.failure.cause not in SYMPTOMS]
    return [
        replace(one, weight=SYMPTOM)
        if one.failure.cause in SYMPTOMS
        and one.failure.exit_code != 0
        and any(math.isinf(other.at) or other.at <= one.at for other in left)
        else one
        for one in suspects
    ]


def _order(failure: FirstFailure) -> tuple[int, int]:
    """Among suspects of one moment: a reboot explains more than what it took along; then by rank."""
    return failure.cause != "node_rebooted", -1 if failure.rank is None else failure.rank


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)
