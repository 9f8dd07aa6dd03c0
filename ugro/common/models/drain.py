"""A drained node."""

from enum import StrEnum

from ugro.common.models.record import Record


class DrainOrigin(StrEnum):
    """Where a drain comes from, and so who ends it."""

    PERSON = "person"
    """`ugro drain`: only `ugro undrain` ends it."""
    INVENTORY = "inventory"
    """The node left the inventory: the drain ends when the node is back."""


class Drain(Record):
    """A node that gets no new jobs, with the reason, the time and its origin. Running jobs continue."""

    node: str
    reason: str
    since: float
    origin: DrainOrigin = DrainOrigin.PERSON
