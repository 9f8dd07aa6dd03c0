"""Environments on a node that setup commands made and no job used for long: listed, and removed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ugro.common.errors import NodeRefused
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.footprint.footprint import (
    CLEAN_TIMEOUT,
    LOOK_TIMEOUT,
    EnvironmentFootprint,
    Removal,
    environments_in,
    understood,
)
from ugro.nodes.transport import Outcome, Transport

FOLDER = "setups/"
_NAME = re.compile(r"setups/[0-9a-f]{32}")


@dataclass(frozen=True)
class OldEnvironments:
    """Environments that nothing used for so long. `storage` is one id on all nodes that share them."""

    environments: tuple[EnvironmentFootprint, ...]
    storage: str


async def old_environments(transport: Transport, idle: int) -> OldEnvironments:
    """Return the environments on a node that nothing used for `idle` seconds, by its clock. Changes nothing.

    Raises:
        NodeError: the node cannot be reached; NodeRefused: its base directory cannot be read.
    """
    return understood(transport, await _run(transport, idle, (), LOOK_TIMEOUT), _listed)


async def remove_environments(transport: Transport, names: Sequence[str], idle: int) -> dict[str, Removal]:
    """Remove environments that nothing used for `idle` seconds; one that was used meanwhile stays (`Removal.RUNNING`).

    Raises:
        NodeRefused: the base directory cannot be entered. NodeError: what was removed is unknown.
    """
    words = tuple(name.removeprefix(FOLDER) for name in names)
    outcome = await _run(transport, idle, words, CLEAN_TIMEOUT)
    done = understood(
        transport, outcome, lambda records: {FOLDER + name: Removal(how) for _, name, how in records[:-1]}
    )
    if done.keys() != {*names}:
        raise NodeRefused(transport.name, f"{transport.node.base_dir}: its answer does not cover all environments")
    return done


async def _run(transport: Transport, idle: int, names: tuple[str, ...], timeout: float) -> Outcome:
    script = load("footprint/footprint.sh") + load("footprint/remove.sh") + load("footprint/old_setups.sh")
    return await transport.run(script, (transport.node.base_dir, str(idle), *names), timeout=timeout)


def _listed(records: list[list[str]]) -> OldEnvironments:
    found = environments_in(records)
    if not all(_NAME.fullmatch(one.name) for one in found):
        raise ValueError("an environment has a name that none has")
    storage = "".join(record[1].strip() for record in records if record[0] == "storage")
    return OldEnvironments(found, storage)
