"""Sets up an environment on this node, or reports how far that is. Answers with one object.

usage: setup.py REQUEST HOME; REQUEST is a JSON object with
  folder     of the environment, ENV below; `~/` is HOME, and the job's environment may have another one
  id, node   of the claim that this request would make, and the name of this node
  run, job   the run that asks (UGRO_RUN, which the environment of this script has, too), and the job's id
  run_dir    the folder of the run
  code       the folder in which the command runs
  command    the shell command
  python     the Python that the command finds first in its PATH; empty: that of the system
  timeout    seconds that it may take
  start      whether to start it if it does not run; else this only reports
  have       bytes of the log that the asker has

Files in ENV: `env/` is what the command fills, `log` what it prints. `claim/` is taken by a rename that only one makes;
`claim/owner` says who runs it, `claim/beat` is touched while it runs, `claim/exit` says how it ended badly. `done` is
there once it ended well; `used` is touched at each start of a job. A claim whose processes are gone is put aside as
`old-ID`, which stays, so that no other request puts another claim aside in its place.

In the folder of the run, `setup.pid` names the process that waits for the command, and `setup.gone` says that nothing
of it remains.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, NoReturn

from ugro.nodes.remote.on_node.answer import answer, refuse
from ugro.nodes.remote.on_node.processes import identity, leave, stat_fields, text_of

BEAT = 2.0
"""Seconds between two signs of life of a claim."""

SILENCE = 120.0
"""Seconds without one after which a claim of another machine counts as given up."""

PATIENCE = 10.0
"""Seconds that a command has to end after SIGTERM."""

CHUNK = 256 * 1024
"""Most bytes of the log in one answer."""

SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER in linux/prctl.h."""


def read_json(path: str) -> Any:
    """The object in a file; empty where there is none."""
    with contextlib.suppress(ValueError):
        found = json.loads(text_of(path) or "{}")
        if isinstance(found, dict):
            return found
    return {}


