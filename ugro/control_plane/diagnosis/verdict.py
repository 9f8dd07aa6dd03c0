"""Decide which finding in the logs is why the run ended: pure decisions over the evidence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ugro.control_plane.diagnosis.ends import ReportedEnd
from ugro.control_plane.diagnosis.entry import EntryKind
from ugro.control_plane.diagnosis.evidence import ENOUGH_PROGRESS, Evidence, Sighting
from ugro.control_plane.diagnosis.finding import Diagnosis
from ugro.control_plane.diagnosis.traceback import EXCEPTION
from ugro.control_plane.diagnosis.weighing import (
    BROUGHT_ABOUT,
    FROM_OUTSIDE,
    HARD,
    RAISED_BY,
    decides,
    ends_its_process,
    is_complaint,
    is_probe,
    order,
    raises,
    second_hand,
    weight,
)
from ugro.control_plane.diagnosis.wording import (
    SIGNAL_CAUSES,
    TOLD_TO_END,
    end_order,
    from_death,
    from_ends,
    from_sighting,
    quoted,
)

HANDLED_AFTER = 3
"""Lines of training after an exception that show that it was handled, where nothing else shows a bad end."""

SURELY_HANDLED_AFTER = 20
"""The same where the run did end badly later: the other ranks train for a while after one has failed."""

LAST_WORDS = 20
"""Lines at the end of a log in which a complaint is taken for why it ends."""

LAST_PAGE = 100
"""The same for an exception that was caught and printed, or that has no traceback."""

_REACH = {EntryKind.ROOT: LAST_WORDS, EntryKind.HINT: 8}
"""Lines without a finding that may stand between a complaint or a warning and the end that it explains."""

REQUEUED_FOR = 2
"""Lines after a scheduler ended a run only to start it again that show that it runs again."""

# Causes that the script cannot handle: it may well train on in the time that a scheduler gives it to end.
_DECIDED = {"time_limit"}

# Causes that say so little that a run which was started again is judged with what went wrong before.
_VAGUE = {"unknown", "peer_lost", "rendezvous_timeout", "port_in_use"}
# Messages of torchrun and of a shell after which no worker is left that could still train.
_ENDED_ALL = re.compile(r"failed \(exitcode|closing signal|line \d+:\s+\d+ [A-Z]")
_STEP_ABORTED, _OF_SRUN = "Job step aborted: ", "srun: error: "
# Signals by which a process ends through a fault of its own.
_CRASHES = {"ABRT", "SEGV", "BUS"}
# How a run ends whose silence was seen.
_ENDED_FROM_OUTSIDE = {"cancelled", "killed"}


def explain(evidence: Evidence, failed: bool = False) -> Diagnosis | None:
    """Return why a run ended badly, or None if nothing shows that it did. `failed`: it is known to have.

    Of a run that was started again in the same log, the last time counts, unless it says too little by itself.
    """
    found = _judged(evidence, failed)
    silence = evidence.silence
    if silence and (found is None or found.cause in _ENDED_FROM_OUTSIDE):
        message = f"no progress for {round(silence.seconds / 60)} minutes after: {silence.progress}"
        return Diagnosis("hang", message, evidence=quoted([silence.progress, silence.last]))
    return found


def _judged(evidence: Evidence, failed: bool) -> Diagnosis | None:
    found = _explained(evidence if failed else _without_crash_at_exit(evidence), failed)
    before = evidence.before
    if before is None or evidence.progress > evidence.started_progress:
        return found
    decided = all(sighting.cause in _ENDED_FROM_OUTSIDE for sighting in before.sightings)
    enough = REQUEUED_FOR if decided else LAST_WORDS
    if (found is None and evidence.lines - evidence.started_at > enough) or (found and found.cause not in _VAGUE):
        return found
    sightings, ends = [*before.sightings, *evidence.sightings], [*before.ends, *evidence.ends]
    return _explained(replace(evidence, sightings=sightings, ends=ends), failed) or found


def _explained(evidence: Evidence, failed: bool) -> Diagnosis | None:
    seen = _without_chains(evidence.sightings)
    bad_end = failed or _ended_badly(evidence)
    alive = [sighting for sighting in seen if not _was_handled(sighting, evidence, bad_end)]
    alive = _without_small_talk(alive, evidence)
    if bad_end:
        explained = any(sighting.kind is EntryKind.ROOT for sighting in alive) or _deaths(evidence)
        recent = [s for s in seen if not _is_noise(s) and evidence.progress - s.progress < ENOUGH_PROGRESS]
        return _verdict(alive if explained else _without_small_talk(recent, evidence), evidence)
    if _is_failure(alive, evidence):
        return _verdict(alive, evidence)
    if evidence.complained and evidence.success_at < 0:
        return _verdict([s for s in alive if evidence.lines - s.last_at <= LAST_WORDS], evidence)
    return None


# --- did it fail, and what was handled -------------------------------------------------------------------------------


def _without_chains(sightings: Sequence[Sighting]) -> list[Sighting]:
    """Fold exceptions that another one followed from (`raise … from`) or that came up while one was handled."""
    by_block = {id(sighting.block): sighting for sighting in sightings if sighting.block}
    told = {id(sighting): sighting for sighting in sightings}
    for sighting in sightings:
        if not (sighting.block and sighting.block.before):
            continue
        earlier = by_block.get(id(sighting.block.before))
        if earlier is None or earlier is sighting:
            continue
        earlier = told.pop(id(earlier), earlier)
        later = told.get(id(sighting), sighting)
        telling = earlier.cause in HARD or (sighting.block.explicit and earlier.kind is EntryKind.ROOT)
        interrupted = later.cause == "cancelled" and earlier.cause not in ("unknown", "cancelled")
        vague = telling and later.cause in ("python_exception", "unknown")
        if (vague or interrupted) and earlier.cause != "python_exception":
            told[id(sighting)] = replace(
                later,
                cause=earlier.cause,
                kind=earlier.kind,
                entry=earlier.entry,
                message=earlier.message,
                facts=earlier.facts,
            )
    return list(told.values())


def _ended_badly(evidence: Evidence) -> bool:
    ends = [(end.at, end.progress, end.message) for end in evidence.ends]
    spoken = [
        (s.last_at, s.progress, s.message)
        for s in evidence.sightings
        if s.kind is EntryKind.CONSEQUENCE and s.cause == "unknown"
    ]
    return evidence.cut_short or any(
        at > evidence.success_at and evidence.progress - progress < _patience(message)
        for at, progress, message in (*ends, *spoken)
    )


def _patience(message: str) -> int:
    """Return how many lines of training after a launcher's message show that the run continued.

    torchrun has ended all workers by the time of its message.
    """
    return HANDLED_AFTER if _ENDED_ALL.search(message) else SURELY_HANDLED_AFTER


def _deaths(evidence: Evidence) -> list[ReportedEnd]:
    """The processes that a signal ended which says something."""
    return [
        end
        for end in evidence.ends
        if end.signal in SIGNAL_CAUSES
        and not _was_swept_along(end, evidence)
        and end.at > evidence.success_at
        and evidence.progress - end.progress < _patience(end.message)
    ]


def _was_swept_along(end: ReportedEnd, evidence: Evidence) -> bool:
    """Whether srun killed a task only since another one had ended by itself: it says so before it names them."""
    aborted = any(_STEP_ABORTED in s.message and s.at < end.at for s in evidence.sightings)
    return aborted and _OF_SRUN in end.message and any(e.code and _OF_SRUN in e.message for e in evidence.ends)


def _without_crash_at_exit(evidence: Evidence) -> Evidence:
    """Leave out that a process crashed while it left, with its work done: nothing was lost by that."""
    done = max(evidence.success_at, evidence.left_at)
    later = [s for s in evidence.sightings if s.last_at > done and s.kind is not EntryKind.HINT and not _is_noise(s)]
    crashes = [s for s in later if s.cause == "segfault" and not s.block]
    wrong = [s for s in later if s.kind is EntryKind.ROOT and s not in crashes]
    ends = [end for end in evidence.ends if end.at > done]
    if done < 0 or wrong or not (ends or crashes or later) or not all(_falls_over(end) for end in ends):
        return evidence
    said = [s for s in evidence.sightings if s.last_at <= done or s.kind is EntryKind.CONFIRMATION]
    return replace(evidence, sightings=said, ends=[end for end in evidence.ends if end.at <= done], cut_short=False)


def _falls_over(end: ReportedEnd) -> bool:
    """Whether a process may have ended so only since it left: by a crash, or as a worker that Ray no longer needed."""
    return end.signal in _CRASHES or "exit detail: " in end.message


def _is_noise(sighting: Sighting) -> bool:
    """Return whether a traceback is of something that decides no run: a destructor, a logger's thread."""
    block = sighting.block
    return block is not None and (block.handled or (block.thread and block.logger))


