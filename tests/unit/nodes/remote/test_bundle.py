"""What is sent to nodes: each script with what it shares with others, and nothing that a node would have to have."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from check_on_node import REMOTE
from ugro.nodes.remote.bundle import load

SCRIPTS = sorted(
    f"{path.parent.parent.name}/{path.name}"
    for path in REMOTE.glob("*/on_node/*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)


def imports(text: str) -> set[str]:
    """The modules that a script imports, at whatever place."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or ".")
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_sends_a_script_that_needs_nothing_of_ugro(name: str) -> None:
    text = load(name)
    assert not any(module.startswith("ugro") for module in imports(text))
    assert "typing" not in imports(text), "its annotations are not evaluated"
    assert text.startswith("from __future__ import annotations\n") and text.count("from __future__") == 1
    assert text.count('if __name__ == "__main__":') == 1
    ast.parse(text, feature_version=(3, 8))


def test_sends_what_is_shared_once_and_first() -> None:
    text = load("checkpoints/checkpoints.py")
    for line in ("def answer(", "def one_file(", "class CheckpointWalk:"):
        assert text.count(line) == 1
    assert text.index("def answer(") < text.index("class CheckpointWalk:") > text.index("def one_file(")
    assert "def leave(" not in text, "it needs nothing of what is known of processes"
    assert load("run/rank.py").count("def leave(") == 1


def test_sends_shell_as_it_is() -> None:
    assert load("run/start.sh") == (REMOTE / "run/on_node/start.sh").read_text(encoding="utf-8")


def test_knows_no_other_script() -> None:
    with pytest.raises(FileNotFoundError):
        load("run/other.sh")


def test_a_library_of_that_name_in_the_home_folder_is_passed_over(tmp_path: Path) -> None:
    for name in ("json", "socket", "os"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the home folder ran')\n")
    done = subprocess.run(
        [sys.executable, "-", "127.0.0.1", "1", "1"],
        input=load("network/reach.py").encode(),
        capture_output=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0 and b'"payload": "refused"' in done.stdout, done.stderr


def test_the_first_code_of_a_node_waits_for_no_import_that_it_does_not_need(tmp_path: Path) -> None:
    files = [{"name": "t.py", "size": 1, "sha256": "0" * 64, "mode": 0o644, "mtime": 0}]
    manifest = json.dumps(files).encode()
    (tmp_path / "jobs").mkdir()
    words = ("begin", str(tmp_path / "jobs/job-001"), "token", hashlib.sha256(manifest).hexdigest())
    command = [sys.executable, "-I", "-S", "-X", "importtime", "-c", load("code/receive_code.py"), *words]
    done = subprocess.run(command, input=manifest, capture_output=True, check=True)
    assert b'"missing": [0]' in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert "json" in imported and not imported & {"typing", "tarfile", "concurrent.futures"}
