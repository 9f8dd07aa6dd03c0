"""Reads the stack traces of a run's ranks, without pausing them. Answers with one object.

usage: stacks.py RUN_DIR PY_SPY [RANK…]
Python stacks are from py-spy: PY_SPY if it is not empty, else one beside this Python or on the PATH. /proc has the
rest: which threads there are, their states, and in which system call and kernel function each of them waits.
Where NCCL (2.24 or newer) answers on its RAS port, its own report of the job is added.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from typing import Any

from ugro.nodes.remote.on_node.answer import answer
from ugro.nodes.remote.on_node.processes import named_in, pid_files, stat_fields, text_of

MOST_THREADS = 256
MOST_FRAMES = 64
DUMP_SECONDS = 20

RAS_ADDRESS = "localhost:28028"
RAS_SECONDS = 5
"""Seconds for which NCCL waits for ranks that do not answer."""
MOST_REPORT = 32 * 1024


def find_py_spy(given: str) -> str | None:
    """The py-spy to use, if there is one."""
    beside = os.path.join(os.path.dirname(sys.executable), "py-spy")
    return given or (beside if os.access(beside, os.X_OK) else shutil.which("py-spy"))


def python_stacks(py_spy: str, pid: int) -> dict[str, Any]:
    """Return py-spy's stacks, by thread: without a pause, so that a training never stops for it."""
    command = [py_spy, "dump", "--nonblocking", "--json", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=DUMP_SECONDS)
        said = done.stderr.decode(errors="replace").strip().splitlines()
        if done.returncode:
            return {"problem": said[0] if said else f"exit {done.returncode}"}
        return {"threads": {thread["os_thread_id"]: thread for thread in json.loads(done.stdout.decode())}}
    except subprocess.TimeoutExpired:
        return {"problem": f"it gave no answer within {DUMP_SECONDS} s"}
    except (OSError, ValueError, TypeError, KeyError) as error:
        return {"problem": f"it cannot be used: {error}"}


def thtext_of(folder: str, python: dict[str, Any]) -> dict[str, Any]:
    """One thread; what the kernel does not tell this user is null or empty."""
    call, wchan = text_of(folder + "/syscall").split(), text_of(folder + "/wchan").strip()
    frames = python.get("frames") or []
    return {
        "tid": int(os.path.basename(folder)),
        "name": python.get("thread_name") or text_of(folder + "/comm").strip(),
        "state": next(iter(stat_fields(folder)), None),
        "syscall": int(call[0]) if call and call[0].isdigit() else None,
        "wchan": None if wchan in ("", "0") else wchan,
        "kernel": re.findall(r"\] ([\w.]+)\+", text_of(folder + "/stack"))[:MOST_FRAMES],
        "frames": [
            {"function": frame["name"], "file": frame["filename"], "line": frame["line"]}
            for frame in frames[:MOST_FRAMES]
        ],
    }


def rank(number: int, pid_file: str, py_spy: str | None) -> dict[str, Any]:
    """One rank by its pid file."""
    found: dict[str, Any] = {"rank": number, "threads": []}
    pid, fields = named_in(pid_file)
    if pid is None:
        return found
    found["pid"] = pid
    if not fields:
        return found  # it ended
    ticks = sum(int(number) for number in fields[11:15])
    python = python_stacks(py_spy, pid) if py_spy else {}
    stacks = python.get("threads", {})
    folders = glob.glob(f"/proc/{pid}/task/*")
    folders.sort(key=lambda folder: int(os.path.basename(folder)))
    found["state"] = fields[0]
    found["cpu_seconds"] = ticks / os.sysconf("SC_CLK_TCK")
    found["problem"] = python.get("problem")
    found["threads"] = [
        thtext_of(folder, stacks.get(int(os.path.basename(folder)), {})) for folder in folders[:MOST_THREADS]
    ]
    return found


def nccl_report(pid: int) -> str:
    """Return the report of NCCL's RAS about the job of a rank; empty if it does not answer."""
    found = re.search(r"(?:^|\0)NCCL_RAS_ADDR=([^\0]+)", text_of(f"/proc/{pid}/environ"))
    host, _, port = (found[1] if found else RAS_ADDRESS).rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1) as link, link.makefile("rb") as answers:
            for question, answer in (
                (b"CLIENT PROTOCOL 2\n", b"SERVER PROTOCOL"),
                (b"TIMEOUT %d\n" % RAS_SECONDS, b"OK"),
            ):
                link.sendall(question)
                if not answers.readline(200).startswith(answer):
                    return ""
            link.settimeout(3 * RAS_SECONDS)
            link.sendall(b"VERBOSE STATUS\n")
            return answers.read(MOST_REPORT).decode(errors="replace")
    except (OSError, ValueError):
        return ""


def main() -> None:
    run_dir, given, *ranks = sys.argv[1:]
    py_spy = find_py_spy(os.path.expanduser(given))
    files = pid_files(os.path.expanduser(run_dir))
    found = [rank(number, file, py_spy) for number, file in files if not ranks or str(number) in ranks]
    living = [one["pid"] for one in found if one.get("state")]
    seen = {
        "machine": platform.machine(),
        "py_spy": bool(py_spy),
        "ptrace_scope": text_of("/proc/sys/kernel/yama/ptrace_scope").strip(),
        "ranks": found,
        "nccl": nccl_report(living[0]) if living else "",
    }
    answer("stacks", seen)


if __name__ == "__main__":
    main()
