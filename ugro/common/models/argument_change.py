"""A changed argument of a job."""

from __future__ import annotations

from ugro.common.models.value import Value


class ArgumentChange(Value):
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
