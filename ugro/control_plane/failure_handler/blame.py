"""Find the first failure: the rank, the launcher or the node that left, never a follow-on error. Pure.

Every rank, launcher or node that left is a suspect. An end with a cause of its own (an error, a signal from outside, a
reboot) goes before one that only reports a missed peer. Among equals the earlier end counts, by the master's clock, as
precisely as clock offsets can be measured. Where all that failed missed another rank, a rank that ended well or still
runs is a suspect as well.
"""

from __future__ import annotations

import ipaddress
import math
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ugro.common.job_spec import RANK_PY
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import LimitMark, Placement, Rank
from ugro.common.models.job_state import RankState
from ugro.common.models.run import RunFiles
from ugro.common.text import some
from ugro.control_plane.scheduler.tracker import Runs

if TYPE_CHECKING:
    from ugro.control_plane.diagnosis import Diagnosis

SYMPTOMS = ("peer_lost", "collective_timeout", "rendezvous_timeout")
"""Causes that a rank reports when it waited for one that had left."""

ITSELF, UNCLEAR, LEFT_EARLY, SYMPTOM = range(4)
"""Weights of a suspect, the strongest first."""

LATE_LEAVER_PATIENCE = 15.0
"""Seconds after the first failure in which a missed rank may end by itself: its own end is the best evidence."""

SAME_MOMENT = 0.05
"""Seconds between ends on two nodes that count as none: the offsets of clocks are measured no better than that."""

SIGNALLED = 128
"""A shell reports a death by signal N as the exit code 128 + N."""


@dataclass(frozen=True)
class _Suspect:
    """`at` is in the master's clock; infinite where it is unknown."""

    weight: int
    at: float
    failure: FirstFailure


def node_addresses(placement: Placement) -> dict[str, str]:
    """Return the node behind each address by which ranks may know it, without loopback and shared addresses."""
    names: dict[str, set[str]] = {}
    for share in placement.shares:
        known = [share.config.address, share.config.train_address] if share.config else []
        for address in (*known, placement.master_addr if share.node_rank == 0 else None):
            if address and not _is_loopback(address):
                names.setdefault(address, set()).add(share.node)
    return {address: next(iter(nodes)) for address, nodes in names.items() if len(nodes) == 1}


