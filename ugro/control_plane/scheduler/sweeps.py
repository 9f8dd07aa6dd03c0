"""Sweeps: the jobs that one launch makes for combinations of arguments, and how many of them run at a time. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.text import printable, some
from ugro.control_plane.scheduler.arguments import find, with_changes
from ugro.control_plane.scheduler.backfill import WaitingJob
from ugro.control_plane.scheduler.pending_reasons import SweepFull


@dataclass(frozen=True)
class Combination:
    """One job of a sweep: its values by argument, and its spec, which has them among its arguments."""

    values: Mapping[str, str]
    spec: JobSpec


def combinations(spec: JobSpec, options: Sequence[str] = ()) -> Iterator[Combination]:
    """Yield the jobs of a sweep, the last argument changing fastest.

    A value is put where `{name}` stands in the arguments. Unless that is the whole value of an argument, as in
    `--lr {lr}` and `optim.lr={lr}`, or in that of the option of that name, this option is added, too. `options` are
    those of the script, as far as they are known. A plain command has a place for each value.

    Raises:
        InputError: the script has no such option, the arguments give it a value of their own, or a plain command has
            no place for it.
    """
    for values in itertools.product(*spec.sweep.values()):
        named = dict(zip(spec.sweep, values, strict=True))
        yield Combination(
            named, spec.model_copy(update={"sweep": {}, "max_parallel": None, "args": _args(spec, named, options)})
        )


def _args(spec: JobSpec, values: Mapping[str, str], options: Sequence[str]) -> tuple[str, ...]:
    args, left, typed = list(spec.args), dict(values), spec.launcher == "none"
    for name, value in values.items():
        place = "{" + name + "}"
        placed = any(place in word if typed else word == place or word.endswith(f"={place}") for word in args)
        if placed or _is_given(spec, name):
            del left[name]
        args = [word.replace(place, value) for word in args]
    if left and typed:  # nothing is added to a command as it was typed
        first = printable(next(iter(left)))
        raise InputError(f"the command has no place for {first}", f"say where its value goes: {{{first}}}")
    try:
        return with_changes(args, left, options)[0]
    except InputError as error:
        first = next(iter(left), "")
        hint = f"{error.hint}; or say where the value goes: -- {printable(first)}={{{printable(first)}}}"
        raise InputError(error.message, hint) from None


def _is_given(spec: JobSpec, name: str) -> bool:
    """Return whether the option of a swept argument stands in the arguments, with the place of its value.

    Raises:
        InputError: it stands there with another value, which no job would get.
    """
    given = find(spec.args, name)
    if given is None:
        return False
    index, spelled, value = given
    if "{" + name + "}" in value:
        return True
    between = "=" if "=" in spec.args[index] else " "
    fixed, placed = (printable(f"{spelled}{between}{what}") for what in (value, "{" + name + "}"))
    swept = printable(f"{name}={some(spec.sweep[name], ',')}")
    raise InputError(
        f"`{fixed}` among the arguments and the sweep of {swept} both give {printable(name)}",
        f"leave out `{fixed}`, or say where the values go: {placed}",
    )


def sweep_id(first_job: str) -> str:
    """Return the id of the sweep whose first job this is: `sweep-012` of job-012."""
    return f"sweep-{first_job.rpartition('-')[2]}"


def best_of(values: Mapping[str, tuple[JobState, float]], highest: bool) -> str | None:
    """Return the id of the best job of a sweep, from the state and the value of each that has a value.

    One that failed or was cancelled counts only where no other has a value: it saw a part of the training, or diverged.
    """
    counting = {
        job_id: one for job_id, one in values.items() if one[0] not in (JobState.FAILED, JobState.CANCELLED)
    } or values
    return (max if highest else min)(counting, key=lambda job_id: counting[job_id][1], default=None)


def limited(waiting: Sequence[WaitingJob], jobs: Iterable[Job]) -> tuple[WaitingJob, ...]:
    """Return waiting jobs, with the reason SweepFull for those beyond what their sweep runs at a time.

    Of a sweep the first in turn that nothing else blocks may start, as many as it has places.
    """
    parts = {job.id: job.sweep for job in jobs if job.sweep and job.sweep.max_parallel}
    active = Counter(part.sweep for job in jobs if (part := parts.get(job.id)) and job.state.on_nodes)
    found: dict[str, WaitingJob] = {}
    places = Counter[str]()
    for job in sorted(waiting, key=lambda one: (-one.priority, one.order)):
        part = parts.get(job.id)
        if part and part.max_parallel and not job.blockers:
            if active[part.sweep] + places[part.sweep] >= part.max_parallel:
                full = SweepFull(part.sweep, active[part.sweep], part.max_parallel)
                found[job.id] = replace(job, blockers=(full,))
            else:
                places[part.sweep] += 1
    return tuple(found.get(job.id, job) for job in waiting)
