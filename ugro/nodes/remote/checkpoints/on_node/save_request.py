"""Asks the ranks of a run to save a checkpoint, or takes that back. Ends nothing. Answers with one object.

usage: save_request.py ask|withdraw FILE WHEN
FILE, in the run's folder, is what its ranks know as UGRO_CHECKPOINT_REQUEST, and WHEN its content. `ask` makes it, in
the place of one that is there, and sends SIGUSR2 to each rank that catches it: any other would be killed by it.
`withdraw` removes it if its content is WHEN: another one is a later request.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from ugro.nodes.remote.on_node.answer import answer, refuse
from ugro.nodes.remote.on_node.processes import catches, named_in, pid_files, text_of

KIND = "save_request"


def rank(number: int, pid_file: str) -> dict[str, Any]:
    """Signal the script of one rank, by its pid file: pid and start time, so that no other process is hit."""
    found: dict[str, Any] = {"rank": number, "pid": None, "answer": "gone"}
    pid, fields = named_in(pid_file)
    if pid is None or not fields:
        return found
    found["pid"], found["answer"] = pid, "not caught"
    if catches(pid, signal.SIGUSR2):
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


def withdraw(request: str, when: str) -> bool:
    """Returns whether a script had taken it."""
    there = text_of(request).strip()
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
            ranks = [rank(number, file) for number, file in pid_files(os.path.dirname(request))]
            answer(KIND, {"at": at, "ranks": ranks})
        else:
            answer(KIND, {"taken": withdraw(request, when)})
    except OSError as error:
        refuse(KIND, f"{request}: {error.strerror}")


if __name__ == "__main__":
    main()
