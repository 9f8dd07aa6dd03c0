"""Finds the checkpoints under some directories of a node and says of each whether it is whole. Prints JSON lines.

usage: checkpoints.py SINCE PATTERN ROOT…

SINCE is in seconds since the epoch of the node's clock: older files are not of this job (0: all are). PATTERN, if not
empty, is a glob that the path below ROOT has to match; without one the names and contents that the usual tools leave
are looked for. The last line is `{"end": …}`. Nothing is unpickled: archives are read by their structure alone.

Formats: torch.save writes a zip whose directory is its last part (torch/csrc, caffe2/serialize/inline_container.cc);
safetensors has the length of its header first and offsets in it (huggingface.co/docs/safetensors, "Format"); the
Trainer writes trainer_state.json last (transformers/trainer.py); torch.distributed.checkpoint renames .metadata into
place last (torch/distributed/checkpoint/filesystem.py), and names each shard's file in it; DeepSpeed writes
global_stepN/…_states.pt and then `latest` (deepspeed/runtime/engine.py).
"""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import pickletools
import re
import stat
import struct
import sys
import zipfile
from itertools import islice
from typing import Any, Iterator

ENTRIES = 50_000
"""Files and folders that are looked at, at most."""
DEPTH = 6
HEADER_LIMIT = 100 * 1024 * 1024
"""The longest header of safetensors, as its own reader has it."""
PICKLE_LIMIT = 64 * 1024 * 1024
SKIPPED = {".git", "__pycache__", "node_modules", "site-packages", ".venv", "venv", "wandb", "mlruns"}
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".distcp")
FOLDER = re.compile(r"^(?:checkpoint|ckpt|step|iter|epoch|global_step)[-_=]?\d+$")
FILE = re.compile(r"checkpoint|ckpt|snapshot|last|best|latest|epoch|step|iter|model|\d", re.IGNORECASE)
STEP = re.compile(r"(?:global[-_]?step|step|checkpoint|ckpt|iter(?:ation)?)[-_=]?(\d+)", re.IGNORECASE)
STEP_KEYS = ("global_step", "step", "iteration", "iter", "steps")
SHARD = re.compile(r"^__\d+_\d+\.distcp$")


class Torn(Exception):
    """The checkpoint is not whole, in words."""


def torch_file(path: str) -> None:
    """A file that torch.save wrote: a zip that has its directory, and room for every entry in it."""
    if os.path.getsize(path) == 0:
        raise Torn("is empty")
    with open(path, "rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80":
        raise Torn("is in the format before torch 1.6, which does not show whether it is whole")
    try:
        with zipfile.ZipFile(path) as archive:
            size = os.path.getsize(path)
            for entry in archive.infolist():
                if entry.header_offset + entry.compress_size > size:
                    raise Torn("ends before its contents do")
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error):
        raise Torn("was cut short: it has no directory at its end") from None


def safetensors_file(path: str) -> None:
    """A file of safetensors: its header says how long it is."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else HEADER_LIMIT
        if length >= HEADER_LIMIT or 8 + length > size:
            raise Torn("was cut short: its header is not whole")
        try:
            header = json.loads(file.read(length))
            ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise Torn("has a header that makes no sense") from None
    told = 8 + length + max(ends, default=0)
    if told != size:
        raise Torn(f"has {size} bytes, and its header speaks of {told}")


def one_file(path: str) -> None:
    """Whether a file of weights is whole, by its kind. A pickle's end cannot be told, so `.bin` may be one."""
    if not os.path.isfile(path):
        raise Torn("is not there")
    if path.endswith(".safetensors"):
        safetensors_file(path)
    elif not path.endswith(".distcp"):
        torch_file(path)


def whole(paths: list[str], root: str) -> None:
    for path in paths:
        try:
            one_file(path)
        except Torn as torn:
            raise Torn(f"{os.path.relpath(path, root)} {torn}") from None


def read_json(path: str) -> Any:
    if not os.path.isfile(path):  # or it is a pipe, which would keep us waiting
        raise Torn(f"{os.path.basename(path)} is not there")
    try:
        with open(path, encoding="utf-8") as file:
            return json.loads(file.read(HEADER_LIMIT))
    except (OSError, ValueError, RecursionError):
        raise Torn(f"{os.path.basename(path)} is not whole") from None


