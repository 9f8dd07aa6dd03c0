"""The Python of a node: found, planned and made, through both backends, and by the command."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from door import Door

from ugro.common.errors import Declined, InputError, NodeRefused
from ugro.nodes.remote.interpreters import interpreters
from ugro.service import node_python
from ugro.service.plan import Fingerprint, PlanChanged
from ugro.service.schemas.node_python import FindPython, MakePython, PlanPython, PythonLine, PythonMade
from ugro.service.schemas.notices import TryingPython
from ugro.testing.commands import Ugro

FACTS = {
    "python": "3.12.3", "executable": "/x", "machine": "x86_64", "can_make": True, "torch": "2.13.0+cpu",
    "torch_error": None, "distributed": True, "cuda": None, "archs": [],
}  # fmt: skip


def interpreter(prefix: str, passed: bool = True) -> str:
    """An interpreter that answers at once what one with torch answers after seconds."""
    product = {"device": "CPU", "passed": passed, "error": None if passed else "wrong", "seconds": 0.1}
    answers = {"interpreter": {**FACTS, "prefix": prefix}, "matmul": product}
    lines = [json.dumps({"ugro": 1, "kind": kind, "payload": payload}) for kind, payload in answers.items()]
    say = "\n".join(f"echo '{line}'" for line in lines)
    return f'#!/bin/sh\nif [ "$1" = -c ]; then echo 3.12.3; exit; fi\n{say}\n'


UV = """\
#!/bin/sh
if [ "$1" = --version ]; then echo uv 0.13.9; exit; fi
if [ "$1" = pip ]; then echo "Installed torch" >&2; exit; fi
mkdir -p "$5/bin" && cp "$HOME/made" "$5/bin/python"
"""
"""Stands for uv."""


@pytest.fixture
def uv(home: Path) -> None:
    file = home / ".local/bin/uv"
    file.parent.mkdir(parents=True)
    file.write_text(UV)
    file.chmod(0o755)
    (home / "made").write_text(interpreter("/made"))
    (home / "made").chmod(0o755)


@pytest.fixture(autouse=True)
def few_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the machine that runs the tests are not what they are about."""
    monkeypatch.setattr(interpreters, "MOST", 1)


@pytest.fixture
def own(door: Door, home: Path) -> Path:
    """The interpreter of the node `here`, which cannot train."""
    (home / "python").write_text(interpreter("/own", passed=False))
    return home / "python"


def test_finds_the_python_that_the_inventory_names(door: Door, own: Path) -> None:
    own.write_text(interpreter("/own"))
    found = door.call(FindPython(node="here"))
    assert (found.device, found.taken, found.why) == ("cpu", str(own), "the inventory names it")
    assert next(notice for notice in door.told if isinstance(notice, TryingPython)).path == str(own)
    with pytest.raises(InputError, match="no node is called 'there'"):
        door.call(FindPython(node="there"))


def test_finds_none_that_can_train(door: Door, own: Path) -> None:
    found = door.call(FindPython(node="here"))
    assert (found.taken, found.why) == (None, None)
    assert found.interpreters[0].reason == "a matrix product on CPU failed: wrong"


@pytest.mark.usefixtures("uv")
def test_makes_an_environment_and_finds_it(door: Door, own: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "MOST", 2)
    plan = door.call(PlanPython(node="here", index_url="https://mirror/whl/"))
    assert (plan.index_url, plan.sends_uv) == ("https://mirror/whl/cpu", False)
    assert plan.packages[0].startswith("torch==2.") and plan.packages[1] == "numpy"
    [question] = plan.questions
    assert any("about 0.3 GB to download" in fact for fact in question.facts)
    with pytest.raises(InputError) as unanswered:
        list(door.stream(MakePython(plan=plan, answers={})))
    assert unanswered.value.hint.endswith("ugro node python here --make --yes")
    with pytest.raises(Declined, match="nothing was made"):
        list(door.stream(MakePython(plan=plan, answers={"make": False})))

    *lines, made = door.stream(MakePython(plan=plan, answers={"make": True}))
    assert all(isinstance(line, PythonLine) for line in lines) and PythonLine(line="Installed torch") in lines
    assert isinstance(made, PythonMade) and made.answer.python.usable, made
    assert made.answer.python.path == f"{home}/node/envs/{plan.name}/bin/python"

    again = door.call(PlanPython(node="here"))
    assert again.there == made.answer.python and again.questions == ()
    assert list(door.stream(MakePython(plan=again, answers={}))) == [made]

    found = door.call(FindPython(node="here"))
    assert (found.taken, found.why) == (made.answer.python.path, "no other one passes")


def test_refuses_what_is_no_index(door: Door) -> None:
    for url in ("pytorch.org", "https://me:secret@mirror", "--help"):
        with pytest.raises(InputError, match="is no address of a package index"):
            door.call(PlanPython(node="here", index_url=url))
    with pytest.raises(InputError, match="no node is called"):
        door.call(PlanPython(node="there"))


def test_refuses_a_plan_that_is_no_longer_true(door: Door) -> None:
    plan = door.call(PlanPython(node="here"))
    parts = {**plan.fingerprint.parts, "the driver of here": "another"}
    old = replace(plan, fingerprint=Fingerprint(parts=parts))
    with pytest.raises(PlanChanged, match="the driver of here"):
        list(door.stream(MakePython(plan=old, answers={"make": True})))


def test_refuses_a_disk_without_room(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(node_python.DISK_MIB, "cpu", 2**40)
    with pytest.raises(NodeRefused, match=r"torch needs .* while it is installed, and .* are free there"):
        door.call(PlanPython(node="here"))


def inventory(home: Path) -> str:
    file = home / "inventory.yaml"
    file.write_text("nodes:\n  here: {address: 127.0.0.1, local: true, python: ~/none, base_dir: ~/node}\n")
    return str(file)


@pytest.mark.usefixtures("uv")
def test_the_command_makes_one_and_says_what_to_write(forked: Ugro, home: Path) -> None:
    def ugro(*words: str) -> subprocess.CompletedProcess[str]:
        return forked(
            "--inventory",
            inventory(home),
            "node",
            "python",
            "here",
            *words,
            env={**os.environ, "PATH": "/usr/bin:/bin"},
        )

    asked = ugro("--make")
    assert asked.returncode == 2 and "ugro node python here --make --yes" in asked.stderr
    made = ugro("--make", "--yes")
    assert made.returncode == 0, made.stderr
    assert "Installed torch" in made.stderr and "This will be made on here: ~/node/envs/torch-" in made.stderr
    path = next(line for line in made.stdout.splitlines() if line.startswith("  python: "))[10:]
    again = ugro("--make", "--json")
    assert json.loads(again.stdout)["python"]["path"] == path and again.stderr == ""
    found = ugro()
    assert (found.returncode == 0 and f"take {path}: " in found.stdout) or f"trains with {path}" in found.stdout
    wrong = ugro("--yes")
    assert wrong.returncode == 2 and "are for --make" in wrong.stderr
