"""Train a small transformer language model with DistributedDataParallel, on text that the script makes itself.

    python train_production.py                                        # one process
    torchrun --nproc-per-node=2 train_production.py                   # one machine
    torchrun --nnodes=2 --node-rank=0 --master-addr=... --master-port=... train_production.py

It trains on GPUs with NCCL where there are any, else on CPUs with gloo. An interrupted run that is resumed from a
checkpoint computes the same steps as without the break: each step's data and learning rate depend on the step's number
alone. SIGUSR2 asks for a checkpoint at the end of the current step; every other signal keeps its meaning.

On GPUs of different speed the ranks may split each step's batch unevenly, by the fraction that each of them finds in
UGRO_BATCH_SHARE. The result stays the same.
"""

import argparse
import contextlib
import gc
import math
import os
import random
import re
import signal
import socket
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.rendezvous import rendezvous
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel

# --- this process among all the processes of the job ------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device


def say(line: str) -> None:
    print(line + "\n", end="", flush=True)  # in one write: the ranks of a node share their output


def join_world() -> World:
    """Meet the other ranks (without torchrun there are none) and start the process group."""
    if "RANK" not in os.environ:  # no other process has to know the port, so 0: any free one
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    store, rank, size = next(rendezvous("env://"))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    on_gpu = torch.cuda.is_available() and local_rank < torch.cuda.device_count()
    device, backend = (torch.device("cuda", local_rank), "nccl") if on_gpu else (torch.device("cpu"), "gloo")
    host = socket.gethostname()
    # Ranks with different backends would wait for each other until a timeout, and it would not say why.
    store.set(f"backend/{rank}", backend)
    if any(store.get(f"backend/{other}").decode() != backend for other in range(size)):
        raise RuntimeError(f"rank {rank} on {host} chose {backend}, others did not: give all a GPU, or none")
    if on_gpu:
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # so small a model only loses time to more
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    say(f"start rank {rank} of {size} host {host} device {device} backend {backend} pid {os.getpid()}")
    return World(rank, size, device)


def from_rank_0(value: Any, world: World) -> Any:
    """Rank 0's value, on every rank; what the others pass does not matter."""
    box = [value]
    dist.broadcast_object_list(box, src=0, device=world.device)
    return box[0]


# --- the data: sentences of a small grammar, character by character ---------------------------------------------------

VOCABULARY = " .abcdefghijklmnopqrstuvwxyz"
GRAMMAR = {
    "sentence": ("{one}. ", "{many}. ", "{one} because {many}. ", "{many} but {one}. "),
    "one": ("the {adjective} {noun} {verb}s {object}",),
    "many": ("{number} {adjective} {noun}s {verb} {object}",),
    "object": ("the {noun}", "{number} {noun}s", "the {noun} near the {place}"),
    "adjective": ("small", "old", "quick", "sleepy", "brave", "purple"),
    "noun": ("cat", "dog", "farmer", "robot", "dragon", "pirate", "sailor", "wizard"),
    "verb": ("see", "follow", "paint", "help", "greet", "remember"),
    "number": ("two", "three", "seven", "many"),
    "place": ("river", "castle", "market", "forest"),
}


def sentence(rng: random.Random, symbol: str = "sentence") -> str:
    """One random expansion of a symbol of the grammar."""
    return re.sub(r"{(\w+)}", lambda match: sentence(rng, match[1]), rng.choice(GRAMMAR[symbol]))


def grammar_corpus(seed: int) -> Tensor:
    """About 320 000 characters of text as token ids, int64 of shape (characters,); the same on every rank."""
    rng = random.Random(seed)
    return torch.tensor([VOCABULARY.index(character) for _ in range(5000) for character in sentence(rng)])


DATASETS = {"grammar": grammar_corpus}


def split_batch(size: int, shares: list[float]) -> list[int]:
    """A batch split by largest remainder: in proportion to the shares, at least 1 for each, `size` in all."""
    parts = [1] * len(shares)
    for _ in range(size - len(shares)):  # each to the one that lacks most; the last ones follow the remainders
        lacking = [size * share / math.fsum(shares) - parts[rank] for rank, share in enumerate(shares)]
        parts[lacking.index(max(lacking))] += 1
    return parts


def batch_sizes(args: argparse.Namespace, world: World) -> list[int]:
    """The windows of each rank per backward pass: by the ranks' UGRO_BATCH_SHARE, without those all the same."""
    shares: list[float | None] = [None] * world.size
    share = os.environ.get("UGRO_BATCH_SHARE")
    dist.all_gather_object(shares, float(share) if share else None)
    told = [share for share in shares if share]
    return split_batch(world.size * args.batch_size, told if len(told) == world.size else [1.0] * world.size)


