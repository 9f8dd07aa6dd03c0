"""The request that estimates a training's memory, and its answer."""

from __future__ import annotations

from typing import ClassVar, Literal

from ugro.service.schemas.base import Document, Request

Fit = Literal["fits", "tight", "does_not"]
"""Whether a training goes into a GPU: surely, if the estimate is right, or not."""


class TermDocument(Document):
    """A part of an estimate; `source` says how it was computed."""

    name: str
    mib: int
    source: str


class EstimateDocument(Document):
    """Memory that a training takes of each GPU: most likely, at least and at most.

    `source` is `vram` (the job says so), `measured` (equal runs were watched) or `model` (formulas).
    """

    mib: int
    low_mib: int
    high_mib: int
    source: str
    terms: tuple[TermDocument, ...]
    assumed: tuple[str, ...]


class FittingDocument(Document):
    """A GPU that the training could get (`node` null: of a usual size), and the largest batch that fits (0: none).

    `batch` is null where nothing tells how memory depends on it.
    """

    node: str | None
    gpu: str | None
    name: str
    memory_mib: int
    fit: Fit
    batch: int | None


class ChangeDocument(Document):
    """A change of the training that would fit the smallest GPU, in words."""

    change: str
    mib: int


class EstimatedDocument(Document):
    """An estimate, the GPUs, and what would fit the smallest one where the training surely does not."""

    schema_version: int = 1
    estimate: EstimateDocument
    gpus: tuple[FittingDocument, ...]
    alternatives: tuple[ChangeDocument, ...]


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
