"""Whether the nodes agree about what has to be the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ugro.control_plane.checkup.findings import Level, Remark, ok
from ugro.nodes.checkup import NodeReport, PythonFacts

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
    Shared("NCCL", Level.PROBLEM, lambda facts: facts.nccl, "NCCL refuses to work with another version of itself"),
)


def differences(reports: Mapping[str, NodeReport]) -> Iterator[Remark]:
    """Where versions disagree, and who has what; or that they agree. Nodes without torch have no say."""
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
