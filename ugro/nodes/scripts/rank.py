"""Runs one rank and leaves its pid and its exit code or signal beside its log.

torchrun ends with 1 whatever the script ended with, so this stands between the two. It is sent with each launch,
needs nothing but Python, and ends as the script ended, so that torchrun sees what it would have seen.
usage: rank.py RUN_DIR SCRIPT [ARG…]
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time


def leave(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    with open(path + ".tmp", "w") as file:
        file.write(text + "\n")
    os.replace(path + ".tmp", path)


def start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat: with the pid it names one process for as long as the machine is up."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rsplit(b")", 1)[1].split()[19].decode()


def end_like(status: int) -> None:
    """End as the script did; core dumps are the script's own business."""
    if status >= 0:
        sys.exit(status)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)


def main() -> None:
    run_dir, command = sys.argv[1], sys.argv[2:]
    base = os.path.join(run_dir, "rank-" + os.environ["RANK"])
    # torchrun signals the whole process group: the script decides what a signal means, this waits for it.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    with open(base + ".log", "ab", buffering=0) as log:
        process = subprocess.Popen(
            [sys.executable, "-u", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    leave(base + ".pid", f"{process.pid} {start_time(process.pid)}")
    status = process.wait()
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    if status and os.path.isfile(error_file):
        shutil.copyfile(error_file, base + ".error")
    ended = f"code {status}" if status >= 0 else f"signal {signal.Signals(-status).name[3:]}"
    leave(base + ".exit", f"{ended} {time.time():.3f}")
    end_like(status)


if __name__ == "__main__":
    main()
