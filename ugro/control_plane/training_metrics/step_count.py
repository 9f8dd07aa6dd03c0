"""One count of steps for a run, from what its lines and bars say, each in its own way. Pure.

Words count before bars, since an evaluation's bar often has no title. Steps within an epoch become steps of the run.
"""

from __future__ import annotations

from ugro.control_plane.training_metrics.steps import Progress

NEAR_END = 0.9
"""Part of a bar that is done when it begins again: the next epoch. States between are not all read."""


class StepCount:
    """The step, the epoch, and how many of each there are to be; None: not known."""

    def __init__(self) -> None:
        self.step: int | None = None
        self.steps: int | None = None
        self.epoch: float | None = None
        self.epochs: int | None = None
        self._words = False
        self._only_epochs = False
        self._longest_bar = 0
        self._bar_step = 0
        self._rounds = 0
        self.first_epoch = 1
        """Number of the first epoch."""

    def trusts(self, progress: Progress) -> bool:
        """Return whether a bar is that of the training: the longest one, or one that names its epoch."""
        return progress.in_epoch or (progress.total or 0) >= self._longest_bar

    def take(self, progress: Progress | None, fraction: float | None = None, with_values: bool = True) -> bool:
        """Note what a line says; return whether it says something. `fraction` is an epoch with decimals."""
        if progress is None and fraction is None:
            return False
        if progress is not None and progress.bar and not self.trusts(progress):
            return False
        if progress is not None:
            self._note_epoch(progress)
        if fraction is not None:
            self.epoch = fraction
        if progress is None or progress.step is None:
            self._count_epochs(progress.epoch if progress else None)
        elif progress.in_epoch:
            self._within_epoch(progress.step, progress)
        elif progress.bar:
            self._by_bar(progress.step, progress.total)
        elif with_values or not self._longest_bar:
            self._words = self._words or with_values
            self._set(progress.step, progress.total)
        return True

    def _note_epoch(self, progress: Progress) -> None:
        if progress.epoch is not None:
            self.epoch = float(progress.epoch)
            self.first_epoch = min(self.first_epoch, progress.epoch)
        self.epochs = progress.epochs or self.epochs

    def _count_epochs(self, epoch: int | None) -> None:
        """Count epochs as steps where a script prints only those."""
        if epoch is not None and (self.step is None or self._only_epochs):
            self._only_epochs = True
            self.step, self.steps = epoch, self.epochs

    def _within_epoch(self, step: int, progress: Progress) -> None:
        if self._words:
            return
        if progress.epoch is None or progress.total is None:
            self._set(step, None)
            return
        before = max(0, progress.epoch - self.first_epoch)
        self._set(before * progress.total + step, self.epochs * progress.total if self.epochs else None)

    def _by_bar(self, step: int, total: int | None) -> None:
        if total and total > self._longest_bar:
            self._longest_bar, self._rounds = total, 0
        elif total and step < self._bar_step and self._bar_step >= NEAR_END * total:
            self._rounds += 1
        self._bar_step = step
        if not self._words:
            done = self._rounds * (total or 0)
            self._set(done + step, total if not self._rounds else None)

    def _set(self, step: int, steps: int | None) -> None:
        self._only_epochs = False
        self.step = step
        if steps is not None or (self.steps is not None and step > self.steps):
            self.steps = steps
