"""Observes everything of a node that changes: the files of its runs, and the probe of the machine."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

from ugro.common.models.gpu import Gpu
from ugro.common.models.node import NodeView
from ugro.common.models.run import RunFiles
from ugro.common.paths import RunPaths
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.gpus.gpu_monitor import NO_ANSWER, PROBE_SCRIPT, hear, parse_probe
from ugro.nodes.remote.run.run_files import parse_look, require_all
from ugro.nodes.transport import Transport

HANG_PAUSE = 60.0
"""Seconds without nvidia-smi after one that did not answer: each of them may stay there as a stuck process."""

SMI_TIMEOUT = 10


@dataclass(frozen=True)
class _Hang:
    """What was last known of GPUs that do not answer, and the monotonic time from which they are asked again."""

    until: float
    gpus: tuple[Gpu, ...]
    problem: str | None


_hangs: WeakKeyDictionary[Transport, _Hang] = WeakKeyDictionary()


async def observe(
    transport: Transport, runs: Sequence[RunPaths], timeout: float = 20
) -> tuple[NodeView, list[RunFiles]]:
    """A node's view and the files of its runs, in their order, in one round trip.

    The files come first, so a GPU that hangs does not hide them. When nvidia-smi did not answer, the next looks over
    this transport do without it for HANG_PAUSE seconds, and show the GPUs as they were then.

    Raises:
        NodeRefused: the answer cannot be understood.
        NodeError: the node cannot be read, which says nothing about the runs.
    """
    nonce = secrets.token_hex(8)
    hang = _hangs.get(transport)
    paused = hang if hang and time.monotonic() < hang.until else None
    options = (transport.node.base_dir, str(SMI_TIMEOUT), "skip" if paused else "")
    args = (nonce, *options, *(paths.run_dir for paths in runs))
    heard = await hear(transport, _script(), args, nonce, timeout)
    files = require_all(transport, parse_look(heard.text, nonce), runs)
    view = parse_probe(transport.name, heard.text, heard.began_at, heard.ended_at, nonce)
    if paused:
        return view.model_copy(update={"gpus": paused.gpus, "gpu_problem": paused.problem}), files
    _note(transport, view)
    return view, files


@cache
def _script() -> str:
    """NONCE BASE_DIR SECONDS skip|'' [RUN_DIR…]; both parts have the time of the first."""
    return f"""nonce=$1 base=$2 seconds=$3 skip=$4
shift 4
set -- "$nonce" "$@"
{load("run/look.sh")}
cd /
set -- "$base" "$nonce" "$seconds" "$skip" "$now"
{PROBE_SCRIPT}
"""


def _note(transport: Transport, view: NodeView) -> None:
    problems = [view.gpu_problem, *(gpu.problem for gpu in view.gpus)]
    if any(NO_ANSWER in problem for problem in problems if problem):
        _hangs[transport] = _Hang(time.monotonic() + HANG_PAUSE, view.gpus, view.gpu_problem)
    else:
        _hangs.pop(transport, None)
