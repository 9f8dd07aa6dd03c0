"""Runs one rank and leaves its pid and its exit code or signal beside its log.

torchrun ends with 1 whatever the script ended with, so this stands between the two. It is sent with each launch,
needs nothing but Python, and ends as the script ended, so that torchrun sees what it would have seen.
usage: rank.py [--rank=N] [--local_rank=N] RUN_DIR [-m | --no-python] SCRIPT [ARG…]
-m and --no-python mean what they mean for torchrun. --rank is that of a process for which no launcher sets RANK;
--local_rank, with which DeepSpeed begins the arguments of what it starts, is passed to the script.

It also keeps the job's time limit, so that it holds without a controller and the node's own sleep does not count:
UGRO_TIME_LIMIT seconds after the script's start it ends the script, and UGRO_TIME_WARNING seconds before that it sends
SIGUSR2 to a script that catches it. `rank-<r>.limit` says which of this was done last, and when. What `time-limit` in
RUN_DIR says, `SECONDS WARNING`, counts instead: it is read again and again, since a limit may be extended.

Where a script was killed, `rank-<r>.oom` says what shows that it was for lack of memory, if anything does.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

from ugro.nodes.remote.on_node.processes import catches, identity, leave, reserve, text_of

PATIENCE = 10.0
"""Seconds that a script has to end after SIGTERM."""

ERROR_LIMIT = 1024 * 1024
"""Bytes of torch's error file that are kept: it holds one traceback, whatever a script may write there."""

LIMIT_LOOK = 5.0
"""Seconds between two looks whether the time limit was extended; at the limit itself there is one more."""

NEARLY_FULL = 0.1
"""The part of the memory that was free at most where a userspace killer (earlyoom, systemd-oomd) may have struck."""

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""What a shell ends with for a program that it cannot start."""

LIMITS = ("memory.max", "memory.limit_in_bytes")
"""The files of a cgroup's limit, of version 2 and 1."""


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


def seconds(name: str) -> float | None:
    """A variable of the environment as a number of seconds; None if it is not set."""
    return float(os.environ[name]) if name in os.environ else None


def shared_batch() -> dict[str, str]:
    """This rank's part of UGRO_BATCH_SHARES, the fractions of the global batch for the ranks of this node.

    UGRO_GRADIENT_WEIGHT is what a rank multiplies its mean loss by, so that DDP's plain mean over all ranks becomes
    the mean over the global batch.
    """
    if "UGRO_BATCH_SHARES" not in os.environ:
        return {}
    share = os.environ["UGRO_BATCH_SHARES"].split(",")[int(os.environ["LOCAL_RANK"])]
    return {"UGRO_BATCH_SHARE": share, "UGRO_GRADIENT_WEIGHT": str(float(share) * int(os.environ["WORLD_SIZE"]))}


def read_words(words: list[str]) -> tuple[int, bool, str, list[str]]:
    """The rank, whether UGRO itself gave it, the run's folder and the command of a command line."""
    rank, given, passed = os.environ.get("RANK", ""), False, []
    while words[0].startswith("--"):
        option = words.pop(0)
        if option.startswith("--rank="):
            rank, given = option.partition("=")[2], True
        else:
            passed.append(option)
    if not rank.isdigit():
        sys.exit(
            "the launcher started one process and set no RANK: its configuration seems to say that it trains alone"
        )
    run_dir, *command = words
    at = 2 if command[0] in ("-m", "--no-python") else 1
    return int(rank), given, run_dir, [*command[:at], *passed, *command[at:]]


def own_checkpoint(command: list[str], rank: int) -> tuple[list[str], dict[str, str]]:
    """The command and the environment with this rank's own part of the checkpoint, where each rank has one.

    The path has `{rank}` in the place of its number, or `{part}` where parts count from 1, as Python's str.format does.
    """
    if "UGRO_RESUME_EACH" not in os.environ:
        return command, {}
    path = os.environ["UGRO_RESUME_FROM"]

    def number(match: re.Match[str]) -> str:
        return str(rank + (match[1] == "part")).zfill(int(match[2] or 0))

    own = re.sub(r"\{(rank|part)(?::0(\d+)d)?\}", number, path)
    return [word.replace(path, own) for word in command], {"UGRO_RESUME_FROM": own}


