"""What shells complete, asked through the real ones with the script that `ugro completion` prints."""

from __future__ import annotations

import functools
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ugro.common.job_spec import JobSpec
from ugro.common.models.drain import Drain
from ugro.common.models.job import Wish
from ugro.common.models.job_state import JobState
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.scheduler.accepted import STATES
from ugro.testing import builders
from ugro.testing.commands import Ugro

BIN = Path(sys.executable).parent
INVENTORY = """\
nodes:
  gpu-master: {address: 127.0.0.1, local: true}
  gpu1: {address: 10.9.9.1}
  gpu2: {address: 10.9.9.2}
"""


@pytest.fixture
def project(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with scripts, beside an inventory."""
    (work / "inventory.yaml").write_text(INVENTORY)
    for name in ("train.py", "job.yaml", "run 1.log"):
        (work / name).touch()
    (work / "saved").mkdir()
    monkeypatch.chdir(work)
    return work


@functools.cache
def script_for_bash() -> str:
    done = subprocess.run(
        ["ugro", "completion", "bash"], capture_output=True, text=True, env=surroundings(), check=True
    )
    return done.stdout


def completed(line: str, **env: str) -> list[str]:
    """What bash would offer for the last word of a line: the script's function, called as readline calls it."""
    script = """
        eval "$1"; shift
        compopt() { COMPREPLY+=("<$2>"); }
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ugro_completion ugro
        for word in "${COMPREPLY[@]}"; do printf '%s\\n' "$word"; done
    """
    # readline takes these signs for words of their own
    words = [word for part in line.split(" ") for word in (re.findall(r"[=:]|[^=:]+", part) or [""])]
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", script_for_bash(), *words],
        capture_output=True,
        text=True,
        env=surroundings(**env),
    )
    assert done.stderr == "" and done.returncode == 0
    return done.stdout.splitlines()


def answered(ugro: Ugro, line: str) -> list[str]:
    """What the function above gets for the last word of a line."""
    words = line.split(" ")
    asked = {"_UGRO_COMPLETE": "bash_complete", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = ugro(cwd=Path.cwd(), env=surroundings(**asked))
    assert done.stderr == "" and done.returncode == 0
    return [word.removeprefix("plain,") for word in done.stdout.split()]


def surroundings(**env: str) -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb"} | env


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ugro launch tr", ["<default>"]),
        ("ugro launch train.py -- ", ["<default>"]),
        ("ugro --inventory inv", ["<default>"]),
        ("ugro --inventory=inv", ["<default>"]),
        ("ugro explain --log ru", ["<default>"]),
        ("ugro estimate tr", ["<default>"]),
        ("ugro launch --checkpoints sa", ["<dirnames>"]),
        ("ugro launch --nodes gp", ["gpu-master", "gpu1", "gpu2"]),
        ("ugro launch --nodes=gpu1", ["gpu1"]),
        ("ugro launch --nodes=", ["gpu-master", "gpu1", "gpu2"]),
        ("ugro launch --nodes gpu1,g", ["gpu1,gpu-master", "gpu1,gpu2"]),
        ("ugro resume job-001 --nodes gpu2,gpu1,", ["gpu2,gpu1,gpu-master"]),
        ("ugro run --on gpu2", ["gpu2"]),
        ("ugro check --on gpu2", ["gpu2"]),
        ("ugro drain gpu-", ["gpu-master"]),
        ("ugro trust gpu1", ["gpu1"]),
        ("ugro history gpu1 g", ["gpu-master", "gpu2"]),
        ("ugro node clean gpu1", ["gpu1"]),
        ("ugro events --node gpu1", ["gpu1"]),
        ("ugro undrain ", ["gpu2"]),
    ],
)
def test_files_and_nodes_are_completed(project: Path, line: str, offered: list[str]) -> None:
    store = MetadataStore(Path(os.environ["UGRO_HOME"]))
    with store.lock():
        store.config.drain(Drain(node="gpu2", reason="new fan", since=time.time()))
    assert completed(line) == offered


@pytest.mark.parametrize(
    "line", ["ugro foo x", "ugro logs ", "ugro drain ", "ugro launch --nodes ", "ugro --inventory"]
)
def test_completes_nothing_and_prints_nothing_if_files_are_broken(project: Path, line: str) -> None:
    (project / "inventory.yaml").write_text("nodes: [")
    assert completed(line, UGRO_HOME="/dev/null/x") in ([], ["--inventory"])


