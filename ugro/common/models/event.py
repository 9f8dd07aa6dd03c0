"""Events of the timeline."""

from __future__ import annotations

from ugro.common.models.record import Record


class Event(Record):
    """One line of `events.jsonl`. About a job or a node (the other is empty), a job on a node, or neither (`alert`).

    One that is `noted` is no change of the job's record.
    """

    at: float
    job: str = ""
    node: str = ""
    kind: str
    message: str
    noted: bool = False
