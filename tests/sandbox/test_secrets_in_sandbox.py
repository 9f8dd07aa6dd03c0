"""Secrets in whole jobs: in the ranks, in no argument, script or file that stays, and masked in what is shown."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, document, until

CLUSTER = ("gpu1",)

TOKEN = "hf_Zyx98765wvuts"
SCRIPT = """\
import os, time
print("token", os.environ["HF_TOKEN"], flush=True)
while not os.path.exists(os.path.expanduser("~/go")): time.sleep(0.1)
raise ValueError("refused: " + os.environ["HF_TOKEN"])
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "leaks.py").write_text(SCRIPT)
    (folder / "job.yaml").write_text("script: leaks.py\nnodes: [gpu1]\nsecrets: [HF_TOKEN]\n")
    return folder


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file that has the token."""
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(f"{TOKEN}\n")
    return str(file)


def holding(folder: Path) -> list[str]:
    """Names of the files below a folder that have the token."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path.name for path in files if TOKEN.encode() in path.read_bytes())


def in_arguments() -> list[str]:
    """Command lines of this machine that have the token."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [text] if TOKEN in (text := path.read_bytes().decode(errors="replace")) else []
        except OSError:
            continue
    return found


def printed(ugro: Ugro, *words: str) -> str:
    done = ugro(*words)
    return f"{done.stdout}{done.stderr}"


@pytest.mark.long
def test_a_secret_reaches_its_ranks_and_nothing_else(ugro: Ugro, sandbox: Sandbox, token: str) -> None:
    state, home = Path(sandbox.environment()["UGRO_HOME"]), sandbox.root / "home/gpu1"
    assert "next:  set it: ugro secret set HF_TOKEN" in ugro("launch", "job.yaml").stderr
    document(ugro("secret", "set", "HF_TOKEN", "--file", token, "--json"))
    assert TOKEN not in printed(ugro, "launch", "job.yaml", "--dry-run")
    job = document(ugro("launch", "job.yaml", "--json"))["id"]
    until(lambda: "token ****" in printed(ugro, "logs", job), 60)
    assert in_arguments() == []
    assert holding(home) == ["rank-0.log"] and holding(state) == ["HF_TOKEN", "rank-0.log"]
    (home / "go").touch()
    ugro("wait", job)
    asked = ("logs --json", "status", "status --json", "explain", "events --json", "report")
    shown = {words: printed(ugro, *words.split(), job) for words in asked}
    assert [words for words, text in shown.items() if TOKEN in text] == []
    assert [words for words, text in shown.items() if "refused: ****" not in text] == []
    assert holding(state) == ["HF_TOKEN", "rank-0.log"]
    (home / "go").unlink()


@pytest.mark.long
def test_a_killed_run_leaves_no_file_and_a_removed_secret_keeps_a_job_pending(
    ugro: Ugro, sandbox: Sandbox, token: str
) -> None:
    home = sandbox.root / "home/gpu1"
    document(ugro("secret", "set", "HF_TOKEN", "--file", token, "--json"))
    job = document(ugro("launch", "job.yaml", "--json"))["id"]
    until(lambda: "token ****" in printed(ugro, "logs", job), 60)
    run = home / f".ugro/jobs/{job}/1/node-0"
    runner, *_ = (run / "pid").read_text().split()
    reaper, _, agent, _ = (run / "reaper.pid").read_text().split()
    rank = document(ugro("status", job, "--json"))["ranks"][0]["pid"]
    for pid in (int(runner), int(reaper), int(agent), rank):
        with contextlib.suppress(ProcessLookupError):  # some end with those before
            os.kill(pid, signal.SIGKILL)
    until(lambda: document(ugro("status", job, "--json"))["state"] == "failed", 60)
    assert holding(run) == ["rank-0.log"]
    waiting = document(ugro("launch", "job.yaml", "--hold", "--json"))["id"]
    removed = ugro("secret", "remove", "HF_TOKEN")
    assert f"{waiting} cannot start without it: ugro secret set HF_TOKEN, or ugro cancel {waiting}" in removed.stderr
    ugro("release", waiting)
    why = document(ugro("why", waiting, "--json"))
    assert why["reasons"][0].startswith(
        "is unschedulable: the secret HF_TOKEN is not set; to start it: ugro secret set"
    )
    asked = ugro("resume", job, "--from", "0", "--yes")
    assert (asked.returncode, "next:  set it: ugro secret set HF_TOKEN" in asked.stderr) == (2, True)
    assert ugro("secret", "set", "HF_TOKEN", input=TOKEN).returncode == 0
    (home / "go").touch()
    document(ugro("sweep", "--json"))
    until(lambda: document(ugro("status", waiting, "--json"))["state"] == "failed", 60)
    assert "refused: ****" in ugro("status", waiting).stdout
