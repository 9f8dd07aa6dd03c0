"""A job of `ugro check --gpu`. It prints its results as lines `gpu-check {…}`.

usage: torchrun … gpu_job.py --mode all_reduce|hold|fill|models [options]
`all_reduce` sums tensors over all ranks and checks the sum; `hold` computes until it is ended; `fill` keeps a batch of
samples of a given size on the GPU, so that a large batch runs out of memory; `models` trains known models for a few
steps and reports the memory that they take. It needs GPUs, unless `--allow-cpu` is given, as where GPUs are simulated.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn import functional

MIB = 2**20
MODELS = {  # layers, width, heads
    "distilgpt2": (6, 768, 12),
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
}
VOCABULARY, POSITIONS = 50257, 1024
STEPS = 3


def say(**fields: Any) -> None:
    """Print a result, in one write."""
    print(f"gpu-check {json.dumps(fields)}\n", end="", flush=True)


def device_of(args: argparse.Namespace) -> torch.device:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return torch.device("cuda", torch.cuda.current_device())
    if not args.allow_cpu:
        raise SystemExit("torch.cuda.is_available() is False: no GPU to check")
    return torch.device("cpu")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def all_reduce(args: argparse.Namespace, device: torch.device) -> None:
    """Sum a tensor over all ranks, several times."""
    rank, size = dist.get_rank(), dist.get_world_size()
    tensor = torch.full((args.mib * MIB // 4,), float(rank + 1), device=device)
    dist.all_reduce(tensor)
    right = bool((tensor == size * (size + 1) / 2).all())
    synchronize(device)
    began = time.perf_counter()
    for _ in range(args.repeat):
        dist.all_reduce(tensor)
    synchronize(device)
    seconds = (time.perf_counter() - began) / args.repeat
    everywhere = torch.tensor([1.0 if right else 0.0], device=device)
    dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
    if rank == 0:
        moved = 2 * (size - 1) / size * args.mib * MIB  # by each rank: "bus bandwidth" of nccl-tests
        say(
            backend=dist.get_backend(), ranks=size, right=bool(everywhere.item()), milliseconds=seconds * 1000,
            gbit_per_s=moved * 8 / seconds / 1e9,
        )  # fmt: skip


def hold(args: argparse.Namespace, device: torch.device) -> None:
    """Take memory and compute until the end."""
    kept = torch.zeros(args.mib * MIB // 4, device=device)
    side = 4096 if device.type == "cuda" else 128
    one, other = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    dist.all_reduce(torch.ones(1, device=device))  # connections are made by the first use
    synchronize(device)
    say(holding=kept.numel() * 4 // MIB, rank=dist.get_rank())
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        for _ in range(20):
            other = torch.nn.functional.normalize(one @ other)
        synchronize(device)


def fill(args: argparse.Namespace, device: torch.device) -> None:
    """Keep a batch on the GPU."""
    free, total = torch.cuda.mem_get_info(device)
    each = int(args.share * free / args.full_batch)
    batch = [torch.zeros(each // 4, device=device) for _ in range(args.batch_size)]
    say(batch=len(batch), each_mib=each // MIB, free_mib=free // MIB, total_mib=total // MIB)


class TransformerBlock(nn.Module):
    """A block of GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        parts = self.attention(self.before(x)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        wide = functional.gelu(self.wide(self.between(x)))
        narrow: Tensor = self.narrow(wide)
        return x + narrow


class Gpt2(nn.Module):
    """GPT-2 with its head tied to the embedding."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(POSITIONS, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))
        self.last = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.last(x), self.words.weight)


def train(name: str, batch: int, length: int, device: torch.device) -> int:
    """Train a model for some steps, with autocast and AdamW; return its parameters."""
    model = Gpt2(*MODELS[name]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    half = torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    for _ in range(STEPS):
        tokens = torch.randint(VOCABULARY, (batch, length + 1), device=device)
        with torch.autocast("cuda", dtype=half):
            logits = model(tokens[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return sum(parameter.numel() for parameter in model.parameters())


def models(args: argparse.Namespace, device: torch.device) -> None:
    """Report the memory of each model `NAME:BATCH:LENGTH`, as the driver counts it: what was free before this process
    began, minus what is free while the allocator still has the most that it needed.
    """
    before = dict(words.split("=") for words in args.free_mib.split(","))
    gpu = os.environ["CUDA_VISIBLE_DEVICES"].split(",")[int(os.environ["LOCAL_RANK"])]
    for words in args.models.split(","):
        name, batch, length = words.split(":")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        parameters = train(name, int(batch), int(length), device)
        reserved = torch.cuda.max_memory_reserved(device) // MIB
        free, _ = torch.cuda.mem_get_info(device)
        say(model=name, parameters=parameters, reserved_mib=reserved, used_mib=int(before[gpu]) - free // MIB)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=("all_reduce", "hold", "fill", "models"), required=True)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--full-batch", type=int, default=8)
    parser.add_argument("--share", type=float, default=1.5, help="of the free memory, for a full batch")
    parser.add_argument("--models", default="")
    parser.add_argument("--free-mib", default="", help="of each GPU before this job: UUID=MIB,…")
    parser.add_argument("--allow-cpu", action="store_true")
    return parser.parse_args()


@record
def main() -> None:
    args = arguments()
    device = device_of(args)
    if args.mode == "fill":
        fill(args, device)
        return
    if args.mode == "models":
        models(args, device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=60))
    all_reduce(args, device) if args.mode == "all_reduce" else hold(args, device)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
