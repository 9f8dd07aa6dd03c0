"""Finds the checkpoints under some directories of a node and says of each whether it is complete.

usage: checkpoints.py SINCE PATTERN ROOT…

SINCE is in seconds since the epoch of the node's clock: older files are not of this job (0: all are). PATTERN, if not
empty, is a glob that the path below ROOT has to match; without one the names and contents that the usual tools leave
are looked for. Answers with those `found`, and with what was `passed`, not searched, and why.

Only a word says what a number in a name is: `step-20` is step 20, and neither `best_acc_0.9312.pt` nor `yolov8n.pt` has
one. Where each rank writes a file or a folder of its own (`ckpt_rank0.pt`, `rank1/step-20.pt`), each is one by itself.

Formats, and those of `contents.py`: the Trainer writes trainer_state.json last (transformers/trainer.py);
torch.distributed.checkpoint renames .metadata into place last (torch/distributed/checkpoint/filesystem.py), and names
each shard's file in it; DeepSpeed writes global_stepN/…_states.pt and then `latest` (deepspeed/runtime/engine.py);
Megatron-LM writes iter_N/mp_rank_T[_P]/model_optim_rng.pt, with its arguments inside, and then
latest_checkpointed_iteration.txt (megatron/training/checkpointing.py); Composer has `ba20` for batch 20
(composer/utils/checkpoint.py).
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
import sys
from itertools import islice
from typing import Any, Iterator

from ugro.nodes.remote.checkpoints.on_node.contents import (
    OPTIMIZER,
    Torn,
    content,
    inside,
    one_file,
    optimizes,
    read_json,
    strings,
    whole,
)
from ugro.nodes.remote.on_node.answer import answer

ENTRIES = 50_000
"""Files and folders that are looked at, at most."""
DEPTH = 16
MOST_PASSED = 20
"""Places that were not searched of which so many are named."""
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


def trainer(folder: str, files: list[str]) -> dict[str, Any]:
    """A checkpoint-N of Hugging Face's Trainer: its state is written last, and index files name the shards.

    Ranks on other nodes leave their random state, and their parts of the optimizer, on their own disks, in a folder of
    the same name that has no state: `shards` has the files of those.
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
            raise Torn(".metadata is incomplete")
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
    """Return Megatron-LM's checkpoint: by how many model-parallel ranks it is, and whether all of them have saved."""
    sizes = [found for found in (inside(path).get(key) for key in PARALLEL_KEYS) if found]
    saved = content(os.path.join(os.path.dirname(folder), TRACKER)).strip()
    step = step_of(folder)
    return {
        "model_parallel": sizes[0] * sizes[1] if len(sizes) == len(PARALLEL_KEYS) else None,
        "finished": saved.isdigit() and step is not None and int(saved[:16]) >= step,
    }


def weights(files: list[str]) -> list[str]:
    return [path for path in files if path.endswith(WEIGHTS) and not path.endswith("training_args.bin")]


def step_of(path: str) -> int | None:
    """Return the step in a name: the last number that a word marks as one."""
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


class CheckpointWalk:
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
        written = dict(zip(files, (fact.st_mtime for fact in facts)))
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
    search = CheckpointWalk(since, pattern, sorted({os.path.realpath(root) for root in roots}))
    checkpoints: list[dict[str, Any]] = []
    for root in search.roots:
        search.since = began(job_dir, root, since)
        checkpoints += search.below(root)
    answer("checkpoints", {"found": checkpoints, "passed": sorted(search.passed)[:MOST_PASSED]})


if __name__ == "__main__":
    main()
