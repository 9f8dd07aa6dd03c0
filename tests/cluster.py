"""What the tests of whole jobs share: scripts that behave in one way each, and how to read what became of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ugro.testing.commands import Ugro, document

TORCHRUN = "# torchrun starts it, and no stand-in.\n"
"""The first line of scripts that are about torchrun."""

# A rank of a real gang: it meets the others before it does what the test wants.
MEET = """\
import os, signal, sys
import torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
print("rank", rank, "of", dist.get_world_size(), sys.argv[1:], flush=True)
dist.barrier()
"""

# A rank that has nothing to do with the others, and starts quickly.
ALONE = "import os, signal, subprocess, sys, time\nrank = int(os.environ['RANK'])\n"

SCRIPTS = {
    "fine.py": TORCHRUN + MEET + "print('café', rank, flush=True)\ndist.destroy_process_group()\n",
    "exit3.py": TORCHRUN + MEET + "sys.exit(3) if rank == 1 else dist.barrier()\n",
    "killed.py": TORCHRUN
    + ALONE
    + "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(600)\n",
    "stubborn.py": ALONE
    + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    + "subprocess.Popen(['sleep', '7771'], start_new_session=True)\n"
    + "print('ready', flush=True)\ntime.sleep(600)\n",
    "quiet.py": ALONE + "print('ready', flush=True)\ntime.sleep(600)\n",
    "late.py": ALONE + "print(rank, 'line 1', flush=True)\n"
    "while not os.path.exists(os.path.expanduser('~/go')): time.sleep(0.1)\n"
    "print(rank, 'line 2', flush=True)\n",
    "leaves3.py": ALONE + "sys.exit(3) if rank == 1 else time.sleep(600)\n",
    "brief.py": "",
}  # fmt: skip


def ranks_that_say(ugro: Ugro, job: str, word: str, ranks: int = 3) -> Callable[[], bool]:
    """Whether all ranks have printed a word."""

    def look() -> bool:
        lines = document(ugro("logs", job, "--json"))
        return {line["rank"] for line in lines if word in line["text"]} == set(range(ranks))

    return look


def exits(job: dict[str, Any]) -> list[tuple[int, str, int | None, str | None]]:
    """Each rank's node and how it ended."""
    return [(rank["rank"], rank["node"], rank["exit_code"], rank["signal"]) for rank in job["ranks"]]
