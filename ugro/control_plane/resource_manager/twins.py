"""Machines and GPUs that the inventory has under two names, found by what the nodes say of themselves. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ugro.common.models.node import NodeView

REMEDY = "remove one of the two from the inventory"


@dataclass(frozen=True)
class Twin:
    """A node that is the machine which the inventory names as `node` before, and the sign of it."""

    node: str
    sign: str

    def text(self, name: str) -> str:
        """For people: `gpu1b is gpu1 under another name (both have GPU-…)`."""
        return f"{name} is {self.node} under another name ({self.sign})"


def twins(names: Iterable[str], views: Mapping[str, object]) -> dict[str, Twin]:
    """The nodes that are one machine with an earlier one of the names. Those without a view have no say."""
    seen: list[NodeView] = []
    found = {}
    for name in names:
        view = views.get(name)
        if not isinstance(view, NodeView):
            continue
        if twin := next((Twin(other.node, sign) for other in seen if (sign := _sign(other, view))), None):
            found[name] = twin
        else:
            seen.append(view)
    return found


def _sign(one: NodeView, other: NodeView) -> str:
    """Return the sign that two views are of one machine; empty if they are not.

    Containers of one host share its boot id, and have process tables of their own. Where both have GPUs, these decide:
    machines that are simulated on one host have different ones. Elsewhere the folder decides: it is one and the same
    where the user is.
    """
    if one.boot_id != other.boot_id or one.pid_namespace != other.pid_namespace:
        return ""
    mine, its = _uuids(one), _uuids(other)
    if mine and its:
        return f"both have {min(mine & its)}" if mine & its else ""
    unclear = one.gpu_problem or other.gpu_problem or one.folder is None or one.pid_namespace is None
    return "" if unclear or one.folder != other.folder else f"one boot id, {one.boot_id}, and one base_dir"


def shared_gpus(names: Iterable[str], views: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Return by node its GPUs that an earlier one of the names has too, and which: containers may share a GPU."""
    owners: dict[str, str] = {}
    found: dict[str, dict[str, str]] = {}
    for name in names:
        view = views.get(name)
        for uuid in _uuids(view) if isinstance(view, NodeView) else ():
            if owners.setdefault(uuid, name) != name:
                found.setdefault(name, {})[uuid] = owners[uuid]
    return found


def _uuids(view: NodeView) -> set[str]:
    return {gpu.uuid for gpu in view.gpus if gpu.uuid}