def step_windows(corpus: Tensor, args: argparse.Namespace, world: World, step: int, sizes: list[int]) -> Tensor:
    """What this rank reads in one step: int64 of shape (accumulation, its own of the batch sizes, seq_len + 1).

    A pure function of seed, step, rank and world size, so a resumed run needs no data loader state. All ranks together
    read the same, however the batch is split.
    """
    rounds: list[list[int]] = [[] for _ in range(args.gradient_accumulation)]
    for rank in range(world.size):
        rng = random.Random(f"{args.seed} {step} {rank} {world.size}")
        for starts in rounds:
            starts += [rng.randrange(len(corpus) - args.seq_len) for _ in range(args.batch_size)]
    first = sum(sizes[: world.rank])
    mine = torch.tensor(rounds)[:, first : first + sizes[world.rank]]
    return corpus[mine[:, :, None] + torch.arange(args.seq_len + 1)].to(world.device)


# --- the model: a decoder-only transformer ----------------------------------------------------------------------------


PRESETS = {  # width, layers, heads
    "tiny": (64, 2, 4),  # 0.1 M parameters
    "small": (128, 4, 4),  # 0.8 M
    "base": (256, 6, 8),  # 4.8 M
}


class Block(nn.Module):
    """Causal self-attention, then a two-layer perceptron; each normalised first and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        wide = 4 * width
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width))

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, time, width) in and out."""
        batch, length, width = hidden.shape
        mixed: Tensor = self.query_key_value(self.attention_norm(hidden))
        query, key, value = mixed.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.projection(attended.transpose(1, 2).reshape(batch, length, width))
        output: Tensor = hidden + self.mlp(hidden)
        return output


