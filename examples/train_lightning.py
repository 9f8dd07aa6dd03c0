"""Train a small recurrent language model with Lightning, on sums that the script makes itself.

    python train_lightning.py --steps 200
    torchrun --nproc-per-node=2 train_lightning.py --steps 200 --checkpoint-every 50
    torchrun … train_lightning.py … --ckpt_path "checkpoints/epoch=0-step=50.ckpt"

It trains on all GPUs that torchrun gives it, or on CPUs.
"""

import argparse
import gc
import os
import random
from collections.abc import Iterator

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset

VOCABULARY = "\n +=0123456789"


class Sums(IterableDataset[Tensor]):
    """Endless batches of lines such as ` 7 + 18 =  25`, each character a token. The batch of a step depends on its
    number and the rank alone, so that a resumed training gets the batches that would have come next.
    """

    def __init__(self, rank: int, batch_size: int, first_step: int) -> None:
        self.rank, self.batch_size, self.first_step = rank, batch_size, first_step

    def __iter__(self) -> Iterator[Tensor]:
        step = self.first_step
        while True:
            rng = random.Random(f"{step} {self.rank}")
            pairs = [(rng.randrange(50), rng.randrange(50)) for _ in range(self.batch_size)]
            lines = [f"{a:2} + {b:2} = {a + b:3}\n" for a, b in pairs]
            yield torch.tensor([[VOCABULARY.index(character) for character in line] for line in lines])
            step += 1


class Reader(pl.LightningModule):
    """Guesses each next character with a GRU."""

    def __init__(self, width: int, batch_size: int, learning_rate: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.embedding = nn.Embedding(len(VOCABULARY), width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, len(VOCABULARY))

    def train_dataloader(self) -> DataLoader[Tensor]:
        sums = Sums(self.global_rank, self.batch_size, first_step=self.trainer.global_step)
        return DataLoader(sums, batch_size=None)

    def training_step(self, lines: Tensor, _batch: int) -> Tensor:
        hidden, _ = self.gru(self.embedding(lines[:, :-1]))
        logits: Tensor = self.head(hidden)
        loss = cross_entropy(logits.flatten(0, 1), lines[:, 1:].flatten())
        self.log("loss", loss, sync_dist=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


class Report(pl.Callback):
    """Prints a line every so many steps: a progress bar is hard to read in a log."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step % self.every == 0 and trainer.is_global_zero:
            print(f"step {trainer.global_step}/{trainer.max_steps} loss {trainer.callback_metrics['loss']:.8f}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small language model on sums, with Lightning.")
    add = parser.add_argument
    add("--steps", type=int, default=200)
    add("--batch-size", type=int, default=16, help="lines per rank")
    add("--width", type=int, default=32)
    add("--lr", type=float, default=3e-3)
    add("--seed", type=int, default=0)
    add("--checkpoint-dir", default="checkpoints")
    add("--checkpoint-every", type=int, default=50, help="steps")
    add("--log-every", type=int, default=10, help="steps per line of progress")
    add("--ckpt_path", help="a checkpoint to go on from")
    return parser.parse_args()


def train(args: argparse.Namespace) -> None:
    # torchrun has started the ranks by now, and Lightning needs their number.
    world, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    trainer = pl.Trainer(
        accelerator="auto",
        strategy="ddp" if world > 1 else "auto",
        num_nodes=world // local,
        devices=local,
        max_steps=args.steps,
        callbacks=[
            ModelCheckpoint(args.checkpoint_dir, save_top_k=-1, every_n_train_steps=args.checkpoint_every),
            Report(args.log_every),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Reader(args.width, args.batch_size, args.lr), ckpt_path=args.ckpt_path)


def main() -> None:
    args = parse_args()
    pl.seed_everything(args.seed)
    train(args)
    if dist.is_initialized():  # Lightning leaves the group behind
        gc.collect()  # a model that still holds it would keep gloo's threads alive, and they abort the exit
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
