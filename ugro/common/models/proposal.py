"""Proposals after failures, with changed arguments."""

from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.record import Record


class ArgumentChange(Record):
    """One argument of a job's next attempt."""

    name: str
    """Its name."""
    before: str | None
    """Its value so far; `null`: it was not given."""
    after: str
    """Its new value."""

    @property
    def text(self) -> str:
        """Return `--batch-size 8 → 4`."""
        return f"{self.name} {self.before if self.before is not None else '(not given)'} → {self.after}"


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
