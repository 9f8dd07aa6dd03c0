"""Requests about the Python environment of a node, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, Request, Stream


class InterpreterDocument(Document):
    """An interpreter on a node."""

    path: str
    """Its path on the node."""
    source: str
    """Where it was found: `configured` (in the inventory), `ugro`, `conda`, `venv`, `pyenv`, `path`, `system`, `uv`."""
    version: str | None
    """Version of Python; `null`: it does not run."""
    torch: str | None
    """Version of torch; `null`: it has none."""
    cuda: str | None
    """Version of CUDA that torch was built for."""
    archs: tuple[str, ...]
    """GPU architectures that torch was built for."""
    usable: bool
    """Whether it can train on this node."""
    reason: str
    """Why, or why not."""


class NodePythonDocument(Document):
    """The interpreters of a node, and the one to take."""

    schema_version: int = 1
    node: str
    configured: str
    """The `python` of the node in the inventory."""
    device: str | None
    """What a matrix product was tried on: UUID of a GPU, or `cpu`; `null`: nothing, since the GPU gives no answer."""
    interpreters: tuple[InterpreterDocument, ...]
    """Those that were found."""
    taken: str | None
    """Path of the one to take; `null`: none can train there."""
    why: str | None
    """Why that one."""
    more: int
    """Number of interpreters that were not tried."""
    complete: bool
    """Whether all that were to be tried gave an answer in time."""


class FindPython(Request[NodePythonDocument]):
    """Find the Python interpreters of a node, and try each on one of its GPUs. Nothing is written."""

    function: ClassVar[str] = "node_python.find"
    node: str


class TorchDocument(Document):
    """A build of torch that suits a node and the others of its cluster."""

    version: str
    """Version, such as `2.13`: its newest release."""
    index: str
    """Index that has it: `cpu`, or `cu130` for CUDA 13.0."""
    why: str
    """Why this one."""
    notes: tuple[str, ...]
    """What will not work together, or could not be asked."""


class PythonPlan(Plan):
    """A Python environment that will be made on a node."""

    node: str
    name: str
    """Its name: its folder below `envs` in the node's base directory."""
    folder: str
    torch: TorchDocument
    python: str
    """Version of Python, as uv takes it."""
    index_url: str
    packages: tuple[str, ...]
    sends_uv: bool
    """Whether uv is sent to the node for it."""


class PlanPython(Request[PythonPlan]):
    """Plan to make a Python environment with torch on a node. `index_url`: base of the indexes, null: PyTorch's."""

    function: ClassVar[str] = "node_python.plan_make"
    node: str
    index_url: str | None = None


class PythonLine(Document):
    """A line that a tool printed while it makes an environment."""

    line: str


class MadePythonDocument(Document):
    """A Python environment that was made on a node."""

    schema_version: int = 1
    node: str
    python: InterpreterDocument
    """Its interpreter."""


class PythonMade(Document):
    """The end of the making of an environment."""

    answer: MadePythonDocument


class MakePython(Stream[PythonLine | PythonMade]):
    """Carry out such a plan. Repeated after a break, it continues. Nothing is written to the inventory."""

    function: ClassVar[str] = "node_python.make"
    plan: PythonPlan
    answers: dict[str, bool]
