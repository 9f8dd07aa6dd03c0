"""The memory a training needs on each GPU, from published formulas; every term says where it is from.

P is the number of parameters, N the number of GPUs, s the sequence, b the batch on each GPU, h the hidden size, L the
layers, a the attention heads, V the vocabulary. Everything is computed in bytes and returned in MiB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ugro.control_plane.resource_manager.predictor.known_models import Architecture, architecture, image_activations
from ugro.control_plane.resource_manager.predictor.workload import Workload

MIB = 2.0**20
ADAPTER_SHARE = 0.006
"""Fraction of P for LoRA of rank 16 on every linear layer; 0.001 to 0.01 are usual (arXiv 2106.09685, 2305.14314)."""
QLORA_BYTES = 0.55
"""Per parameter: 0.5 in NF4, 0.127 bits of doubly quantized constants, and what stays in bf16 (arXiv 2305.14314)."""
DEEPSPEED_BUCKET = 500_000_000
"""Elements that DeepSpeed reduces at once (its default `reduce_bucket_size`)."""
STATE_BYTES = {"adamw": 8.0, "adam8bit": 2.0, "sgd": 4.0, "adafactor": 4.0}
"""Per trained parameter in fp32 (Hugging Face, "Model training anatomy"); SGD with momentum."""


@dataclass(frozen=True)
class Term:
    """A part of an estimate in MiB, where its formula is from, and how far below and above it may come out (MiB)."""

    name: str
    mib: int
    source: str
    below: int = 0
    above: int = 0


@dataclass(frozen=True)
class Estimate:
    """Memory in MiB that a job will take of each GPU; most likely, at least and at most.

    `source` is `vram` (the user said so), `measured` (equal runs were watched) or `model` (the formulas).
    """

    mib: int
    low_mib: int
    high_mib: int
    source: str
    detail: str
    terms: tuple[Term, ...] = ()


def _term(name: str, size: float, source: str, below: float = 0.0, above: float = 0.0) -> Term:
    """A term of `size` bytes that may be smaller or larger by these shares of it."""
    mib = round(size / MIB)
    return Term(name, mib, source, round(mib * below), round(mib * above))


def from_model(workload: Workload) -> Estimate:
    """The formulas' estimate. Deviations of independent terms add up as the root of the sum of their squares."""
    shape = architecture(workload.model, workload.parameters)
    terms = [term for term in (*_states(workload), *_exchange(workload, shape), *_batch(workload, shape)) if term.mib]
    terms += _overhead(workload, sum(term.mib for term in terms))
    mib = sum(term.mib for term in terms)
    low = mib - math.hypot(*(term.below for term in terms))
    high = mib + math.hypot(*(term.above for term in terms))
    return Estimate(mib, math.floor(low), math.ceil(high), "model", "by published formulas", tuple(terms))


def _bytes_each(workload: Workload) -> tuple[float, float, float, str]:
    """Bytes per trained parameter of weights, gradients and optimizer states, and where that is from."""
    states = STATE_BYTES[workload.optimizer]
    if workload.method != "full":
        return 4, 4, states, "PEFT keeps adapters in fp32"
    if workload.precision == "fp32":
        return 4, 4, states, "fp32 throughout"
    if workload.sharding.startswith("zero"):
        return 2, 2, 4 + states, "ZeRO, arXiv 1910.02054 .3"
    if workload.precision == "amp":
        # FSDP casts what it gathers, which is counted there; DDP's autocast keeps a half copy of all weights.
        weights = 4 if workload.sharding == "fsdp" else 6
        return weights, 4, states, "Hugging Face, Model training anatomy"
    half = states if workload.optimizer == "adam8bit" else states / 2
    return 2, 2, half, f"all in {workload.precision}, no fp32 master copy"


