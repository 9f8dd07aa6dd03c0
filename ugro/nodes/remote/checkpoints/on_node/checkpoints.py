"""Finds the checkpoints under some directories of a node and says of each whether it is whole. Prints JSON lines.

usage: checkpoints.py SINCE PATTERN ROOT…

SINCE is in seconds since the epoch of the node's clock: older files are not of this job (0: all are). PATTERN, if not
empty, is a glob that the path below ROOT has to match; without one the names and contents that the usual tools leave
are looked for. The last line is `{"end": …}`, with what was not searched, and why. Nothing is unpickled: archives are
read by their structure alone.

Only a word says what a number in a name is: `step-20` is step 20, and neither `best_acc_0.9312.pt` nor `yolov8n.pt` has
one. Where each rank writes a file or a folder of its own (`ckpt_rank0.pt`, `rank1/step-20.pt`), each is told by itself.

Formats: torch.save writes a zip whose directory is its last part (torch/csrc, caffe2/serialize/inline_container.cc);
safetensors has the length of its header first and offsets in it (huggingface.co/docs/safetensors, "Format"); the
Trainer writes trainer_state.json last (transformers/trainer.py); torch.distributed.checkpoint renames .metadata into
place last (torch/distributed/checkpoint/filesystem.py), and names each shard's file in it; DeepSpeed writes
global_stepN/…_states.pt and then `latest` (deepspeed/runtime/engine.py); Megatron-LM writes
iter_N/mp_rank_T[_P]/model_optim_rng.pt, with its arguments inside, and then latest_checkpointed_iteration.txt
(megatron/training/checkpointing.py); Composer has `ba20` for batch 20 (composer/utils/checkpoint.py).
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
DEPTH = 16
HEADER_LIMIT = 100 * 1024 * 1024
"""The longest header of safetensors, as its own reader has it."""
PICKLE_LIMIT = 64 * 1024 * 1024
MOST_PASSED = 20
"""Places that were not searched of which so many are named."""
MARK_ENDS = {"APPENDS", "SETITEMS", "ADDITEMS", "TUPLE", "LIST", "DICT", "FROZENSET", "INST", "OBJ", "POP_MARK"}
SKIPPED = {".git", "__pycache__", "node_modules", "site-packages", ".venv", "venv"}
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".distcp")
FOLDER = re.compile(r"^(?:checkpoint|ckpt|step|iter|epoch|global_step)[-_=]?\d+$")
FILE = re.compile(r"checkpoint|ckpt|snapshot|last|best|latest|epoch|step|iter|model|rank|optim|\d", re.IGNORECASE)
MOMENT = (
    r"(?:19|20)\d\d(?P<mark>[-_]?)(?:0[1-9]|1[0-2])(?P=mark)(?:0[1-9]|[12]\d|3[01])(?:\d{4}|\d{6})?(?!\d)"
    r"|(?:0?[1-9]|[12]\d|3[01])[-_](?:0?[1-9]|1[0-2])[-_]20\d\d(?!\d)"
    r"|1\d{9}(?:\d{3})?(?!\d)"
)
"""A date, or seconds or milliseconds since the epoch: when something was saved, and no step."""
STEP = re.compile(
    r"(?<![a-z])(?:(?:global[-_]?)?steps?|iter(?:ation)?s?|updates?|(?<!\d)ba)[-_=]?(?P<step>\d+)(?![\d.]*\d|[a-z])",
    re.IGNORECASE,
)
"""A word, and the number that it makes a step; `0.93` and `10k` are none, and a checksum has no words."""
SAVED = re.compile(
    rf"(?<![a-z])(?:checkpoint|ckpt|snapshot)[-_=]?(?!{MOMENT})(?P<step>\d+)(?![\d.]*\d|[a-z]|[-_]?of[-_]?\d)",
    re.IGNORECASE,
)
"""The number behind one of these is a step where no word says so of another, and it is no moment and no part."""
EPOCH = re.compile(r"(?<![a-z\d])ep(?:och)?s?[-_=]?(?P<step>\d+)(?![\d.]*\d|[a-z])", re.IGNORECASE)
STEP_KEYS = ("global_step", "step", "iteration", "iter", "steps", "num_steps", "num_updates")
EPOCH_KEYS = ("epoch", "current_epoch", "epochs_run", "epochs")
PARALLEL_KEYS = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
OPTIMIZER = re.compile(rb"optim|exp_avg|momentum_buffer|param_groups", re.IGNORECASE)
"""What a pickle, or the header of safetensors, has in it where the state of an optimizer is."""
SHARD = re.compile(r"^__\d+_\d+\.distcp$")
DEEPSPEED = re.compile(r"^(?:bf16_|fp16_)?(?:zero_pp_rank_\d+_)?mp_rank_\d+\w*_states\.pt$")
MODEL_RANK = re.compile(r"^mp_rank_\d+")
TRAINER = ("trainer_state.json", "training_args.bin")
"""What Hugging Face's Trainer alone leaves in a checkpoint; others (accelerate, diffusers) name their folders alike."""
RANDOM_STATE = re.compile(r"^rng_state_\d+\.pth$")
"""All that the Trainer leaves at the top of a checkpoint's folder on the nodes of other ranks."""
STATES = (".metadata", "trainer_state.json")
"""Small files that are as much of a checkpoint as its weights."""
TRACKER = "latest_checkpointed_iteration.txt"


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
    found = plain_folder(folder, files)
    try:
        trainer_state(folder, files)
    except Torn as torn:
        found["problem"] = str(torn)
    return found


