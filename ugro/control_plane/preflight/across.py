"""Whether the nodes agree about what has to be the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ugro.common.models.node import NodeView
from ugro.control_plane.preflight.findings import Finding, Level, Remark, ok, problem
from ugro.control_plane.resource_manager.twins import REMEDY, shared_gpus, twins
from ugro.nodes.remote.checkup.checkup import NodeReport, PythonFacts

NONE = "none"


@dataclass(frozen=True)
class Shared:
    """A version that should be the same on all nodes. `version` gives None where a node has no say."""

    name: str
    level: Level
    version: Callable[[PythonFacts], str | None]
    hint: str


SHARED = (
    Shared(
        "python",
        Level.WARNING,
        lambda facts: ".".join(facts.python.split(".")[:2]),
        "use the same minor version everywhere: what ranks pickle for each other may not load",
    ),
    Shared(
        "torch",
        Level.PROBLEM,
        lambda facts: facts.torch.partition("+")[0] if facts.torch else None,
        "install the same version everywhere",
    ),
    Shared("CUDA", Level.WARNING, lambda facts: facts.cuda or NONE, "install the same build of torch everywhere"),
    Shared("NCCL", Level.PROBLEM, lambda facts: facts.nccl, "NCCL refuses to work with another version of NCCL"),
)


def judge_names(views: Mapping[str, NodeView | None]) -> Iterator[Finding]:
    """Whether each node is a machine of its own, with GPUs of its own."""
    same = twins(views, views)
    for name, twin in same.items():
        yield problem("machine", twin.text(name), f"{REMEDY}: a job would have two ranks on one GPU").about(name)
    for name, gpus in shared_gpus(views, views).items():
        if name not in same:
            said = "; ".join(f"{uuid} is one of {other} too" for uuid, other in gpus.items())
            hint = f"give each its own; jobs get it on {', '.join(dict.fromkeys(gpus.values()))} alone"
            yield problem("gpus", said, hint).about(name)


def differences(reports: Mapping[str, NodeReport]) -> Iterator[Remark]:
    """Yield where versions disagree, and which node has which; or that they agree. Nodes without torch do not count."""
    facts = {name: report.python for name, report in reports.items() if report.python and report.python.torch}
    agreed: list[str] = []
    for shared in SHARED:
        owners: dict[str, list[str]] = {}
        for name, python in facts.items():
            if version := shared.version(python):
                owners.setdefault(version, []).append(name)
        if len(owners) > 1:
            said = "; ".join(f"{version} on {', '.join(names)}" for version, names in owners.items())
            yield Remark(shared.level, shared.name.lower(), f"{shared.name} is not the same: {said}", shared.hint)
        else:
            agreed += [f"{shared.name} {version}" for version in owners if version != NONE]
    if len(facts) > 1 and agreed:
        yield ok("agreement", f"the same everywhere: {', '.join(agreed)}")
