"""A thorough look at one node: what could keep a training from starting, or from running for days.

The machine itself is asked in `machine.py`, the Python that trains by `on_node/checkup.py`; what they say is only read
here, and judged in `ugro.control_plane.preflight`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from ugro.common.errors import NodeError
from ugro.common.models.node import NodeView
from ugro.common.models.record import Record
from ugro.nodes import children
from ugro.nodes.remote.checkup.machine import MachineReport, ask_machine
from ugro.nodes.remote.gpus import gpu_monitor
from ugro.nodes.remote.python import ask_script
from ugro.nodes.remote.run.process_manager import PeerRoute
from ugro.nodes.remote.setup.setup import find_python
from ugro.nodes.transport import Transport

T = TypeVar("T")

CLOCK_SAMPLES = 8
REPLY_TIMEOUT = 2.0
PYTHON_TIMEOUT = 60.0
"""Importing torch from a cold disk or a slow NFS takes that long."""

STAT_TIMEOUT = 5.0

_TIME = re.compile(rb"(\d{1,12})\.(\d{9}|\D\S*)?\s*")


class ClockReading(Record):
    """The node's clock minus this machine's, in seconds, and how far off that may be."""

    offset: float
    uncertainty: float


class PythonFacts(Record):
    """What a node's python says. `cuda` is what torch was built for; `cuda_available` is None if not asked."""

    python: str
    executable: str
    torch: str | None
    torch_error: str | None
    distributed: bool
    cuda: str | None
    cuda_available: bool | None
    cuda_error: str | None
    devices: int
    nccl: str | None
    archs: tuple[str, ...]


_FACTS = TypeAdapter(PythonFacts)


@dataclass(frozen=True)
class NodeReport:
    """What one node said. A part that could not be read is None, and `unread` has why, by the part's name."""

    clock: ClockReading | None = None
    view: NodeView | None = None
    machine: MachineReport | None = None
    python: PythonFacts | None = None
    way: PeerRoute | None = None
    unread: Mapping[str, NodeError] = field(default_factory=dict)


async def examine(transport: Transport, python: str | None = None) -> NodeReport:
    """Look at a node from all sides; nothing is changed there. `python`: what a job asks for, not the inventory's.

    Raises:
        NodeError: Unreachable, AuthenticationFailed, KeyUnusable, HostKeyUnknown, HostKeyChanged, LinkLost: no part of
            it could be read.
    """
    clock = await sample_clock(transport)
    unread: dict[str, NodeError] = {}

    async def part(name: str, act: Awaitable[T]) -> T | None:
        try:
            return await act
        except NodeError as error:
            unread[name] = error
            return None

    # Each question to a GPU that hangs leaves a process behind that cannot be killed: one tells enough.
    view = await part("gpus", gpu_monitor.look(transport))
    hangs = view is None or gpu_monitor.NO_ANSWER in (view.gpu_problem or "")
    machine, facts = await asyncio.gather(
        part("machine", ask_machine(transport, with_gpus=not hangs)),
        part("python", ask_python(transport, with_cuda=not hangs, python=python)),
    )
    return NodeReport(clock, view, machine, facts, unread=unread)


# --- the clock -------------------------------------------------------------------------------------------------------


async def sample_clock(transport: Transport) -> ClockReading | None:
    """Compare clocks over one open shell, where an answer takes one round trip; the quickest answer counts.

    Raises:
        NodeError: the node cannot be reached.
    """
    samples: list[ClockReading] = []
    replies: asyncio.Queue[bytes] = asyncio.Queue()

    def take(stream: str, chunk: bytes) -> None:
        if stream == "stdout":
            replies.put_nowait(chunk)

    async def questions() -> AsyncIterator[bytes]:
        for _ in range(CLOCK_SAMPLES):
            asked_at = time.time()
            yield b"\n"
            try:
                reply = await asyncio.wait_for(replies.get(), REPLY_TIMEOUT)
            except TimeoutError:
                return
            if sample := clock_sample(asked_at, time.time(), reply):
                samples.append(sample)

    await transport.run("while read -r _; do date +%s.%N; done", data=questions(), on_output=take)
    return min(samples, key=lambda sample: sample.uncertainty, default=None)


def clock_sample(asked_at: float, answered_at: float, reply: bytes) -> ClockReading | None:
    """Parse one answer of `date +%s.%N`. BusyBox knows no %N: then it is exact to half a second."""
    match = _TIME.fullmatch(reply)
    if not match:
        return None
    exact = (match[2] or b"").isdigit()
    remote = float(match[1]) + (float(match[2]) / 1e9 if exact else 0.5)
    return ClockReading(
        offset=remote - (asked_at + answered_at) / 2,
        uncertainty=(answered_at - asked_at) / 2 + (0 if exact else 0.5),
    )


# --- the Python ------------------------------------------------------------------------------------------------------


async def ask_python(transport: Transport, *, with_cuda: bool, python: str | None = None) -> PythonFacts:
    """Ask the node's python, or the one that a job asks for, what it and its torch can do.

    Raises:
        NodeRefused: it is not there, cannot be run, or broke; NodeError as `Transport.run` does.
    """
    path = transport.node.python if python is None else await find_python(transport, python)
    args = ["cuda"] if with_cuda else []
    problem, hint = f"{path} broke while it imported torch", f"try there: {path} -c 'import torch'"
    return await ask_script(
        transport, "checkup/checkup.py", args, _FACTS, problem, timeout=PYTHON_TIMEOUT, hint=hint, python=path
    )


# --- this machine ----------------------------------------------------------------------------------------------------


async def file_system(folder: Path) -> str | None:
    """The kind of file system a folder of this machine lies on, or will, as `stat -f` names it; None if it hangs."""
    script = 'p=$1; until [ -e "$p" ]; do p=$(dirname "$p"); done; exec stat -f -c %T "$p"'
    _, said, _ = await children.output("/bin/sh", "-c", script, "sh", str(folder.absolute()), seconds=STAT_TIMEOUT)
    return said.decode().strip() or None
