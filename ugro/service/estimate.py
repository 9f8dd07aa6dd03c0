"""Estimates the memory that a training takes of each GPU, and what of the cluster it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ugro.common.errors import InputError
from ugro.common.text import printable
from ugro.control_plane.resource_manager.predictor.expectation import past_runs
from ugro.control_plane.resource_manager.predictor.fit import (
    Estimate,
    Fit,
    PastRun,
    Workload,
    alternatives,
    fit,
    fitting_batch,
    predict,
    read_workload,
)
from ugro.control_plane.resource_manager.predictor.known_models import parameter_count
from ugro.service.context import Context
from ugro.service.schemas.estimate import (
    ChangeDocument,
    Estimated,
    EstimatedDocument,
    EstimateDocument,
    EstimateMemory,
    FittingDocument,
    TermDocument,
)

USUAL_GIB = (8, 12, 16, 24, 80)
"""Sizes of GPUs that are shown where no GPU of the cluster is known yet."""


@dataclass(frozen=True)
class _Card:
    """A GPU that a job could get, and its memory in MiB; `node` and `gpu` (its UUID) are None for a usual size."""

    node: str | None
    gpu: str | None
    name: str
    memory_mib: int


async def estimate(context: Context, request: EstimateMemory) -> Estimated:
    """Return how much memory a training takes, whether it fits the cluster's GPUs, and what would fit.

    Raises:
        InputError: the size of the model is not known.
        InventoryError: the inventory has a mistake.
    """
    if request.model is not None and parameter_count(request.model) is None:
        raise _unknown_size(request.model)
    cards = _cards(context)
    count = request.gpus or sum(card.node is not None for card in cards) or 1
    workload = read_workload(request.arguments, count)
    history = past_runs(context.store)
    predicted = predict(request.vram, request.run, history, workload)
    if predicted is None:
        raise _unknown_size(None)
    by_model = workload if workload and predicted.source == "model" else None
    answer = EstimatedDocument(
        estimate=_estimate_document(predicted, by_model),
        gpus=tuple(_fitting(predicted, workload, card, history) for card in cards),
        alternatives=_changes(predicted, workload, min(card.memory_mib for card in cards), count, history),
    )
    return Estimated(answer=answer, detail=predicted.detail, world_size=by_model.gpus if by_model else None)


def _unknown_size(model: str | None) -> InputError:
    where = "" if model is None else f" from {printable(model)!r}"
    hint = "name it: --model 7b, --model gpt2-medium; or what it takes of a GPU: --vram 10G"
    return InputError(f"the size of the model cannot be determined{where}", hint)


def _cards(context: Context) -> list[_Card]:
    """Return the GPUs that nodes reported last, without what is reserved on them; usual sizes if there are none."""
    found = []
    if inventory := context.inventory_if_any():
        views = context.store.config.remembered_nodes()
        for name, node in inventory.nodes.items():
            view = views.get(name)
            for gpu in view.gpus if view else ():
                if gpu.memory_total_mib is not None and not gpu.problem and not gpu.mig:
                    memory = max(0, gpu.memory_total_mib - node.reserve_memory)
                    found.append(_Card(name, gpu.uuid, gpu.name, memory))
    return found or [_Card(None, None, f"a GPU of {gib} GiB", gib * 1024) for gib in USUAL_GIB]


def _estimate_document(predicted: Estimate, workload: Workload | None) -> EstimateDocument:
    return EstimateDocument(
        mib=predicted.mib,
        low_mib=predicted.low_mib,
        high_mib=predicted.high_mib,
        source=predicted.source,
        terms=tuple(TermDocument(name=term.name, mib=term.mib, source=term.source) for term in predicted.terms),
        assumed=workload.assumed if workload else (),
    )


def _fitting(
    predicted: Estimate, workload: Workload | None, card: _Card, history: Sequence[PastRun]
) -> FittingDocument:
    return FittingDocument(
        node=card.node,
        gpu=card.gpu,
        name=card.name,
        memory_mib=card.memory_mib,
        fit=fit(predicted, card.memory_mib).value,
        batch=None if workload is None else fitting_batch(workload, card.memory_mib, history),
    )


def _changes(
    predicted: Estimate, workload: Workload | None, memory_mib: int, gpus: int, history: Sequence[PastRun]
) -> tuple[ChangeDocument, ...]:
    """Return what would fit the smallest GPU, where the training surely does not."""
    if workload is None or fit(predicted, memory_mib) is Fit.FITS:
        return ()
    found = alternatives(workload, memory_mib, gpus, history)
    return tuple(ChangeDocument(change=words, mib=other.mib) for words, other in found)
