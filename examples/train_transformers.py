"""Train a small GPT-2 with the Trainer of Hugging Face's transformers, on sums that the script makes itself.

    python train_transformers.py --output_dir out --max_steps 200
    torchrun --nproc-per-node=2 train_transformers.py --output_dir out --max_steps 200 --save_steps 50
    torchrun … train_transformers.py … --resume_from_checkpoint out/checkpoint-50

Every option of TrainingArguments can be given. Nothing is downloaded: the model starts with random weights.
"""

import gc
import random
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainingArguments

VOCABULARY = "\n +=0123456789"


@dataclass
class ModelArguments:
    width: int = field(default=32, metadata={"help": "of the hidden states"})
    layers: int = field(default=2, metadata={"help": "blocks of attention and perceptron"})
    dropout: float = field(default=0.1, metadata={"help": "in all places where GPT-2 has it"})
    window: int = field(default=32, metadata={"help": "characters that the model reads at once"})
    sums: int = field(default=10_000, metadata={"help": "lines of text to train on"})


class Windows(Dataset[dict[str, Tensor]]):
    """A text of sums such as `7 + 18 = 25`, cut into windows of equal length, each character a token."""

    def __init__(self, arguments: ModelArguments) -> None:
        rng = random.Random(0)
        pairs = [(rng.randrange(50), rng.randrange(50)) for _ in range(arguments.sums)]
        text = "".join(f"{a} + {b} = {a + b}\n" for a, b in pairs)
        tokens = torch.tensor([VOCABULARY.index(character) for character in text])
        self.windows = tokens.unfold(0, arguments.window, arguments.window)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.windows[index], "labels": self.windows[index]}


def new_model(arguments: ModelArguments) -> GPT2LMHeadModel:
    rate = arguments.dropout
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=arguments.window,
        n_embd=arguments.width,
        n_layer=arguments.layers,
        n_head=4,
        resid_pdrop=rate,
        embd_pdrop=rate,
        attn_pdrop=rate,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def train(arguments: ModelArguments, training: TrainingArguments) -> None:
    torch.manual_seed(training.seed)  # the Trainer sets it too, but after the model has its weights
    trainer = Trainer(model=new_model(arguments), args=training, train_dataset=Windows(arguments))
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()


def main() -> None:
    parser = HfArgumentParser((ModelArguments, TrainingArguments))
    parser.set_defaults(use_cpu=not torch.cuda.is_available())  # without it the ranks train apart
    train(*parser.parse_args_into_dataclasses())
    if dist.is_initialized():  # the Trainer leaves the group behind
        gc.collect()  # a model that still holds it would keep gloo's threads alive, and they abort the exit
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
