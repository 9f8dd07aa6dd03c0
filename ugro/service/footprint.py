"""Shows what UGRO has on the nodes, and removes it from one."""

from __future__ import annotations

from typing import TypeVar

from ugro.common.config import NodeConfig
from ugro.common.errors import InputError, NodeError, NodeRefused
from ugro.common.text import bytes_in_words, count, printable
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.nodes.remote.footprint import footprint as on_node
from ugro.nodes.remote.owner import owner
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.plan import Fingerprint, Question, consented
from ugro.service.schemas.footprint import (
    Clean,
    Cleaned,
    CleanedDocument,
    CleanPlan,
    EnvironmentDocument,
    FootprintAnswer,
    FootprintDocument,
    JobFootprintDocument,
    OtherDocument,
    PlanClean,
    ProcessDocument,
    ShowFootprint,
    UnreadDocument,
)

T = TypeVar("T")


async def footprint(context: Context, request: ShowFootprint) -> FootprintAnswer:
    """Return everything UGRO has on nodes. Changes nothing.

    Raises:
        InputError: there is no such node.
    """
    chosen = [node.name for node in context.inventory.select(request.nodes)]
    seen = await (await context.reach()).pool.each(chosen, on_node.footprint)
    return FootprintAnswer(nodes=tuple(_answer(name, found) for name, found in seen.items()))


def _answer(name: str, found: on_node.Footprint | NodeError) -> FootprintDocument | UnreadDocument:
    if isinstance(found, NodeError):
        return UnreadDocument(node=name, error=error_document(found))
    return _document(name, found)


def _document(name: str, found: on_node.Footprint) -> FootprintDocument:
    jobs = tuple(
        JobFootprintDocument(
            id=readable(job.id),
            uid=job.uid,
            bytes=job.bytes,
            files=job.files,
            running=job.running,
            processes=_processes(job.processes),
            links=tuple(map(readable, job.links)),
        )
        for job in found.jobs
    )
    return FootprintDocument(
        node=name,
        base_dir=readable(found.base_dir),
        exists=found.exists,
        jobs=jobs,
        other=tuple(OtherDocument(name=readable(path), bytes=used) for path, used in found.other),
        environments=tuple(
            EnvironmentDocument(name=one.name, bytes=one.bytes, used_at=one.used_at) for one in found.environments
        ),
        foreign=tuple(map(readable, found.foreign)),
        bytes=found.bytes,
        processes=_processes(found.processes),
        storage_id=found.storage_id,
        owner=found.owner,
        links=tuple(map(readable, found.links)),
    )


