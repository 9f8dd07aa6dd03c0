"""Finds the Python of a node that can train, or makes one below the node's base directory.

`find_on`, `plan_on` and `make_on` act on a pool and a node of it: also for a node that is in no inventory so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from ugro.common.errors import InputError, NodeError, NodeRefused
from ugro.common.models.gpu import Gpu
from ugro.common.models.node import NodeView
from ugro.common.text import printable, size
from ugro.control_plane.preflight.interpreters import judge, python_for, take
from ugro.control_plane.preflight.torch_builds import (
    CPU,
    INDEX,
    NoChoice,
    NodeGpus,
    TorchChoice,
    choose,
    pythons_for,
    release_of,
)
from ugro.nodes.pool import Pool
from ugro.nodes.remote.checkup.checkup import ask_python
from ugro.nodes.remote.checkup.machine import MachineReport, ask_machine
from ugro.nodes.remote.gpus import gpu_monitor
from ugro.nodes.remote.interpreters import environment, interpreters
from ugro.nodes.remote.interpreters.environment import Recipe, Tools
from ugro.nodes.remote.interpreters.interpreters import NO_DEVICE, Interpreter
from ugro.nodes.transport import Transport
from ugro.service.context import Context, Tell
from ugro.service.plan import Fingerprint, Question, consented
from ugro.service.schemas.node_python import (
    FindPython,
    InterpreterDocument,
    MadePythonDocument,
    MakePython,
    NodePythonDocument,
    PlanPython,
    PythonLine,
    PythonMade,
    PythonPlan,
    TorchDocument,
)
from ugro.service.schemas.notices import TryingPython

DISK_MIB = {"cpu": 1536, "cuda": 9 * 1024}
"""Free space that an environment needs while it is made: its packages and their archives."""

DOWNLOAD = {"cpu": "0.3 GB", "cuda": "3 to 4 GB"}


async def find(context: Context, request: FindPython) -> NodePythonDocument:
    """Find the interpreters of a node, and try each on one of its GPUs. Nothing is written there.

    Raises:
        InputError: there is no such node. NodeError: it is unreachable, or gives no answer that can be understood.
    """
    return await find_on((await context.reach()).pool, *_node_and_others(context, request.node), context.tell)


async def plan_make(context: Context, request: PlanPython) -> PythonPlan:
    """Plan to make a Python environment with the torch that suits a node and the others of its cluster.

    Raises:
        InputError: there is no such node, or the address of the index is none.
        NodeRefused: no torch suits it, or its disk is too full. NodeError: it is unreachable.
    """
    node, others = _node_and_others(context, request.node)
    return await plan_on((await context.reach()).pool, node, others, request.index_url)


async def make(context: Context, request: MakePython) -> AsyncIterator[PythonLine | PythonMade]:
    """Carry out a plan; yield what the tools print, and then the environment.

    Raises:
        PlanChanged: the GPUs or the driver of the node are not what they were. Declined: the answer is no.
        InputError: there is no such node, or an answer is missing.
        NodeRefused: it could not be made. NodeError: the node is unreachable; the same request then continues it.
    """
    context.inventory.node(request.plan.node)
    consented(request.plan.questions, request.answers)
    async for item in make_on((await context.reach()).pool, request.plan):
        yield item


def _node_and_others(context: Context, node: str) -> tuple[str, list[str]]:
    context.inventory.node(node)
    return node, [name for name in context.inventory.nodes if name != node]


# --- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """A node's machine and GPUs, as far as its Python depends on them. `device` is what a product is tried on."""

    view: NodeView
    tools: Tools
    machine: MachineReport
    gpus: NodeGpus
    device: str


