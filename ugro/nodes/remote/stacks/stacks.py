"""Reads the stack traces of a run's ranks: Python stacks where py-spy may read them, else each thread's kernel state.

py-spy is one static program. Where a node has none and this machine has it (`pip install ugro[stacks]`), it is sent
into the run's folder for this call, and removed again.
"""

from __future__ import annotations

import platform
import secrets
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from ugro.common.models.record import Record
from ugro.common.models.stacks import STATES, RankStack, Thread
from ugro.common.paths import RunPaths
from ugro.nodes.remote.answers import payload
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.python import RUN_PYTHON, ask_script, with_env
from ugro.nodes.transport import Transport

TIMEOUT = 120.0
PROBLEM = "the stack traces of its ranks cannot be read"

_WITH_PY_SPY = f"""\
size=$1 file=$2; shift 2
case $file in "~/"*) file=$HOME/${{file#"~/"}} ;; esac
trap 'rm -f "$file"' EXIT; trap 'exit 143' HUP INT TERM
umask 077
head -c "$size" > "$file" && chmod 700 "$file" || exit 73
({RUN_PYTHON})
"""
"""SIZE FILE PYTHON [ARG…]: the first SIZE bytes of stdin are a program,
the rest is Python, run in a subshell so that the trap stays."""


class NodeStacks(Record):
    """The stack traces of one node's ranks, and NCCL's own report (RAS) of the whole job, if it answers."""

    ranks: tuple[RankStack, ...]
    nccl: str = ""


class _Answer(NodeStacks):
    machine: str
    py_spy: bool
    ptrace_scope: str


_ANSWER = TypeAdapter(_Answer)


def own_py_spy() -> Path | None:
    """The py-spy of this machine: of the environment UGRO runs in, or on the PATH."""
    beside = Path(sysconfig.get_path("scripts"), "py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    return Path(found) if found else None


async def stacks(
    transport: Transport, paths: RunPaths, ranks: Sequence[int] = (), py_spy: Path | None = None
) -> NodeStacks:
    """Return the stack traces of a run's ranks on one node; of all unless some are named.

    `py_spy` is a program of this machine's kind, used where the node has none of its own.

    Raises:
        NodeRefused: the node's answer cannot be understood. NodeError: as `Transport.run` does.
    """
    words = [str(rank) for rank in ranks]
    args = (paths.run_dir, "", *words)
    answer = await ask_script(transport, "stacks/stacks.py", args, _ANSWER, PROBLEM, timeout=TIMEOUT)
    living = any(rank.state for rank in answer.ranks)
    if py_spy and living and not answer.py_spy and answer.machine == platform.machine():
        answer = await _with_py_spy(transport, paths, words, py_spy)
    found = sorted(answer.ranks, key=lambda rank: rank.rank)
    return NodeStacks(ranks=tuple(_in_words(rank, answer) for rank in found), nccl=answer.nccl)


async def _with_py_spy(transport: Transport, paths: RunPaths, ranks: Sequence[str], py_spy: Path) -> _Answer:
    program, file = py_spy.read_bytes(), f"{paths.run_dir}/.py-spy-{secrets.token_hex(8)}"
    args = (str(len(program)), file, transport.node.python, paths.run_dir, file, *ranks)
    data = program + load("stacks/stacks.py").encode()
    outcome = await transport.run(with_env(transport.node, _WITH_PY_SPY), args, data=data, timeout=TIMEOUT)
    return payload(transport, outcome, "stacks", _ANSWER, PROBLEM)


def _in_words(rank: RankStack, answer: _Answer) -> RankStack:
    threads = tuple(thread.model_copy(update={"waits_in": waits_in(thread, answer.machine)}) for thread in rank.threads)
    return rank.model_copy(update={"threads": threads, "problem": _why_no_python(rank, answer)})


def _why_no_python(rank: RankStack, answer: _Answer) -> str | None:
    if rank.state is None or any(thread.frames for thread in rank.threads):
        return None
    if not answer.py_spy:
        return "there is no py-spy: install it in the node's environment, or here with `pip install 'ugro[stacks]'`"
    scope = f" (kernel.yama.ptrace_scope is {answer.ptrace_scope})" if answer.ptrace_scope not in ("", "0") else ""
    return f"py-spy: {rank.problem or 'it shows no Python thread'}{scope}"


_CALLS = {
    "x86_64": {202: "lock", 0: "read", 1: "write", 7: "poll", 271: "poll", 23: "poll", 270: "poll", 232: "poll",
               281: "poll", 45: "receive", 47: "receive", 44: "send", 46: "send", 35: "sleep", 230: "sleep",
               61: "child", 247: "child", 43: "connect", 288: "connect", 42: "connect", 73: "file", 74: "disk",
               75: "disk", 16: "driver"},
    "aarch64": {98: "lock", 63: "read", 64: "write", 73: "poll", 72: "poll", 22: "poll", 207: "receive",
                212: "receive", 206: "send", 211: "send", 101: "sleep", 115: "sleep", 260: "child", 95: "child",
                202: "connect", 242: "connect", 203: "connect", 32: "file", 82: "disk", 83: "disk", 29: "driver"},
}  # fmt: skip
_KERNEL = (
    ("futex", "lock"), ("nanosleep", "sleep"), ("ep_poll", "poll"), ("poll_", "poll"), ("do_select", "poll"),
    ("wait_for_more_packets", "receive"), ("sk_wait_data", "receive"), ("sk_stream_wait", "send"), 
    ("pipe_read", "read"),
    ("pipe_w", "write"), ("do_wait", "child"), ("accept", "connect"), ("nfs", "disk"), ("rpc_", "disk"),
    ("folio_wait", "disk"), ("io_schedule", "disk"), ("flock", "file"), ("nvidia", "driver"), ("_nv", "driver"),
)  # fmt: skip
_WAITS = {
    "lock": "waits for another thread or a lock (futex)",
    "read": "waits for input (read)",
    "write": "waits for a reader (write)",
    "poll": "waits for a socket or a timer (poll)",
    "receive": "waits for data of another process (recv)",
    "send": "waits until another process takes its data (send)",
    "sleep": "sleeps",
    "child": "waits for a child process",
    "connect": "waits for a connection",
    "file": "waits for a lock on a file",
    "disk": "waits for a disk or a network file system",
    "driver": "waits for a driver (ioctl)",
}


def waits_in(thread: Thread, machine: str) -> str:
    """Say what a thread does: by its state, and by its system call and kernel functions where these are known."""
    if thread.state not in ("S", "D"):
        return STATES.get(thread.state or "", "is in a state that is not known")
    names = " ".join(filter(None, (thread.wchan, *thread.kernel)))
    kind = next((kind for part, kind in _KERNEL if part in names), None)
    kind = kind or _CALLS.get(machine, {}).get(-1 if thread.syscall is None else thread.syscall)
    if thread.state == "D":
        return STATES["D"] if kind is None else f"{_WAITS[kind]}, uninterruptible"
    return _WAITS[kind] if kind else STATES["S"]
