"""What UGRO would do about a failure, and which arguments would change."""

from __future__ import annotations

from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.record import Record


class Change(Record):
    """One argument of a job's next attempt, as it was and as it will be; None: it was not given."""

    name: str
    before: str | None
    after: str

    @property
    def text(self) -> str:
        """For people: `--batch-size 8 → 4`."""
        return f"{self.name} {self.before if self.before is not None else '(not given)'} → {self.after}"


class Proposal(Record):
    """What UGRO would do about a job that failed, and waits to be told to. `checkpoint` None: from the beginning.

    `nodes` are those that it would go on with, where that are not the ones it was asked for. `ends`: it has not ended
    (it hangs, or waits for a node that is silent), and would be ended first; `approved` it is carried out once it has.
    """

    job: str
    attempt: int
    at: float
    cause: str
    text: str
    checkpoint: Checkpoint | None = None
    changes: tuple[Change, ...] = ()
    nodes: tuple[str, ...] = ()
    ends: bool = False
    approved: bool = False
