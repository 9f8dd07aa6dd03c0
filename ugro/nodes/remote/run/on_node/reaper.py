"""Runs torchrun, and stays until everything that it and its ranks ever started has ended.

It is the subreaper of its descendants: each one that is orphaned becomes its child, also a daemon that forked twice
into a session of its own and wiped its environment. So `stop.sh` finds them all below it, and none stays a zombie. Once
it has no child, nothing that descends from it remains anywhere on the node: it notes that in the file `gone`.

It is sent with each launch and needs nothing but Python.
usage: reaper.py RUN_DIR PROGRAM [ARG…]

Files in RUN_DIR: `reaper.pid` has its own pid and start time and those of PROGRAM; `exit` how PROGRAM ended, as a shell
reports it, and when; `adopted` the pids and start times of its orphans, which stay known if this process is killed.
`secrets` has variables for PROGRAM, as JSON; it is removed once it was read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from ugro.nodes.remote.on_node.processes import identity, leave, reserve

LOOK_SECONDS = 10.0
"""How often orphans are noted in `adopted`: the kernel does not report a new one."""

PR_SET_CHILD_SUBREAPER = 36
"""From linux/prctl.h; Linux 3.4 and later."""


def try_to_leave(path: str, text: str) -> None:
    """Leave a file where that can be: a full disk is no reason to leave the processes alone."""
    with contextlib.suppress(OSError):
        leave(path, text)


def become_subreaper() -> bool:
    """Whether orphaned descendants become children of this process from now on."""
    with contextlib.suppress(ImportError, OSError, AttributeError):  # a Python without ctypes, a libc without prctl
        import ctypes

        arguments = (ctypes.c_ulong(argument) for argument in (1, 0, 0, 0))
        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, *arguments) == 0)
    return False


def orphans(agent: int) -> str:
    """Return the identities of the children except torchrun, one a line, without those that ended meanwhile."""
    found = []
    with contextlib.suppress(OSError):
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            pids = [int(pid) for pid in file.read().split()]
        for pid in pids:
            with contextlib.suppress(OSError):
                found.append(identity(pid))
    return "\n".join(line for line in found if line.split()[0] != str(agent))


def shell_code(status: int) -> int:
    """Return the exit code that a shell reports: 128 + N for a signal N."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def start(command: list[str]) -> int:
    """Start torchrun with the signals as they were here at the beginning. Return its pid."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # what is ignored (nohup) stays so below
            signal.signal(number, lambda *_: None)  # torchrun gets its own signals; exec sets it back
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    ignored_by_python = [signal.SIGPIPE, signal.SIGXFSZ]
    return os.posix_spawnp(command[0], command, os.environ, setsigmask=mask, setsigdef=ignored_by_python)


def take_secrets(path: str) -> None:
    """Give PROGRAM, and so all ranks, the variables of a file, and remove it: it is not read again."""
    with contextlib.suppress(FileNotFoundError):
        with open(path) as file:
            import json  # which takes longer than all else here

            os.environ.update(json.load(file))
        os.remove(path)


def main() -> None:
    run_dir, command = sys.argv[1], sys.argv[2:]
    take_secrets(run_dir + "/secrets")
    adopts = become_subreaper()
    for file in ("/exit", "/gone"):
        with contextlib.suppress(OSError):
            reserve(run_dir + file)
    agent = start(command)
    try_to_leave(run_dir + "/reaper.pid", f"{identity(os.getpid())} {identity(agent)}")
    code, noted = 0, ""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == agent:
            code = shell_code(status)
            try_to_leave(run_dir + "/exit", f"{code} {time.time():.0f}")
        elif not pid:
            found = orphans(agent)
            if found != noted:
                try_to_leave(run_dir + "/adopted", found)
                noted = found
            signal.sigtimedwait([signal.SIGCHLD], LOOK_SECONDS)
    if adopts:
        try_to_leave(run_dir + "/gone", f"{time.time():.0f}")
    sys.exit(code)


if __name__ == "__main__":
    main()
