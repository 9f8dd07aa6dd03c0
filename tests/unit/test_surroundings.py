"""The suite is independent of its machine and shell, and reports an unusable test bed once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import surroundings
from places import TESTS

HOSTILE = {
    "HOME": "/nonexistent", "USER": "somebody", "LOGNAME": "else", "SHELL": "/bin/false", "XDG_CONFIG_HOME": "/x",
    "TMPDIR": "/var/tmp/a b", "TZ": "Pacific/Kiritimati", "LANG": "tr_TR", "LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr",
    "http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9", "SSH_AUTH_SOCK": "/x/agent",
    "GIT_DIR": "/x", "GIT_CONFIG_GLOBAL": "/x", "GIT_CONFIG_COUNT": "1", "UGRO_HOME": "/x", "UGRO_INVENTORY": "/x",
    "UGRO_RUN": "x/1/0", "RANK": "5", "CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "99", "NCCL_DEBUG": "INFO",
    "TERM": "weird", "COLUMNS": "20", "NO_COLOR": "1", "FORCE_COLOR": "1", "EDITOR": "false", "BASH_ENV": "/x",
    "PYTHONOPTIMIZE": "1", "PYTHONWARNINGS": "error", "POSIXLY_CORRECT": "1", "TAR_OPTIONS": "-x", "RSYNC_RSH": "false",
    "CI": "yes", "LD_LIBRARY_PATH": "/lib/of/python", "UGRO_CRASH_STRIDE": "7", "OPENBLAS_CORETYPE": "GENERIC",
}  # fmt: skip

# Surroundings as cron, nohup and a careful login give them, and what a session makes of them.
START = 'umask 077; ulimit -S -n 256; ulimit -S -c unlimited 2>/dev/null; trap "" INT QUIT HUP CHLD; exec "$@"'
REPORT = """
import json, os, pathlib, resource, signal, subprocess, sys, tempfile
import psutil
import surroundings
surroundings.isolate(pathlib.Path(sys.argv[1]))
child = "import os, signal; print(sum(signal.getsignal(n) is signal.SIG_IGN for n in (1, 3, 17)), oct(os.umask(0)))"
print(json.dumps({
    "environment": dict(os.environ), "temporary": tempfile.gettempdir(), "home": os.listdir(os.environ["HOME"]),
    "open": resource.getrlimit(resource.RLIMIT_NOFILE), "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "child": subprocess.check_output([sys.executable, "-c", child], text=True).split(),
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
}))
"""


def program(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho {folder.name} {name}\n")
    (folder / name).chmod(0o755)


def test_a_session_leaves_its_surroundings(tmp_path: Path) -> None:
    program(tmp_path / "bin", "crontab")
    env = HOSTILE | {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "PYTHONPATH": str(TESTS)}
    command = ["sh", "-c", START, "sh", sys.executable, "-W", "ignore", "-c", REPORT, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    told = json.loads(done.stdout or done.stderr)
    user = psutil.Process().username()
    path = told["environment"].pop("PATH")
    assert told["environment"] == {
        "CI": "yes", "LD_LIBRARY_PATH": "/lib/of/python", "UGRO_CRASH_STRIDE": "7", "OPENBLAS_CORETYPE": "GENERIC",
        "HOME": f"{tmp_path}/home", "USER": user, "LOGNAME": user, "SHELL": "/bin/sh", "TMPDIR": "/tmp",
        "LANG": "C.UTF-8", "TZ": "UTC", "GIT_CONFIG_NOSYSTEM": "1", "UGRO_NVIDIA_PROC": "/dev/null",
    }  # fmt: skip
    assert path.split(":")[0] == str(Path(sys.executable).parent) and f"{tmp_path}/bin" not in path
    assert (told["temporary"], told["home"], told["core"]) == ("/tmp", [], 0)
    soft, hard = told["open"]
    assert soft == (min(1024, hard) if hard > 0 else 1024)
    assert told["child"] == ["0", "0o22"] and told["interrupt"]


def test_only_programs_that_tests_bring_along_are_missing(tmp_path: Path) -> None:
    for place, name in (("a", "nvidia-smi"), ("a", "tool"), ("b", "tool"), ("c", "crontab"), ("c", "other")):
        program(tmp_path / place, name)
    given = f"{tmp_path}/a:.:{tmp_path}/b::{tmp_path}/c:{tmp_path}/none"
    path = surroundings.path_without(("nvidia-smi", "crontab"), given, tmp_path / "links")
    look = "tool; other; command -v nvidia-smi crontab; echo $?"
    done = subprocess.run(["/bin/sh", "-c", look], env={"PATH": path}, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["a tool", "c other", "127"], done.stderr
    assert f"{tmp_path}/b" in path.split(":") and "." not in path.split(":") and "" not in path.split(":")


def test_this_session_has_left_them() -> None:
    assert os.environ["HOME"] != surroundings.GIVEN.get("HOME")
    assert not {"SSH_AUTH_SOCK", "UGRO_HOME", "LC_ALL", "COLUMNS", "https_proxy"} & os.environ.keys()


BROKEN = """
import testbed_fixtures

def broken(): raise testbed_fixtures.TestbedError("gpu1 is broken\\nin two lines")

testbed_fixtures.Testbed, testbed_fixtures._unavailable = broken, lambda: None

def test_one(testbed): pass
def test_two(testbed): pass
"""


def test_the_first_broken_bed_ends_the_session_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text(BROKEN)
    options = ["-q", "-p", "no:cacheprovider", "-p", "testbed_fixtures", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(TESTS)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stdout and "test_two" not in done.stdout
    assert "Exit: no testbed: gpu1 is broken; in two lines !" in done.stdout