def trainer(folder: str, files: list[str]) -> dict[str, Any]:
    """A checkpoint-N of Hugging Face's Trainer: its state is written last, and index files name the shards.

    Ranks on other nodes leave their random state, and their parts of the optimizer, on their own disks, in a folder of
    the same name that has no state: `shards` tells of those what they have.
    """
    parts = weights(files)
    whole(parts, folder)
    shards = sorted(os.path.relpath(path, folder) for path in parts)
    try:
        trainer_state(folder, files)
    except Torn as torn:
        return {"shards": shards, "problem": str(torn)}
    return {"shards": shards}


def trainer_state(folder: str, files: list[str]) -> None:
    step = int(re.findall(r"\d+$", folder)[0])
    state = read_json(os.path.join(folder, "trainer_state.json"))
    if not isinstance(state, dict) or state.get("global_step") != step:
        raise Torn("trainer_state.json is of another step")
    for index in (path for path in files if path.endswith(".index.json")):
        names = read_json(index)
        shards = set(names.get("weight_map", {}).values()) if isinstance(names, dict) else set()
        missing = [name for name in sorted(map(str, shards)) if not os.path.isfile(os.path.join(folder, name))]
        if missing:
            raise Torn(f"{missing[0]} is not there")


def distributed(folder: str, files: list[str]) -> dict[str, Any]:
    """A folder of torch.distributed.checkpoint. Shards of other nodes may lie there: `needs` names all there are."""
    here = sorted(os.path.basename(path) for path in files if SHARD.match(os.path.basename(path)))
    metadata = os.path.join(folder, ".metadata")
    needs = None
    if os.path.isfile(metadata):
        needs = sorted(name for name in strings(metadata) if SHARD.match(name))
        if not needs:
            raise Torn(".metadata is not whole")
    empty = [name for name in here if os.path.getsize(os.path.join(folder, name)) == 0]
    if empty:
        raise Torn(f"{empty[0]} is empty")
    return {"shards": here, "needs": needs}


def deepspeed(folder: str, files: list[str]) -> dict[str, Any]:
    """A global_stepN of DeepSpeed: the optimizer's parts lie on the nodes of their ranks."""
    states = [path for path in files if path.endswith("_states.pt")]
    whole(states, folder)
    return {"shards": sorted(os.path.basename(path) for path in states), "needs": None}


def single(path: str, files: list[str]) -> dict[str, Any]:
    one_file(path)
    return {}


def plain_folder(folder: str, files: list[str]) -> dict[str, Any]:
    whole(weights(files), folder)
    return {}


def weights(files: list[str]) -> list[str]:
    return [path for path in files if path.endswith(WEIGHTS) and not path.endswith("training_args.bin")]


def strings(path: str) -> set[str]:
    """The texts in a pickle, which is read as a list of operations and never carried out."""
    if os.path.getsize(path) > PICKLE_LIMIT:
        return set()
    try:
        with open(path, "rb") as file:
            return {arg for _, arg, _ in pickletools.genops(file) if isinstance(arg, str)}
    except (ValueError, OSError, EOFError, UnicodeDecodeError):
        raise Torn(f"{os.path.basename(path)} is not whole") from None