@dataclass(frozen=True)
class Inquiry:
    """Find the first failure by all that is known of a run. `rank_log` and `node_log` give the ends of the logs.

    `addresses` has the node behind each address that a rank may name. `until` is when the run began to be ended by us,
    by the master's clock: what ended later counts as if it were still there. `agent` is what runs the ranks of a node.
    """

    ranks: tuple[Rank, ...]
    runs: Runs
    clock_offsets: Mapping[str, float]
    rank_log: Callable[[int], str]
    node_log: Callable[[str], str]
    addresses: Mapping[str, str] = field(default_factory=dict)
    until: float = math.inf
    agent: str = "torchrun"

    def first(self) -> FirstFailure:
        """The rank that failed first, or what left on a node."""
        suspects, failed = self._suspects()
        if _all_miss_another(suspects):
            suspects += (
                list(self._early_leavers(failed)) or list(self._absent(failed)) or list(self._late_leavers(failed))
            )
        if not suspects:
            rank = self.ranks[0]
            return FirstFailure(rank=None, node=rank.node, message="it ended and left no trace of why")
        return _earliest(_waited_last(suspects)).failure

    def awaited(self, now: float) -> tuple[Rank, ...]:
        """Ranks that may be whom the others miss, and have a little time left to end by themselves.

        None where the run says already who it was. `now` is a moment of the master's clock.
        """
        suspects, failed = self._suspects()
        missed = self._missed(failed)
        if missed is None or abs(now - missed.at) >= LATE_LEAVER_PATIENCE or not _all_miss_another(suspects):
            return ()
        if any(True for _ in (*self._early_leavers(failed), *self._absent(failed))):
            return ()
        there = [rank for rank in self._still_there(missed, failed) if rank.state == RankState.RUNNING]
        return tuple(rank for rank in there if not self._is_over(rank.node))

    def _suspects(self) -> tuple[list[_Suspect], list[_Suspect]]:
        """All that left badly, and the ranks among them."""
        left = [suspect for node in self.runs for suspect in self._of_node(node)]
        vanished = any(math.isinf(suspect.at) and suspect.weight == ITSELF for suspect in left)
        failed = list(self._of_ranks(UNCLEAR if vanished else ITSELF))
        return [*failed, *left], failed

    # --- ranks -----------------------------------------------------------------------------------------------------

    def _of_ranks(self, unknown: int) -> Iterator[_Suspect]:
        """Ranks that left an exit code or a signal; `unknown` is the weight of those whose log does not say why."""
        for rank in self.ranks:
            if rank.state != RankState.FAILED or self._ended_by_us(rank):
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

    def _finding(self, rank: Rank) -> Diagnosis:
        from ugro.control_plane.diagnosis import Diagnosis, diagnose  # here: a tenth of a second, and few ticks need it

        if rank.limit == LimitMark.ENDED:
            return Diagnosis("time_limit", "its time limit was reached")
        found = diagnose(self.rank_log(rank.rank), rank.exit_code, rank.signal)
        return Diagnosis("host_oom", rank.oom) if rank.oom and found.cause == "killed" else found

    def _early_leavers(self, failed: list[_Suspect]) -> Iterator[_Suspect]:
        """Ranks that ended with 0 while others, which only miss another rank, still needed them."""
        first = min(failed, key=lambda one: one.at, default=None)
        if first is None:
            return
        for rank in self.ranks:
            at = self._at(rank.ended_at, rank.node)
            if rank.state == RankState.SUCCEEDED and at <= first.at + _margin(rank.node, first.failure.node):
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
        running = [rank for rank in self.ranks if rank.state == RankState.RUNNING]
        stopped = [rank for rank in running if self._is_stopped(rank)]
        alone = len(running) == 1 and len(running) + len(failed) == len(self.ranks)
        if not waited or not (len(stopped) == 1 or alone):
            return
        rank = (stopped or running)[0]
        how = "is stopped by a signal (state T)" if stopped else "still ran"
        who = some([str(one.failure.rank) for one in waited])
        message = f"{how} while rank {who} waited for it in vain: {waited[0].failure.message}"
        failure = FirstFailure(rank=rank.rank, node=rank.node, cause="collective_timeout", message=message)
        yield _Suspect(ITSELF, -math.inf, failure)

    def _late_leavers(self, failed: list[_Suspect]) -> Iterator[_Suspect]:
        """The rank that left its process group, and was still there when the others missed it."""
        missed = self._missed(failed)
        if missed is None or missed.failure.cause == "rendezvous_timeout":
            return
        there = self._still_there(missed, failed)
        own = {rank.rank: words for rank in there if (words := self._own_words(rank))}
        telling = [rank for rank in there if rank.rank in own]
        alone = [rank for rank in there if not self._was_taken_down(rank, failed)]
        found = next((group[0] for group in (telling, alone) if len(group) == 1), None)
        if found is None:
            return
        who = some([str(one.failure.rank) for one in failed if one.failure.cause in SYMPTOMS])
        if found.rank in own:
            cause, message = own[found.rank].cause, own[found.rank].message
        elif self._is_gone(found):
            cause, message = "killed", f"its process is gone and left no exit code, while rank {who} still needed it"
        else:
            end = " and ended with exit code 0 later" if found.state == RankState.SUCCEEDED else ""
            cause = missed.failure.cause
            message = f"left its process group while rank {who} still needed it{end}; {missed.failure.message}"
        code = 0 if found.state == RankState.SUCCEEDED else None
        failure = FirstFailure(rank=found.rank, node=found.node, exit_code=code, cause=cause, message=message)
        yield _Suspect(ITSELF, -math.inf, failure)

    def _missed(self, failed: list[_Suspect]) -> _Suspect | None:
        """The rank that was the first to miss another one."""
        return min((one for one in failed if one.failure.cause in SYMPTOMS), key=lambda one: one.at, default=None)

    def _still_there(self, missed: _Suspect, failed: list[_Suspect]) -> list[Rank]:
        """Return the ranks that outlived the first report of a missed peer; only those on named nodes, if any.

        If that report names a node itself, and no rank was left on any named node, there is no suspect.
        """
        there = [rank for rank in self.ranks if self._outlived(rank, missed)]
        named = {node for one in failed if one.failure.cause in SYMPTOMS for node in self._named_by(one.failure)}
        if by_address := [rank for rank in there if rank.node in named]:
            return by_address
        return [] if self._named_by(missed.failure) else there

    def _named_by(self, failure: FirstFailure) -> set[str]:
        """The other nodes whose addresses are in what a rank said."""
        return {
            node
            for address, node in self.addresses.items()
            if node != failure.node and re.search(rf"(?<![\w.-]){re.escape(address)}(?![\w-]|\.\w)", failure.message)
        }

    def _outlived(self, rank: Rank, missed: _Suspect) -> bool:
        told_to_end = rank.signal == "TERM" and rank.limit != LimitMark.ENDED
        later = (rank.state == RankState.SUCCEEDED or told_to_end) and self._at(rank.ended_at, rank.node) > missed.at
        return rank.state == RankState.RUNNING or self._ended_by_us(rank) or later

    def _was_taken_down(self, rank: Rank, failed: list[_Suspect]) -> bool:
        """Whether its torchrun ended a rank since another one of the node had failed."""
        return rank.signal == "TERM" and any(
            one.failure.node == rank.node and one.failure.cause in SYMPTOMS for one in failed
        )

    def _own_words(self, rank: Rank) -> Diagnosis | None:
        """Return a still running rank's own failure by its log; None: the log shows none."""
        from ugro.control_plane.diagnosis import diagnose_so_far  # here, too

        found = diagnose_so_far(self.rank_log(rank.rank))
        return None if found is None or found.consequence or found.cause in (*SYMPTOMS, "unknown") else found

    def _is_gone(self, rank: Rank) -> bool:
        """Return whether a rank's process is gone and its end was not recorded: its wrapper is stopped itself."""
        run = self.runs[rank.node]
        ranks = run.ranks if isinstance(run, RunFiles) else ()
        return rank.state == RankState.RUNNING and any(
            one.rank == rank.rank and not one.alive and not one.ended for one in ranks
        )

    def _is_over(self, node: str) -> bool:
        run = self.runs[node]
        return not isinstance(run, RunFiles) or run.over

    def _ended_by_us(self, rank: Rank) -> bool:
        if rank.state == RankState.LOST:
            return not math.isinf(self.until)
        return rank.state == RankState.FAILED and self._at(rank.ended_at, rank.node) > self.until

    def _is_stopped(self, rank: Rank) -> bool:
        run = self.runs[rank.node]
        ranks = run.ranks if isinstance(run, RunFiles) else ()
        return any(one.rank == rank.rank and one.effort and one.effort.state in ("T", "t") for one in ranks)

    # --- nodes and their launchers -----------------------------------------------------------------------------------

    def _of_node(self, node: str) -> Iterator[_Suspect]:
        """Yield what left on a node other than ranks with an end of their own."""
        run = self.runs[node]
        if not isinstance(run, RunFiles):
            return
        mine = [rank for rank in self.ranks if rank.node == node]
        lost = next((rank for rank in mine if rank.state == RankState.LOST), None)
        if not math.isinf(self.until) and run.claimed:
            return  # what left on its own then was named at once; by now we have ended it all
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
        own = (self.agent == RANK_PY or one.signal != "TERM" or one.limit == LimitMark.ENDED for one in failed)
        if not (alive or lost) and any(own):
            return  # torchrun ends when a rank of its own does
        with_ranks = f" while rank {some([str(rank.rank) for rank in alive])} still ran" if alive else ""
        if run.exit_code is None:
            # A rank that is gone as well may be named: whatever took its launcher took it, too.
            words = f"{self.agent} and the rank vanished without an exit code: killed from outside"
            if alive or not lost:
                words = f"launch.sh vanished without an exit code{with_ranks}: killed from outside"
            yield self._unseen(node, lost[0] if lost and not alive else None, "killed", words)
        elif run.exit_code > SIGNALLED:
            ended_by = _signal_name(run.exit_code - SIGNALLED)
            what = f"reaper.py, which watches {self.agent}," if run.reaper_died else self.agent
            failure = FirstFailure(
                rank=None,
                node=node,
                exit_code=run.exit_code,
                signal=ended_by,
                cause="killed",
                message=f"{what} was ended by SIG{ended_by} (exit {run.exit_code}){with_ranks}",
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
                message=f"{self.agent} got SIGTERM (exit {run.exit_code}) and ended its ranks by SIGTERM",
            )
            yield _Suspect(UNCLEAR, self._at(run.exit_at, node), failure)

    def _told_by_torchrun(
        self, node: str, run: RunFiles, mine: list[Rank], alive: list[Rank], lost: list[Rank]
    ) -> _Suspect:
        """torchrun ended by itself, and at least one of its ranks left no exit code."""
        from ugro.control_plane.diagnosis import diagnose  # here, too

        found = diagnose(self.node_log(node), run.exit_code, None)
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
        """Return a suspect that left no record of its end, so that the time is unknown."""
        failure = FirstFailure(rank=rank.rank if rank else None, node=node, cause=cause, message=message)
        return _Suspect(ITSELF, math.inf, failure)

    def _at(self, moment: float | None, node: str) -> float:
        return math.inf if moment is None else moment - self.clock_offsets.get(node, 0.0)