def _was_handled(sighting: Sighting, evidence: Evidence, bad_end: bool) -> bool:
    if _is_noise(sighting):
        return True
    if sighting.kind is EntryKind.CONFIRMATION:
        return False
    if sighting.cause in _DECIDED:
        return evidence.progress - sighting.progress >= ENOUGH_PROGRESS
    return evidence.progress - sighting.progress >= (SURELY_HANDLED_AFTER if bad_end else HANDLED_AFTER)


def _without_small_talk(alive: Sequence[Sighting], evidence: Evidence) -> list[Sighting]:
    """Leave out the complaints and warnings after which the run had more to say before anything ended it."""
    decisive = [end.talk for end in evidence.ends] + [s.talk for s in alive if decides(s)]
    if not decisive:
        return list(alive)
    first = min(decisive)
    return [s for s in alive if decides(s) or first - s.talk <= _REACH.get(s.kind, first)]


def _is_failure(alive: Iterable[Sighting], evidence: Evidence) -> bool:
    """Whether something in a log without a bad end shows that there was one all the same."""
    return any(_confirms(sighting, evidence) or _is_final(sighting, evidence) for sighting in alive)


def _is_final(sighting: Sighting, evidence: Evidence) -> bool:
    """Whether a sighting shows a failure: what is sure does wherever it stands, a complaint only as the last words."""
    if sighting.kind in (EntryKind.CONFIRMATION, EntryKind.HINT) or sighting.last_at <= evidence.success_at:
        return False
    block, over = sighting.block, evidence.success_at >= 0
    if over and ((block and (block.child or block.thread)) or (not block and sighting.kind is EntryKind.CONSEQUENCE)):
        return False  # who leaves first is missed by the others
    told = block is not None or EXCEPTION.match(sighting.message) is not None
    if (block and block.fatal) or (sighting.cause in HARD and (told or sighting.cause in FROM_OUTSIDE)):
        return True
    within = LAST_PAGE if told or sighting.cause in HARD else LAST_WORDS
    return evidence.lines - sighting.last_at <= within