async def find_on(pool: Pool, node: str, others: Sequence[str], tell: Tell) -> NodePythonDocument:
    """Find the interpreters of one node of a pool. The torch of the others decides between several that can train.

    Raises:
        NodeError: as `find`.
    """

    async def of_the_node() -> tuple[_Seen, interpreters.NodeInterpreters]:
        transport = pool[node]
        seen = await _see(transport)
        found = await interpreters.try_all(
            transport, seen.device, lambda path: tell(TryingPython(node=node, path=printable(path)))
        )
        return seen, found

    (seen, found), peers = await asyncio.gather(of_the_node(), _peers(pool, others))
    verdicts = {one.path: judge(one, seen.gpus, seen.machine.simulated) for one in found.found}
    taken = take(found.found, [path for path, verdict in verdicts.items() if verdict.usable], list(peers.values()))
    return NodePythonDocument(
        node=node,
        configured=pool[node].node.python,
        device=None if seen.device == NO_DEVICE else seen.device,
        interpreters=tuple(_document(one, seen) for one in found.found),
        taken=taken.path if taken else None,
        why=taken.why if taken else None,
        more=found.more,
        complete=found.complete,
    )


async def _see(transport: Transport) -> _Seen:
    view = await gpu_monitor.look(transport)
    hangs = gpu_monitor.NO_ANSWER in (view.gpu_problem or "")
    machine, tools = await asyncio.gather(ask_machine(transport, with_gpus=not hangs), environment.tools(transport))
    whole = [gpu for gpu in view.gpus if not gpu.mig and not gpu.problem and gpu.uuid]
    gpus = NodeGpus(
        node=transport.name,
        driver=next((gpu.driver for gpu in whole if gpu.driver), None),
        # What is simulated computes on the CPU.
        capabilities=() if machine.simulated else tuple(machine.compute_caps.get(gpu.uuid) for gpu in whole),
        machine=tools.machine,
        gpu_problem=view.gpu_problem or next((gpu.problem for gpu in view.gpus if gpu.problem and not whole), None),
    )
    if machine.simulated or not (view.gpus or view.gpu_problem):
        device = interpreters.CPU
    else:
        device = max(whole, key=_free_mib).uuid if whole else NO_DEVICE
    return _Seen(view, tools, machine, gpus, device)


def _free_mib(gpu: Gpu) -> int:
    return gpu.memory_free_mib or 0


async def _peers(pool: Pool, names: Sequence[str]) -> dict[str, NodeGpus]:
    """The other nodes that answer, with the torch of the python that the inventory names. No GPU is touched."""

    async def one(transport: Transport) -> NodeGpus:
        seen = await _see(transport)
        try:
            python = await ask_python(transport, with_cuda=False)
        except NodeError:
            return seen.gpus
        return seen.gpus.model_copy(update={"torch": python.torch, "cuda": python.cuda, "python": python.python})

    answers = await pool.each(names, one)
    return {name: answer for name, answer in answers.items() if not isinstance(answer, NodeError)}


def _document(one: Interpreter, seen: _Seen) -> InterpreterDocument:
    verdict, facts = judge(one, seen.gpus, seen.machine.simulated), one.facts
    return InterpreterDocument(
        path=one.path,
        source=one.source,
        version=one.version,
        torch=printable(facts.torch) if facts and facts.torch else None,
        cuda=printable(facts.cuda) if facts and facts.cuda else None,
        archs=tuple(map(printable, facts.archs)) if facts else (),
        usable=verdict.usable,
        reason=verdict.reason,
    )


# --- an environment that is made -------------------------------------------------------------------------------------