def _all_miss_another(suspects: list[_Suspect]) -> bool:
    return all(suspect.weight == SYMPTOM or suspect.failure.cause in SYMPTOMS for suspect in suspects)


def _waited_last(suspects: list[_Suspect]) -> list[_Suspect]:
    """The suspects, with those that waited in vain behind what left before they gave up."""
    left = [one for one in suspects if one.weight <= UNCLEAR and one.failure.cause not in SYMPTOMS]
    return [
        replace(one, weight=SYMPTOM)
        if one.failure.cause in SYMPTOMS
        and one.failure.exit_code != 0
        and any(
            math.isinf(other.at) or other.at <= one.at + _margin(other.failure.node, one.failure.node) for other in left
        )
        else one
        for one in suspects
    ]


def _earliest(suspects: list[_Suspect]) -> _Suspect:
    """Return the earliest of those that weigh most: by exact time on one node, up to `SAME_MOMENT` between nodes."""
    weight = min(one.weight for one in suspects)
    firsts: dict[str, _Suspect] = {}
    for one in sorted((one for one in suspects if one.weight == weight), key=lambda one: (one.at, _order(one.failure))):
        firsts.setdefault(one.failure.node, one)
    begin = min(one.at for one in firsts.values())
    return min((one for one in firsts.values() if one.at <= begin + SAME_MOMENT), key=lambda one: _order(one.failure))


def _margin(node: str, other: str) -> float:
    return 0.0 if node == other else SAME_MOMENT


def is_symptom(failure: FirstFailure) -> bool:
    """Whether it is a rank that only missed another one: of that one, more may be known later."""
    return failure.cause in SYMPTOMS and bool(failure.exit_code or failure.signal)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _order(failure: FirstFailure) -> tuple[int, int]:
    """Among suspects of one moment: a reboot explains more than what it took along; then by rank."""
    return failure.cause != "node_rebooted", -1 if failure.rank is None else failure.rank


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)
