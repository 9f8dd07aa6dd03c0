"""Processes as /proc shows them, and the files in a run's folder by which its processes are known.

`glob` and `re` are imported where they are used: what starts with every rank needs neither.
"""

from __future__ import annotations

import os

ROOM = 64
"""Bytes that are enough for a pid or an exit code with its time."""


def text_of(path: str) -> str:
    """The text of a file; empty where it is not there or cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def stat_fields(folder: str) -> list[str]:
    """The fields of `stat` in a folder of /proc from the third one, the state, on; none where the process has ended."""
    return text_of(folder + "/stat").rpartition(")")[2].split()


def identity(pid: int) -> str:
    """`PID STARTED`, which name one process for as long as the machine is up. The start time is field 22 of its stat.

    Raises:
        ProcessLookupError: it has ended.
    """
    fields = stat_fields(f"/proc/{pid}")
    if len(fields) < 20:
        raise ProcessLookupError(f"process {pid} has ended")
    return f"{pid} {fields[19]}"


def pid_files(run_dir: str) -> list[tuple[int, str]]:
    """The ranks of a run with their pid files."""
    import glob
    import re

    paths = glob.glob(os.path.join(glob.escape(run_dir), "rank-*.pid"))
    found = ((re.search(r"rank-(\d+)\.pid$", path), path) for path in paths)
    return [(int(match[1]), path) for match, path in found if match]


def named_in(pid_file: str) -> tuple[int | None, list[str]]:
    """The pid in a pid file, and the stat fields of that process: no fields where it has ended."""
    words = text_of(pid_file).split()
    if len(words) != 2 or not words[0].isdigit():
        return None, []
    fields = stat_fields("/proc/" + words[0])
    runs = len(fields) >= 20 and fields[19] == words[1] and fields[0] not in "ZX"
    return int(words[0]), fields if runs else []


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: one without would be killed by most of them."""
    import re

    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", text_of(f"/proc/{pid}/status"), re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1)


def reserve(path: str) -> None:
    """Make room for what `leave` is to write, which then gets there on a disk that is full by that time as well."""
    with open(path + ".room", "w") as file:
        file.write(" " * ROOM)


def leave(path: str, text: str) -> None:
    """Write a file whole or not at all, in the room that was reserved for it, if any was."""
    with open(os.open(path + ".room", os.O_WRONLY | os.O_CREAT, 0o666), "w") as file:  # not truncated before
        file.write(text + "\n")
        file.truncate()
    os.replace(path + ".room", path)
