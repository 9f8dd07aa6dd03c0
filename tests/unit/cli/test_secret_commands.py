"""`ugro secret`, and the environment of a launch: where values come from, what is refused, and that none is printed."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from ugro.testing.commands import Ugro

VALUE = "hf_abcdefghijkl"
COMMAND = [sys.executable, "-m", "ugro", "secret", "set", "HF_TOKEN"]


@pytest.fixture
def env(home: Path) -> dict[str, str]:
    return os.environ | {"UGRO_HOME": str(home / "state"), "HF_TOKEN": VALUE}


def kept(env: dict[str, str], name: str = "HF_TOKEN") -> str:
    return Path(env["UGRO_HOME"], "secrets", name).read_text()


def test_asks_for_a_value_without_an_echo(env: dict[str, str], home: Path) -> None:
    leader, follower = pty.openpty()
    ends = {"stdin": follower, "stdout": follower, "stderr": follower}
    with subprocess.Popen(COMMAND, **ends, env=env, start_new_session=True) as asking:  # type: ignore[call-overload]
        os.close(follower)
        said = b""
        while b"value of HF_TOKEN:" not in said:
            said += os.read(leader, 1000)
        os.write(leader, f"{VALUE}\n".encode())
        with contextlib.suppress(OSError):  # the terminal's end
            while more := os.read(leader, 1000):
                said += more
    os.close(leader)
    assert b"HF_TOKEN is set" in said
    assert asking.returncode == 0 and VALUE.encode() not in said and kept(env) == VALUE


def test_refuses_a_name_before_it_asks_for_the_value(env: dict[str, str]) -> None:
    leader, follower = pty.openpty()
    command = [*COMMAND[:-1], "bad name"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=follower, stdout=pipe, stderr=pipe, env=env, start_new_session=True
    ) as refused:
        os.close(follower)
        said = refused.communicate(timeout=60)
    os.close(leader)
    assert (
        refused.returncode == 2
        and b"'bad name' is no name of a secret" in said[1]
        and b"value of" not in b"".join(said)
    )


def test_takes_a_value_from_stdin_a_file_and_the_environment(forked: Ugro, env: dict[str, str], home: Path) -> None:
    done = subprocess.run(COMMAND, input=f"{VALUE}-1\r\n", env=env, capture_output=True, text=True, cwd=home)
    assert (done.returncode, done.stdout) == (0, "HF_TOKEN is set; for a job: ugro launch --secret HF_TOKEN …\n")
    assert kept(env) == f"{VALUE}-1"
    (home / "key").write_text("line 1\nline 2\n")
    done = forked("secret", "set", "HF_TOKEN", "--file", "key", env=env, cwd=home)
    assert done.stdout.startswith("HF_TOKEN is replaced") and "no longer masked" in done.stderr
    assert kept(env) == "line 1\nline 2"
    done = forked("secret", "set", "HF_TOKEN", "--from-env", "--json", env=env, cwd=home)
    assert json.loads(done.stdout) == {"name": "HF_TOKEN", "was_set": True, "needed_by": [], "short": False}
    assert kept(env) == VALUE
    listed = forked("secret", "list", env=env, cwd=home)
    assert listed.stdout.startswith("HF_TOKEN  set 0s ago") and VALUE not in listed.stdout
    assert [one["name"] for one in json.loads(forked("secret", "list", "--json", env=env, cwd=home).stdout)] == [
        "HF_TOKEN"
    ]
    assert forked("secret", "remove", "HF_TOKEN", env=env, cwd=home).stdout == "HF_TOKEN is removed\n"
    assert forked("secret", "list", env=env, cwd=home).stdout == "no secret is set: ugro secret set NAME\n"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("HF_TOKEN", VALUE), "the value of a secret is no argument", "ugro secret set HF_TOKEN"),
        ((f"HF_TOKEN={VALUE}",), "the value of a secret is no argument", "ugro secret set HF_TOKEN"),
        (("A", "--from-env", "--file", "x"), "--from-env and --file were both given", "give one of them"),
        (("NOT_THERE", "--from-env"), "NOT_THERE is not set in this shell", "ugro secret set NOT_THERE"),
        (("A", "--file", "none"), "none cannot be read: No such file or directory", ""),
        (("A", "--file", "latin"), "latin is not UTF-8 text", "encode it first"),
        (("A", "--file", "empty"), "the value of A is empty", "ugro secret set A"),
    ],
)
def test_refuses_values_that_are_none(
    forked: Ugro, env: dict[str, str], home: Path, words: tuple[str, ...], message: str, hint: str
) -> None:
    (home / "latin").write_bytes(b"\xe9")
    (home / "empty").write_bytes(b"\n")
    done = forked("secret", "set", *words, "--json", env=env, cwd=home)
    error = json.loads(done.stderr)["error"]
    assert done.returncode == 2 and message in error["message"] and hint in error["hint"]
    assert VALUE not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--env", "NOT_THERE"), "--env NOT_THERE: NOT_THERE is not set here, so it cannot be forwarded"),
        (("--env", "a-b"), "--env 'a-b': NAME=VALUE, or the NAME of a variable to forward, is expected"),
        (("--env", "=hf_x"), "--env '': NAME=VALUE, or the NAME of a variable to forward, is expected"),
        (("--env-file", "none"), "none: cannot be read: No such file or directory"),
        (("--env-file", "x.env"), "x.env:2: MASTER_PORT: torchrun sets it for each rank"),
        (("--secret", "MASTER_PORT"), "--secret: MASTER_PORT: torchrun sets it for each rank"),
        (("--secret", "UGRO_X"), "--secret: UGRO_X is set by UGRO itself"),
        (("--secret", "hf-x y"), "--secret: the name of a secret is expected, as in HF_TOKEN, or VARIABLE=NAME"),
        (("--secret", "A=x", "--secret", "A=y"), "--secret: A gets two secrets, A=x and A=y"),
        (("--secret", "A", "--env", "A=1"), "--secret: A is in 'env' too, and a variable has one value: leave one out"),
        (("--secret", "A"), "the secret A is not set"),
    ],
)
def test_refuses_a_launch_with_such_an_environment(
    forked: Ugro, env: dict[str, str], home: Path, words: tuple[str, ...], message: str
) -> None:
    (home / "t.py").write_text("")
    (home / "x.env").write_text("A=1\nMASTER_PORT=2\n")
    (home / "inventory.yaml").write_text("nodes: {here: {address: 127.0.0.1, local: true}}\n")
    done = forked("launch", "t.py", *words, "--json", env=env, cwd=home)
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["message"]) == (2, message)
    assert error["hint"], "each says what to do next"
    assert len(error["hint"]) < 140, "no more than two lines of 80 columns"