def write_json(path: str, value: Any) -> None:
    """Write a file whole or not at all."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w") as file:
        json.dump(value, file)
    os.replace(temporary, path)


def size_of(path: str) -> int:
    """Bytes of a file; 0 where it is not there."""
    with contextlib.suppress(OSError):
        return os.path.getsize(path)
    return 0


def expanded(path: str) -> str:
    """A path with the home in the place of `~`."""
    return os.path.join(sys.argv[2], path[2:]) if path.startswith("~/") else path


def boot_id() -> str:
    """The id of this boot of the machine."""
    return text_of("/proc/sys/kernel/random/boot_id").strip()


def lives(process: str) -> bool:
    """Whether the process of an `identity` is there."""
    pid, _, started = process.partition(" ")
    fields = stat_fields("/proc/" + pid) if pid.isdigit() else []
    return len(fields) >= 20 and fields[19] == started and fields[0] not in "ZX"


class Environment:
    """The folder of an environment."""

    def __init__(self, asked: Any) -> None:
        self.asked = asked
        self.folder = expanded(asked["folder"])
        self.claim = os.path.join(self.folder, "claim")
        self.log = os.path.join(self.folder, "log")
        self.run_dir = expanded(asked["run_dir"])
        self.given_up: Any = {}
        """The owner of a claim that the last look found to be over: no other claim may be put aside."""

    def path(self, *names: str) -> str:
        """The path of a file in it."""
        return os.path.join(self.folder, *names)

    def owner(self) -> Any:
        """Return who has the claim; empty if it is free."""
        return read_json(self.path("claim", "owner"))

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(self) -> Any:
        """How far it is, as the asker sees it: done, running, failed (by its own run), or free."""
        if os.path.exists(self.path("done")):
            with contextlib.suppress(OSError), open(self.path("used"), "w"):
                pass
            return self.seen("done", read_json(self.path("done")))
        owner = self.owner()
        if not owner:
            return self.seen("free", {})
        ended = read_json(self.path("claim", "exit"))
        if ended and self.is_mine(owner):
            return self.seen("failed", owner, ended)
        if not ended and self.is_alive(owner):
            return self.seen("running", owner)
        if os.path.exists(self.path("done")) or (not ended and read_json(self.path("claim", "exit"))):
            return self.look()  # it ended between two of these looks
        self.given_up = owner
        return self.seen("free", owner)

    def seen(self, state: str, owner: Any, ended: Any | None = None) -> Any:
        """Return the answer, with the part of the log that is new to the asker."""
        begin = int(owner.get("log_from", 0)) + self.asked["have"]
        new = b""
        if state in ("running", "failed") or (state == "done" and self.asked["have"]) or self.is_mine(owner):
            with contextlib.suppress(OSError), open(self.log, "rb") as file:
                file.seek(begin)
                new = file.read(CHUNK)
        return {
            "state": state,
            "env": self.path("env"),
            "job": str(owner.get("job", "")),
            "code": (ended or {}).get("code"),
            "signal": (ended or {}).get("signal"),
            "late": bool((ended or {}).get("late")),
            "log": base64.b64encode(new).decode(),
            "more": size_of(self.log) > begin + len(new) if new else False,
        }

    def is_mine(self, owner: Any) -> bool:
        """Whether a claim is that of the run that asks."""
        return bool(owner) and owner.get("run") == self.asked["run"]

    def is_alive(self, owner: Any) -> bool:
        """Whether a claim's setup runs. A command whose keeper was killed is ended: it has no time limit any more."""
        if owner.get("boot") == boot_id():
            if lives(str(owner.get("process", ""))):
                return True
            child = text_of(self.path("claim", "child")).strip()
            if lives(child):
                with contextlib.suppress(OSError, ValueError):
                    os.killpg(int(child.split()[0]), signal.SIGKILL)
                return True
            return False
        if owner.get("node") == self.asked["node"]:  # which was started again since
            return False
        try:  # by the clock of the file system, which is that of both
            probe = self.path(f".now-{os.getpid()}")
            with open(probe, "w"):
                pass
            now = os.stat(probe).st_mtime
            os.remove(probe)
            return now - os.stat(self.path("claim", "beat")).st_mtime < SILENCE
        except OSError:
            return True

    # --- starting ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Claim it and begin, unless another did that meanwhile."""
        os.makedirs(self.folder, exist_ok=True)
        os.makedirs(self.run_dir, exist_ok=True)
        before = self.given_up
        if before:  # no other claim: that of who was faster stays, and is found below
            with contextlib.suppress(OSError):
                os.rename(self.claim, self.path("old-" + str(before.get("id"))))
        begin = before.get("log_from", 0) if before and self.asked["have"] else size_of(self.log)
        read_end, write_end = os.pipe()
        if os.fork():
            os.close(write_end)
            with os.fdopen(read_end) as told:
                told.read()  # until the claim is made, or was not
            return
        os.close(read_end)
        os.setsid()
        self.run(begin, write_end)

    def run(self, begin: int, told: int) -> NoReturn:
        """Take the claim, run the command, say how it ended, and stay until nothing of it remains."""
        code = 1
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)  # this stays, to say how the command ended
            if self.take(begin):
                os.close(told)
                become_subreaper()
                self.finish(self.carry_out())
                wait_for_all()
                leave(os.path.join(self.run_dir, "setup.gone"), f"{time.time():.0f}")
            code = 0
        finally:
            os._exit(code)

    def take(self, begin: int) -> bool:
        """Whether the claim is this process's now."""
        mine = self.path(f"claim.{self.asked['id']}")
        os.makedirs(mine)
        with open(os.path.join(mine, "beat"), "w"):
            pass
        with contextlib.suppress(OSError):
            os.remove(os.path.join(self.run_dir, "setup.gone"))
        leave(os.path.join(self.run_dir, "setup.pid"), f"{identity(os.getpid())} {boot_id()}")
        owner = {name: self.asked[name] for name in ("id", "run", "job", "node", "command")}
        owner.update(process=identity(os.getpid()), boot=boot_id(), log_from=begin, began=time.time())
        write_json(os.path.join(mine, "owner"), owner)
        try:
            os.rename(mine, self.claim)  # refused where one is there, since that is not empty
        except OSError:
            shutil.rmtree(mine, ignore_errors=True)
            os.remove(os.path.join(self.run_dir, "setup.pid"))
            return False
        return True

    def carry_out(self) -> Any:
        """Run the command. Returns how it ended."""
        try:
            shutil.rmtree(self.path("env"), ignore_errors=True)  # what an earlier try left half done
            os.makedirs(self.path("env"))
            with open(self.log, "ab", buffering=0) as log:
                os.umask(0o022)  # what the command makes is as any other
                process = subprocess.Popen(
                    ["/bin/sh", "-c", self.asked["command"]],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=expanded(self.asked["code"]),
                    env=self.variables(),
                    start_new_session=True,
                )
        except OSError as error:
            with contextlib.suppress(OSError), open(self.log, "ab", buffering=0) as log:
                log.write(f"{type(error).__name__}: {error}\n".encode())
            return {"code": 126}
        with contextlib.suppress(OSError):
            leave(self.path("claim", "child"), identity(process.pid))
        late = not self.waited(process)
        status = process.wait()
        ended = {"code": status} if status >= 0 else {"signal": signal.Signals(-status).name[3:]}
        return dict(ended, late=late) if late else ended

    def variables(self) -> dict[str, str]:
        """The environment of the command."""
        found = dict(os.environ)
        python = expanded(self.asked["python"])
        first = [os.path.dirname(python)] if os.path.isabs(python) else []
        path = [*first, found.get("PATH", os.defpath), expanded("~/.local/bin"), expanded("~/.cargo/bin")]
        found.update(
            PATH=":".join(path),
            UGRO_JOB=self.asked["job"],
            UGRO_ENV_DIR=self.path("env"),
            UV_PROJECT_ENVIRONMENT=self.path("env"),
            UV_NO_INSTALL_PROJECT="1",
        )
        if os.path.isabs(python):
            found.update(UGRO_PYTHON=python)
        return found

    def waited(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the command ends, at most as long as it may take. Returns whether it ended by then."""
        end = time.monotonic() + self.asked["timeout"]
        while process.poll() is None:
            left = end - time.monotonic()
            if left <= 0 or self.owner().get("id") != self.asked["id"]:  # another took it over while this machine slept
                for number in (signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(OSError):
                        os.killpg(process.pid, number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(PATIENCE)
                return False
            with contextlib.suppress(OSError):
                os.utime(self.path("claim", "beat"))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(BEAT, left))
        return True

    def finish(self, ended: Any) -> None:
        """Say how it ended, while the claim is this one's."""
        owner = self.owner()
        if owner.get("id") != self.asked["id"]:
            return
        if ended == {"code": 0}:
            write_json(self.path("done"), dict(owner, done=time.time()))
        else:
            write_json(self.path("claim", "exit"), ended)


def become_subreaper() -> None:
    """Make orphaned descendants children of this process from now on."""
    with contextlib.suppress(ImportError, OSError, AttributeError):  # a Python without ctypes, a libc without prctl
        import ctypes

        arguments = (ctypes.c_ulong(argument) for argument in (1, 0, 0, 0))
        ctypes.CDLL(None).prctl(SUBREAPER, *arguments)


def wait_for_all() -> None:
    """Wait until this process has no child."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def main() -> None:
    asked = json.loads(sys.argv[1])
    os.umask(0o077)
    environment = Environment(asked)
    try:
        seen = environment.look()
        if seen["state"] == "free" and asked["start"]:
            environment.start()
            seen = environment.look()
    except OSError as error:
        refuse("setup", f"{type(error).__name__}: {error}")
    answer("setup", seen)


if __name__ == "__main__":
    main()
