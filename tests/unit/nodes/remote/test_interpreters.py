"""The interpreters of a node: the script as it runs under /bin/sh, and what is made of its answers."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ugro.common.errors import NodeRefused
from ugro.nodes.remote.interpreters import interpreters
from ugro.nodes.remote.interpreters.interpreters import Interpreter, parse, try_all, try_one
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders

Put = Callable[[str, str], Path]

FACTS = {
    "python": "3.12.3",
    "executable": "/x",
    "prefix": "/x",
    "machine": "x86_64",
    "can_make": True,
    "torch": "2.13.0",
    "torch_error": None,
    "distributed": True,
    "cuda": None,
    "archs": [],
}


@pytest.fixture
def put(home: Path) -> Put:
    """Write an interpreter below the home: a shell script that tells its version, and then does this."""

    def write(path: str, text: str) -> Path:
        file = home / path
        file.parent.mkdir(parents=True)
        file.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then echo 3.12.3; exit; fi\n{text}\n')
        file.chmod(0o755)
        return file

    return write


@pytest.fixture
def node(home: Path) -> LocalTransport:
    (home / "bin").mkdir()
    for name in ("uname", "timeout", "head", "tr", "cat", "readlink", "sh", "sleep", "seq"):
        (home / "bin" / name).symlink_to(str(shutil.which(name)))
    return LocalTransport(builders.this_machine(python="~/mine", env={"PATH": f"{home}/bin"}))


def by_path(found: interpreters.NodeInterpreters, home: Path) -> dict[str, Interpreter]:
    return {one.path.removeprefix(f"{home}/"): one for one in found.found if one.path.startswith(str(home))}


def said(kind: str, payload: object) -> str:
    return json.dumps({"ugro": 1, "kind": kind, "payload": payload})


@pytest.mark.long
async def test_tries_each_interpreter_where_people_have_them(node: LocalTransport, put: Put, home: Path) -> None:
    mine = home / "mine"
    mine.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    mine.chmod(0o755)
    for path in (".ugro/envs/t/bin/python", "miniforge3/envs/a b/bin/python", ".venv/bin/python", "other/bin/python"):
        put(path, "exit 3")
    (home / ".conda").mkdir()
    (home / ".conda/environments.txt").write_text(f"{home}/other\nrelative\n/gone\n")
    tried: list[str] = []
    found = await try_all(node, "cpu", tried.append)
    assert [(one.source, one.problem) for path, one in by_path(found, home).items() if path != "mine"] == [
        (source, "it ended with exit code 3") for source in ("ugro", "conda", "conda", "venv")
    ]
    assert list(by_path(found, home)) == [
        *("mine", ".ugro/envs/t/bin/python", "miniforge3/envs/a b/bin/python", "other/bin/python", ".venv/bin/python")
    ]
    assert set(tried) >= {one.path for one in found.found}
    assert found.complete and found.more == 0 and found.machine and found.uv is None
    own = by_path(found, home)["mine"]
    assert own.facts and own.facts.torch and own.matmul and own.matmul.passed, "the Python of these tests has torch"


async def test_bounds_an_interpreter_that_hangs_and_one_that_never_stops_talking(
    node: LocalTransport, put: Put, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(interpreters, "EACH", 1)
    put("venv/bin/python", f"echo '{said('interpreter', FACTS)}'; exec sleep 60")
    put(".venv/bin/python", "while :; do seq 100000; done")
    found = by_path(await try_all(node, "cpu"), home)
    assert found["venv/bin/python"].facts and found["venv/bin/python"].problem == "it did not end within 1 s"
    assert found[".venv/bin/python"].problem and found[".venv/bin/python"].facts is None


async def test_says_how_an_interpreter_crashed(node: LocalTransport, put: Put, home: Path) -> None:
    put("venv/bin/python", f"echo '{said('interpreter', FACTS)}'; echo 'CUDA: \033[2Jboom' >&2; kill -SEGV $$")
    [one] = by_path(await try_all(node, "cpu"), home).values()
    assert one.facts and one.matmul is None and one.problem == "Segmentation fault"


async def test_does_not_run_the_script_with_an_old_python(node: LocalTransport, home: Path) -> None:
    old = home / "venv/bin/python"
    old.parent.mkdir(parents=True)
    old.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo 2.7.18 && exit\ntouch {home}/ran\n')
    old.chmod(0o755)
    [one] = by_path(await try_all(node, "cpu"), home).values()
    assert one.version == "2.7.18" and one.problem is None and not (home / "ran").exists()


async def test_tries_one_by_its_path(node: LocalTransport, put: Put, home: Path) -> None:
    path = put("place/bin/python", f"echo '{said('interpreter', FACTS)}'; echo '{said('matmul', 5)}'")
    one = await try_one(node, "none", str(path))
    assert one.facts and one.facts.torch == "2.13.0" and one.matmul is None
    with pytest.raises(NodeRefused, match="there is no interpreter /nowhere"):
        await try_one(node, "cpu", "/nowhere")


def test_believes_no_interpreter_that_is_none() -> None:
    lines = ["@N machine x86_64", "@N uv relative/uv", "@N more 99999999999"]
    lines += [f"@N python {words}\n@N ended 0" for words in ("venv 3.12.3 relative", "made-up 3.12.3 /x", "venv", "")]
    lines += ["@N python venv 3.12.3 /a\x1b[2J", "@N ended 0", "@N python venv 3.x /ok", "@N ended 0", "@N -"]
    found = parse("\n".join(lines), "N")
    assert found and [(one.path, one.version) for one in found.found] == [("/ok", None)]
    assert (found.uv, found.more, found.complete) == (None, 0, False)
    assert parse("@N python venv 3.12.3 /x\n@N ended 0\n@N -", "N") is None