def job_in(state: JobState, name: str | None = None, wish: Wish | None = None) -> str:
    """The id of a new job that has come to a state."""
    store = MetadataStore(Path(os.environ["UGRO_HOME"]))
    spec = JobSpec(script="train.py", name=name)
    job = store.jobs.submit(store.jobs.reserve(), spec, builders.CODE, 1.0)
    ended = 5.0 if state.ended else None
    store.jobs.save(job.model_copy(update={"state": state, "wish": wish, "ended_at": ended}), state.value, "")
    return job.id


def test_secrets_are_completed(project: Path, forked: Ugro) -> None:
    store = MetadataStore(Path(os.environ["UGRO_HOME"]))
    for name in ("HF_TOKEN", "HF_OTHER", "WANDB"):
        store.secrets.set(name, "value-1")
    for line in ("ugro secret remove HF", "ugro launch train.py --secret HF"):
        assert answered(forked, line) == ["HF_OTHER", "HF_TOKEN"], line


def test_jobs_are_completed_where_the_command_accepts_their_state(project: Path, forked: Ugro) -> None:
    ids = {state: job_in(state) for state in JobState}
    ending = job_in(JobState.RUNNING, wish=Wish.CANCEL)
    for request, states in STATES.items():
        wanted = {ids[state] for state in states} | (
            {ending} if request in ("cancel", "exec", "wait", "stacks") else set()
        )
        assert set(answered(forked, f"ugro {request} job-")) == wanted, request
    assert set(completed("ugro logs job-")) == {*ids.values(), ending}
    assert answered(forked, "ugro approve job-") == []
    assert answered(forked, f"ugro launch --after {ids[JobState.RUNNING]}") == [ids[JobState.RUNNING]]


def test_a_name_is_completed_where_it_means_a_job_that_is_accepted(project: Path, forked: Ugro) -> None:
    job_in(JobState.FAILED, "demo")
    job_in(JobState.QUEUED, "demo")
    job_in(JobState.FAILED, "other")
    assert answered(forked, "ugro resume de") == []  # the name means the job that waits
    assert answered(forked, "ugro hold de") == ["demo"] and answered(forked, "ugro resume ot") == ["other"]


def typed(shell: list[str], setup: str, line: str, until: str) -> str:
    """What a terminal shows when a line is typed into a shell, and completed by its TAB."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(shell[0], shell, surroundings())
    shown = ""

    def read(word: str) -> None:
        nonlocal shown
        end = time.monotonic() + 30
        while word not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536).decode(errors="replace")
        assert word in shown, shown

    try:
        os.write(terminal, f'{setup}; PS1="% "; echo REA""DY\n'.encode())
        read("READY\r\n")
        shown = ""
        os.write(terminal, f"{line}\t".encode())
        read(until)
        return shown
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(ugro completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -D; eval "$(ugro completion zsh)"'),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "until"),
    [
        ("ugro launch trai", "train.py"),
        ("ugro --inventory inv", "inventory.yaml"),
        ("ugro explain --log ru", r"run\ 1.log"),
        ("ugro launch --nodes gpu1,gpu-", "gpu1,gpu-master"),
        ("ugro drain gpu-", "gpu-master"),
    ],
)
def test_a_terminal_completes_them(project: Path, shell: str, line: str, until: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    typed(*SHELLS[shell], line, until)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_terminal_completes_the_last_job(project: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    job_in(JobState.RUNNING)
    typed(*SHELLS[shell], "ugro logs @la", "@last ")


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ugro launch trai", ["train.py"]),
        ("ugro launch --nodes gpu1,g", ["gpu1,gpu-master", "gpu1,gpu2"]),
        ("ugro drain gpu-", ["gpu-master"]),
    ],
)
def test_fish_completes_them(project: Path, line: str, offered: list[str]) -> None:
    script = f'ugro completion fish | source; complete -C "{line}"'
    done = subprocess.run(["fish", "-N", "-c", script], capture_output=True, text=True, env=surroundings())
    assert sorted(word.partition("\t")[0] for word in done.stdout.splitlines()) == offered
