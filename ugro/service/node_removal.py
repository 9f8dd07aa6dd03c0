"""Removes a node: UGRO's folder there, the line of the key that UGRO added, and the entry in the inventory."""

from __future__ import annotations

import hashlib
import shlex

from ugro.common.config import NodeConfig
from ugro.common.errors import InputError, NodeError, NodeRefused
from ugro.common.inventory_edit import read_inventory_text
from ugro.common.models.job import Job
from ugro.common.text import count, printable, some
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.nodes.bootstrap.own_key import find_key
from ugro.nodes.remote.account import account
from ugro.nodes.transport import Transport
from ugro.nodes.transport.ssh_config import find_route
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.footprint import clean, footprint, plan_clean
from ugro.service.plan import Fingerprint, Question, consented
from ugro.service.schemas.first_contact import (
    PlanRemoveNode,
    RemovedNode,
    RemoveNode,
    RemoveNodePlan,
)
from ugro.service.schemas.footprint import Clean, CleanPlan, FootprintDocument, PlanClean, ShowFootprint
from ugro.service.schemas.notices import StepBegan, StepDocument, StepEnded, StepState


async def plan_remove_node(context: Context, request: PlanRemoveNode) -> RemoveNodePlan:
    """Plan to remove a node. One that cannot be reached is removed from the inventory, and what stays there is named.

    Raises:
        InputError: there is no such node, a job is on it or waits for it, or the inventory cannot be edited.
        NodeRefused: something runs there.
    """
    config = context.inventory.node(request.node)
    refuse_jobs_of(context, config.name, "wait for it, or end it: ugro cancel {job}")
    text = read_inventory_text(context.inventory)
    text.removing(config.name)
    cleaning, shared, error = await _on_machine(context, config)
    return RemoveNodePlan(
        node=config.name,
        inventory=str(text.path),
        entry=f"{config.name}: {{address: {config.address}}}",
        clean=cleaning,
        shared_with=shared,
        error=error_document(error) if error else None,
        owed=await _owed(config) if error else (),
        questions=_questions(config, cleaning, shared, error, str(text.path)),
        fingerprint=Fingerprint.of({"the inventory": hashlib.sha256(text.data).hexdigest()}),
    )


def refuse_jobs_of(context: Context, node: str, hint: str) -> None:
    """See that no live job is on a node, and that none in the queue names it.

    Raises:
        InputError: one is, or does; `hint` says what to do about `{job}`.
    """
    for job in context.store.jobs.live(stop_where_held):
        if job.state.on_nodes and node in job.nodes:
            raise InputError(f"{job.id} is on {node}", hint.format(job=job.id))
        if not job.state.on_nodes and node in _named_by(context, job):
            raise InputError(f"{job.id} waits for {node} by name", f"to end it: ugro cancel {job.id}")


def _named_by(context: Context, job: Job) -> tuple[str, ...]:
    spec = context.asked(job)
    return spec.nodes if spec and isinstance(spec.nodes, tuple) else ()


async def _on_machine(context: Context, config: NodeConfig) -> tuple[CleanPlan | None, str | None, NodeError | None]:
    """Return what UGRO has there, a node that shares it, and why the machine cannot be asked."""
    try:
        cleaning = await plan_clean(context, PlanClean(node=config.name))
    except NodeRefused:
        raise
    except NodeError as error:
        return None, None, error
    storage = cleaning.found.storage_id
    others = [name for name in context.inventory.nodes if name != config.name]
    if not (storage and others):
        return cleaning, None, None
    seen = (await footprint(context, ShowFootprint(nodes=",".join(others)))).nodes
    shared = (found.node for found in seen if isinstance(found, FootprintDocument) and found.storage_id == storage)
    return cleaning, next(shared, None), None


def _questions(
    config: NodeConfig, cleaning: CleanPlan | None, shared: str | None, error: NodeError | None, inventory: str
) -> tuple[Question, ...]:
    facts = []
    if error:
        facts.append(f"{printable(error.message)}. What UGRO has there stays.")
    elif shared:
        facts.append(f"{config.name} shares its home directory with {shared}: UGRO's folder and the key stay there.")
    asked = cleaning.questions if cleaning and not shared else ()
    for question in asked:
        if question.id == "remove":
            facts += question.facts
    if not (config.local or error or shared):
        facts.append("The line that UGRO added to ~/.ssh/authorized_keys there, if it did.")
    facts.append(f"The entry of {config.name} in {inventory}.")
    remove = Question(
        id="remove",
        text=f"Remove {config.name}?",
        facts=tuple(facts),
        refusal="confirmation needed, but stdin is not a terminal",
        hint=f"to remove it without a question: ugro node remove {config.name} --yes",
        untouched="nothing was removed",
    )
    return (*(question for question in asked if question.id != "remove"), remove)


