"""The result of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field

from ugro.control_plane.diagnosis.causes import CAUSES, Advice


@dataclass(frozen=True)
class Diagnosis:
    """Why a run or a rank ended badly. `rank` and `where` (file:line) are None where the logs do not show them.

    `consequence`: it follows from another rank's failure. `consequences` counts the follow-on errors of this one.
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
        """Advice on the cause: the catalogue entry's own, else that of the cause."""
        return self.own_advice or CAUSES.get(self.cause, CAUSES["unknown"])
