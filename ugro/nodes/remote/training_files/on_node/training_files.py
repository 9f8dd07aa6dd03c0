"""Reads the values that a job's script writes to files of its own. Answers with what is new since a cursor.

usage: training_files.py RUN_DIR [CURSOR [search]]
CURSOR is the JSON that the answer before had. Files are searched for now and then, and with `search`: in the working
directories of the ranks, in the job's code, where arguments of the script point, and first in folders of these that the
logs name. Nothing is followed, opened or
waited for but regular files of this user, written since the attempt began.
"""

from __future__ import annotations

import csv
import glob
import json
import math
import os
import re
import stat
import sys
import time
from itertools import islice
from typing import Any, Iterator

from ugro.nodes.remote.on_node.answer import answer, error_in_words
from ugro.nodes.remote.on_node.processes import named_in, pid_files, stat_fields
from ugro.nodes.remote.training_files.on_node.event_files import Damaged, masked_crc, read_events

MOST_BYTES = 256 * 1024
"""Bytes that one call reads, of all files together."""
LARGEST_STATE = 16 * 1024 * 1024
"""Bytes of a trainer_state.json that is read; it is one JSON document."""
MOST_READINGS = 8000
ENTRIES, DEPTH = 20000, 6
MOST_FILES, MOST_ROOTS = 64, 16
SEARCH_SECONDS = 20.0
"""Time between two searches; in between only known files are read."""
LARGEST_STEP = 10**15
LONGEST_PATH = 1000
"""Characters; the cursor, which names all files, is an argument of the next call."""
LONGEST_HEADER = 64 * 1024
SKIPPED = {
    ".git",
    "data",
    "datasets",
    "node_modules",
    ".venv",
    "venv",
    "__pycache__",
    "site-packages",
    ".cache",
    "wandb",
}
EVENTS = re.compile(r"^events\.out\.tfevents\.(\d{1,12})\.(.{1,200}?)(?:\.(\d{1,10})\.(\d{1,10}))?(?:\.v2)?$")
CHECKPOINT = re.compile(r"^checkpoint-(\d{1,12})$")
SAID = re.compile(
    rb"(?i)(?:log|result|experiment|output|sav)[^\r\n/]{0,80}?(?<![\w.-])((?:/|[\w.-]{1,100}/)[\w./=@+-]{1,300})"
)
"""A folder that a line of a log names: `Logging results to runs/detect/train`."""
LOG_BYTES, MOST_LOGS, MOST_SAID = 64 * 1024, 8, 8
STATE = "trainer_state.json"
EVENT_FILE, TRAINER_STATE, CSV = "event_file", "trainer_state", "csv"


class Search:
    """Finds the files. What it knows from before, it keeps: a rank that ended has no working directory any more."""

    def __init__(self, run_dir: str, cursor: dict[str, Any]) -> None:
        self.run_dir, self.cursor = run_dir, cursor
        self.code = os.path.join(os.path.dirname(os.path.dirname(run_dir)), "code")
        self.since = began(run_dir)
        self.seen = 0
        self.found: dict[str, str] = {}
        """The kind of each file by its path."""

    def run(self) -> None:
        roots, pids = self.ranks()
        self.cursor["roots"] = roots = list(dict.fromkeys([*self.cursor.get("roots", []), *roots]))[:MOST_ROOTS]
        self.cursor["pids"] = pids = sorted({*self.cursor.get("pids", []), *pids})[-256:]
        searched: list[str] = []
        for root in [*said_folders(self.run_dir, roots), *roots]:
            if not any(root == other or root.startswith(other.rstrip("/") + "/") for other in searched):
                searched.append(root)
                self.below(root, set(pids), 0)
        newest: dict[str, tuple[int, str]] = {}
        for path in [path for path, kind in self.found.items() if kind == TRAINER_STATE]:
            folder = os.path.dirname(path)
            step = int(CHECKPOINT.findall(os.path.basename(folder))[0])
            newest[os.path.dirname(folder)] = max(newest.get(os.path.dirname(folder), (-1, "")), (step, path))
            del self.found[path]
        self.found.update({path: TRAINER_STATE for _, path in newest.values()})

    def ranks(self) -> tuple[list[str], list[int]]:
        """Return the folders that the ranks work in or name, and the pids of them and of their descendants."""
        alive = [pid for _, file in pid_files(self.run_dir) for pid, fields in [named_in(file)] if pid and fields]
        roots = [os.path.realpath(self.code)] if os.path.isdir(self.code) else []
        for pid in alive[:64]:
            try:
                folder = os.readlink(f"/proc/{pid}/cwd")
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read(LONGEST_HEADER).split(b"\0")
            except OSError:
                continue
            roots += [folder, *named_folders(folder, words)]
        roots = [root for root in roots if os.path.dirname(root) != root and len(root) <= LONGEST_PATH]
        return list(dict.fromkeys(roots)), alive + descendants(alive) if alive else []

    def below(self, folder: str, pids: set[int], depth: int) -> None:
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(islice(entries, ENTRIES), key=lambda entry: entry.name):
                    self.seen += 1
                    if self.seen > ENTRIES:
                        return
                    if entry.is_symlink():
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if depth < DEPTH and entry.name not in SKIPPED:
                            self.below(entry.path, pids, depth + 1)
                    elif len(self.found) < MOST_FILES * 4:
                        kind = self.kind(entry, pids)
                        if kind:
                            self.found[entry.path] = kind
        except OSError:
            return  # it is not there any more, or not ours to read

    def kind(self, entry: Any, pids: set[int]) -> str | None:
        name = entry.name
        folder = os.path.dirname(entry.path)
        kind = None
        if len(entry.path) > LONGEST_PATH:
            return None
        if name.startswith("events.out.tfevents."):
            match = EVENTS.match(name)
            # A file of the job's own folder is the job's, whichever of its processes wrote it.
            own = folder == self.code or folder.startswith(os.path.realpath(self.code) + os.sep)
            if match and (own or match[3] is None or int(match[3]) in pids) and int(match[1]) >= int(self.since):
                kind = EVENT_FILE
        elif name == STATE and CHECKPOINT.match(os.path.basename(folder)):
            kind = TRAINER_STATE
        elif name in ("metrics.csv", "results.csv"):
            kind = CSV
        if kind and entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime >= self.since:
            return kind
        return None