def _confirms(sighting: Sighting, evidence: Evidence) -> bool:
    """Whether a confirmation is enough by itself: an OOM kill, or losses that stayed NaN."""
    if sighting.kind is not EntryKind.CONFIRMATION:
        return False
    unfinished = sighting.last_at > evidence.success_at
    if sighting.cause == "nan_loss":
        return evidence.progress - sighting.progress < HANDLED_AFTER and (sighting.count > 1 or unfinished)
    return unfinished


# --- which one was it ------------------------------------------------------------------------------------------------


def _verdict(alive: Sequence[Sighting], evidence: Evidence) -> Diagnosis:
    confirmed = [sighting for sighting in alive if _confirms(sighting, evidence)]
    alive = _last_words_of_each(alive, evidence)
    if _was_told_to_end(alive, evidence):
        alive = [sighting for sighting in alive if sighting.block or not _says_little(sighting)]
    consequences = [sighting for sighting in alive if sighting.kind is EntryKind.CONSEQUENCE]
    roots = [sighting for sighting in alive if sighting.kind is EntryKind.ROOT]
    root = min(roots, key=lambda sighting: order(sighting, evidence), default=None)
    if root and is_probe(root) and any(s.block and s.block.fatal for s in consequences):
        root = None
    deaths = _deaths(evidence)
    first = min(deaths, key=end_order, default=None)
    if first:
        means = SIGNAL_CAUSES[first.signal or ""]
        proof = next((sighting for sighting in confirmed if means in RAISED_BY.get(sighting.cause, ())), None)
        fell_over_the_rest = proof is not None and root is not None and bool(root.block) and first.at < root.at
        if root is None or fell_over_the_rest or (weight(root) >= BROUGHT_ABOUT and not _came_before(root, first)):
            return from_death(first, proof, consequences, evidence)
    lost = [sighting for sighting in alive if sighting.kind is EntryKind.HINT and sighting.cause == "gpu_lost"]
    root = next((s for s in (*confirmed, *roots, *lost) if raises(s, root)), root)
    root = root or (None if _another_aborted(consequences, evidence) else second_hand(alive))
    if root is None or _was_cancelled_for_it(root, evidence):
        return from_ends(consequences, evidence)
    return from_sighting(root, consequences, evidence)