async def _owed(config: NodeConfig) -> tuple[str, ...]:
    """Return what stays on an unreachable machine, with the command that removes it."""
    try:
        by_hand = (await find_route(config))[-1].by_hand
    except NodeError:
        by_hand = f"ssh {config.address}"
    folder = config.base_dir if config.base_dir.startswith("~/") else shlex.quote(config.base_dir)
    mark = f"sed -i '/{account.MARK}$/d' ~/.ssh/authorized_keys"
    return (
        f'{config.base_dir}: {by_hand} "rm -r {folder}"',
        f'the line of the key that UGRO added to ~/.ssh/authorized_keys: {by_hand} "{mark}"',
    )


async def remove_node(context: Context, request: RemoveNode) -> RemovedNode:
    """Remove a node. The key goes last on the machine, since the rest needs it.

    Raises:
        PlanChanged: the inventory was changed. InputError, NodeError: as `plan_remove_node`; an answer is missing.
        Declined: the answer is no.
    """
    plan = request.plan
    consented(plan.questions, request.answers)
    config = context.inventory.node(plan.node)
    refuse_jobs_of(context, config.name, "wait for it, or end it: ugro cancel {job}")
    text = read_inventory_text(context.inventory)
    plan.fingerprint.require({"the inventory": hashlib.sha256(text.data).hexdigest()})
    steps = _Steps(context, plan.node)
    if plan.error is None and plan.shared_with is None:
        await _clear(context, request, config, steps)
    steps.begin("inventory", f"remove {plan.node} from {text.path}")
    text.replace(text.removing(plan.node))
    steps.end("inventory", "done", f"removed from {text.path}; its host key stays in known_hosts")
    drained = plan.node in context.store.config.drains()
    if drained:
        await context.store.write(lambda: context.store.config.undrain(plan.node))
        steps.end("state", "done", "it is drained no longer")
    return RemovedNode(node=plan.node, inventory=str(text.path), steps=tuple(steps.ended), owed=plan.owed)


async def _clear(context: Context, request: RemoveNode, config: NodeConfig, steps: _Steps) -> None:
    """Remove UGRO's folder and the key's line from the machine."""
    cleaning = request.plan.clean
    if cleaning and cleaning.own:
        steps.begin("footprint", f"remove UGRO's folder {cleaning.found.base_dir} from {config.name}")
        ids = {question.id for question in cleaning.questions}
        answers = {name: value for name, value in request.answers.items() if name in ids}
        cleaned = (await clean(context, Clean(plan=cleaning, answers=answers))).answer
        if cleaned.left:
            names = some([printable(name) for name in cleaned.left])
            raise NodeRefused(config.name, f"could not be removed: {names}", "the inventory was not changed")
        steps.end("footprint", "done", f"removed {count(len(cleaned.removed), 'thing')}")
    else:
        steps.end("footprint", "already", "nothing of UGRO is there")
    if config.local:
        return
    key = await find_key(config, (await find_route(config))[-1])
    if key is None:
        return
    steps.begin("key", "remove the line that UGRO added to ~/.ssh/authorized_keys")

    async def remove(transport: Transport) -> tuple[int, int]:
        return await account.remove_key(transport, key.blob)

    answer = (await (await context.reach()).pool.each([config.name], remove))[config.name]
    if isinstance(answer, NodeError):
        raise answer
    removed, others = answer
    stays = "; the key is there also by another line, which UGRO did not add and which stays" if others else ""
    if removed:
        steps.end("key", "done", f"removed {count(removed, 'line')}{stays}")
    else:
        steps.end("key", "already", f"UGRO added no line there{stays}")


class _Steps:
    """Reports steps, and keeps how they ended."""

    def __init__(self, context: Context, node: str) -> None:
        self._context = context
        self._node = node
        self.ended: list[StepDocument] = []

    def begin(self, step: str, text: str) -> None:
        """Report what a step is about to do."""
        self._context.tell(StepBegan(node=self._node, step=step, text=text))

    def end(self, step: str, state: StepState, text: str) -> None:
        """Report how it ended."""
        self.ended.append(StepDocument(step=step, state=state, text=text))
        self._context.tell(StepEnded(node=self._node, step=self.ended[-1]))
