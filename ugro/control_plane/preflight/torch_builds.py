"""Choose the build of torch that suits the GPUs and drivers of an entire cluster (pure).

A build is chosen for all nodes, not for one: ranks of one job need the same torch, and NCCL refuses to work with
another version of NCCL. A version that other nodes already have counts more than a new one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from ugro.common.models.record import Record
from ugro.common.text import some
from ugro.control_plane.preflight.software import fits

INDEX = "https://download.pytorch.org/whl"
"""Base of the package indexes: `cu130` or `cpu` follows."""

CPU = "cpu"

DRIVERS = {"cu11": (450, 80, 2), "cu12": (525, 60, 13), "cu13": (580, 65, 6)}
"""Oldest driver (Linux) for each major version of CUDA: NVIDIA's CUDA Compatibility, minor version compatibility."""

_OLD = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"
_NEW = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"
_WITH_VOLTA = f"sm_70 {_NEW}"
_NEWEST = f"{_NEW} compute_120"

_RELEASES: tuple[tuple[str, str, tuple[tuple[str, str, str | None], ...]], ...] = (
    ("2.15", "pytorch#190385", (("cu130", _NEWEST, None), ("cu132", _NEWEST, None))),
    ("2.14", "pytorch#190355, #194367",
     (("cu130", _NEWEST, "2.30.7"), ("cu132", _NEWEST, "2.30.7"), ("cu126", _OLD, "2.29.3"))),
    ("2.13", "pytorch#187075", (("cu130", _NEWEST, "2.29.7"), ("cu126", _OLD, "2.29.3"))),
    ("2.12", "pytorch#178665, #182849", (("cu130", _NEWEST, None), ("cu126", _OLD, None))),
    ("2.11", "pytorch#172663, #175253", (("cu130", _NEWEST, None), ("cu128", _NEW, None), ("cu126", _OLD, None))),
    ("2.10", "pytorch#164471", (("cu130", _NEWEST, None), ("cu128", _WITH_VOLTA, None), ("cu126", _OLD, None))),
    ("2.9", "pytorch#164471", (("cu130", _NEWEST, None), ("cu128", _WITH_VOLTA, None), ("cu126", _OLD, None))),
    ("2.8", "test-infra#7046", (("cu128", _WITH_VOLTA, None), ("cu126", _OLD, None))),
    ("2.7", "pytorch#157517", (("cu128", _NEW, None), ("cu126", _OLD, None), ("cu118", _OLD, None))),
    ("2.6", "test-infra before #7046", (("cu126", _OLD, None), ("cu124", _OLD, None), ("cu118", _OLD, None))),
    ("2.5", "test-infra before #7046", (("cu124", _OLD, None), ("cu121", _OLD, None), ("cu118", _OLD, None))),
    ("2.4", "test-infra before #7046", (("cu124", _OLD, None), ("cu121", _OLD, None), ("cu118", _OLD, None))),
    ("2.3", "test-infra before #7046", (("cu121", _OLD, None), ("cu118", _OLD, None))),
    ("2.2", "test-infra before #7046", (("cu121", _OLD, None), ("cu118", _OLD, None))),
    ("2.1", "test-infra before #7046", (("cu121", _OLD, None), ("cu118", _OLD, None))),
)  # fmt: skip
"""Each release with the issue that has its matrix, and its builds for x86-64 Linux, the one to prefer first: index,
architectures, version of NCCL where the source has it."""


@dataclass(frozen=True)
class Build:
    """One build of torch that an index has. `index` is `cu130`, or `cpu`."""

    torch: str
    index: str
    archs: tuple[str, ...] = ()
    nccl: str | None = None
    source: str = ""


BUILDS = tuple(
    Build(torch, index, tuple(archs.split()), nccl, source)
    for torch, source, builds in _RELEASES
    for index, archs, nccl in (*builds, (CPU, "", None))
)
"""All of them, newest release first."""


class NodeGpus(Record):
    """The facts that decide which torch a node can have, the version of its python, and that python's present torch.

    `capabilities` has one item for each GPU, None where the driver does not say it. `torch` is a full version, `cuda`
    the version of CUDA that it was built for. `machine` is what `uname -m` says.
    """

    node: str
    driver: str | None = None
    capabilities: tuple[str | None, ...] = ()
    gpu_problem: str | None = None
    python: str | None = None
    torch: str | None = None
    cuda: str | None = None
    machine: str | None = None

    @property
    def release(self) -> str | None:
        """Its torch as `2.13`."""
        return release_of(self.torch)

    @property
    def index(self) -> str | None:
        """The index that its torch is from."""
        return index_of(self.cuda) if self.torch else None


