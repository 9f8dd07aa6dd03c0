"""Expected memory of a job on each GPU, before it is submitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ugro.common.job_spec import JobSpec
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.history import run_of
from ugro.control_plane.resource_manager.governor import Capacity, Slot
from ugro.control_plane.resource_manager.predictor.fit import PastRun, explain, formula_mib, predict
from ugro.control_plane.resource_manager.predictor.workload import read_workload


@dataclass(frozen=True)
class Expectation:
    """The result of the formulas alone, in MiB of each GPU, and a warning where the smallest GPU may not suffice."""

    formula_mib: int | None
    warning: str | None


def past_runs(store: MetadataStore) -> list[PastRun]:
    """Return the peak GPU memory of the jobs that have ended, as far as it was watched."""
    return [
        PastRun(row.run, row.peak_mib, row.predicted_mib) for row in store.jobs.summaries() if row.peak_mib is not None
    ]


def expect_memory(store: MetadataStore, spec: JobSpec, capacities: Mapping[str, Capacity]) -> Expectation | None:
    """The expectation for a job, or None when nothing is known of it or of the GPUs."""
    smallest, count = _smallest_gpu(spec, capacities) if spec.share is None else (_declared_part(spec, capacities), 1)
    if smallest is None or smallest.memory_mib is None:
        return None
    history, workload = past_runs(store), read_workload(spec.args, count)
    said = spec.vram if spec.share is None else None  # what is declared of a shared GPU is what the job has to fit into
    estimate = predict(said, run_of(spec), history, workload)
    if estimate is None:
        return None
    return Expectation(
        formula_mib(estimate), explain(estimate, workload, smallest.name, smallest.memory_mib, count, history)
    )


def _declared_part(spec: JobSpec, capacities: Mapping[str, Capacity]) -> Slot | None:
    """The part that a job declares of the smallest GPU which has it."""
    slots = [slot for capacity in capacities.values() for slot in capacity.gpus if slot.memory_mib is not None]
    slots = [slot for slot in slots if spec.vram is None or _memory(slot) >= spec.vram]
    slot = min(slots, key=_memory, default=None)
    if slot is None:
        return None
    mib = int(_memory(slot) * spec.share) if isinstance(spec.share, float) else spec.vram
    return replace(slot, name=f"its part of a {slot.name}", memory_mib=mib)


def _smallest_gpu(spec: JobSpec, capacities: Mapping[str, Capacity]) -> tuple[Slot | None, int]:
    """The smallest GPU that the job would get on an idle cluster, and how many GPUs it would get."""
    got: list[list[Slot]] = []
    for capacity in capacities.values():
        slots = sorted((slot for slot in capacity.gpus if slot.memory_mib is not None), key=_memory, reverse=True)
        if spec.gpus_per_node != 0 and slots:
            got.append(slots[: spec.gpus_per_node])
    if spec.gpus_in_all is not None:  # the fewest nodes: those with most
        most = sorted(got, key=len, reverse=True)[: spec.nodes if isinstance(spec.nodes, int) else None]
        chosen = [slot for slots in most for slot in slots][: spec.gpus_in_all]
        return min(chosen, key=_memory, default=None), spec.gpus_in_all
    got.sort(key=lambda slots: _memory(slots[-1]), reverse=True)
    chosen = [slot for slots in (got[: spec.nodes] if isinstance(spec.nodes, int) else got) for slot in slots]
    return min(chosen, key=_memory, default=None), max(1, len(chosen))


def _memory(slot: Slot) -> int:
    return slot.memory_mib or 0
