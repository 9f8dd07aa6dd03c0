"""The request that estimates a training's memory, and its answer."""

from __future__ import annotations

from typing import ClassVar, Literal

from ugro.service.schemas.base import Document, Request

Fit = Literal["fits", "tight", "does_not"]
"""Whether a training goes into a GPU: surely, if the estimate is right, or not."""


class TermDocument(Document):
    """A part of an estimate."""

    name: str
    """Its name."""
    mib: int
    """Its size."""
    source: str
    """How it was computed."""


class EstimateDocument(Document):
    """Memory that a training takes of each GPU."""

    mib: int
    """Most likely."""
    low_mib: int
    """At least."""
    high_mib: int
    """At most."""
    source: str
    """`vram`: the job says so; `measured`: equal runs were watched; `model`: formulas."""
    terms: tuple[TermDocument, ...]
    """Its parts."""
    assumed: tuple[str, ...]
    """What was assumed, in sentences."""


class FittingDocument(Document):
    """A GPU that the training could get."""

    node: str | None
    """Name of the node; `null`: a GPU of a usual size."""
    gpu: str | None
    """UUID of the GPU."""
    name: str
    """Its model."""
    memory_mib: int
    """Its memory."""
    fit: Fit
    """Whether the training fits, if the estimate is right."""
    batch: int | None
    """Largest batch that fits, 0: none; `null`: how memory depends on it is not known."""


class ChangeDocument(Document):
    """A change of the training that would fit the smallest GPU."""

    change: str
    """In words."""
    mib: int
    """Estimate with it."""


class EstimatedDocument(Document):
    """An estimate, and what it means for the GPUs."""

    schema_version: int = 1
    estimate: EstimateDocument
    """Memory of each GPU."""
    gpus: tuple[FittingDocument, ...]
    """GPUs that the training could get."""
    alternatives: tuple[ChangeDocument, ...]
    """What would fit the smallest one, where the training surely does not."""


class Estimated(Document):
    """The same, with what it rests on in words, and the world size where formulas were used (else null)."""

    answer: EstimatedDocument
    detail: str
    world_size: int | None


class EstimateMemory(Request[Estimated]):
    """Estimate the memory that a training takes of each GPU. Reaches no node.

    `arguments` are the script's, of which the last of a kind counts; `run` is the key of equal runs, empty without a
    script. `model` is a name or size that has to be known. `vram` (MiB) is what the job says it takes.
    """

    function: ClassVar[str] = "estimate.estimate"
    arguments: tuple[str, ...] = ()
    run: str = ""
    model: str | None = None
    gpus: int | None = None
    vram: int | None = None
