"""Proposals after failures, with changed arguments."""

from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.record import Record


class Proposal(Record):
    """A proposal about a failed job, which waits for an answer. `checkpoint` None: from the beginning.

    `nodes` are those that it would resume on, if they differ from the requested ones. `ends`: it is still running (it
    hangs, or waits for an unreachable node), and would be ended first; an `approved` one is carried out after that.
    """

    job: str
    attempt: int
    at: float
    cause: str
    text: str
    checkpoint: Checkpoint | None = None
    changes: tuple[ArgumentChange, ...] = ()
    nodes: tuple[str, ...] = ()
    ends: bool = False
    approved: bool = False
