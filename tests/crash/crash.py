"""A `ugro` that can be made to die: SIGKILL at its Nth step, where a step is anything that others can see.

Steps are: the moments before and after each rename and link of a state file, each half and each whole line appended
to one, and the moments before and after each script that is run on a node.

Serves as `ugro.testing.commands` does: `{args, at}` with `at` 0 for never, and the answers also name the `steps` that
were taken.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ugro.nodes.transport import LocalTransport
from ugro.nodes.transport.ssh import SshTransport
from ugro.testing import commands


class Steps:
    """Counts, notes, and at the chosen one ends this process as `kill -9` does."""

    def __init__(self, at: int, notes: int) -> None:
        self._left, self._notes = at, notes
        self._write = os.write

    def step(self, name: str) -> None:
        self._write(self._notes, f"{name}\n".encode())
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """A call that others see once it is done."""

        @functools.wraps(act)
        def call(source: Any, target: Any, **options: Any) -> Any:
            name = f"{act.__name__} {Path(target).name}"
            self.step(f"before {name}")
            act(source, target, **options)
            self.step(f"after {name}")

        return call

    def around_script(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """A script on a node."""

        @functools.wraps(act)
        async def call(transport: Any, *args: Any, **options: Any) -> Any:
            self.step(f"before {act.__name__} on {transport.name}")
            outcome = await act(transport, *args, **options)
            self.step(f"after {act.__name__} on {transport.name}")
            return outcome

        return call

    def write(self, descriptor: int, data: bytes) -> int:
        """`os.write`; a line of a state file comes in two halves."""
        if sys._getframe(1).f_code.co_name != "append_line":
            return self._write(descriptor, data)
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        self.step(f"before a line of {name}")
        half = len(data) // 2
        self._write(descriptor, data[:half])
        self.step(f"half a line of {name}")
        self._write(descriptor, data[half:])
        self.step(f"after a line of {name}")
        return len(data)

    def install(self) -> None:
        os.replace, os.link = self.around(os.replace), self.around(os.link)
        os.write = self.write
        for transport in (LocalTransport, SshTransport):
            for name in ("run", "ask"):
                setattr(transport, name, self.around_script(getattr(transport, name)))


def run(args: list[str], at: int) -> dict[str, Any]:
    """One command, with the names of its steps."""
    with tempfile.TemporaryFile() as notes:
        answer = commands.run(args, prepare=Steps(at, notes.fileno()).install)
        notes.seek(0)
        return answer | {"steps": notes.read().decode().splitlines()}


if __name__ == "__main__":
    commands.serve(run)
