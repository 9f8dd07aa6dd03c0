"""Stacks of a job's ranks, now or when it was found to hang."""

from __future__ import annotations

from ugro.common.errors import InputError, NodeError
from ugro.common.models.job import Job
from ugro.control_plane.failure_handler.stacks import Said, ask, kept, report_of_nccl
from ugro.control_plane.scheduler.accepted import accepts
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.schemas.stacks import RankStackDocument, Stacks, StacksAnswer, StacksDocument
from ugro.service.words import state_in_words


async def stacks(context: Context, request: Stacks) -> StacksAnswer:
    """Return the stack of each rank. Pauses and changes nothing.

    Raises:
        InputError: there is no such job or rank, or it does not run and was not found to hang before it ended.
    """
    job = context.store.jobs.find(request.job)
    node = None if request.rank is None else _node_of(job, request.rank)
    if accepts("stacks", job):
        at, said = None, await ask(context.cluster, (await context.reach()).pool, job, node, request.rank)
    else:
        at, said = _before_the_end(context, job, request.rank)
    errors = [answer for answer in said.values() if isinstance(answer, NodeError)]
    answers = {name: answer for name, answer in said.items() if not isinstance(answer, NodeError)}
    document = StacksDocument(
        id=job.id,
        at=at,
        ranks=tuple(
            RankStackDocument(node=name, **dict(rank)) for name, answer in answers.items() for rank in answer.ranks
        ),
        nccl=report_of_nccl(list(answers.values())) or None,
        errors=tuple(map(error_document, errors)),
    )
    exit_code = max((error.exit_code for error in errors), default=0)
    return StacksAnswer(answer=document, job=context.document(job), exit_code=exit_code)


def _before_the_end(context: Context, job: Job, rank: int | None) -> tuple[float, Said]:
    """Return the stacks of a job that has ended as they were when it was last found to hang.

    Raises:
        InputError: it never was.
    """
    attempts = range(job.attempt, 0, -1)
    found = next((one for each in attempts if (one := kept(context.store.jobs.files(job.id).hang(each)))), None)
    if found is None:
        raise InputError(f"{state_in_words(job)}; only a running job has stack traces", f"see: ugro status {job.id}")
    wanted = {
        name: one.model_copy(update={"ranks": tuple(each for each in one.ranks if rank in (None, each.rank))})
        for name, one in found.nodes.items()
    }
    return found.at, wanted


def _node_of(job: Job, rank: int) -> str:
    for one in job.ranks:
        if one.rank == rank:
            return one.node
    raise InputError(f"{job.id} has no rank {rank}", f"its ranks are 0 to {len(job.ranks) - 1}")
