"""What a diagnosis found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ugro.control_plane.diagnosis.causes import CAUSES, Advice


@dataclass(frozen=True)
class Diagnosis:
    """Why a run or a rank ended badly. `rank` and `where` (file:line) are None where the logs do not tell.

    `consequence` tells that another rank's failure did it. `consequences` counts what was seen to follow from this one.
    """

    cause: str
    message: str
    consequence: bool = False
    rank: int | None = None
    where: str | None = None
    evidence: tuple[str, ...] = ()
    consequences: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    own_advice: Advice | None = None

    @property
    def advice(self) -> Advice:
        """What to do about it: the catalogue entry's own advice, else that of the cause."""
        return self.own_advice or CAUSES.get(self.cause, CAUSES["unknown"])