class TorchChoice(Record):
    """The torch for a cluster: `version` as `2.13` or `2.13.1`, `index` as `cu130`, the same on all nodes unless in
    `others`. `notes` say what will not work together, each a full sentence.
    """

    version: str
    index: str
    others: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    why: str = ""

    @property
    def requirement(self) -> str:
        """As pip takes it: `torch==2.13.*`."""
        return f"torch=={self.version}" + ("" if self.version.count(".") > 1 else ".*")


class NoChoice(Record):
    """The reason why there is no torch for a node, and what to do."""

    reason: str
    hint: str


def release_of(version: str | None) -> str | None:
    """Return `2.13` of `2.13.1+cu130`; None of what is no version."""
    match = re.match(r"(\d{1,3})\.(\d{1,3})(?!\d)", version or "")
    return f"{int(match[1])}.{int(match[2])}" if match else None


def index_of(cuda: str | None) -> str | None:
    """Return `cu130` of `13.0`, and `cpu` of a torch that was built without CUDA."""
    if cuda is None:
        return CPU
    match = re.match(r"(\d{1,3})\.(\d{1,3})", cuda)
    return f"cu{match[1]}{match[2]}" if match else None


def pythons_for(release: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the oldest and the newest Python that a release has wheels for.

    Source: the Release Compatibility Matrix in pytorch's RELEASE.md.
    """
    minor = int(release.partition(".")[2])
    newest = 14 if minor >= 10 else 13 if minor >= 6 else 12 if minor >= 2 else 11
    return ((3, 10) if minor >= 9 else (3, 9)), (3, newest)


def choose(target: NodeGpus, others: Sequence[NodeGpus] = ()) -> TorchChoice | NoChoice:
    """Choose the torch for a node such that it works with the other nodes of its cluster.

    The others are left out where nothing is known of their GPUs, or no build suits them. Of what remains, a torch that
    most of them have wins, then one build for all, then the newest.
    """
    if isinstance(own := _builds(target), NoChoice):
        return own
    able: dict[str, tuple[NodeGpus, list[Build]]] = {target.node: (target, own)}
    notes = []
    for other in others:
        if isinstance(found := _builds(other), NoChoice):
            notes.append(f"{other.node} was left out: {found.reason}.")
        else:
            able[other.node] = (other, found)
    picks = [pick for release in dict.fromkeys(build.torch for build in BUILDS) for pick in _picks(able, release)]
    if not picks:
        return _no_common(target, able)
    best = max(picks, key=lambda pick: _worth(pick, target.node, others))
    return _choice(best, target, [node for node, _ in able.values() if node.node != target.node], notes)


Pick = Mapping[str, Build]
"""The build of each node: all of one release."""


def _builds(node: NodeGpus) -> list[Build] | NoChoice:
    """The builds that a node's GPUs and driver allow, or why there are none."""
    if not node.capabilities:
        if node.gpu_problem:
            return NoChoice(
                reason=f"its GPU cannot be asked: {node.gpu_problem}", hint=f"look there: ugro check --on {node.node}"
            )
        return [build for build in BUILDS if build.index == CPU]
    driver = _driver(node.driver)
    if driver is None:
        return NoChoice(
            reason="the version of its NVIDIA driver is unknown", hint=f"look there: ugro check --on {node.node}"
        )
    if node.machine not in (None, "x86_64"):
        return NoChoice(
            reason=f"which builds suit a GPU beside a {node.machine} CPU is not known",
            hint="install torch there as its vendor says, and set 'python' of the node to that interpreter",
        )
    known = [build for build in BUILDS if build.index != CPU]
    allowed = [build for build in known if driver >= DRIVERS[build.index[:4]]]
    if not allowed:
        needed = ".".join(map(str, DRIVERS["cu12"]))
        return NoChoice(
            reason=f"its driver {node.driver} is too old for any build of torch",
            hint=f"install driver {needed} or newer there, and reboot",
        )
    if None in node.capabilities:
        return NoChoice(
            reason="its driver does not say the compute capability of its GPUs",
            hint="install a newer driver there, and reboot",
        )
    wanted = sorted({capability for capability in node.capabilities if capability})
    suiting = [build for build in allowed if all(fits(build.archs, capability) for capability in wanted)]
    if suiting:
        return suiting
    arch = " and ".join(f"sm_{capability.replace('.', '')}" for capability in wanted)
    newer = [build for build in known if all(fits(build.archs, capability) for capability in wanted)]
    if newer:
        needed = ".".join(map(str, min(DRIVERS[build.index[:4]] for build in newer)))
        return NoChoice(
            reason=f"its driver {node.driver} is too old for the builds that have code for {arch}",
            hint=f"install driver {needed} or newer there, and reboot",
        )
    return NoChoice(reason=f"no build of torch has code for {arch}", hint="leave its GPUs out, or build torch there")


def _driver(version: str | None) -> tuple[int, ...] | None:
    match = re.match(r"(\d{1,4})(?:\.(\d{1,4}))?(?:\.(\d{1,4}))?(?![\d.])", version or "")
    return tuple(int(part or 0) for part in match.groups()) if match else None


def _picks(able: Mapping[str, tuple[NodeGpus, list[Build]]], release: str) -> Iterator[Pick]:
    """Each way to give all nodes this release: one build for all nodes with GPUs, or else what each has or prefers."""
    of = {name: [build for build in builds if build.torch == release] for name, (_, builds) in able.items()}
    if not all(of.values()):
        return
    with_gpus = [builds for builds in of.values() if builds[0].index != CPU]
    common = [build for build in with_gpus[0] if all(build in builds for builds in with_gpus)] if with_gpus else []
    for build in common:
        yield {name: build if build in builds else builds[0] for name, builds in of.items()}
    if not common:

        def own(name: str, builds: list[Build]) -> Build:
            node = able[name][0]
            has = next((build for build in builds if build.index == node.index and node.release == release), None)
            return has or builds[0]

        yield {name: own(name, builds) for name, builds in of.items()}


def _worth(pick: Pick, target: str, others: Iterable[NodeGpus]) -> tuple[int, bool, int, int, int]:
    """Return the criteria by which a pick is better than another, the most important first."""
    has = [node for node in others if node.node in pick]
    indexes = {build.index for build in pick.values()} - {CPU}
    return (
        sum(node.release == pick[node.node].torch for node in has),
        len(indexes) <= 1,
        sum(node.release == pick[node.node].torch and node.index == pick[node.node].index for node in has),
        -next(at for at, build in enumerate(BUILDS) if build.torch == pick[target].torch),
        -next(at for at, build in enumerate(BUILDS) if build is pick[target]),
    )


def _choice(pick: Pick, target: NodeGpus, others: Sequence[NodeGpus], notes: Iterable[str]) -> TorchChoice:
    build = pick[target.node]
    same = [node.torch for node in others if node.torch and node.release == build.torch]
    # With the very version of the others, so that they agree in the last digit, too.
    [(version, _)] = Counter(torch.partition("+")[0] for torch in same).most_common(1) or [(build.torch, 0)]
    if not re.fullmatch(r"\d{1,3}\.\d{1,3}(\.\d{1,3})?", version):  # a nightly, which the index of releases lacks
        version = build.torch
    found = [*notes]
    different = {name: one.index for name, one in pick.items() if one.index not in (build.index, CPU)}
    if different and build.index != CPU:
        said = ", ".join(f"{name} {index}" for name, index in different.items())
        nccl = {one.nccl for one in pick.values() if one.index != CPU}
        why = (
            f"their NCCL differs ({' and '.join(sorted(filter(None, nccl)))}), so no job runs on both"
            if None not in nccl and len(nccl) > 1
            else "compare their NCCL with `ugro check` before a job runs on both"
        )
        found.append(f"No single build suits all GPUs: {target.node} gets {build.index}, {said}; {why}.")
    for node in others:
        if node.torch and node.release != build.torch:
            found.append(
                f"{node.node} has torch {node.torch}: no job runs on both until it has {build.torch}, too "
                f"(`ugro node python {node.node} --make`)."
            )
    return TorchChoice(
        version=version, index=build.index, others=different, notes=tuple(found), why=_why(build, target, others)
    )


def _why(build: Build, target: NodeGpus, others: Sequence[NodeGpus]) -> str:
    owners = [node.node for node in others if node.release == build.torch]
    if owners:
        return f"{some(owners)} {'has' if len(owners) == 1 else 'have'} torch {build.torch}"
    allows = f"driver {target.driver}" if target.capabilities else "a node without a GPU"
    everyone = " and the other nodes" if others else ""
    return f"the newest for {allows}{everyone}"


def _no_common(target: NodeGpus, able: Mapping[str, tuple[NodeGpus, list[Build]]]) -> NoChoice:
    """Return why no release suits all: which node excludes which release."""
    own = {build.torch for build in able[target.node][1]}
    against = [
        name
        for name, (_, builds) in able.items()
        if name != target.node and not own & {build.torch for build in builds}
    ]
    return NoChoice(
        reason=f"no release of torch suits both {target.node} and {some(against) or 'all other nodes'}",
        hint="a newer driver allows newer releases; or use these nodes for separate jobs (`ugro launch --on`)",
    )
