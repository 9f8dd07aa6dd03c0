"""Batches by speed for jobs on mixed GPUs: pure functions over the GPUs' relative speeds.

With equal batches each step of DDP takes as long as the slowest GPU needs for it. With batches in proportion to their
speeds all GPUs finish a step together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ugro.common.models.job import Placement

Speed = float
"""Samples per second of a GPU, in any unit that is the same for all GPUs compared."""

ALIKE = 0.03
"""Speeds that differ by less are equal: a measurement is no better than that."""


def batch_shares(speeds: Sequence[Speed]) -> tuple[float, ...]:
    """Each GPU's fraction of the global batch, in proportion to its speed; they sum to 1.

    Raises:
        ValueError: a speed is not a number above 0.
    """
    total = _total(speeds)
    return tuple(speed / total for speed in speeds)


def ddp_loss(speeds: Sequence[Speed]) -> float:
    """The fraction of the GPUs' common speed that equal batches would leave unused, 0 when all are equally fast.

    Raises:
        ValueError: there is no speed, or one is not a number above 0.
    """
    total = _total(speeds)
    return max(0.0, 1 - min(speeds) * len(speeds) / total)


def speeds_in_words(names: Sequence[str], speeds: Sequence[Speed]) -> str | None:
    """Return the cost of equal batches on GPUs of these names and speeds; None if all are about equally fast.

    Raises:
        ValueError: a speed is not a number above 0.
    """
    if not speeds or min(speeds) >= (1 - ALIKE) * max(speeds):
        return None
    slowest = min(zip(speeds, names, strict=True))[1]
    shares = ", ".join(f"{share:.2f}" for share in batch_shares(speeds))
    loss = f"{100 * ddp_loss(speeds):.0f} %"
    return f"equal batches would run at the pace of {slowest}: {loss} slower than shares by speed ({shares})"


def _total(parts: Sequence[float]) -> float:
    if any(not (math.isfinite(part) and part > 0) for part in parts):
        raise ValueError(f"not all are numbers above 0: {', '.join(map(str, parts))}")
    return math.fsum(parts)


def with_batch_shares(placement: Placement, speeds: Mapping[str, tuple[str, Speed]]) -> tuple[Placement, str | None]:
    """The placement with each rank's share of the global batch, and what equal batches would cost, in words.

    `speeds` has name and speed by GPU UUID. Where not all are known, or all are alike, nothing is added.
    """
    gpus = [uuid for share in placement.shares for uuid in share.gpus]
    several = any(share.nproc < len(share.gpus) for share in placement.shares)  # GPUs of one process: it divides itself
    if several or len(gpus) < 2 or any(uuid not in speeds for uuid in gpus):
        return placement, None
    measured = [speeds[uuid][1] for uuid in gpus]
    words = speeds_in_words([speeds[uuid][0] for uuid in gpus], measured)
    if words is None:
        return placement, None
    parts = dict(zip(gpus, batch_shares(measured), strict=True))
    shares = tuple(
        share.model_copy(update={"batch_shares": tuple(parts[uuid] for uuid in share.gpus)})
        for share in placement.shares
    )
    return placement.model_copy(update={"shares": shares}), words
