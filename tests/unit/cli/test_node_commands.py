"""`ugro node add`, `remove`, `rename` and `ugro init` as they are typed."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from ugro.common.inventory_file import load_inventory
from ugro.testing.commands import Ugro


@pytest.fixture
def ugro(forked: Ugro) -> Ugro:
    def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return forked(*args, cwd=cwd, env={**os.environ})

    return run


@pytest.fixture(autouse=True)
def inventory(home: Path) -> Path:
    path = home / "inventory.yaml"
    path.write_text("nodes:\n  here: {address: 10.9.9.9, local: true}\n  gpu1: {address: 127.0.0.1, port: 1}\n")
    return path


def test_uses_paramiko_and_fabric_in_one_room_and_only_for_a_password() -> None:
    users = []
    for path in (ROOT / "ugro").rglob("*.py"):
        if not re.search(r"paramiko|fabric|invoke", text := path.read_text(encoding="utf-8")):
            continue
        for node in ast.walk(ast.parse(text)):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.split(".")[0] for name in names} & {"paramiko", "fabric", "invoke"}:
                users.append(path.relative_to(ROOT).parent.as_posix())
    assert set(users) == {"ugro/nodes/bootstrap"}
    loaded = (
        "import ugro.cli.commands.status, ugro.cli.commands.node, ugro.service.first_contact, sys; print(*sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert not {"paramiko", "fabric", "invoke"} & {*found}


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (("--password-file", "missing"), "--password-file missing: No such file or directory", 2),
        (("--password-file", "-"), "--password-file -: its first line is empty", 2),
        (("--password-file", "empty"), "--password-file empty: its first line is empty", 2),
        (("--name", "all"), "'all' is no name for a node", 2),
        (("--port", "70000"), "a whole number from 1 to 65535 is expected", 2),
        ((), "gpu2: 127.0.0.1:2 refuses connections", 3),
        (("--name", "here"), "here is in the inventory already", 2),
    ],
)
def test_refuses_bad_input_and_leaves_the_inventory(
    ugro: Ugro, home: Path, inventory: Path, options: tuple[str, ...], message: str, code: int
) -> None:
    before = inventory.read_text()
    (home / "empty").write_text("\n")
    target = "127.0.0.1:2" if not options else "10.255.255.1"
    done = ugro("node", "add", target, *options, "--json", cwd=home)
    error = json.loads(done.stderr)["error"]
    assert message in error["message"] and done.returncode == code and not done.stdout
    assert inventory.read_text() == before


def test_needs_an_inventory(ugro: Ugro, home: Path, inventory: Path) -> None:
    inventory.unlink()
    done = ugro("node", "add", "ob@127.0.0.1:2", cwd=home)
    assert done.returncode == 2 and "write one with `ugro init`" in done.stderr


def test_renames_a_node(ugro: Ugro, home: Path, inventory: Path) -> None:
    done = ugro("node", "rename", "gpu1", "big", cwd=home)
    assert done.returncode == 0 and "gpu1 is big now in" in done.stdout
    assert list(load_inventory(inventory).nodes) == ["here", "big"]
    again = ugro("node", "rename", "gpu1", "big", "--json", cwd=home)
    assert again.returncode == 2 and "no node is called 'gpu1'" in json.loads(again.stderr)["error"]["message"]


def test_removes_an_unreachable_node_with_consent(ugro: Ugro, home: Path, inventory: Path) -> None:
    refused = ugro("node", "remove", "gpu1", cwd=home)
    assert refused.returncode == 2 and "ugro node remove gpu1 --yes" in refused.stderr
    done = ugro("node", "remove", "gpu1", "--yes", "--json", cwd=home)
    assert done.returncode == 3 and len(json.loads(done.stdout)["owed"]) == 2
    assert list(load_inventory(inventory).nodes) == ["here"]


def test_init_adds_machines_one_by_one_and_names_those_that_failed(ugro: Ugro, home: Path, inventory: Path) -> None:
    words = ("init", "--name", "master", "--force", "--contact", "a=ob@127.0.0.1:1", "no-such-host.invalid")
    done = ugro(*words, cwd=home)
    assert done.returncode == 3 and list(load_inventory(inventory).nodes) == ["master"]
    assert "a=ob@127.0.0.1:1 (1 of 2)" in done.stderr and "refuses connections" in done.stderr
    assert "not added; again: ugro node add no-such-host.invalid" in done.stdout
    assert "no link was measured, since no-such-host.invalid was not added; later: ugro check" in done.stdout
    written = ugro("init", "--force", "a=ob@127.0.0.1:1", cwd=home)
    assert written.returncode == 0 and "a" in load_inventory(inventory).nodes
