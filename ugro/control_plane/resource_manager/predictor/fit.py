"""Predict a job's GPU memory, whether it fits, and which change would make it fit. Pure: no file, no node is read.

All memory is in MiB on each GPU. Sources of a prediction, best first: the user's own figure (`--vram`), the peak of
equal runs, the published formulas (`memory_model`) corrected by how wrong they were on this cluster so far.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ugro.common.text import printable, size
from ugro.control_plane.resource_manager.predictor.known_models import is_convolutional
from ugro.control_plane.resource_manager.predictor.memory_model import Estimate, Term, from_model
from ugro.control_plane.resource_manager.predictor.workload import Workload, read_workload

__all__ = [
    "Estimate", "Fit", "PastRun", "Term", "Workload", "alternatives", "corrected", "explain", "fit", "fitting_batch",
    "formula_mib", "from_model", "predict", "read_workload",
]  # fmt: skip

MEASURED_MARGIN = 0.05
"""Memory is looked at now and then, so the true peak may be this share above what was seen."""
ENOUGH_RUNS = 3
"""From so many runs on, the spread of the formulas' errors on this cluster replaces the published one."""
MOST_BATCH = 1 << 16
CORRECTION = "correction"
"""The name of the term by which an estimate differs from the formulas."""


@dataclass(frozen=True)
class PastRun:
    """A job that has ended: which run it was (`history.run_key`), the most it took of a GPU, and what was predicted.

    Both are in MiB. `predicted_mib` has to be what the formulas alone said (`formula_mib` of its estimate): a corrected
    prediction would teach the next correction that there is nothing to correct.
    """

    run: str
    peak_mib: int
    predicted_mib: int | None = None


class Fit(StrEnum):
    """Whether a job goes into a GPU: surely, if the estimate is right (`tight`), or not."""

    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT = "does_not"


def fit(estimate: Estimate, memory_mib: int) -> Fit:
    """`fits` if even the upper end of the estimate goes into `memory_mib`, `tight` if its middle does."""
    if estimate.high_mib <= memory_mib:
        return Fit.FITS
    return Fit.TIGHT if estimate.mib <= memory_mib else Fit.DOES_NOT


def predict(vram: int | None, run: str, history: Sequence[PastRun], workload: Workload | None) -> Estimate | None:
    """The best that is known: `vram` as said, else the peaks of equal runs, else the corrected model; else None."""
    if vram is not None:
        return Estimate(vram, vram, vram, "vram", "as the job says itself (--vram)")
    if peaks := [past.peak_mib for past in history if past.run == run and past.peak_mib > 0]:
        return _measured(peaks)
    return None if workload is None else corrected(workload, history)


def formula_mib(estimate: Estimate) -> int | None:
    """Return the result of the formulas alone, in MiB, which is kept of this prediction; None without them."""
    return sum(term.mib for term in estimate.terms if term.name != CORRECTION) if estimate.source == "model" else None


def _measured(peaks: Sequence[int]) -> Estimate:
    """The largest peak, from the smallest to as much above the largest as the peaks lie apart (at least 5 %)."""
    most = max(peaks)
    above = max(most - min(peaks), math.ceil(most * MEASURED_MARGIN))
    runs = "the last run" if len(peaks) == 1 else f"{len(peaks)} runs"
    return Estimate(most, min(peaks), most + above, "measured", f"the most that {runs} with the same arguments took")


def corrected(workload: Workload, history: Sequence[PastRun]) -> Estimate:
    """The model's estimate times the median of peak / prediction of this cluster's runs that have both.

    From three runs on its band is that of the middle 80 % of these ratios, but at least 5 % to each side; before, it is
    the formulas' own.
    """
    estimate = from_model(workload)
    ratios = [past.peak_mib / past.predicted_mib for past in history if past.predicted_mib and past.peak_mib > 0]
    if not ratios:
        return estimate
    ratio = statistics.median(ratios)
    low, high = estimate.low_mib * ratio, estimate.high_mib * ratio
    if len(ratios) >= ENOUGH_RUNS:
        tenths = statistics.quantiles(ratios, n=10, method="inclusive")
        low = estimate.mib * min(tenths[0], ratio * (1 - MEASURED_MARGIN))
        high = estimate.mib * max(tenths[-1], ratio * (1 + MEASURED_MARGIN))
    mib = round(estimate.mib * ratio)
    runs = "1 past run" if len(ratios) == 1 else f"{len(ratios)} past runs"
    source = f"× {ratio:.2f}, as {runs} on this cluster came out"
    terms = (*estimate.terms, Term(CORRECTION, mib - estimate.mib, source))
    return Estimate(mib, math.floor(low), math.ceil(high), "model", f"{estimate.detail} {source}", terms)


