"""Draw docs/terminal.svg: commands of UGRO and what they print, from a real run in a sandbox of its own.

usage: python scripts/picture.py      (or `make picture`; about a minute)

Three simulated nodes train `examples/train_production.py` with DDP. Rank 1 is killed, UGRO explains the failure and
resumes the job. The picture fetches nothing: it names fonts, and carries none.
"""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from fcntl import ioctl
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
TARGET = ROOT / "docs" / "terminal.svg"
COLUMNS = 96
"""Wide enough that no line of these commands wraps."""

FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"
SAVED = "checkpoint-500"
"""The checkpoint that exists before the rank is killed."""


class Terminal:
    """Record commands and their output as a terminal of COLUMNS shows them."""

    def __init__(self, sandbox: Path) -> None:
        self.screen = Text()
        own = {"HOME": str(sandbox), "UGRO_HOME": str(sandbox / "state"), "UGRO_SANDBOX_DIR": str(sandbox)}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = os.environ | own | {"UGRO_INVENTORY": str(sandbox / "inventory.yaml"), "PATH": path}
        self.env |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        self.env.pop("NO_COLOR", None)

    def ugro(self, *words: str) -> str:
        """Run a command off screen. Returns its output."""
        command = ["ugro", *words]
        done = subprocess.run(command, env=self.env, cwd=EXAMPLES, check=True, capture_output=True, text=True)
        return done.stdout

    def show(self, *words: str) -> None:
        """Run a command on screen, with its prompt and colours."""
        self.screen.append("$ ", "dim").append(shlex.join(["ugro", *words]), "bold").append("\n")
        mine, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        command = ["ugro", *words]
        done = subprocess.Popen(command, env=self.env, cwd=EXAMPLES, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        output = b"".join(iter(lambda: read(mine), b"")).decode()
        done.wait()
        os.close(mine)
        self.screen.append_text(Text.from_ansi(output.replace("\r\n", "\n"))).append("\n")

    def note(self, words: str) -> None:
        """Write a comment on the screen."""
        self.screen.append(f"# {words}\n\n", "dim")

    def wait_for(self, job: str, words: str) -> None:
        """Follow a job's log until a line has these words."""
        command = ["ugro", "logs", job, "-f"]
        with subprocess.Popen(
            command, env=self.env, cwd=EXAMPLES, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as logs:
            assert logs.stdout
            next(line for line in logs.stdout if words in line)
            logs.send_signal(signal.SIGINT)


def read(terminal: int) -> bytes:
    """Read from a terminal. Returns nothing once no process has it open."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def play(terminal: Terminal) -> None:
    """Launch a job, kill one of its ranks, explain the failure and resume the job."""
    terminal.show("launch", "train_production.py", "--name", "demo", "--", "--epochs", "30")
    terminal.wait_for("demo", SAVED)
    terminal.show("status")
    ranks = json.loads(terminal.ugro("status", "demo", "--json"))["ranks"]
    os.kill(ranks[1]["pid"], signal.SIGKILL)
    terminal.note("rank 1 is killed on gpu1: kill -KILL {pid}".format(**ranks[1]))
    subprocess.run(["ugro", "wait", "demo"], env=terminal.env, stdin=subprocess.DEVNULL, capture_output=True)
    terminal.show("explain", "demo")
    terminal.show("resume", "demo", "--yes")
    terminal.ugro("cancel", "demo")


def drawn(screen: Text) -> str:
    """Return the screen as SVG, with the fonts of the reader's machine."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(screen, end="")
    svg = console.export_svg(title="ugro", unique_id="ugro")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.replace("Fira Code, monospace", FONTS).splitlines()) + "\n"


def main() -> int:
    """Start a sandbox, play, draw, and stop it. Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="ugro-picture-") as folder:
        terminal = Terminal(Path(folder))
        terminal.ugro("sandbox", "up", "--dir", folder)
        resident = subprocess.Popen(["ugro", "serve"], env=terminal.env, stdout=subprocess.DEVNULL)
        try:
            play(terminal)
        finally:
            resident.send_signal(signal.SIGINT)
            resident.wait()
            terminal.ugro("sandbox", "down", "--dir", folder)
    TARGET.write_text(drawn(terminal.screen), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
