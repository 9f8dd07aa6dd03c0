"""Records that are filled in, for tests that are about one or two of their fields."""

from __future__ import annotations

from typing import Any

from ugro.common.config import NodeConfig
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.event_kind import EventKind
from ugro.common.models.gpu import Gpu
from ugro.common.models.job import Job, NodeShare, Placement, Wish
from ugro.common.models.job_state import JobState
from ugro.common.models.node import NodeView
from ugro.control_plane import transitions
from ugro.control_plane.metadata_store import MetadataStore

CODE = CodeVersion(directory="/w", files=1, size_bytes=1)


def job(state: JobState = JobState.QUEUED, **fields: Any) -> Job:
    """job-001, in that state."""
    basis = {"id": "job-001", "uid": "u", "name": "n", "submitted_at": 1.0, "command": ("t.py",), "code": CODE}
    return Job.model_validate(basis | {"state": state} | fields)


def change(store: MetadataStore, job_id: str, kind: EventKind | str, message: str = "", **fields: Any) -> Job:
    """The recorded job with these fields, saved with an event of that kind: whatever would have led there."""
    return store.jobs.change(
        job_id, lambda job: transitions.Change(job.model_copy(update=fields), EventKind(kind), message)
    )


def cancel(store: MetadataStore, job_id: str, wish: Wish = Wish.CANCEL) -> Job:
    """The recorded job, once its end is requested."""
    return store.jobs.change(job_id, lambda job: transitions.cancel(job, wish, "cancel was requested"))


def placement(*nodes: str) -> Placement:
    """One rank on each of the nodes."""
    shares = (NodeShare(node=node, node_rank=rank, first_rank=rank, nproc=1) for rank, node in enumerate(nodes))
    return Placement(shares=tuple(shares))


def gpu(index: int = 0, **fields: Any) -> Gpu:
    """A GPU of which only its name is known."""
    return Gpu(**dict[str, Any](index=index, uuid=f"GPU-{index}", name="RTX") | fields)


def node_view(node: str, *gpus: Gpu, **fields: Any) -> NodeView:
    """Return the view of a node with these GPUs and two processors."""
    basis = {"node": node, "seen_at": 1.0, "boot_id": "b", "clock_offset": 0.0, "cpu_count": 2, "gpus": gpus}
    return NodeView.model_validate(basis | fields)


def this_machine(**keys: Any) -> NodeConfig:
    """Return the machine that runs the test, as a node called here."""
    return NodeConfig.model_validate({"name": "here", "address": "127.0.0.1", "local": True} | keys)