# --- what would fit --------------------------------------------------------------------------------------------------


def fitting_batch(workload: Workload, memory_mib: int, history: Sequence[PastRun] = ()) -> int:
    """The largest batch on each GPU with which the training surely fits into `memory_mib`; 0 if none does."""

    def fits(batch: int) -> bool:
        return fit(corrected(replace(workload, batch=batch), history), memory_mib) is Fit.FITS

    fitting, too_much = 0, 1
    while too_much < MOST_BATCH and fits(too_much):
        fitting, too_much = too_much, too_much * 2
    while too_much - fitting > 1:
        middle = (fitting + too_much) // 2
        fitting, too_much = (middle, too_much) if fits(middle) else (fitting, middle)
    return fitting


def alternatives(
    workload: Workload, memory_mib: int, gpus: int, history: Sequence[PastRun] = ()
) -> list[tuple[str, Estimate]]:
    """Changes with which the training surely fits into `memory_mib`, in words, the cheapest first.

    `gpus` is how many such GPUs there are to shard over. A change names its batch where it needs a smaller one, and is
    left out if a cheaper one allows as large a batch. None are needed if the training fits as it is.
    """
    found: list[tuple[str, Estimate]] = []
    most = 0
    for words, changed in _changes(workload, gpus):
        batch = min(workload.batch, fitting_batch(changed, memory_mib, history))
        if changed is workload and batch == workload.batch:
            return []
        if batch <= most:
            continue
        most = batch
        smaller = f"batch {batch}" if batch < workload.batch else ""
        said = f"{words} with {smaller}" if words and smaller else words or smaller
        found.append((said, corrected(replace(changed, batch=batch), history)))
    return found


def _changes(workload: Workload, gpus: int) -> Iterator[tuple[str, Workload]]:
    """Yield possible changes, from the cheapest to the one that changes the training most."""
    yield "", workload
    recomputing, also = workload, ""
    if not workload.checkpointing and not is_convolutional(workload.model):
        recomputing, also = replace(workload, checkpointing=True), " and gradient checkpointing"
        yield "gradient checkpointing", recomputing
    if workload.method == "full" and workload.optimizer == "adamw":
        yield f"8-bit Adam{also}", replace(recomputing, optimizer="adam8bit")
    if gpus > 1 and workload.method != "qlora" and workload.sharding not in ("fsdp", "zero3"):
        sharded = replace(recomputing, sharding="fsdp", gpus=gpus)
        yield f"FSDP or ZeRO-3 over {gpus} GPUs{also}", sharded
    if is_convolutional(workload.model):
        return
    adapted = replace(recomputing, precision="bf16")
    if workload.method == "full":
        yield f"LoRA{also}", replace(adapted, method="lora")
    if workload.method != "qlora":
        yield f"QLoRA{also}", replace(adapted, method="qlora", sharding="ddp")


def explain(
    estimate: Estimate,
    workload: Workload | None,
    gpu: str,
    memory_mib: int,
    gpus: int,
    history: Sequence[PastRun] = (),
) -> str | None:
    """Return why it is tight or does not fit into a GPU of that name, and what would; None if it surely fits."""
    verdict = fit(estimate, memory_mib)
    if verdict is Fit.FITS:
        return None
    what = printable(workload.model) or f"a model of {workload.parameters / 1e9:.2g}e9 parameters" if workload else "it"
    way = f" {_way(workload)}" if workload else ""
    room = f"{size(memory_mib)} ({gpu})"
    said = f"{what} barely fits {room}{way}" if verdict is Fit.TIGHT else f"{what} does not train in {room}{way}"
    low, high = size(estimate.low_mib), size(estimate.high_mib)
    between = f" ({low} to {high})" if low != high else ""
    said += f": it needs about {size(estimate.mib)} on each GPU{between}, {estimate.detail}"
    if estimate.terms:
        largest = sorted((term for term in estimate.terms if term.mib > 0), key=lambda term: -term.mib)[:5]
        said += ": " + ", ".join(f"{term.name} {size(term.mib)}" for term in largest)
    would = alternatives(workload, memory_mib, gpus, history) if workload else []
    if would:
        return f"{said}; what would fit: " + ", ".join(f"{words} ({size(other.mib)})" for words, other in would)
    return said + ("; nothing that UGRO knows of would make it fit" if workload else "")


def _way(workload: Workload) -> str:
    """Return the method and the sharding, in words."""
    method = {"full": "", "lora": "LoRA", "qlora": "QLoRA"}[workload.method]
    if workload.sharding == "ddp":
        return f"by {method or 'plain DDP'}"
    names = {"fsdp": "FSDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}
    return f"by {method + ' with ' if method else ''}{names[workload.sharding]} over {workload.gpus} GPUs"