def step_inside(path: str) -> int | None:
    """The step that a file of torch.save has in its dictionary, if it is a plain number there."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            if archive.getinfo(name).file_size > PICKLE_LIMIT:
                return None
            found = dict(numbers(archive.read(name)))
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile, EOFError, UnicodeDecodeError, RuntimeError):
        return None
    return next((found[key] for key in STEP_KEYS if key in found), None)


def numbers(pickled: bytes) -> Iterator[tuple[str, int]]:
    """The whole numbers that follow a text in a pickle, the last ones first to be forgotten."""
    text = None
    for operation, arg, _ in pickletools.genops(pickled):
        if isinstance(arg, str) and "UNICODE" in operation.name:
            text = arg
        elif isinstance(arg, int) and "INT" in operation.name and text is not None:
            yield text, arg
            text = None
        elif operation.name not in ("BINPUT", "LONG_BINPUT", "MEMOIZE", "PUT"):
            text = None


def step_of(path: str) -> int | None:
    """The step that a name tells: the number after `step` or `checkpoint`, else the last one."""
    name = os.path.basename(path)
    told = STEP.findall(name) or re.findall(r"\d+", name)
    return int(told[-1]) if told and len(told[-1]) < 16 else None


class Search:
    """Walks the roots. Symbolic links are not followed: what they name is found in its own place, or is not ours."""

    def __init__(self, since: float, pattern: str) -> None:
        """`since` is by the clock that dates the files."""
        self.since, self.pattern, self.seen = since, pattern, 0

    def walk(self, root: str, folder: str, depth: int = 0) -> Iterator[dict[str, Any]]:
        try:
            entries = sorted(islice(os.scandir(folder), ENTRIES + 1), key=lambda entry: entry.name)
        except OSError:
            return
        kind = None if folder == root else self.kind(root, folder, entries)
        if kind:
            yield from self.checkpoint(root, folder, *kind)
            return
        for entry in entries:
            self.seen += 1
            if self.seen > ENTRIES:
                return
            if entry.is_dir(follow_symlinks=False):
                if depth < DEPTH and entry.name not in SKIPPED and not entry.name.endswith("torchelastic"):
                    yield from self.walk(root, entry.path, depth + 1)
            elif entry.is_file(follow_symlinks=False) and self.is_checkpoint_file(root, entry):
                kind_of = "lightning" if entry.name.endswith(".ckpt") else "torch"
                yield from self.checkpoint(root, entry.path, kind_of, single)

    def kind(self, root: str, folder: str, entries: list[Any]) -> tuple[str, Any] | None:
        names = {entry.name for entry in entries}
        name = os.path.basename(folder)
        if self.pattern and not fnmatch.fnmatch(os.path.relpath(folder, root), self.pattern):
            return None
        has_weights = any(name.endswith(WEIGHTS) for name in names)
        if re.match(r"^checkpoint-\d+$", name) and ("trainer_state.json" in names or has_weights):
            return "transformers", trainer
        if ".metadata" in names or any(SHARD.match(name) for name in names):
            return "distributed", distributed
        if name.startswith("global_step") and any(name.endswith("_states.pt") for name in names):
            return "deepspeed", deepspeed
        if (self.pattern or FOLDER.match(name)) and has_weights:
            return "folder", plain_folder
        return None

    def is_checkpoint_file(self, root: str, entry: Any) -> bool:
        if self.pattern:
            return fnmatch.fnmatch(os.path.relpath(entry.path, root), self.pattern)
        return entry.name.endswith((".ckpt", ".pt", ".pth", ".safetensors")) and bool(FILE.search(entry.name))

    def checkpoint(self, root: str, path: str, kind: str, check: Any) -> Iterator[dict[str, Any]]:
        files = [path] if os.path.isfile(path) else list(islice(files_below(path), ENTRIES + 1))
        try:
            facts = [os.stat(file) for file in files]
        except OSError:  # removed meanwhile, as old checkpoints are
            return
        if not facts or max(fact.st_mtime for fact in facts) < self.since:
            return
        found: dict[str, Any] = {"path": path, "name": os.path.relpath(path, root), "kind": kind, "problem": None}
        try:
            found.update(check(path, files))
        except Torn as torn:
            found["problem"] = str(torn)
        except OSError as error:
            found["problem"] = f"cannot be read: {error.strerror}"
        step = step_of(path)
        if len(files) == 1 and (step is None or not STEP.search(os.path.basename(path))) and not found["problem"]:
            step = step_inside(path) if step_inside(path) is not None else step
        found["step"] = step
        found["bytes"] = sum(fact.st_size for fact in facts)
        found["saved_at"] = max(fact.st_mtime for fact in facts)
        found["files"] = len(files)
        yield found


def files_below(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def began(job_dir: str, root: str, since: float) -> float:
    """When the job's first attempt began, by the clock of a root's file system, which may be a file server's.

    That is known where the job's own files lie on it too; else it is `since`, by the node's clock.
    """
    claims = glob.glob(os.path.join(glob.escape(job_dir), "1", "node-*", "claim"))
    try:
        if claims and os.stat(root).st_dev == os.stat(job_dir).st_dev:
            return min(os.stat(claim).st_mtime for claim in claims) - 1.0
    except OSError:
        pass
    return since


def main() -> None:
    since, pattern, job_dir = float(sys.argv[1]), sys.argv[2], os.path.expanduser(sys.argv[3])
    roots = [os.path.expanduser(root) for root in sys.argv[4:]]
    search = Search(since, pattern)
    done: list[str] = []
    for root in sorted({os.path.realpath(root) for root in roots}):
        if any(root.startswith(before + os.sep) for before in done):
            continue
        done.append(root)
        search.since = began(job_dir, root, since)
        for found in search.walk(root, root):
            print(json.dumps(found), flush=True)
    print(json.dumps({"end": search.seen, "cut": search.seen > ENTRIES}))


if __name__ == "__main__":
    main()
