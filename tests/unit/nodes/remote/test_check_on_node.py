"""`make check` refuses Python that a node with Python 3.8 and nothing else could not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from check_on_node import problems

FUTURE = "from __future__ import annotations\n"


def found(code: str, **others: str) -> list[str]:
    """The problems of a script, and of shared modules beside it."""
    texts = {"x/on_node/script.py": FUTURE + code}
    return problems(texts | {f"on_node/{name}.py": FUTURE + text for name, text in others.items()})


def test_the_scripts_of_this_repository_pass() -> None:
    done = subprocess.run([sys.executable, "-m", "check_on_node"], cwd=ROOT / "scripts", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_says_where_and_what_and_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import check_on_node

    folder = tmp_path / "x/on_node"
    folder.mkdir(parents=True)
    (folder / "script.py").write_text(FUTURE + "\nimport requests\n")
    monkeypatch.setattr(check_on_node, "REMOTE", tmp_path)
    assert check_on_node.main() == 1
    assert capsys.readouterr().err == "ugro/nodes/remote/x/on_node/script.py:3: a node may have no requests\n"


@pytest.mark.parametrize(
    "code",
    [
        "match 5:\n    case 5:\n        pass\n",
        "with (open('a') as a, open('b') as b):\n    pass\n",
        "try:\n    pass\nexcept* OSError:\n    pass\n",
        "def f[T](x: T) -> T:\n    return x\n",
    ],
)
def test_refuses_syntax_that_is_newer(code: str) -> None:
    [problem] = found(code)
    assert problem.startswith("x/on_node/script.py:") and "not Python 3.8" in problem


@pytest.mark.parametrize(
    "code",
    [
        "Found = int | None",
        "Found = list[int]",
        "def f(x=dict[str, int]): ...",
        "isinstance(5, int | str)",
        "import subprocess\nProcess = subprocess.Popen[bytes]",
        "from subprocess import Popen\nProcess = Popen[bytes]",
        "from collections.abc import Callable\nAct = Callable[[], None]",
        "from pathlib import Path\nAny = Path | None",
        "class Found(dict[str, int]): ...",
        "from typing import cast\nx = cast(list[int], [])",
    ],
)
def test_refuses_a_type_that_would_be_evaluated(code: str) -> None:
    [problem] = found(code)
    assert "Python 3.8 cannot evaluate" in problem


@pytest.mark.parametrize(
    "code",
    [
        "def f(x: int | None = None, *y: list[int]) -> dict[str, int] | None: ...",
        "x: int | None = None",
        "import os\nflags = os.O_WRONLY | os.O_CREAT",
        "import os\nhome = os.environ['HOME']",
        "from typing import Callable, Dict\nAct = Callable[[], None]\nTable = Dict[str, int]",
        "both = {1} | {2}",
        "def f():\n    import torch\n    import importlib.util\n",
        "if (n := 5) > 4: print(f'{n=}')",
    ],
)
def test_passes_what_python_3_8_runs(code: str) -> None:
    assert found(code) == []


def test_refuses_annotations_that_would_be_evaluated() -> None:
    [problem] = problems({"x/on_node/script.py": "def f(x: int | None): ...\n"})
    assert "annotations would be evaluated" in problem


@pytest.mark.parametrize(
    "line", ["import requests", "import tomllib", "from numpy import array", "from . import x", "import ugro",
             "from ugro.common.text import printable", "def f():\n    import pydantic"]
)  # fmt: skip
def test_refuses_a_module_that_a_node_may_not_have(line: str) -> None:
    [problem] = found(line)
    assert "a node may have no" in problem


def test_passes_what_is_sent_along() -> None:
    assert found("from ugro.nodes.remote.on_node.shared import act\nact()\n", shared="def act(): ...\n") == []


def test_refuses_one_name_for_two_things_of_a_bundle() -> None:
    imports = "from ugro.nodes.remote.on_node.{} import {}\n"
    script = imports.format("first", "act") + imports.format("second", "other") + "act(other)\n"
    [problem] = found(script, first="LIMIT = 1\ndef act(x): ...\n", second="LIMIT = 2\nother = 5\n")
    assert problem == ("on_node/second.py:2: defines `LIMIT`, as does on_node/first.py, with which it is sent")


@pytest.mark.parametrize(
    ("code", "shared", "problem"),
    [
        ("from ugro.nodes.remote.on_node.shared import act as do\n", "def act(): ...\n", "without `as`"),
        ("from ugro.nodes.remote.on_node.shared import act\n", "def act(): ...\ndef main(): ...\n", "would run twice"),
        ("from ugro.nodes.remote.on_node.absent import act\n", "", "on_node/absent.py cannot be sent along"),
    ],
)
def test_refuses_what_cannot_be_bundled(code: str, shared: str, problem: str) -> None:
    [told] = found(code, shared=shared)
    assert problem in told


def test_refuses_a_long_file() -> None:
    [problem] = found("pass\n" * 400)
    assert problem == "x/on_node/script.py:401: has more than 400 lines"
