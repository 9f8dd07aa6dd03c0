"""A training's needs of a GPU, as far as its own arguments show them: model, batch, precision, sharding and so on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ugro.common.models.workload import LARGEST, METHODS, SHARDINGS
from ugro.control_plane.resource_manager.predictor.known_models import is_convolutional, parameter_count, usual_sequence


@dataclass(frozen=True)
class Workload:
    """One training. `batch` is per GPU, `sequence` in tokens, `gpus` the world size.

    `precision` is `amp` for fp32 weights under autocast, `bf16` or `fp16` where the weights themselves are kept so.
    `assumed` says in words what the arguments did not say.
    """

    parameters: int
    precision: str = "fp32"
    optimizer: str = "adamw"
    batch: int = 8
    sequence: int = 1024
    method: str = "full"
    sharding: str = "ddp"
    checkpointing: bool = False
    gpus: int = 1
    assumed: tuple[str, ...] = ()
    model: str = ""


_MODEL = (
    "model", "model-name", "model-name-or-path", "model-id", "model-path", "model-size", "base-model", "arch",
    "pretrained-model", "pretrained-model-name-or-path",
)  # fmt: skip
_BATCH = (
    "per-device-train-batch-size", "per-device-batch-size", "per-gpu-train-batch-size", "micro-batch-size",
    "train-micro-batch-size-per-gpu", "train-batch-size", "batch-size", "batch", "bs", "b",
)  # fmt: skip
_SEQUENCE = (
    "max-seq-length", "max-seq-len", "max-length", "block-size", "seq-len", "seq-length", "sequence-length",
    "context-length", "model-max-length", "cutoff-len", "seq",
)  # fmt: skip
_KEPT = ("torch-dtype", "dtype", "model-dtype")
_NO = ("false", "0", "no", "none", "off", "")


class _Arguments:
    """The options among a script's arguments, the last of each kind first to count."""

    def __init__(self, args: Sequence[str]) -> None:
        self._pairs: list[tuple[str, str | None]] = []
        for at, arg in enumerate(args):
            if not arg.startswith("-") or not arg.strip("-"):
                continue
            key, equals, value = arg.lstrip("-").partition("=")
            key, after = key.lower().replace("_", "-"), args[at + 1] if at + 1 < len(args) else "-"
            said = value if equals else None if after.startswith("-") else after
            self._pairs.append((key[3:], "false") if key.startswith("no-") else (key, said))
        self._pairs.reverse()

    def values(self, *keys: str) -> list[str]:
        """Return the values of these options, last first."""
        return [value for key, value in self._pairs if key in keys and value is not None]

    def value(self, *keys: str) -> str:
        """Return the value of the last of these options, in lower case; empty if none is set."""
        return next(iter(self.values(*keys)), "").lower()

    def on(self, *keys: str) -> bool:
        """Whether the last of these options is given and not set to a no."""
        return next(((value or "true").lower() not in _NO for key, value in self._pairs if key in keys), False)

    def number(self, *keys: str) -> int | None:
        """The last of these options that is a number from 1 to LARGEST."""
        numbers = (int(value) for value in self.values(*keys) if re.fullmatch("[0-9]{1,7}", value))
        return next((number for number in numbers if 1 <= number <= LARGEST), None)


def read_workload(args: Sequence[str], gpus: int) -> Workload | None:
    """Return the training that a script's arguments describe, on `gpus` GPUs; None if the model's size is unknown.

    `--bf16` and `--fp16` mean autocast over fp32 weights, as for the Hugging Face Trainer; `--dtype bf16` the weights.
    """
    said, assumed = _Arguments(args), []
    named = next(((name, count) for name in said.values(*_MODEL) if (count := parameter_count(name))), None)
    if named is None:
        return None
    method = _method(said)
    precision, optimizer = _precision(said), _optimizer(said)
    batch, sequence = said.number(*_BATCH), said.number(*_SEQUENCE)
    if precision is None:
        precision = "fp32" if method == "full" else "bf16"
        assumed.append(f"precision {precision}")
    if optimizer is None:
        optimizer = "adamw"
        assumed.append("optimizer AdamW")
    if batch is None:
        batch = 8
        assumed.append("batch of 8 on each GPU")
    if is_convolutional(named[0]):
        assumed.append("images of 224 x 224")
    elif sequence is None:
        sequence = usual_sequence(named[0])
        assumed.append(f"sequences of {sequence} tokens")
    sharding = _sharding(said)
    if sharding is None:
        sharding = "zero2"
        assumed.append("DeepSpeed with ZeRO-2")
    checkpointing = said.on("gradient-checkpointing", "activation-checkpointing", "use-gradient-checkpointing")
    return Workload(
        named[1], precision, optimizer, batch, sequence or 1, method, sharding, checkpointing, gpus, tuple(assumed),
        named[0],
    )  # fmt: skip


def _method(said: _Arguments) -> str:
    told = [said.value("method"), said.value("peft", "peft-type", "finetuning-type")]
    for method in METHODS:
        if told[0] == method:
            return method
    if said.on("qlora", "use-qlora", "load-in-4bit") or "qlora" in told:
        return "qlora"
    return "lora" if said.on("lora", "use-lora", "use-peft") or "lora" in told else "full"


def _precision(said: _Arguments) -> str | None:
    for keys in (("precision",), _KEPT):
        value = said.value(*keys).replace("bfloat", "bf").replace("float", "fp")
        if "mixed" in value or value == "amp":
            return "amp"
        if found := re.search("bf16|fp16|fp32|32|16", value):
            return {"32": "fp32", "16": "amp"}.get(found[0], found[0])
    if said.on("bf16", "fp16", "amp", "use-amp", "mixed-precision"):
        return "amp"
    return "fp32" if said.value("bf16", "fp16", "amp", "mixed-precision") else None


def _optimizer(said: _Arguments) -> str | None:
    value = said.value("optim", "optimizer", "optimiser", "opt")
    if re.search("adam.*8-?bit|8-?bit.*adam", value):
        return "adam8bit"
    names = {"adafactor": "adafactor", "adam": "adamw", "sgd": "sgd"}
    return next((name for word, name in names.items() if word in value), None)


def _sharding(said: _Arguments) -> str | None:
    """Return how the states are spread; None for DeepSpeed whose stage is not given."""
    if (value := said.value("sharding")) in SHARDINGS:
        return value
    if said.on("fsdp", "use-fsdp"):
        return "zero2" if "shard_grad_op" in said.value("fsdp") else "fsdp"
    stage = re.search(r"(?:zero|stage)[-_]?([0-3])", said.value("deepspeed", "deepspeed-config", "strategy"))
    number = stage[1] if stage else said.value("zero-stage", "zero")
    if number in ("1", "2", "3"):
        return f"zero{number}"
    return None if said.on("deepspeed", "deepspeed-config") and number != "0" else "ddp"