async def plan_on(pool: Pool, node: str, others: Sequence[str], index_url: str | None = None) -> PythonPlan:
    """Plan an environment on one node of a pool.

    Raises:
        InputError, NodeError: as `plan_make`.
    """
    base = (index_url or INDEX).rstrip("/")
    if not environment.is_index(base):
        raise InputError(
            f"{printable(base)!r} is no address of a package index",
            "give one with http:// or https://, without a password: that belongs into ~/.netrc on the node",
        )
    seen, peers = await asyncio.gather(_see(pool[node]), _peers(pool, others))
    chosen = choose(seen.gpus, list(peers.values()))
    if isinstance(chosen, NoChoice):
        raise NodeRefused(node, f"no torch can be chosen: {chosen.reason}", chosen.hint)
    notes = (*chosen.notes, *(f"{name} was not asked: it is unreachable." for name in others if name not in peers))
    kind = CPU if chosen.index == CPU else "cuda"
    free = seen.view.disk_free_mib
    if free is not None and free < DISK_MIB[kind]:
        text = f"torch needs {size(DISK_MIB[kind])} while it is installed, and {size(free)} are free there"
        raise NodeRefused(node, text, "free some, or set 'base_dir' of this node to where there is room")
    release = release_of(chosen.version)
    assert release
    transport = pool[node]
    name = f"torch-{chosen.version}-{chosen.index}"
    made = PythonPlan(
        node=node,
        name=name,
        folder=f"{transport.node.base_dir}/envs/{name}",
        torch=TorchDocument(version=chosen.version, index=chosen.index, why=chosen.why, notes=notes),
        python=python_for(pythons_for(release), [peer.python for peer in peers.values() if peer.python]),
        index_url=f"{base}/{chosen.index}",
        packages=_packages(chosen, release),
        sends_uv=environment.uv_to_send(seen.tools) is not None,
        there=await _there(transport, seen, name),
        fingerprint=Fingerprint.of(_parts(seen.gpus)),
    )
    if made.there:
        return made
    return replace(made, questions=(_question(made, DOWNLOAD[kind], DISK_MIB[kind]),))


async def _there(transport: Transport, seen: _Seen, name: str) -> InterpreterDocument | None:
    """Return the interpreter of an environment that was made before, if it can train."""
    try:
        one = await interpreters.try_one(transport, seen.device, f"{transport.node.base_dir}/envs/{name}/bin/python")
    except NodeRefused:
        return None
    document = _document(one, seen)
    return document if document.usable else None


def _packages(chosen: TorchChoice, release: str) -> tuple[str, ...]:
    # torch before 2.3 was built for NumPy 1.
    return chosen.requirement, "numpy<2" if int(release.partition(".")[2]) < 3 else "numpy"


def _parts(gpus: NodeGpus) -> dict[str, object]:
    return {f"the GPUs of {gpus.node}": gpus.capabilities, f"the driver of {gpus.node}": gpus.driver}


def _question(plan: PythonPlan, download: str, disk: int) -> Question:
    what = "CPU build" if plan.torch.index == CPU else f"build for CUDA, {plan.torch.index}"
    facts = [
        f"This will be made on {plan.node}: {plan.folder}",
        f"  torch {plan.torch.version}, {what}: {plan.torch.why}",
        f"  {', '.join(plan.packages)} from {plan.index_url}",
        f"  about {download} to download, and {size(disk)} of disk while it is made",
        *(f"  {note}" for note in plan.torch.notes),
    ]
    if plan.sends_uv:
        facts.append("  uv is sent there where it is missing, and removed again")
    return Question(
        id="make",
        text="Make it?",
        facts=tuple(facts),
        refusal="confirmation needed, but stdin is not a terminal",
        hint=f"to make it without a question: ugro node python {plan.node} --make --yes",
        untouched="nothing was made",
    )


async def make_on(pool: Pool, plan: PythonPlan) -> AsyncIterator[PythonLine | PythonMade]:
    """Carry out a plan on a pool that has its node; what is there already is not made again.

    Raises:
        PlanChanged, NodeRefused, NodeError: as `make`.
    """
    transport = pool[plan.node]
    seen = await _see(transport)
    plan.fingerprint.require(_parts(seen.gpus))
    if there := await _there(transport, seen, plan.name):
        yield PythonMade(answer=MadePythonDocument(node=plan.node, python=there))
        return
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    release = release_of(plan.torch.version) or ""
    oldest, newest = pythons_for(release)
    recipe = Recipe(
        name=plan.name,
        python=plan.python,
        oldest=oldest,
        newest=newest,
        index_url=plan.index_url,
        packages=plan.packages,
    )

    async def work() -> str:
        try:
            return await environment.make(transport, recipe, environment.uv_to_send(seen.tools), lines.put_nowait)
        finally:
            lines.put_nowait(None)

    working = asyncio.ensure_future(work())
    try:
        while (line := await lines.get()) is not None:
            yield PythonLine(line=line)
        path = await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    one = await interpreters.try_one(transport, seen.device, path)
    yield PythonMade(answer=MadePythonDocument(node=plan.node, python=_document(one, seen)))