def readable(name: str) -> str:
    """Return a file's name as text; bytes that are not UTF-8 become replacement characters."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _processes(processes: tuple[on_node.Process, ...]) -> tuple[ProcessDocument, ...]:
    return tuple(ProcessDocument(pid=pid, command=line) for pid, line in processes)


async def plan_clean(context: Context, request: PlanClean) -> CleanPlan:
    """Plan to remove everything UGRO made on a node.

    Raises:
        InputError: there is no such node, or a job of this master is on it.
        NodeRefused: something runs there, or may run in the same folder.
        NodeError: it is unreachable.
    """
    config = context.inventory.node(request.node)
    found = await _idle(context, request.node)
    master = context.store.config.known_master()
    return CleanPlan(
        node=request.node,
        found=_document(request.node, found),
        own=tuple(map(readable, found.own)),
        questions=_questions(config, found, master) if found.own else (),
        fingerprint=Fingerprint.of(_parts(request.node, found)),
    )


def _parts(node: str, found: on_node.Footprint) -> dict[str, object]:
    jobs = [(job.id, job.uid) for job in found.jobs]
    return {f"the jobs on {node}": jobs, f"the master of {node}": found.owner}


def _questions(config: NodeConfig, found: on_node.Footprint, master: str) -> tuple[Question, ...]:
    node, questions = config.name, []
    if found.owner and not owner.is_same_master(found.owner, master):
        who = printable(found.owner.partition(" ")[2] or found.owner)
        refusal = f"another master runs {node}: {who}"
        questions.append(
            Question(
                id="takeover",
                text=f"{refusal}. Remove what it has there too?",
                refusal=refusal,
                hint="its results there may not be collected yet; clean it from there, or, to remove them too: "
                "--takeover",
                untouched="nothing was removed",
            )
        )
    remove = Question(
        id="remove",
        text="Remove it?",
        facts=tuple(_facts(config, found)),
        refusal="confirmation needed, but stdin is not a terminal",
        hint=f"to remove it without a question: ugro node clean {node} --yes",
        untouched="nothing was removed",
    )
    return (*questions, remove)


def _facts(config: NodeConfig, found: on_node.Footprint) -> list[str]:
    lines = [f"This will be removed from {readable(found.base_dir)} on {config.name}:"]
    lines += [
        f"  jobs/{readable(job.id)}  {count(job.files, 'file')}, {bytes_in_words(job.bytes)}" for job in found.jobs
    ]
    lines += [f"  {one.name}  {bytes_in_words(one.bytes)}" for one in found.environments]
    lines += [f"  {readable(path)}  {bytes_in_words(used)}" for path, used in found.other]
    if found.jobs:
        lines.append("with everything that the jobs wrote into their code folders, such as checkpoints.")
    if config.python.startswith((f"{config.base_dir}/envs/", f"{found.base_dir}/envs/")):
        lines.append(f"The python of {config.name} is among it: no job starts there until the inventory names another.")
    return [*lines, f"The node belongs to: {found.owner}"] if found.owner else lines


async def clean(context: Context, request: Clean) -> Cleaned:
    """Remove everything UGRO made on a node. No controller of this master may start something there meanwhile.

    Raises:
        PlanChanged: other jobs are there by now, or another master.
        InputError, NodeError: as `plan_clean`; something was started there, or an answer is missing.
        Declined: the answer is no.
    """
    plan = request.plan
    consented(plan.questions, request.answers)
    pool = (await context.reach()).pool
    async with context.store.turn():
        found = await _idle(context, plan.node)
        plan.fingerprint.require(_parts(plan.node, found))
        _one((await pool.each([plan.node], on_node.clean))[plan.node])
        after = _one((await pool.each([plan.node], on_node.footprint))[plan.node])
    left = tuple(map(readable, after.own))
    answer = CleanedDocument(
        node=plan.node,
        removed=tuple(path for path in plan.own if path not in left),
        left=left,
        foreign=tuple(map(readable, after.foreign)),
        processes=_processes(after.processes),
    )
    return Cleaned(answer=answer, base_dir=readable(after.base_dir))


def _one(answer: T | NodeError) -> T:
    if isinstance(answer, NodeError):
        raise answer
    return answer


async def _idle(context: Context, name: str) -> on_node.Footprint:
    """Return what is on a node where no job runs.

    Raises:
        InputError: a job of this master is there. NodeRefused: something runs there, or may run in the same folder.
    """
    live = [job for job in context.store.jobs.live(stop_where_held) if job.state.on_nodes]
    for job in live:
        if name in job.nodes:
            raise InputError(f"{job.id} is on {name}", f"wait for it, or end it: ugro cancel {job.id}")
    others = sorted({node for job in live for node in job.nodes if node in context.inventory.nodes})
    seen = await (await context.reach()).pool.each([name, *others], on_node.footprint)
    found = _one(seen[name])
    for stranger in found.jobs:
        if stranger.running:
            raise NodeRefused(name, f"{readable(stranger.id)} is running here; nothing was removed")
    for other in others:
        _refuse_if_shared(name, found, other, seen[other])
    return found


def _refuse_if_shared(name: str, found: on_node.Footprint, other: str, its: on_node.Footprint | NodeError) -> None:
    """Nodes with one home have one folder: cleaning it for one would take the code of what runs on the other."""
    if isinstance(its, NodeError):
        raise NodeRefused(name, f"it may share its folder with {other}, where a job runs and which is unreachable")
    if its.storage_id and its.storage_id == found.storage_id:
        raise NodeRefused(name, f"it shares {readable(found.base_dir)} with {other}, where a job runs")
