"""Facts about models by their names: parameters, and the shape that decides their activations."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """A transformer's shape. `vocab` is 0 where nothing of that width is computed; `hidden` is the model's width."""

    layers: int
    hidden: int
    heads: int
    vocab: int


# Parameters and shape of published models (their config.json). Names without a number, and those where it misleads.
_MODELS: dict[str, tuple[float, Architecture]] = {
    "gpt2": (124.4e6, Architecture(12, 768, 12, 50257)),
    "distilgpt2": (81.9e6, Architecture(6, 768, 12, 50257)),
    "gpt2-medium": (354.8e6, Architecture(24, 1024, 16, 50257)),
    "gpt2-large": (774.0e6, Architecture(36, 1280, 20, 50257)),
    "gpt2-xl": (1557.6e6, Architecture(48, 1600, 25, 50257)),
    "bert-base": (109.5e6, Architecture(12, 768, 12, 30522)),
    "bert-large": (335.1e6, Architecture(24, 1024, 16, 30522)),
    "distilbert": (66.4e6, Architecture(6, 768, 12, 30522)),
    "roberta-base": (124.6e6, Architecture(12, 768, 12, 50265)),
    "roberta-large": (355.4e6, Architecture(24, 1024, 16, 50265)),
    "t5-small": (60.5e6, Architecture(12, 512, 8, 32128)),
    "t5-base": (222.9e6, Architecture(24, 768, 12, 32128)),
    "t5-large": (737.7e6, Architecture(48, 1024, 16, 32128)),
    "vit-base": (86.6e6, Architecture(12, 768, 12, 0)),
    "vit-large": (304.3e6, Architecture(24, 1024, 16, 0)),
    "llama-7b": (6.738e9, Architecture(32, 4096, 32, 32000)),
    "llama-2-7b": (6.738e9, Architecture(32, 4096, 32, 32000)),
    "llama-3-8b": (8.030e9, Architecture(32, 4096, 32, 128256)),
    "mixtral-8x7b": (46.7e9, Architecture(32, 4096, 32, 32000)),
}

# Parameters, and activations at 224 x 224 in millions of elements (outputs of the convolutions, as timm lists them).
_CONVOLUTIONS: dict[str, tuple[float, float]] = {
    "resnet18": (11.7e6, 2.48),
    "resnet34": (21.8e6, 3.74),
    "resnet50": (25.6e6, 11.11),
    "resnet101": (44.5e6, 16.23),
    "resnet152": (60.2e6, 22.56),
    "vgg16": (138.4e6, 13.56),
    "densenet121": (8.0e6, 6.90),
}

# Decoders between which the shape of one that is only known by its size is interpolated: pythia, gpt2, opt, llama.
_POINTS: tuple[tuple[float, int, int, int], ...] = (
    (14e6, 6, 128, 4), (70e6, 6, 512, 8), (124e6, 12, 768, 12), (350e6, 24, 1024, 16), (1.3e9, 24, 2048, 32),
    (2.7e9, 32, 2560, 32), (6.74e9, 32, 4096, 32), (13e9, 40, 5120, 40), (69e9, 80, 8192, 64), (405e9, 126, 16384, 128),
)  # fmt: skip
_VOCABULARIES = (
    (r"llama-?3|llama-?4", 128256), (r"qwen", 151936), (r"gemma", 256000), (r"llama|mistral|mixtral|vicuna", 32000),
)  # fmt: skip
_USUAL_VOCABULARY = 50257

_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d{1,3})x)?(\d{1,4}(?:\.\d{1,4})?)([bm])(?![a-z0-9])")
_SHARED_BY_EXPERTS = 0.83
"""Mixtral 8x7B has 46.7e9 parameters, not 56e9: the experts share the attention (arXiv 2401.04088)."""


def _plain(name: str) -> str:
    return name.strip().rstrip("/").rsplit("/", 1)[-1].lower().replace("_", "-")


def _known(name: str, names: Sequence[str]) -> str | None:
    """The longest of `names` that stands as a word of its own in `name`."""
    plain = _plain(name)
    found = (known for known in names if re.search(rf"(?<![a-z0-9]){re.escape(known)}(?![a-z0-9])", plain))
    return max(found, key=len, default=None)


def parameter_count(name: str) -> int | None:
    """Parameters of the model that a name or a path means, or None: `7b`, `opt-350m`, `gpt2-xl`, `Mixtral-8x7B`."""
    if _plain(name).startswith("-"):  # a number below 0, or an option that took the place of a name
        return None
    if known := _known(name, tuple(_MODELS)):
        return round(_MODELS[known][0])
    if known := _known(name, tuple(_CONVOLUTIONS)):
        return round(_CONVOLUTIONS[known][0])
    sizes = _SIZE.findall(_plain(name))
    if not sizes:
        return None
    experts, number, unit = sizes[-1]
    each = float(number) * (1e9 if unit == "b" else 1e6)
    return round(each * (int(experts) * _SHARED_BY_EXPERTS if experts else 1)) or None


def is_convolutional(model: str) -> bool:
    """Whether it is an image model whose memory follows from its convolutions, not from a transformer's shape."""
    return _known(model, tuple(_CONVOLUTIONS)) is not None


def image_activations(model: str) -> float:
    """Elements that the convolutions of an image model put out for one image of 224 x 224; 0 for other models."""
    known = _known(model, tuple(_CONVOLUTIONS))
    return _CONVOLUTIONS[known][1] * 1e6 if known else 0.0


def usual_sequence(model: str) -> int:
    """Tokens that are assumed where a script's arguments do not say: what the model is trained with as published."""
    known = _known(model, tuple(_MODELS)) or ""
    return 197 if known.startswith("vit") else 512 if re.search("bert|t5", known) else 1024


def architecture(model: str, parameters: int) -> Architecture:
    """The transformer's shape: a known model's own, else interpolated (over the logarithm of the parameters)."""
    if known := _known(model, tuple(_MODELS)):
        return _MODELS[known][1]
    name = _plain(model)
    vocab = next((size for family, size in _VOCABULARIES if re.search(family, name)), _USUAL_VOCABULARY)
    at = bisect.bisect([point[0] for point in _POINTS], parameters)
    below, above = _POINTS[max(0, at - 1)], _POINTS[min(at, len(_POINTS) - 1)]
    if below is above:
        return Architecture(*below[1:], vocab)
    part = math.log(parameters / below[0]) / math.log(above[0] / below[0])
    layers, hidden, heads = (round(low * (high / low) ** part) for low, high in zip(below[1:], above[1:], strict=True))
    return Architecture(layers, hidden, heads, vocab)
