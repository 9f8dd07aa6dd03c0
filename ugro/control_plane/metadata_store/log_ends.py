"""The ends of a job's logs, from their copies on the master, as a diagnosis reads them.

A copy may lag far behind its log. Then the end of the log is beside it: `ends/rank-0.log@OFFSET`, the bytes from that
offset on as they were when last read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

TAIL_BYTES = 64 * 1024
"""Bytes at the end of a log that are read for a diagnosis when a rank of a job failed."""

ERROR_BYTES = 1024 * 1024
"""Bytes up to which torch's error file is read: it is one JSON document, of which a part is worth nothing."""

ENDS = "ends"


def rank_log(folder: Path, rank: int) -> str:
    """The end of a rank's log, followed by the traceback in torch's error file where the script left one."""
    return _tail(folder, f"rank-{rank}.log") + _error_file(folder / f"rank-{rank}.error")


def node_log(folder: Path, node_rank: int) -> str:
    """The end of what torchrun itself said on a node."""
    return _tail(folder, f"node-{node_rank}.log")


def setup_log(folder: Path, node_rank: int) -> str:
    """The end of what the setup command said on a node."""
    return _tail(folder, f"setup-{node_rank}.log")


def keep_end(folder: Path, file: Path, start: int) -> None:
    """Keep the end of a log, which begins at that offset, instead of the one that was kept before.

    Raises:
        OSError: the folder cannot be written.
    """
    ends = folder / ENDS
    ends.mkdir(exist_ok=True)
    before = [path for path in ends.glob(f"{file.name}@*") if path.name != f"{file.name}@{start}"]
    os.replace(file, ends / f"{file.name}@{start}")
    for path in before:
        path.unlink(missing_ok=True)


def _tail(folder: Path, name: str) -> str:
    """The last bytes of what was seen furthest of a log."""
    kept = [(int(start), path) for path in folder.glob(f"{ENDS}/{name}@*") if (start := path.name.split("@")[1])]
    reach = {path: start + path.stat().st_size for start, path in [(0, folder / name), *kept] if path.exists()}
    if not reach:
        return ""
    with open(max(reach, key=lambda path: reach[path]), "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read(TAIL_BYTES).decode("utf-8", "replace")


def _error_file(path: Path) -> str:
    """The traceback in a file that `torch.distributed.elastic.multiprocessing.errors.record` wrote.

    Format: `{"message": {"message": "ValueError: …", "extraInfo": {"py_callstack": "Traceback…", "timestamp": "…"}}}`;
    older C++ writers put a plain string in "message".
    """
    try:
        with open(path, "rb") as file:
            message = json.loads(file.read(ERROR_BYTES) or b"{}").get("message", "")
        said = str(message["extraInfo"]["py_callstack"] if isinstance(message, dict) else message)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return ""
    return f"\n{said[-TAIL_BYTES:]}" if said else ""
