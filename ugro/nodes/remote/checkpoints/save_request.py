"""Asks the ranks of a run on one node to save a checkpoint now: by SIGUSR2, and by a file where that is preferred."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationError

from ugro.common.errors import NodeRefused
from ugro.common.models.record import Record
from ugro.common.paths import RunPaths
from ugro.common.text import printable
from ugro.nodes.remote.run.process_manager import CHECKPOINT_REQUEST, run_python
from ugro.nodes.transport import Outcome, Transport

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


async def ask(transport: Transport, paths: RunPaths, when: str) -> Asked:
    """Make the request file, with `when` (one line) as its content, and signal the ranks that catch SIGUSR2.

    A request that is there already is replaced, so the script saves once for both. No script is ended by this.

    Raises:
        NodeRefused: the file cannot be made. NodeError: as `Transport.run` does.
    """
    outcome = await _run(transport, "ask", paths, when)
    try:
        answer = Asked.model_validate_json(outcome.text)
    except ValidationError:
        raise NodeRefused(transport.name, "what it says of its ranks cannot be understood") from None
    return answer.model_copy(update={"ranks": tuple(sorted(answer.ranks, key=lambda rank: rank.rank))})


async def withdraw(transport: Transport, paths: RunPaths, when: str) -> bool:
    """Remove the request of that content; one of somebody who asked since stays. Returns whether a script had taken it.

    Raises:
        NodeRefused: the file cannot be removed. NodeError: as `Transport.run` does.
    """
    outcome = await _run(transport, "withdraw", paths, when)
    try:
        return _Withdrawn.model_validate_json(outcome.text).taken
    except ValidationError:
        raise NodeRefused(transport.name, "what it says of the request cannot be understood") from None


async def _run(transport: Transport, what: str, paths: RunPaths, when: str) -> Outcome:
    args = (what, f"{paths.run_dir}/{CHECKPOINT_REQUEST}", when)
    outcome = await run_python(transport, "checkpoints/save_request.py", args, TIMEOUT)
    if outcome.status != 0:
        detail = printable(outcome.error_text) or f"exit {outcome.status}"
        raise NodeRefused(transport.name, f"its ranks cannot be asked to save: {detail}")
    return outcome
