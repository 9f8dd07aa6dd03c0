"""Looking for what would keep a training from working, through the service layer."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from door import Door

from ugro.common.errors import InputError
from ugro.service.schemas.check import Check
from ugro.service.schemas.notices import WaitingForNodes


def with_nodes(door: Door, home: Path, *lines: str) -> None:
    """Give the inventory more nodes; the first one has no torch, which takes seconds to import."""
    (home / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    inventory = home / "inventory.yaml"
    inventory.write_text(inventory.read_text() + "".join(f"  {line}\n" for line in lines))
    door.use(inventory)


def test_looks_at_this_machine(door: Door) -> None:
    checked = door.call(Check())
    [node] = checked.answer.nodes
    assert (node.name, node.reachable, node.error) == ("here", True, None)
    assert node.clock and node.machine and node.machine.user and node.view and node.view.cpu_count
    assert list(checked.answer.as_json()) == ["schema_version", "nodes", "findings"]
    assert {finding.node for finding in checked.answer.findings} == {"here", None}
    assert checked.network is None


def test_looks_at_the_python_that_a_job_asks_for(door: Door, home: Path) -> None:
    other = home / "envs" / "other" / "python"
    other.parent.mkdir(parents=True)
    (home / "python").rename(other)  # the inventory's is not there
    [node] = door.call(Check(python=str(other))).answer.nodes
    assert node.python and node.python.python
    checked = door.call(Check(python="train"))
    [refused] = [one for one in checked.answer.findings if one.subject == "python"]
    assert refused.text.startswith("the conda environment train is not there; looked for envs/train/bin/python in ")
    with pytest.raises(InputError, match="python uv is made by the setup command of a job"):
        door.call(Check(python="uv"))


def test_tells_which_node_it_waits_for_and_that_it_is_unreachable(door: Door, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never greets
        with_nodes(door, home, f"away: {{address: 127.0.0.1, port: {silent.getsockname()[1]}}}")
        checked = door.call(Check())
    here, away = checked.answer.nodes
    assert here.reachable and not away.reachable and away.error and away.view is None
    assert [one.level for one in checked.answer.findings if one.node == "away"] == ["problem"]
    waited = [one.nodes for one in door.told if isinstance(one, WaitingForNodes)]
    assert any("away" in nodes for nodes in waited), waited  # this machine may be busy, and waited for, too


def test_measures_no_network_of_one_machine(door: Door, home: Path) -> None:
    with pytest.raises(InputError, match="at least two nodes"):
        door.call(Check(network=True))
    with_nodes(door, home, "away: {address: 127.0.0.1, port: 1}")
    answer = door.call(Check(network=True)).answer
    assert list(answer.as_json())[-1] == "network" and answer.as_json()["network"] is None
    assert any("was not measured" in finding.text for finding in answer.findings)