def is_trainers(folder: str, names: set[str]) -> bool:
    """Whether a checkpoint-N is the Trainer's: by its own marks, or, where a save got to none of them, by those of one
    that lies beside it."""
    own = [name for name in names if name.endswith(WEIGHTS)]
    if any(name in TRAINER for name in names) or (own and all(RANDOM_STATE.match(name) for name in own)):
        return True
    beside = glob.iglob(os.path.join(glob.escape(os.path.dirname(folder)), "checkpoint-*", TRAINER[0]))
    return bool(own) and any(True for _ in beside)


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
    empty = [name for name in here if os.path.getsize(os.path.join(folder, name)) == 0]
    if empty:
        raise Torn(f"{empty[0]} is empty")
    return {"shards": here, "needs": needs(folder, files)}


def needs(folder: str, files: list[str]) -> list[str] | None:
    """The shards that every .metadata in a folder names, by their paths below it; None where there is no .metadata."""
    found: list[str] = []
    told = [path for path in files if os.path.basename(path) == ".metadata"]
    for metadata in told:
        names = sorted(name for name in strings(metadata) if SHARD.match(name))
        if not names:
            raise Torn(".metadata is not whole")
        place = os.path.relpath(os.path.dirname(metadata), folder)
        found += [os.path.normpath(os.path.join(place, name)) for name in names]
    return found if told else None


def deepspeed(folder: str, files: list[str]) -> dict[str, Any]:
    """A global_stepN of DeepSpeed: the optimizer's parts lie on the nodes of their ranks."""
    states = [path for path in files if path.endswith("_states.pt")]
    whole(states, folder)
    return {"shards": sorted(os.path.basename(path) for path in states), "needs": None}


def single(path: str, files: list[str]) -> dict[str, Any]:
    one_file(path)
    return {"weights_only": not optimizes(path)}


def plain_folder(folder: str, files: list[str]) -> dict[str, Any]:
    """Any other folder. The parts of other ranks may lie on other nodes: `shards` names what is here."""
    parts = weights(files)
    whole(parts, folder)
    found = {
        "shards": sorted(os.path.relpath(path, folder) for path in parts),
        "needs": needs(folder, files),
        "weights_only": not any(OPTIMIZER.search(os.fsencode(os.path.relpath(path, folder))) for path in files)
        and not any(optimizes(path) for path in parts if not path.endswith(".distcp")),
    }
    models = [path for path in parts if MODEL_RANK.match(os.path.basename(os.path.dirname(path)))]
    return dict(found, **megatron(folder, models[0])) if models else found


def megatron(folder: str, path: str) -> dict[str, Any]:
    """What Megatron-LM says of its checkpoint: by how many model-parallel ranks, and whether all of them have saved."""
    sizes = [found for found in (inside(path).get(key) for key in PARALLEL_KEYS) if found]
    saved = content(os.path.join(os.path.dirname(folder), TRACKER)).strip()
    step = step_of(folder)
    return {
        "model_parallel": sizes[0] * sizes[1] if len(sizes) == len(PARALLEL_KEYS) else None,
        "finished": saved.isdigit() and step is not None and int(saved[:16]) >= step,
    }


