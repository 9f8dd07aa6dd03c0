"""The next attempt of an ended job: its checkpoint, its changes, and how the script learns of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Job
from ugro.common.text import duration
from ugro.control_plane import transitions
from ugro.control_plane.scheduler.arguments import TRAINER_PARSERS, declared, options_of, with_changes

RESUME_VARIABLE = "UGRO_RESUME_FROM"
RESUME_OPTIONS = (
    "--resume_from_checkpoint",
    "--resume-from-checkpoint",
    "--resume_from",
    "--resume-from",
    "--ckpt_path",
)
"""Options that take a checkpoint's path in the scripts of the usual libraries, and nothing else."""


@dataclass(frozen=True)
class NextAttempt:
    """A job as it would be queued again, what it would be asked, and what of that is new."""

    job: Job
    spec: JobSpec
    changes: tuple[ArgumentChange, ...]


def next_attempt(
    job: Job,
    spec: JobSpec,
    script: str,
    checkpoint: Checkpoint | None,
    wanted: Mapping[str, str],
    nodes: str | None = None,
    time_limit: float | None = None,
) -> NextAttempt:
    """Return the next attempt: from a checkpoint, or without one from the beginning.

    `script` is the text of the job's script, `wanted` its arguments by name, `nodes` a number or names, `time_limit`
    seconds.

    Raises:
        InputError: the job has not ended, the script has no such argument or takes no checkpoint, or each rank has
            a part of its own in the checkpoint, and there would be more or fewer ranks.
        ValidationError: `nodes` or `time_limit` makes no sense.
    """
    if not job.state.ended:
        raise InputError(f"{job.id} has not ended: it is {job.state.value}", f"end it first: ugro cancel {job.id}")
    args, changes = with_changes(spec.args, wanted, declared(script))
    fields = spec.model_dump() | {"args": args, "hold": False, "after": (), "not_before": None}
    if nodes is not None:
        fields["nodes"] = nodes
        changes = (*changes, ArgumentChange(name="--nodes", before=_shown(spec.nodes), after=nodes))
    if time_limit is not None:
        fields["time_limit"] = time_limit
        was = None if spec.time_limit is None else duration(spec.time_limit)
        changes = (*changes, ArgumentChange(name="--time", before=was, after=duration(time_limit)))
    asked = JobSpec.model_validate(fields)
    if checkpoint:
        _require_ranks(job, asked, checkpoint)
        rules = asked.checkpoints.model_copy(update={"resume": words_for(asked, script)})
        asked = asked.model_copy(update={"checkpoints": rules})
    return NextAttempt(transitions.resume(job, asked.command, checkpoint), asked, changes)


def _require_ranks(job: Job, spec: JobSpec, checkpoint: Checkpoint) -> None:
    """Check the number of ranks, as far as it is known: of new nodes only the launch shows it."""
    before = {share.node: share.nproc for share in job.placement.shares} if job.placement else {}
    ranks: int | None = None
    if spec.gpus_in_all is not None:
        ranks = spec.gpus_in_all
    elif isinstance(spec.nodes, tuple) and set(spec.nodes) <= set(before):
        ranks = sum(before[node] for node in spec.nodes)
    elif isinstance(spec.nodes, int) and len(set(before.values())) == 1:
        ranks = spec.nodes * next(iter(before.values()))
    if checkpoint.ranks and ranks and ranks != checkpoint.ranks:
        told = f"{checkpoint.name} has the parts of {checkpoint.ranks} ranks, and there would be {ranks}"
        raise InputError(told, f"resume on nodes with {checkpoint.ranks} ranks, or start again: --from 0")


def words_for(spec: JobSpec, script: str) -> str:
    """Return the arguments that give a script its checkpoint, with {path}; empty where it reads UGRO_RESUME_FROM.

    Raises:
        InputError: nothing shows how this script takes a checkpoint.
    """
    if spec.checkpoints.resume or RESUME_VARIABLE in script:
        return spec.checkpoints.resume
    known = options_of(script)
    option = next((option for option in RESUME_OPTIONS if option in known), None)
    if option is None and any(parser in script for parser in TRAINER_PARSERS):
        option = RESUME_OPTIONS[-1] if "LightningCLI" in script else RESUME_OPTIONS[0]
    if option is None:
        raise InputError(
            f"{spec.script} does not show how it resumes from a checkpoint",
            "name the argument once: --resume-with '--resume {path}', or `checkpoints: {resume: …}` in the job.yaml; "
            f"or let the script read the path from ${RESUME_VARIABLE}",
        )
    return f"{option} {{path}}"


def _shown(nodes: int | tuple[str, ...] | None) -> str | None:
    return ",".join(nodes) if isinstance(nodes, tuple) else None if nodes is None else str(nodes)
