"""Names of series for display: one name for one quantity, whichever source it comes from. Pure.

A log prints `loss`, TensorBoard has `train/loss` and Lightning's CSV `train_loss`: one quantity, one curve. Values of
validation and test have other names, and keep them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from ugro.common.models.metrics import SeriesSource

Key = tuple[str, SeriesSource]

_TRAIN = r"(?:train(?:ing)?[/_ -])?"
_QUANTITIES = {
    "loss": re.compile(rf"{_TRAIN}(?:lm[_ -])?loss(?:_step)?|loss/train(?:ing)?|loss_metrics/global_avg_loss"),
    "lr": re.compile(rf"(?:{_TRAIN}|optim/)(?:lr|learning[_ -]?rate)(?:-[a-z]{{1,40}})?"),
    "grad_norm": re.compile(rf"{_TRAIN}(?:(?:global|total)_)?(?:grad(?:ient)?s?[_/ -]?norm|gnorm)"),
}
"""The common name of a quantity, and what scripts call it, in lower case."""


def shown_names(series: Iterable[Key]) -> dict[Key, str]:
    """Return what each series is called, by its name and source as they were read.

    In each source one series gets the common name of its quantity: the one that has it already, else the one with the
    shortest name. Others keep their names.
    """
    shown: dict[Key, str] = {}
    same: dict[tuple[str, SeriesSource], list[str]] = defaultdict(list)
    for name, source in series:
        shown[name, source] = name
        if quantity := quantity_of(name):
            same[quantity, source].append(name)
    for (quantity, source), names in same.items():
        first = min(names, key=lambda name: (name != quantity, len(name), name))
        shown[first, source] = quantity
    return shown


def quantity_of(name: str) -> str | None:
    """Return the common name of what a series measures; None: it has none."""
    lower = name.lower()
    return next((quantity for quantity, names in _QUANTITIES.items() if names.fullmatch(lower)), None)