class Decoder(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, seq_len: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(len(VOCABULARY), width)
        self.positions = nn.Embedding(seq_len, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(VOCABULARY)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (batch, time) to the logits of each next token (batch, time, vocabulary)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        logits: Tensor = self.head(self.blocks(self.tokens(tokens) + self.positions(places)))
        return logits


# --- checkpoints ------------------------------------------------------------------------------------------------------


def checkpoints(directory: Path) -> dict[int, Path]:
    """The files `checkpoint-<step>.pt` of a directory by their step, lowest first."""
    names = ((re.fullmatch(r"checkpoint-(\d+)\.pt", path.name), path) for path in directory.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in names if match))


def find_checkpoint(path: Path) -> Path:
    """Return a file as it is; of a directory the newest complete checkpoint (a truncated zip is none)."""
    if not path.is_dir():
        return path
    whole = [candidate for candidate in checkpoints(path).values() if zipfile.is_zipfile(candidate)]
    if not whole:
        raise FileNotFoundError(f"no complete checkpoint-<step>.pt in {path}")
    return whole[-1]


def write_checkpoint(directory: Path, state: dict[str, Any], keep_last: int) -> Path:
    """Write `checkpoint-<step>.pt` so that it is complete or absent, then drop all but the last few up to this step."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"checkpoint-{state['step']}.pt"
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # what a full disk could not take would keep it full
    # Files of later steps are left over from the run that this one was rewound from: not ours to delete.
    upto = [other for step, other in checkpoints(directory).items() if step <= state["step"]]
    for old in upto[:-keep_last]:
        old.unlink(missing_ok=True)
    return path


def resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> int:
    """Load a checkpoint into model and optimizer on every rank; returns the step it was taken at.

    Only rank 0 reads the file: without a shared disk, no other node has one.
    """
    state = None
    if world.rank == 0:
        found = find_checkpoint(path)
        state = torch.load(found, map_location="cpu", weights_only=True)
        say(f"resuming from {found} at step {state['step']}")
    state = from_rank_0(state, world)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return int(state["step"])


# --- training ---------------------------------------------------------------------------------------------------------


class SaveRequest:
    """Remembers that SIGUSR2 came. (Not SIGUSR1: some NCCL set-ups use that one themselves.)"""

    pending = False

    def __init__(self) -> None:
        signal.signal(signal.SIGUSR2, self.note)

    def note(self, _signum: int, _frame: object) -> None:
        self.pending = True


def learning_rate(step: int, total: int, peak: float) -> float:
    """A linear warm-up over about the first tenth, then a cosine down to a tenth of the peak."""
    return peak * min(10 * step / total, 0.55 + 0.45 * math.cos(math.pi * step / total))


def train_step(
    ddp: DistributedDataParallel, optimizer: torch.optim.Optimizer, windows: Tensor, weight: float
) -> Tensor:
    """One optimizer step over windows (accumulation, batch, seq_len + 1); returns this rank's weighted loss, in nats.

    DDP takes the plain mean of all ranks' gradients. The weight, this rank's batch over the ranks' mean batch, makes
    it the mean over all windows.
    """
    optimizer.zero_grad()
    total = torch.zeros((), device=windows.device)
    for number, window in enumerate(windows, start=1):
        # Gradients are exchanged once a step, with the last backward pass.
        with contextlib.nullcontext() if number == len(windows) else ddp.no_sync():
            logits = ddp(window[:, :-1])
            loss = weight * cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()) / len(windows)
            loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    nn.utils.clip_grad_norm_(ddp.parameters(), 1.0)
    optimizer.step()
    return total


def train(args: argparse.Namespace, world: World, request: SaveRequest) -> None:
    args = from_rank_0(args, world)  # nodes started by hand may differ, say in where to resume from
    torch.manual_seed(args.seed)
    corpus = DATASETS[args.dataset](args.seed)
    model = Decoder(*PRESETS[args.model], args.seq_len).to(world.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    total = args.epochs * args.steps_per_epoch
    done = resume(Path(args.resume_from_checkpoint), model, optimizer, world) if args.resume_from_checkpoint else 0
    ddp = DistributedDataParallel(model)
    sizes = batch_sizes(args, world)
    weight = sizes[world.rank] * world.size / sum(sizes)  # UGRO_GRADIENT_WEIGHT, for a batch in whole windows
    tokens, since = 0, time.perf_counter()
    for step in range(done + 1, total + 1):
        epoch = (step - 1) // args.steps_per_epoch + 1
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, args.lr)
        loss = train_step(ddp, optimizer, step_windows(corpus, args, world, step, sizes), weight)
        tokens += world.size * args.gradient_accumulation * args.batch_size * args.seq_len
        if step % args.log_every == 0 or step == total:
            dist.all_reduce(loss)
            mean = loss.item() / world.size
            if not math.isfinite(mean):
                raise FloatingPointError(f"loss is {mean} at step {step}: try a lower --lr")
            if world.rank == 0:
                lr, speed = optimizer.param_groups[0]["lr"], tokens / (time.perf_counter() - since) / 1000
                say(f"step {step}/{total} epoch {epoch} loss {mean:.4f} lr {lr:.2e} {speed:.1f}k tok/s")
            tokens, since = 0, time.perf_counter()
        if world.rank == 0 and (request.pending or step % args.checkpoint_every == 0 or step == total):
            request.pending = False
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
            state |= {"step": step, "epoch": epoch, "args": vars(args)}
            say(f"saved {write_checkpoint(Path(args.checkpoint_dir), state, args.keep_last)}")
    from_rank_0("done", world)  # no rank reports success before the last checkpoint is on the disk


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small language model on sentences of a grammar.")
    add = parser.add_argument
    add("--model", choices=PRESETS, default="tiny")
    add("--dataset", choices=DATASETS, default="grammar")
    add("--epochs", type=positive, default=2)
    add("--steps-per-epoch", type=positive, default=100)
    add("--batch-size", type=positive, default=8, help="windows per rank and backward pass, on average")
    add("--gradient-accumulation", type=positive, default=1, help="backward passes per step")
    add("--seq-len", type=positive, default=48, help="characters per window")
    add("--lr", type=float, default=3e-3, help="the peak learning rate")
    add("--seed", type=int, default=0)
    add("--checkpoint-dir", default="checkpoints")
    add("--checkpoint-every", type=positive, default=50, help="steps; the last step always saves")
    add("--keep-last", type=positive, default=3, help="checkpoints that stay in the directory")
    add("--resume_from_checkpoint", "--resume-from-checkpoint", default=os.environ.get("UGRO_RESUME_FROM") or None,
        metavar="PATH", help="a checkpoint, or a directory: its newest one (default: $UGRO_RESUME_FROM)")  # fmt: skip
    add("--log-every", type=positive, default=10, help="steps per line of progress")
    return parser.parse_args()


@record  # leaves the traceback where torchrun finds and prints it
def main() -> None:
    args, request = parse_args(), SaveRequest()
    train(args, join_world(), request)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Python resets its handlers on the way out: a late one would kill
    gc.collect()  # a model that still holds the group would keep gloo's threads alive, and they abort the exit
    dist.destroy_process_group()  # only here: after an error it could wait for peers that are gone


if __name__ == "__main__":
    main()
