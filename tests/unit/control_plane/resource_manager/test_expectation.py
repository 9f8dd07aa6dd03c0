"""What a job is expected to need, against the GPU or the part of one that it gets."""

from __future__ import annotations

from pathlib import Path

from ugro.common.job_spec import JobSpec
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.resource_manager.governor import Capacity, Slot
from ugro.control_plane.resource_manager.predictor.expectation import expect_memory

GPT2 = ("--model", "gpt2", "--batch-size", "8", "--seq", "512")


def warned(tmp_path: Path, *memory: int, **fields: object) -> str | None:
    slots = tuple(Slot(f"a-{at}", "RTX", mib, mib, at) for at, mib in enumerate(memory))
    spec = JobSpec.model_validate({"script": "t.py", "args": GPT2, **fields})
    found = expect_memory(MetadataStore(tmp_path), spec, {"a": Capacity("a", slots)})
    return found.warning if found else None


def test_a_job_that_shares_a_gpu_has_to_fit_into_what_it_declared(tmp_path: Path) -> None:
    assert warned(tmp_path, 80000, nodes=1) is None
    declared = warned(tmp_path, 80000, share=True, vram="1G")
    assert declared and declared.startswith("gpt2 does not train in 1.0 GiB (its part of a RTX)")
    fraction = warned(tmp_path, 80000, 8192, share=0.125)
    assert fraction and "in 1.0 GiB (its part of a RTX)" in fraction, "of the smallest"
    assert warned(tmp_path, 80000, share=0.9) is None
    assert warned(tmp_path, 2000, share=True, vram="8G") is None, "no GPU has so much: that is refused elsewhere"


def test_gpus_in_all_are_counted_on_the_fewest_nodes(tmp_path: Path) -> None:
    assert warned(tmp_path, 80000, 80000, 1000, gpus=2) is None
    assert "does not train" in (warned(tmp_path, 80000, 80000, 1000, gpus=3) or "")