def ends_by(process: subprocess.Popen[bytes], moment: float) -> bool:
    """Wait until a process ends, at most to a moment of the monotonic clock, which stands still while a node sleeps."""
    # Not a timer in a thread: before 3.11 those follow the wall clock, and could signal a pid that was just freed.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, moment - time.monotonic()))
    return process.returncode is not None


class TimeLimit:
    """The time limit of a script that was just started. Its file says what was done about it, before each signal."""

    def __init__(
        self, process: subprocess.Popen[bytes], base: str, limit: float, warning: float | None, leads: bool = False
    ) -> None:
        """`leads`: it has a session of its own, of which nothing is to outlive it at its limit."""
        self.process, self.file = process, base + ".limit"
        self.extended = os.path.join(os.path.dirname(base), "time-limit")
        self.began = time.monotonic()
        self.limit, self.warning = limit, warning
        self.warned = False
        self.leads = leads

    def wait(self) -> int:
        """Wait for the script and end it at its limit, the warning so long before."""
        while self.process.poll() is None:
            self.look()
            end = self.began + self.limit
            warns_at = end if self.warned or self.warning is None else end - self.warning
            if time.monotonic() < warns_at:
                ends_by(self.process, min(warns_at, time.monotonic() + LIMIT_LOOK))
            elif not self.warned and self.warning is not None:
                self.warn()
            elif self.is_over():
                self.process.terminate()
                if not ends_by(self.process, time.monotonic() + PATIENCE):
                    self.process.kill()
                status = self.process.wait()
                if self.leads:  # a shell ends at once, and what it waited for would keep running
                    with contextlib.suppress(OSError):
                        os.killpg(self.process.pid, signal.SIGTERM)
                return status
        return self.process.returncode

    def look(self) -> bool:
        """Take over another limit. Returns whether there is one; what was done about the one before is forgotten."""
        try:
            limit, warning = map(float, text_of(self.extended).split())
        except ValueError:  # there is none, or none that makes sense: the last one counts
            return False
        if not (0 < limit < float("inf")) or limit == self.limit:
            return False
        self.limit, self.warning, self.warned = limit, warning, False
        with contextlib.suppress(OSError):
            os.remove(self.file)
        return True

    def is_over(self) -> bool:
        """Note that the limit is reached, and whether it is after that: who extends it writes first and looks then."""
        self.note("ended")
        return not self.look()

    def warn(self) -> None:
        heard = catches(self.process.pid, signal.SIGUSR2)
        self.warned = True
        self.note("warned" if heard else "unheard")
        if heard:
            self.process.send_signal(signal.SIGUSR2)

    def note(self, what: str) -> None:
        with contextlib.suppress(OSError):  # a full disk does not stop the time limit
            leave(self.file, f"{what} {time.time():.3f}")


def number_in(path: str, name: str) -> int | None:
    """The number that follows a name in a file, as in `MemTotal: 24683520 kB`."""
    found = re.search(rf"^{name}\s*(\d+)", text_of(path), re.MULTILINE)
    return int(found.group(1)) if found else None


def memory_cgroups() -> list[str]:
    """The folders of this process's memory cgroup and of those above it."""
    for line in text_of("/proc/self/cgroup").splitlines():
        controllers, path = line.split(":", 2)[1:]
        if not controllers or "memory" in controllers.split(","):  # version 2, or version 1
            mount = "/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup"
            parts = path.strip("/").split("/")
            # In a container the upper part of the path may not be there, and the mount is the cgroup itself.
            return [os.path.join(mount, *parts[:depth]) for depth in range(len(parts), -1, -1)]
    return []


