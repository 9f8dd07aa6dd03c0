"""The Python and the setup command of a job on the command line."""

from __future__ import annotations

import pytest

from ugro.testing.cluster import Master


def test_takes_python_and_setup_from_the_command_line(master: Master) -> None:
    options = ("--gpus-per-node", "0", "--setup", "echo set up; exit 2")
    failed = master.ugro("launch", "t.py", *options, "--follow", code=1)
    assert "here: the setup command `echo set up; exit 2` ended with exit code 2: set up" in failed.stderr
    assert "[here setup] set up" in master.ugro("logs", "job-001").stdout
    assert master.ugro("logs", "job-001", "--setup").stdout == "[here setup] set up\n"
    shown = master.ugro("explain", "job-001").stdout
    assert "the setup command failed (setup_failed)" in shown and "ugro logs job-001 --setup; then correct" in shown
    assert "ugro rerun job-001 --new-code; or the command: ugro rerun job-001 --setup COMMAND" in shown
    assert "resume" not in shown, "nothing ran that could be resumed"
    assert "  not started  " in master.ugro("status", "job-001").stdout
    again = ("rerun", "job-001", "--setup", "true", "-q")
    assert master.json("wait", master.ugro(*again).stdout.strip())["state"] == "succeeded"
    status = master.json("status", "job-001")
    assert status["first_failure"]["cause"] == "setup_failed" and status["setup"] == "echo set up; exit 2"


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("--python", "envs/x"), 2, "--python: found 'envs/x': an absolute path or one starting with ~/, the name of"),
        (("--python", "setup"), 2, "--setup: found nothing: a command that makes the environment is needed with"),
        (("--python", "uv"), 2, "python: uv needs pyproject.toml, which is not in "),
        (("--setup", " "), 2, "--setup: found ' ': a shell command is expected"),
        (
            ("--python", "nowhere", "--dry-run"),
            2,
            "here: the conda environment nowhere is not there; looked for envs/nowhere/bin/python in ~/miniconda3, ",
        ),
    ],
)
def test_refuses_bad_input(master: Master, words: tuple[str, ...], code: int, error: str) -> None:
    refused = master.ugro("launch", "t.py", "--gpus-per-node", "0", *words, code=code)
    assert f"error: {error}" in refused.stderr


def test_refuses_an_input_that_is_not_sent(master: Master) -> None:
    (master.root / ".ugroignore").write_text("*.lock\n")
    (master.root / "own.lock").write_text("")
    (master.root / "job.yaml").write_text("script: t.py\nsetup: {run: make env, inputs: [own.lock]}\n")
    refused = master.ugro("launch", "job.yaml", code=2)
    assert "error: setup.inputs needs own.lock, which is ignored, so nodes would not get it" in refused.stderr
    assert "next:  add a line !/own.lock to .ugroignore" in refused.stderr


def test_refuses_to_mix_the_setup_with_ranks_in_logs(master: Master) -> None:
    refused = master.ugro("logs", "job-001", "--setup", "--rank", "0", code=2)
    assert "error: --setup shows no output of ranks and cannot be combined with --rank" in refused.stderr