def content(path: str) -> str:
    """The beginning of a text file; empty where there is none."""
    if not os.path.isfile(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(100)


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


def pickle_of(path: str) -> bytes:
    """The pickle in a file of torch.save, which is read and never carried out; empty where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return b"" if archive.getinfo(name).file_size > PICKLE_LIMIT else archive.read(name)
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
        return b""


def optimizes(path: str) -> bool:
    """Whether a file of torch.save or of safetensors has something of an optimizer in it, as far as its names show."""
    if not path.endswith(".safetensors"):
        return bool(OPTIMIZER.search(pickle_of(path)))
    with open(path, "rb") as file:
        return bool(OPTIMIZER.search(file.read(struct.unpack("<Q", file.read(8))[0])))


def inside(path: str) -> dict[str, int]:
    """The whole numbers that a file has by name: those nearest to the surface of a dictionary that torch.save wrote, or
    in the metadata of safetensors, which are texts."""
    try:
        if not path.endswith(".safetensors"):
            return numbers(pickle_of(path))
        with open(path, "rb") as file:
            told = json.loads(file.read(struct.unpack("<Q", file.read(8))[0])).get("__metadata__", {})
        return {name.lower(): int(text) for name, text in told.items() if re.match(r"^\d{1,15}$", str(text))}
    except (ValueError, EOFError, IndexError, AttributeError):
        return {}


def numbers(pickled: bytes) -> dict[str, int]:
    """The whole numbers that follow a text in a pickle: of each text the least nested one, the first of several."""
    found: dict[str, tuple[int, int]] = {}
    memo: dict[int, str | None] = {}
    text, depth = None, 0
    for operation, arg, _ in pickletools.genops(pickled):
        if isinstance(arg, str) and "UNICODE" in operation.name:
            text = arg.lower()
        elif isinstance(arg, int) and operation.name in ("BINGET", "LONG_BINGET"):
            text = memo.get(arg)  # a text that was there before
        elif operation.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if arg is None else arg] = text
        elif isinstance(arg, int) and "INT" in operation.name and text is not None:
            if text not in found or depth < found[text][0]:
                found[text] = depth, arg
            text = None
        else:
            text = None
        if operation.name == "MARK":
            depth += 1
        elif operation.name in MARK_ENDS:
            depth -= 1
    return {name: number for name, (_, number) in found.items()}


def step_of(path: str) -> int | None:
    """The step that a name tells: the last number that a word makes one."""
    step = named(STEP, path)
    return named(SAVED, path) if step is None else step


def named(words: Any, path: str) -> int | None:
    told = [match["step"] for match in words.finditer(os.path.basename(path))]
    return int(told[-1]) if told and len(told[-1]) < 16 else None


def position(path: str, files: list[str]) -> dict[str, int | None]:
    """The step and the epoch of a checkpoint, by its name; where that has no step, by what the file has inside."""
    step, epoch = step_of(path), named(EPOCH, path)
    if step is None and len(files) == 1:
        told = inside(files[0])
        step = next((told[key] for key in STEP_KEYS if told.get(key, -1) >= 0), None)
        if epoch is None:
            epoch = next((told[key] for key in EPOCH_KEYS if told.get(key, -1) >= 0), None)
    return {"step": step, "epoch": epoch}


class Search:
    """Walks the roots. A link that lies in a root itself, not in a linked folder, is followed to what is not found in a
    place of its own."""

    def __init__(self, since: float, pattern: str, roots: list[str]) -> None:
        """`since` is by the clock that dates the files."""
        self.since, self.pattern, self.seen = since, pattern, 0
        self.roots = [root for root in roots if not any(root != top and inside_of(root, top) for top in roots)]
        self.places = list(self.roots)
        """The real paths of what is searched, so that nothing is searched twice."""
        self.passed: list[str] = []
        """What was not searched, and why."""

    def below(self, root: str) -> Iterator[dict[str, Any]]:
        """The checkpoints below a root, first those in the root itself: a link to much else costs only itself."""
        links: list[str] = []
        yield from self.walk(root, root, links)
        for link in links:
            place = os.path.realpath(link)
            if any(inside_of(place, known) or inside_of(known, place) for known in self.places):
                continue
            self.places.append(place)
            if os.path.isdir(place):
                yield from self.walk(root, link, None)
            elif self.is_checkpoint_file(root, link):
                yield from self.file(root, link)

    def walk(self, root: str, folder: str, links: list[str] | None, depth: int = 0) -> Iterator[dict[str, Any]]:
        try:
            entries = sorted(islice(os.scandir(folder), ENTRIES + 1), key=lambda entry: entry.name)
        except OSError as error:
            if folder != root or os.path.exists(root):
                self.passed.append(f"{folder}: {error.strerror}")
            return
        kind = None if folder == root else self.kind(root, folder, entries)
        if kind:
            yield from self.checkpoint(root, folder, *kind)
            return
        for entry in entries:
            self.seen += 1
            if self.seen > ENTRIES:
                if self.seen == ENTRIES + 1:
                    self.passed.append(f"{folder}: more than {ENTRIES} files are there to look at")
                return
            if entry.name in SKIPPED or entry.name.endswith("torchelastic"):
                continue
            if entry.is_symlink():
                self.link(entry, links)
            elif entry.is_dir(follow_symlinks=False):
                if depth < DEPTH:
                    yield from self.walk(root, entry.path, links, depth + 1)
                else:
                    self.passed.append(f"{entry.path}: more than {DEPTH} folders deep")
            elif entry.is_file(follow_symlinks=False) and self.is_checkpoint_file(root, entry.path):
                yield from self.file(root, entry.path)

    def file(self, root: str, path: str) -> Iterator[dict[str, Any]]:
        return self.checkpoint(root, path, "lightning" if path.endswith(".ckpt") else "torch", single)

    def link(self, entry: Any, links: list[str] | None) -> None:
        """A link is followed after all else, or named as not searched."""
        if links is not None and (entry.is_dir() or entry.is_file()):
            links.append(entry.path)
        elif not entry.is_file():
            self.passed.append(f"{entry.path}: a link {'in a linked folder' if entry.is_dir() else 'to nothing'}")

    def kind(self, root: str, folder: str, entries: list[Any]) -> tuple[str, Any] | None:
        names = {entry.name for entry in entries}
        name = os.path.basename(folder)
        if self.pattern and not fnmatch.fnmatch(os.path.relpath(folder, root), self.pattern):
            return None
        if re.match(r"^checkpoint-\d+$", name) and is_trainers(folder, names):
            return "transformers", trainer
        if ".metadata" in names or any(SHARD.match(name) for name in names):
            return "distributed", distributed
        if any(DEEPSPEED.match(name) for name in names):
            return "deepspeed", deepspeed
        if (self.pattern or FOLDER.match(name)) and is_one(folder):
            return "folder", plain_folder
        return None

    def is_checkpoint_file(self, root: str, path: str) -> bool:
        if self.pattern:
            return fnmatch.fnmatch(os.path.relpath(path, root), self.pattern)
        name = os.path.basename(path)
        return name.endswith((".ckpt", ".pt", ".pth", ".safetensors")) and bool(FILE.search(name))

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
        found.update(position(path, [] if found["problem"] else files))
        found["bytes"] = sum(fact.st_size for fact in facts)
        found["saved_at"] = max(fact.st_mtime for fact in facts)
        written = dict(zip(files, (fact.st_mtime for fact in facts)))  # noqa: B905, since Python 3.8 has no strict
        own = [at for file, at in written.items() if file.endswith(WEIGHTS) or os.path.basename(file) in STATES]
        found["begun_at"] = min(own, default=found["saved_at"])
        found["files"] = len(files)
        yield found


def is_one(folder: str) -> bool:
    """Whether a folder is one checkpoint: with weights in it, or below it, and nothing that is of a step of its own."""
    found, seen = False, 0
    for _, folders, names in os.walk(folder):
        own = [name for name in names if name.endswith(WEIGHTS)]
        if any(step_of(name) is not None for name in [*folders, *own]):
            return False
        found, seen = found or bool(own), seen + len(folders) + len(names)
        if seen > ENTRIES:
            break
    return found


def files_below(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def inside_of(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


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
    search = Search(since, pattern, sorted({os.path.realpath(root) for root in roots}))
    for root in search.roots:
        search.since = began(job_dir, root, since)
        for found in search.below(root):
            print(json.dumps(found), flush=True)
    print(json.dumps({"end": search.seen, "passed": sorted(search.passed)[:MOST_PASSED]}))


if __name__ == "__main__":
    main()