def began(run_dir: str) -> float:
    """Return when the attempt began, by the clock of its file system."""
    for path in (os.path.join(run_dir, "claim"), run_dir):
        try:
            return os.stat(path).st_mtime - 1.0
        except OSError:
            pass
    return time.time()


def named_folders(folder: str, words: list[bytes]) -> list[str]:
    """Return the folders that the arguments of a script name: `--output_dir=runs/a`, `runs/a`."""
    found = []
    for word in words[1:65]:
        path = os.path.join(folder, os.path.expanduser(os.fsdecode(word.split(b"=", 1)[-1])))
        if word and os.path.isdir(path) and os.path.realpath(path) not in ("/", os.path.expanduser("~")):
            found.append(os.path.realpath(path))
    return found


def said_folders(run_dir: str, roots: list[str]) -> list[str]:
    """Return the folders below the roots that the beginnings of the ranks' logs name."""
    found: dict[str, None] = {}
    for log in sorted(glob.glob(os.path.join(glob.escape(run_dir), "rank-*.log")))[:MOST_LOGS]:
        try:
            with opened(log) as file:
                told = re.sub(rb"\x1b\[[0-9;]*m", b"", file.read(LOG_BYTES))
        except OSError:
            continue
        for path, root in ((os.fsdecode(path), root) for path in islice(SAID.findall(told), 64) for root in roots):
            folder = os.path.realpath(os.path.join(root, path.rstrip(".")))
            if folder.startswith(root + os.sep) and len(folder) <= LONGEST_PATH and os.path.isdir(folder):
                found[folder] = None
    return list(found)[:MOST_SAID]


