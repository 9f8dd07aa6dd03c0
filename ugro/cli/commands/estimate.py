"""`ugro estimate`: estimates the memory of a training on each GPU, and whether it fits."""

from __future__ import annotations

from typing import Any

import click

from ugro.cli.app import App, ScriptCommand, Whole, command, json_option
from ugro.cli.complete import complete_file
from ugro.cli.output import print_json
from ugro.cli.render.estimate import print_estimate
from ugro.common.errors import InputError
from ugro.common.models.workload import LARGEST, METHODS, OPTIMIZERS, PRECISIONS, SHARDINGS
from ugro.common.units import check_vram, parse_mib
from ugro.service.schemas.estimate import EstimateMemory
from ugro.service.submission import Training, read_training

EXAMPLES = """\b
Examples:
  ugro estimate --model llama-7b --method qlora --gradient-checkpointing
  ugro estimate train.py -- --model gpt2 --batch-size 8 --bf16

Nothing is started and no node is contacted. Options override arguments of the script."""


@command(cls=ScriptCommand, epilog=EXAMPLES)
@click.argument("script", required=False, shell_complete=complete_file)
@click.option("-m", "--module", is_flag=True, help="SCRIPT is a module, like `ugro launch -m`.")
@click.option("--no-python", is_flag=True, help="SCRIPT is a program, like `ugro launch --no-python`.")
@click.option("--model", metavar="NAME|SIZE", help="A model's name or size: llama-7b, gpt2-xl, resnet50, 1.3b.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="amp: fp32 weights under autocast.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="Optimizer.")
@click.option("--batch", type=Whole(1, LARGEST), metavar="N", help="Batch size per GPU.")
@click.option("--seq", type=Whole(1, LARGEST), metavar="N", help="Sequence length in tokens.")
@click.option("--method", type=click.Choice(METHODS), help="Fine-tuning method.")
@click.option("--sharding", type=click.Choice(SHARDINGS), help="How the model is divided among the GPUs.")
@click.option("--gradient-checkpointing", is_flag=True, help="Recompute activations instead of keeping them.")
@click.option(
    "--gpus", type=Whole(1, LARGEST), metavar="N", help="Total number of GPUs. Default: those of the cluster."
)
@click.option("--vram", metavar="SIZE", help="Memory that the training needs on each GPU, if known: 10G.")
@json_option
def estimate(
    app: App,
    script: str | None,
    module: bool,
    no_python: bool,
    gpus: int | None,
    vram: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Estimate whether a training fits into the GPUs' memory.

    Shows the memory on each GPU, whether it fits the GPUs of the cluster, and what would fit.
    """
    said = _vram(vram)
    args: tuple[str, ...] = click.get_current_context().meta["ugro.script_args"]
    training = Training(args) if script is None else read_training(script, args, module, no_python)
    estimated = app.call(
        EstimateMemory(
            arguments=(*training.args, *_as_arguments(options)),
            run=training.run,
            model=options["model"],
            gpus=gpus or training.gpus,
            vram=training.vram if said is None else said,
        )
    )
    if as_json:
        print_json(estimated.answer.as_json())
    else:
        print_estimate(estimated)


def _vram(said: str | None) -> int | None:
    try:
        return None if said is None else check_vram(parse_mib(said))
    except ValueError as error:
        raise InputError(f"--vram: found {said!r}: {error}") from None


def _as_arguments(options: dict[str, Any]) -> list[str]:
    """Return the command's own options as a script's arguments; standing last, they win."""
    words = []
    for key, value in options.items():
        if value not in (None, False):
            words.append(f"--{key.replace('_', '-')}={'true' if value is True else value}")
    return words