class OutOfMemory:
    """What shows that a process was killed for lack of memory; to be made before it starts."""

    def __init__(self) -> None:
        self.cgroups = memory_cgroups()
        self.kills = self.count_kills()
        self.kernel_log = -1
        with contextlib.suppress(OSError):  # many kernels let only root read it
            self.kernel_log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self.kernel_log, 0, os.SEEK_END)

    def count_kills(self) -> int:
        """How often the kernel killed for lack of memory in the cgroup so far; 0 if it does not count."""
        files = (f"{folder}/{name}" for folder in self.cgroups for name in ("memory.events", "memory.oom_control"))
        return next((kills for file in files if (kills := number_in(file, "oom_kill")) is not None), 0)

    def logged(self, pid: int) -> bool:
        """Whether the kernel's log reports the kill."""
        told = re.compile(rf"oom-kill:.*,pid={pid},|Killed process {pid} \(".encode())
        while self.kernel_log >= 0:
            try:
                if told.search(os.read(self.kernel_log, 8192)):
                    return True
            except BrokenPipeError:  # what was next is overwritten already; the one after it comes next
                continue
            except OSError:
                break
        return False

    def evidence(self, pid: int) -> str | None:
        """`KIND PEAK ROOM` of a process that was just waited for: its peak and the memory there was for it, in KiB."""
        import resource

        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        total = number_in("/proc/meminfo", "MemTotal:") or 0
        left = (number_in("/proc/meminfo", "MemAvailable:") or total) - peak  # what it held is free again by now
        limits = [number_in(f"{folder}/{name}", "") for folder in self.cgroups for name in LIMITS]
        room = min([total, *(limit // 1024 for limit in limits if limit is not None)])
        if self.logged(pid):
            return f"kernel {peak} {room}"
        if self.count_kills() > self.kills:
            return f"cgroup {peak} {room}"
        return f"full {peak} {total}" if left < NEARLY_FULL * total else None


def started_as(command: list[str]) -> list[str]:
    """The words to start: Python runs a script or a module; a program runs by itself, found as in a shell."""
    return command[1:] if command[0] == "--no-python" else [sys.executable, "-u", *command]


def leave_evidence(base: str, pid: int, status: int, out_of_memory: OutOfMemory) -> None:
    """Leave the files that say more about a failure than its exit code."""
    if status == -signal.SIGKILL and (evidence := out_of_memory.evidence(pid)):
        leave(base + ".oom", evidence)
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    if status and os.path.isfile(error_file):
        with open(error_file, "rb") as source, open(base + ".error", "wb") as target:
            target.write(source.read(ERROR_LIMIT))


def main() -> None:
    rank, leads, run_dir, command = read_words(sys.argv[1:])
    base = os.path.join(run_dir, f"rank-{rank}")
    # torchrun signals the whole process group: the script decides what a signal means, this waits for it.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    limit, warning = seconds("UGRO_TIME_LIMIT"), seconds("UGRO_TIME_WARNING")
    command, resume = own_checkpoint(command, rank)
    env = dict(os.environ, **shared_batch(), **resume)
    env.pop("UGRO_RESUME_EACH", None)
    out_of_memory = OutOfMemory()
    reserve(base + ".pid")
    reserve(base + ".exit")
    with open(base + ".log", "ab", buffering=0) as log:
        try:
            process = subprocess.Popen(
                started_as(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=leads,
            )
        except OSError as error:  # Python always starts: it is a program that is not there, or not executable
            log.write(f"{type(error).__name__}: {error}\n".encode())
            leave(base + ".pid", identity(os.getpid()))
            status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            leave(base + ".exit", f"code {status} {time.time():.3f}")
            sys.exit(status)
    leave(base + ".pid", identity(process.pid))
    status = process.wait() if limit is None else TimeLimit(process, base, limit, warning, leads).wait()
    with contextlib.suppress(OSError):  # on a full disk the exit code still gets its place
        leave_evidence(base, process.pid, status, out_of_memory)
    ended = f"code {status}" if status >= 0 else f"signal {signal.Signals(-status).name[3:]}"
    leave(base + ".exit", f"{ended} {time.time():.3f}")
    end_like(status)


if __name__ == "__main__":
    main()
