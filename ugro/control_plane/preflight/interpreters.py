"""Judge which interpreters of a node can train there, and choose one (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ugro.common.models.record import Record
from ugro.common.text import printable
from ugro.control_plane.preflight.software import fits
from ugro.control_plane.preflight.torch_builds import NodeGpus, index_of, release_of
from ugro.nodes.remote.interpreters.interpreters import Interpreter

OLDEST = (3, 8)
"""The Python that scripts on nodes need."""


class InterpreterVerdict(Record):
    """Whether an interpreter can train on its node, and why."""

    usable: bool
    reason: str


class Taken(Record):
    """The interpreter to take, and why it and not another."""

    path: str
    why: str


def judge(one: Interpreter, gpus: NodeGpus, simulated: bool = False) -> InterpreterVerdict:
    """Judge an interpreter for a node with such GPUs; `simulated` ones compute on the CPU."""
    if one.version is None:
        return _no("does not run")
    if tuple(int(part) for part in one.version.split(".")[:2]) < OLDEST:
        return _no(f"Python {one.version} is too old: 3.8 or newer is needed")
    if one.facts is None:
        return _no(printable(one.problem or "gave no answer"))
    facts = one.facts
    if facts.torch_error:
        return _no(f"torch cannot be imported: {printable(facts.torch_error)}")
    if not facts.torch:
        return _no("has no torch")
    if not facts.distributed:
        return _no(f"torch {printable(facts.torch)} was built without torch.distributed")
    if gpus.capabilities and not simulated:
        if not facts.cuda:
            return _no(f"torch {printable(facts.torch)} was built without CUDA and cannot use the GPU")
        for capability in gpus.capabilities:
            if capability and facts.archs and not fits(facts.archs, capability):
                arch = f"sm_{capability.replace('.', '')}"
                return _no(f"torch {printable(facts.torch)} has no code for a GPU of this node ({arch})")
    if one.matmul is None:
        untried = f"the GPU was not tried: {printable(gpus.gpu_problem or 'it cannot be used')}"
        return _no(printable(one.problem) if one.problem else untried)
    device = printable(one.matmul.device)
    if not one.matmul.passed:
        return _no(f"a matrix product on {device} failed: {printable(one.matmul.error or 'no reason given')}")
    return InterpreterVerdict(usable=True, reason=f"a matrix product on {device} is right")


def _no(reason: str) -> InterpreterVerdict:
    return InterpreterVerdict(usable=False, reason=reason)


def take(found: Sequence[Interpreter], usable: Sequence[str], others: Sequence[NodeGpus] = ()) -> Taken | None:
    """Take one of the usable interpreters (by path): the configured one, else one with the torch of the other nodes,
    else the newest torch; of equal ones the first. None if there is no usable one.
    """
    able = [one for one in found if one.path in usable and one.facts]
    if not able:
        return None
    releases: Counter[str | None] = Counter(node.release for node in others if node.release)
    builds: Counter[tuple[str | None, str | None]] = Counter(
        (node.release, node.index) for node in others if node.release
    )

    def worth(one: Interpreter) -> tuple[int, int, tuple[int, ...]]:
        assert one.facts
        release = release_of(one.facts.torch)
        return releases[release], builds[release, index_of(one.facts.cuda)], _number(release)

    configured = next((one for one in able if one.source == "configured"), None)
    best = configured or max(able, key=worth)
    assert best.facts
    if configured:
        why = "the inventory names it"
    elif releases[release_of(best.facts.torch)]:
        why = "it has the torch of the other nodes"
    elif len(able) == 1:
        why = "no other one passes"
    else:
        why = "it has the newest torch"
    return Taken(path=best.path, why=why)


def _number(release: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".")) if release else ()


def python_for(release_range: tuple[tuple[int, int], tuple[int, int]], others: Sequence[str]) -> str:
    """Return the Python for a new environment, as uv takes it: the minor version that most other nodes have, where
    torch has wheels for it (`3.11`), else any in the range.
    """
    low, high = release_range
    minors = Counter(tuple(int(part) for part in version.split(".")[:2]) for version in others)
    for minor, _ in minors.most_common():
        if low <= minor <= high:
            return ".".join(map(str, minor))
    return f">={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}"
