"""Asks the ranks of a run on one node to save a checkpoint now: by SIGUSR2, and by a file where that is preferred."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import TypeAdapter

from ugro.common.models.record import Record
from ugro.common.paths import RunPaths
from ugro.nodes.remote.python import ask_script
from ugro.nodes.remote.run.process_manager import CHECKPOINT_REQUEST
from ugro.nodes.transport import Transport

T = TypeVar("T")

TIMEOUT = 30.0


class AskedRank(Record):
    """What came of asking one rank. `not caught`: its script has no handler, so it got no signal."""

    rank: int
    pid: int | None
    answer: Literal["signalled", "not caught", "gone"]


class Asked(Record):
    """The ranks of a node that were asked. `at` is when, by the clock that dates the files there (epoch seconds)."""

    ranks: tuple[AskedRank, ...]
    at: float


class _Withdrawn(Record):
    taken: bool


_ASKED = TypeAdapter(Asked)
_WITHDRAWN = TypeAdapter(_Withdrawn)


async def ask(transport: Transport, paths: RunPaths, when: str) -> Asked:
    """Make the request file, with `when` (one line) as its content, and signal the ranks that catch SIGUSR2.

    A request that is there already is replaced, so the script saves once for both. No script is ended by this.

    Raises:
        NodeRefused: the file cannot be made. NodeError: as `Transport.run` does.
    """
    answer = await _ask(transport, "ask", paths, when, _ASKED)
    return answer.model_copy(update={"ranks": tuple(sorted(answer.ranks, key=lambda rank: rank.rank))})


async def withdraw(transport: Transport, paths: RunPaths, when: str) -> bool:
    """Remove the request of that content; a later request stays. Returns whether a script had taken it.

    Raises:
        NodeRefused: the file cannot be removed. NodeError: as `Transport.run` does.
    """
    return (await _ask(transport, "withdraw", paths, when, _WITHDRAWN)).taken


async def _ask(transport: Transport, what: str, paths: RunPaths, when: str, shape: TypeAdapter[T]) -> T:
    args = (what, f"{paths.run_dir}/{CHECKPOINT_REQUEST}", when)
    problem = "its ranks cannot be asked to save"
    return await ask_script(transport, "checkpoints/save_request.py", args, shape, problem, timeout=TIMEOUT)