def descendants(pids: list[int]) -> list[int]:
    """Return the processes that some processes started, and those started, and so on."""
    parents: dict[int, list[int]] = {}
    for folder in glob.iglob("/proc/[0-9]*"):
        fields = stat_fields(folder)
        if len(fields) > 1:
            parents.setdefault(int(fields[1]), []).append(int(folder[6:]))
    found: list[int] = []
    waiting = list(pids)
    while waiting and len(found) < 1024:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def opened(path: str) -> Any:
    """Open a regular file of this user; a pipe, a device, a link or a foreign file is none.

    Raises:
        OSError: it is none, or not there.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
        os.close(handle)
        raise OSError(0, "not a regular file of this user", path)
    return os.fdopen(handle, "rb")


class Reader:
    """Reads files from where the cursor says, until the bytes of this call are used up."""

    def __init__(self) -> None:
        self.left = MOST_BYTES
        self.readings: list[list[Any]] = []
        self.problems: list[list[str]] = []
        self.more = False

    def read(self, path: str, known: dict[str, Any]) -> None:
        """Read one file. `known` is what the cursor has of it, and is updated."""
        if known.get("problem"):
            return
        if self.left <= 0 or len(self.readings) >= MOST_READINGS:
            self.more = True
            return
        try:
            with opened(path) as file:
                facts = os.fstat(file.fileno())
                if known["kind"] == EVENT_FILE:
                    rows = self.events(file, facts, known)
                elif known["kind"] == CSV:
                    rows = self.table(file, facts, known)
                else:
                    rows = self.state(file, facts, known)
        except FileNotFoundError:
            return
        except (Damaged, ValueError, RecursionError, OSError, csv.Error) as error:
            known["problem"] = text = clean(error_in_words(error))[:200]
            self.problems.append([clean(path), text])
            return
        for name, value, step, at in rows:
            if abs(step) <= LARGEST_STEP:
                moment = at if math.isfinite(at) else facts.st_mtime
                self.readings.append([known["kind"], clean(name), value, step, moment])

    def events(self, file: Any, facts: Any, known: dict[str, Any]) -> list[list[Any]]:
        offset = known.get("offset", 0)
        if facts.st_size < offset:
            raise Damaged("it became shorter")
        if facts.st_size == offset:
            return []
        rows, known["offset"] = read_events(file, offset, facts.st_size, self.left)
        self.more = self.more or (known["offset"] > offset and facts.st_size - offset > self.left)
        self.left -= min(self.left, facts.st_size - offset)
        return rows

    def state(self, file: Any, facts: Any, known: dict[str, Any]) -> list[list[Any]]:
        """Read the history in a trainer_state.json, which is written again with each checkpoint."""
        mark = [facts.st_ino, facts.st_mtime, facts.st_size]
        if known.get("mark") == mark:
            return []
        if facts.st_size > LARGEST_STATE:
            raise Damaged(f"it is larger than {LARGEST_STATE >> 20} MiB")
        try:
            state = json.loads(file.read(LARGEST_STATE))
        except ValueError:
            if time.time() - facts.st_mtime < 60.0:
                return []  # it is being written
            raise
        self.left -= min(self.left, facts.st_size)
        history = state.get("log_history") if isinstance(state, dict) else None
        if not isinstance(history, list):
            raise Damaged("it has no log_history")
        rows, done = [], known.get("rows", 0)
        for entry in history[done : done + MOST_READINGS // 8]:
            done += 1
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                rows += [
                    [name, float(value), entry["step"], facts.st_mtime]
                    for name, value in entry.items()
                    if name not in ("step", "epoch", "total_flos")
                    and (type(value) is float or (type(value) is int and abs(value) < 1e300))
                ]
        known["rows"] = done
        self.more = self.more or done < len(history)
        if done >= len(history):
            known["mark"] = mark
        return rows

    def table(self, file: Any, facts: Any, known: dict[str, Any]) -> list[list[Any]]:
        """Read the new rows of a CSV. A file with another header was written again, with its old rows in front."""
        header = file.readline(LONGEST_HEADER)
        if not header.endswith(b"\n"):
            if len(header) == LONGEST_HEADER:
                raise Damaged("it is no table")
            return []
        names = [name.strip() for name in next(csv.reader([header.decode("utf-8", "replace")]), [])]
        place = next((names.index(name) for name in ("step", "epoch") if name in names), None)
        if place is None:
            raise Damaged("it has no column step or epoch")
        mark = [facts.st_ino, masked_crc(header)]
        if known.get("mark") != mark or facts.st_size < known.get("offset", 0):
            known.update(mark=mark, offset=len(header), skip=known.get("rows", 0), rows=0)
        file.seek(known["offset"])
        data, waiting = file.read(self.left), facts.st_size - known["offset"]
        self.more = self.more or waiting > len(data)
        data = data[: data.rfind(b"\n") + 1]
        self.left -= len(data)
        known["offset"] += len(data)
        rows = []
        for cells in csv.reader(data.decode("utf-8", "replace").splitlines()):
            known["rows"] += 1
            if known["rows"] > known["skip"]:
                rows += list(values(names, cells, place, facts.st_mtime))
        return rows


def values(names: list[str], cells: list[str], place: int, at: float) -> Iterator[list[Any]]:
    """Yield the numbers of a row, whose step is in a place of it."""
    numbers = [number(cell) for cell in cells]
    step = numbers[place] if place < len(numbers) else None
    if step is None or not abs(step) <= LARGEST_STEP:
        return
    for name, value in zip(names, numbers):
        if value is not None and name not in ("step", "epoch", "time", ""):
            yield [name, value, int(step), at]


def clean(text: str) -> str:
    """Return a text without what is no UTF-8: names of files and series may have it."""
    return text.encode("utf-8", "replace").decode()


def number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def main() -> None:
    run_dir = os.path.realpath(os.path.expanduser(sys.argv[1]))
    try:
        cursor = json.loads(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2] else {}
    except ValueError:
        cursor = {}
    files: dict[str, dict[str, Any]] = cursor.setdefault("files", {})
    now = time.time()
    due = not 0 <= now - cursor.get("searched_at", 0.0) < SEARCH_SECONDS
    if due or not files or "search" in sys.argv[3:]:
        search = Search(run_dir, cursor)
        search.run()
        for path, kind in sorted(search.found.items()):
            if kind == TRAINER_STATE:
                key = os.path.dirname(os.path.dirname(path))
                files.setdefault(key, {"kind": kind})["path"] = path
            elif path in files or len(files) < MOST_FILES:
                files.setdefault(path, {"kind": kind})
        cursor["searched_at"] = now
    reader = Reader()
    turn = cursor.get("turn", 0) % max(1, len(files))  # no file keeps the others from being read
    paths = list(files)
    for path in (*paths[turn:], *paths[:turn]):
        reader.read(files[path].get("path", path), files[path])
    cursor["turn"] = turn + 1
    answer(
        "training_files",
        {"readings": reader.readings, "cursor": json.dumps(cursor), "problems": reader.problems, "more": reader.more},
    )


if __name__ == "__main__":
    main()
