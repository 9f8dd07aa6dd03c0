"""The ends of a job's logs, from their copies on the master, as a diagnosis reads them."""

from __future__ import annotations

import json
from pathlib import Path

TAIL_BYTES = 64 * 1024
"""How much of the end of a log is read for a diagnosis when a rank of a job failed."""


def rank_log(folder: Path, rank: int) -> str:
    """The end of a rank's log, followed by the traceback in torch's error file where the script left one."""
    return _tail(folder / f"rank-{rank}.log") + _error_file(folder / f"rank-{rank}.error")


def node_log(folder: Path, node_rank: int) -> str:
    """The end of what torchrun itself said on a node."""
    return _tail(folder / f"node-{node_rank}.log")


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def _error_file(path: Path) -> str:
    """The traceback in a file that `torch.distributed.elastic.multiprocessing.errors.record` wrote.

    Format: `{"message": {"message": "ValueError: …", "extraInfo": {"py_callstack": "Traceback…", "timestamp": "…"}}}`;
    older C++ writers put a plain string in "message".
    """
    try:
        message = json.loads(_tail(path) or "{}").get("message", "")
        said = str(message["extraInfo"]["py_callstack"] if isinstance(message, dict) else message)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f"\n{said}" if said else ""