def _states(workload: Workload) -> Iterator[Term]:
    """Weights, gradients and optimizer states, as far as the sharding leaves them on one GPU (arXiv 1910.02054)."""
    weights, gradients, states, source = _bytes_each(workload)
    sharding, gpus = workload.sharding, workload.gpus
    of_weights = gpus if sharding in ("fsdp", "zero3") else 1
    of_gradients = gpus if sharding in ("fsdp", "zero2", "zero3") else 1
    of_states = gpus if sharding != "ddp" else 1
    trained, what, spread = float(workload.parameters), "P", (0.0, 0.0)
    if workload.method != "full":
        base = QLORA_BYTES if workload.method == "qlora" else 4 if workload.precision == "fp32" else 2
        origin = "QLoRA, arXiv 2305.14314" if workload.method == "qlora" else "LoRA, arXiv 2106.09685"
        yield _term(
            "frozen weights", base * trained / of_weights, f"{_over(base, what, of_weights)}; {origin}", 0.05, 0.1
        )
        trained, what, spread = trained * ADAPTER_SHARE, f"{ADAPTER_SHARE:.1%} of P", (0.8, 0.7)
    for name, each, over in (
        ("weights" if workload.method == "full" else "adapters", weights, of_weights),
        ("gradients", gradients, of_gradients),
        (f"optimizer ({workload.optimizer})", states, of_states),
    ):
        yield _term(name, each * trained / over, f"{_over(each, what, over)}; {source}", *spread)


def _over(each: float, what: str, gpus: int) -> str:
    return f"{each:g} × {what}" if gpus == 1 else f"{each:g} × {what} / {gpus} GPUs"


def _exchange(workload: Workload, shape: Architecture) -> Iterator[Term]:
    """Yield the buffers to exchange gradients (DDP, ZeRO) or to gather layers (FSDP, ZeRO-3)."""
    sharding = workload.sharding
    half = 4 if workload.precision == "fp32" else 2
    trained = workload.parameters * (1 if workload.method == "full" else ADAPTER_SHARE)
    if sharding in ("fsdp", "zero3"):
        layer = max(workload.parameters / shape.layers, float(shape.vocab * shape.hidden))
        yield _term("gathered layers", 2 * half * layer, "the largest unsharded layer, and the next one prefetched",
            0.5, 0.5)  # fmt: skip
    if workload.gpus == 1:
        return
    if sharding == "ddp":
        each = _bytes_each(workload)[1]
        yield _term("DDP buckets", each * trained, "all gradients again: gradient_as_bucket_view=False", 1.0)
    elif sharding != "fsdp":
        size = half * min(trained, DEEPSPEED_BUCKET)
        yield _term("reduce buckets", size, "DeepSpeed's reduce_bucket_size", 0.5, 1.0)


def _batch(workload: Workload, shape: Architecture) -> Iterator[Term]:
    """Yield the terms that grow with the batch: activations (arXiv 2205.05198 eq. 2, half precision) and logits."""
    wide = 2 if workload.precision == "fp32" else 1
    if images := image_activations(workload.model):
        size = 2 * 2 * wide * images * workload.batch
        source = "outputs of the convolutions (timm), and again after their normalization"
        yield _term("activations", size, source, 0.3, 0.4)
        return
    tokens = workload.sequence * workload.batch
    layer = 34 * tokens * shape.hidden * wide
    eager = 5 * shape.heads * workload.sequence / (34 * shape.hidden)
    if workload.checkpointing:
        size = 2 * tokens * shape.hidden * wide * shape.layers + layer
        source = "2·s·b·h·L and one layer's 34·s·b·h, recomputed; arXiv 2205.05198"
        eager *= layer / size
    else:
        size, source = layer * shape.layers, "34·s·b·h·L with fused attention; arXiv 2205.05198 eq. 2"
    yield _term("activations", size, source, 0.3, 0.2 + eager)
    each = 12 if wide == 2 else 10
    yield _term("logits", each * tokens * shape.vocab, f"s·b·V × {each} bytes: logits, softmax, gradient", 0.4, 0.2)
    if workload.method == "qlora":
        yield _term("dequantized weights", 2 * 4 * shape.hidden**2, "the largest matrix in bf16, 8·h²", 0.0, 1.0)


def _overhead(workload: Workload, allocated: int) -> list[Term]:
    """Return the terms that no formula has: the CUDA context, NCCL, and what the caching allocator cannot use."""
    terms = [Term("CUDA context and libraries", 600, "300 to 1000 MiB for each process", 300, 400)]
    if workload.gpus > 1:
        terms.append(Term("NCCL buffers", 400, "200 to 1000 MiB", 200, 600))
    lost = round(allocated * 0.08)
    return [*terms, Term("fragmentation", lost, "5 to 15 % of the rest", lost * 3 // 8, lost * 7 // 8)]
