"""Asks the ranks of a run to save a checkpoint, or takes that back. Ends nothing. Prints one JSON object.

usage: save_request.py ask|withdraw FILE WHEN
FILE, in the run's folder, is what its ranks know as UGRO_CHECKPOINT_REQUEST, and WHEN its content. `ask` makes it, in
the place of one that is there, and sends SIGUSR2 to each rank that catches it: any other would be killed by it.
`withdraw` removes it if its content is WHEN: another one is of somebody who asked since.
"""

import glob
import json
import os
import re
import signal
import sys
from typing import Any, Dict, List  # workers may have a Python older than 3.9


def read(path: str) -> str:
    """A file's text; nothing where it is not there."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def rank(file: str) -> Dict[str, Any]:
    """Signal the script of one rank, by its pid file: pid and start time, so that nobody else is hit."""
    found: Dict[str, Any] = {"rank": int(re.findall(r"\d+", os.path.basename(file))[0]), "pid": None, "answer": "gone"}
    words = read(file).split()
    if len(words) != 2:
        return found
    stat = read(f"/proc/{words[0]}/stat").rpartition(")")[2].split()
    if len(stat) < 20 or stat[19] != words[1] or stat[0] in "ZX":
        return found
    found["pid"] = pid = int(words[0])
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", read(f"/proc/{pid}/status"), re.MULTILINE)
    found["answer"] = "not caught"
    if caught and int(caught[1], 16) >> (signal.SIGUSR2 - 1) & 1:
        try:
            os.kill(pid, signal.SIGUSR2)
            found["answer"] = "signalled"
        except ProcessLookupError:
            found["answer"] = "gone"
    return found


def make(request: str, when: str) -> float:
    """Make the file, whole or not at all. Returns when, by the clock that dates files there, checkpoints as well."""
    partial = f"{request}.{os.getpid()}"
    with open(partial, "w") as file:
        file.write(when + "\n")
    at = os.stat(partial).st_mtime
    os.replace(partial, request)
    return at


def signal_ranks(folder: str) -> List[Dict[str, Any]]:
    """Signal the ranks of a run."""
    files = glob.glob(os.path.join(glob.escape(folder), "rank-*.pid"))
    return [rank(file) for file in files if re.search(r"rank-\d+\.pid$", file)]


def withdraw(request: str, when: str) -> bool:
    """Returns whether a script had taken it."""
    there = read(request).strip()
    if there == when:
        try:
            os.unlink(request)
        except FileNotFoundError:
            return True
    return not there


def main() -> None:
    what, request, when = sys.argv[1], os.path.expanduser(sys.argv[2]), sys.argv[3]
    try:
        if what == "ask":
            at = make(request, when)
            print(json.dumps({"at": at, "ranks": signal_ranks(os.path.dirname(request))}))
        else:
            print(json.dumps({"taken": withdraw(request, when)}))
    except OSError as error:
        sys.exit(f"{request}: {error.strerror}")


if __name__ == "__main__":
    main()
