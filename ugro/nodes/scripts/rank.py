"""Runs one rank and leaves its pid and its exit code or signal beside its log.

torchrun ends with 1 whatever the script ended with, so this stands between the two. It is sent with each launch,
needs nothing but Python, and ends as the script ended, so that torchrun sees what it would have seen.
usage: rank.py RUN_DIR SCRIPT [ARG…]

It also keeps the job's time limit, so that the limit holds while nobody looks and the node's own sleep does not count:
UGRO_TIME_LIMIT seconds after the script's start it ends the script, and UGRO_TIME_WARNING seconds before that it sends
SIGUSR2 to a script that catches it. `rank-<r>.limit` says which of this was done last, and when.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Dict, Optional  # workers may have a Python older than 3.9

PATIENCE = 10.0
"""Seconds that a script has to end after SIGTERM."""


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


def seconds(name: str) -> Optional[float]:
    """A variable of the environment as a number of seconds; None if it is not set."""
    return float(os.environ[name]) if name in os.environ else None


def shared_batch() -> Dict[str, str]:
    """This rank's part of UGRO_BATCH_SHARES, the fractions of the global batch for the ranks of this node.

    UGRO_GRADIENT_WEIGHT is what a rank multiplies its mean loss by, so that DDP's plain mean over all ranks becomes
    the mean over the global batch.
    """
    if "UGRO_BATCH_SHARES" not in os.environ:
        return {}
    share = os.environ["UGRO_BATCH_SHARES"].split(",")[int(os.environ["LOCAL_RANK"])]
    return {"UGRO_BATCH_SHARE": share, "UGRO_GRADIENT_WEIGHT": str(float(share) * int(os.environ["WORLD_SIZE"]))}


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: one without would be killed by most of them."""
    with open(f"/proc/{pid}/status") as file:
        caught = next((line.split()[1] for line in file if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def ends_by(process: "subprocess.Popen[bytes]", moment: float) -> bool:
    """Wait until a process ends, at most to a moment of the monotonic clock, which stands still while a node sleeps."""
    # Not a timer in a thread: before 3.11 those follow the wall clock, and could signal a pid that was just freed.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, moment - time.monotonic()))
    return process.returncode is not None


def wait_within(process: "subprocess.Popen[bytes]", limit: float, warning: Optional[float], file: str) -> int:
    """Wait for the script and end it at its limit, the warning so long before. The file is written before a signal."""

    def note(what: str) -> None:
        with contextlib.suppress(OSError):  # a full disk is no reason to go on
            leave(file, f"{what} {time.time():.3f}")

    end = time.monotonic() + limit
    if warning is not None:
        if ends_by(process, end - warning):
            return process.returncode
        heard = catches(process.pid, signal.SIGUSR2)
        note("warned" if heard else "unheard")
        if heard:
            process.send_signal(signal.SIGUSR2)
    if ends_by(process, end):
        return process.returncode
    note("ended")
    process.terminate()
    if not ends_by(process, time.monotonic() + PATIENCE):
        process.kill()
    return process.wait()


def main() -> None:
    run_dir, command = sys.argv[1], sys.argv[2:]
    base = os.path.join(run_dir, "rank-" + os.environ["RANK"])
    # torchrun signals the whole process group: the script decides what a signal means, this waits for it.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    limit, warning = seconds("UGRO_TIME_LIMIT"), seconds("UGRO_TIME_WARNING")
    env = dict(os.environ, **shared_batch())
    with open(base + ".log", "ab", buffering=0) as log:
        process = subprocess.Popen(
            [sys.executable, "-u", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env
        )
    leave(base + ".pid", f"{process.pid} {start_time(process.pid)}")
    status = process.wait() if limit is None else wait_within(process, limit, warning, base + ".limit")
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    if status and os.path.isfile(error_file):
        shutil.copyfile(error_file, base + ".error")
    ended = f"code {status}" if status >= 0 else f"signal {signal.Signals(-status).name[3:]}"
    leave(base + ".exit", f"{ended} {time.time():.3f}")
    end_like(status)


if __name__ == "__main__":
    main()