def _last_words_of_each(raised: Sequence[Sighting], evidence: Evidence) -> list[Sighting]:
    """Keep of each process the last uncaught exception: it dies of that one, and handled those it logged before.

    Where several processes may have written through each other, all uncaught ones stay.
    """
    kept: list[Sighting] = []
    for source in dict.fromkeys(sighting.source for sighting in raised):
        mine = [sighting for sighting in raised if sighting.source == source]
        fatal = [s for s in mine if ends_its_process(s)]
        last = max(fatal, key=lambda sighting: sighting.last_at, default=None)
        alone = last is not None and (last.of_one_process or not _several_wrote(mine, evidence))
        for sighting in mine:
            uncaught = last is None or sighting is last or _outlives(sighting) or _interrupted_after(sighting, last)
            uncaught = uncaught or (last is not None and not last.block and sighting.at > last.at)
            if uncaught or (not alone and (sighting in fatal or sighting.cause in HARD)):
                kept.append(sighting)
    return kept


def _outlives(sighting: Sighting) -> bool:
    """Whether what was seen is not over with a later exception of its process."""
    return sighting.block.child if sighting.block else not ends_its_process(sighting)


def _interrupted_after(sighting: Sighting, last: Sighting) -> bool:
    """Whether the user interrupted what was left of a run soon after an exception had ended one of its processes."""
    soon = sighting.at < last.at and last.talk - sighting.talk <= LAST_WORDS and last.progress == sighting.progress
    return last.cause == "cancelled" and ends_its_process(sighting) and soon


def _several_wrote(sightings: Sequence[Sighting], evidence: Evidence) -> bool:
    launched = bool(evidence.ends) or any(s.kind is EntryKind.CONSEQUENCE for s in evidence.sightings)
    return launched or len(evidence.ranks) > 1 or any(s.count > 1 for s in sightings if s.block)


def _was_told_to_end(alive: Iterable[Sighting], evidence: Evidence) -> bool:
    """Whether the run was stopped from outside before any of its processes had ended by itself."""
    first = min(evidence.ends, key=end_order, default=None)
    if first is not None and first.signal in TOLD_TO_END:
        return True
    stopped = [s.at for s in alive if s.cause in _ENDED_FROM_OUTSIDE and s.kind is not EntryKind.HINT]
    return bool(stopped) and (first is None or first.at > min(stopped))


def _came_before(root: Sighting, death: ReportedEnd) -> bool:
    """Return whether ranks had waited in vain before a process was killed. torchrun's summary comes too late for it."""
    return root.cause == "collective_timeout" and not death.root and death.rank is None and death.at > root.at


def _says_little(sighting: Sighting) -> bool:
    """Whether it is what a run says that lives on: a complaint, a warning, the loss of a connection."""
    little = sighting.kind is not EntryKind.ROOT or is_complaint(sighting)
    return little and sighting.cause not in (*_ENDED_FROM_OUTSIDE, "unknown")


def _another_aborted(consequences: Sequence[Sighting], evidence: Evidence) -> bool:
    """Whether a launcher saw a rank abort first that is none of those who only say that they lost one."""
    first = min(evidence.ends, key=end_order, default=None)
    aborted = first is not None and first.signal == "ABRT" and first.rank is not None
    return first is not None and aborted and first.rank not in {s.rank for s in consequences}


def _was_cancelled_for_it(root: Sighting, evidence: Evidence) -> bool:
    """Whether a scheduler cancelled the others only since one had ended by itself."""
    first = min(evidence.ends, key=end_order, default=None)
    itself = first is not None and first.signal is None and first.at < root.at
    return itself and root.cause == "cancelled" and root.kind is EntryKind.CONSEQUENCE
