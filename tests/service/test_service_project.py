"""Defaults of a project, as a launch reads them from the working directory up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ugro.common.errors import InputError, JobSpecError
from ugro.service.project import Project, find_project
from ugro.service.schemas.launch import DefaultScriptDocument
from ugro.service.submission import LaunchLine, SpecRead, read_spec

TEXT = """\
nodes = 2
time_limit = "2h"
checkpoints = "out"
python = "conda:train"

[env]
HF_HOME = "/data/hf"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a subfolder, which is the working directory."""
    folder = tmp_path / "project"
    (folder / "exp").mkdir(parents=True)
    (folder / "exp/train.py").write_text("")
    (folder / "ugro.toml").write_text(TEXT)
    monkeypatch.chdir(folder / "exp")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


def launched(*words: str, projects: bool = True, script: str | None = None, **options: Any) -> SpecRead:
    default = DefaultScriptDocument(script=script, inventory="inventory.yaml")
    return read_spec(LaunchLine(words, (), options), lambda: default, projects)


def refused(folder: Path) -> tuple[str, str]:
    with pytest.raises(JobSpecError) as refusal:
        find_project(folder)
    return refusal.value.message, refusal.value.hint


def test_sends_the_folder_of_the_project_and_runs_the_script_in_it(project: Path) -> None:
    read = launched("train.py")
    assert (read.spec.script, read.spec.workdir) == ("exp/train.py", "..")
    assert (read.spec.nodes, read.spec.time_limit, read.spec.python) == (2, 7200.0, "conda:train")
    assert read.spec.checkpoints.dir == "out" and read.spec.env == {"HF_HOME": "/data/hf"}
    assert read.note == ("defaults from ../ugro.toml: nodes, time_limit, checkpoints, python, env, code from ..")
    absolute = launched(str(project / "exp/train.py")).spec
    assert (absolute.script, absolute.workdir) == ("exp/train.py", "..")
    assert launched("exp.train", module=True).spec.script == "exp.train"
    assert launched("./train.py", no_python=True).spec.script == "./exp/train.py"
    assert launched("nvidia-smi", no_python=True).spec.script == "nvidia-smi"


def test_the_command_line_wins_over_the_file_and_that_over_the_project(project: Path) -> None:
    (project / "job.yaml").write_text(
        "script: exp/train.py\nnodes: 3\nenv: {A: file, B: file}\ncheckpoints: {keep_last: 9}\n"
    )
    (project / "ugro.toml").write_text(TEXT + 'A = "project"\nC = "project"\n')
    read = launched("../job.yaml", env=("B=line",), time_limit="1h")
    assert (read.spec.nodes, read.spec.time_limit, read.spec.python) == (3, 3600.0, "conda:train")
    assert read.spec.env == {"HF_HOME": "/data/hf", "A": "file", "B": "line", "C": "project"}
    assert (read.spec.checkpoints.dir, read.spec.checkpoints.keep_last) == ("out", 9)
    assert read.spec.workdir == "..", "a job.yaml says itself what is sent"
    assert read.note == "defaults from ../ugro.toml: checkpoints, python, env"


def test_a_python_of_the_command_line_needs_no_setup_of_the_projects(project: Path) -> None:
    (project / "ugro.toml").write_text('python = "uv"\n')
    assert launched("train.py").spec.setup
    assert launched("train.py", python="conda:x").spec.setup is None


def test_ignores_the_project_where_that_is_asked_for(project: Path) -> None:
    read = launched("train.py", projects=False)
    assert (read.spec.script, read.spec.workdir, read.spec.nodes, read.note) == ("train.py", ".", None, "")


def test_runs_the_script_of_the_project_where_none_is_named(project: Path) -> None:
    (project / "ugro.toml").write_text('script = "exp/train.py"\n')
    assert launched("--lr", "1", script="other.py").spec.command == ("exp/train.py", "--lr", "1")
    (project / "ugro.toml").write_text("nodes = 2\n")
    assert launched(script="train.py").spec.script == "exp/train.py", "that of the inventory, from here"
    with pytest.raises(InputError, match="no script is named"):
        launched()


def test_reads_a_table_of_pyproject_toml(project: Path) -> None:
    (project / "ugro.toml").unlink()
    shared = project / "pyproject.toml"
    shared.write_text('[project]\nname = "x"\n')
    assert find_project(Path()) is None
    shared.write_text('[tool.ugro]\nnodes = 2\nworkdir = "exp"\n')
    found = find_project(Path())
    assert found == Project(shared, {"nodes": 2}, project / "exp")
    assert launched("train.py").spec.script == "train.py"
    (project / "ugro.toml").write_text("nodes = 1\n")
    assert refused(Path()) == (
        f"{project}/ugro.toml and [tool.ugro] in {shared}: one of them is expected",
        "to launch without it: --no-project",
    )


def test_looks_no_further_than_the_repository_and_the_home(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "exp/.git").mkdir()
    assert find_project(Path()) is None
    (project / "exp/.git").rmdir()
    monkeypatch.setenv("HOME", str(project))
    assert find_project(Path()) is None
    assert find_project(project), "the folder itself counts"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes = 2\nnode = 3\n", ":2: node: unknown key; did you mean 'nodes'?"),
        ("time = '2h'\n", ":1: time: unknown key; did you mean 'time_limit'?"),
        ("nodes = 0\n", ":1: nodes: found 0: a number of nodes, or their names, is expected"),
        ("\n[checkpoints]\nkeep_last = 0\n", ":3: checkpoints.keep_last: found 0: at least 1 is expected"),
        ("[env]\nA = 1\n", ":2: env.A: found 1: text is expected"),
        ("python = ['uv']\n", ":1: python: found ['uv']: text is expected"),
        ("nodes = 2\nnodes = 3\n", ":2: not valid TOML: Cannot overwrite a value"),
        ("nodes = \n", ":1: not valid TOML: Invalid value"),
        ("name = 'x'\n", ":1: name: belongs to one job, not to a project"),
        ("[sweep]\nlr = [1, 2]\n", ":1: sweep: belongs to one job, not to a project"),
        ("nodes = 2\n[env]\nRANK = '1'\n", ":3: env.RANK: torchrun sets it for each rank"),
        ("x = " + "[" * 5000, ": nested too deeply to be meant"),
        ("# \x80", ":1: not UTF-8 text (byte 2)"),
        ("#" * (1024 * 1024 + 1), ": larger than 1024 KiB"),
    ],
)
def test_refuses_a_file_with_a_mistake(project: Path, text: str, message: str) -> None:
    (project / "ugro.toml").write_bytes(text.encode("latin-1"))
    assert refused(Path())[0] == f"{project}/ugro.toml{message}"


def test_refuses_a_file_above_of_another_user(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid():
        pytest.skip("only root can give a file to another user")
    os.chown(project / "ugro.toml", 12345, -1)
    message, hint = refused(Path())
    assert message == f"{project}/ugro.toml: belongs to another user (uid 12345), so it is not used"
    assert hint == "to launch without it: --no-project"
    monkeypatch.chdir(project)
    assert find_project(Path()), "who works in a folder trusts it"
