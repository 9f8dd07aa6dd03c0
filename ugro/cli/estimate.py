"""`ugro estimate`: what a training will take of each GPU's memory, whether that fits here, and what would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from ugro.cli.app import App, ScriptCommand, Whole, command, json_option
from ugro.cli.complete import complete_file
from ugro.cli.output import console, print_json, table
from ugro.common.config import inventory_path
from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec, load_job_spec
from ugro.common.text import printable, size
from ugro.common.units import check_vram, parse_mib
from ugro.control_plane.metadata_store.history import run_of
from ugro.control_plane.resource_manager.predictor.expectation import past_runs
from ugro.control_plane.resource_manager.predictor.fit import (
    Estimate,
    Fit,
    PastRun,
    Workload,
    alternatives,
    fit,
    fitting_batch,
    predict,
    read_workload,
)
from ugro.control_plane.resource_manager.predictor.known_models import parameter_count
from ugro.control_plane.resource_manager.predictor.workload import LARGEST, METHODS, OPTIMIZERS, PRECISIONS, SHARDINGS
from ugro.control_plane.scheduler.command import require_source

USUAL_GIB = (8, 12, 16, 24, 80)
"""Sizes of GPUs that are shown where no GPU of the cluster is known yet."""
FIT_WORDS = {
    Fit.FITS: Text("fits", "green"),
    Fit.TIGHT: Text("tight", "yellow"),
    Fit.DOES_NOT: Text("does not fit", "bold red"),
}
EXAMPLES = """\b
Examples:
  ugro estimate --model llama-7b --method qlora --batch 1 --gradient-checkpointing
  ugro estimate train.py -- --model gpt2 --batch-size 8 --bf16

Nothing is started and no node is asked. Options of the command win over the script's own arguments."""


@dataclass(frozen=True)
class Card:
    """A GPU that a job could get, and its memory in MiB; `node` and `gpu` (its UUID) are None for a usual size."""

    node: str | None
    gpu: str | None
    name: str
    memory_mib: int


@command(cls=ScriptCommand, epilog=EXAMPLES)
@click.argument("script", required=False, shell_complete=complete_file)
@click.option("-m", "--module", is_flag=True, help="SCRIPT is a module, as for `ugro launch`.")
@click.option("--no-python", is_flag=True, help="SCRIPT is a program, likewise.")
@click.option("--model", metavar="NAME|SIZE", help="A model's name or size: llama-7b, gpt2-xl, resnet50, 1.3b.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="amp: fp32 weights under autocast.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS))
@click.option("--batch", type=Whole(1, LARGEST), metavar="N", help="On each GPU.")
@click.option("--seq", type=Whole(1, LARGEST), metavar="N", help="Tokens of a sequence.")
@click.option("--method", type=click.Choice(METHODS))
@click.option("--sharding", type=click.Choice(SHARDINGS))
@click.option("--gradient-checkpointing", is_flag=True, help="Compute activations again instead of keeping them.")
@click.option("--gpus", type=Whole(1, LARGEST), metavar="N", help="All together. Default: those of the cluster.")
@click.option("--vram", metavar="SIZE", help="What it takes of each GPU, if you know: 10G.")
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
    """How much memory a training takes of each GPU, whether it fits the cluster's, and what would fit."""
    said = _vram(vram)
    args: tuple[str, ...] = click.get_current_context().meta["ugro.script_args"]
    if options["model"] is not None and parameter_count(options["model"]) is None:
        raise _unknown_size(options["model"])
    key = ""
    if script is not None:
        spec = _read_script(script, args, module, no_python)
        args, said, key = spec.args, spec.vram if said is None else said, run_of(spec)
    cards = _cards(app)
    count = gpus or sum(card.node is not None for card in cards) or 1
    workload = read_workload([*args, *_as_arguments(options)], count)
    history = past_runs(app.store)
    predicted = predict(said, key, history, workload)
    if predicted is None:
        raise _unknown_size(None)
    changes = _changes(predicted, workload, cards, count, history)
    if as_json:
        print_json(_document(predicted, workload, cards, history, changes))
    else:
        _print(predicted, workload, cards, history, changes)


def _unknown_size(model: str | None) -> InputError:
    where = "" if model is None else f" from {printable(model)!r}"
    hint = "say it: --model 7b, --model gpt2-medium; or what it takes of a GPU: --vram 10G"
    return InputError(f"the size of the model cannot be told{where}", hint)


def _vram(said: str | None) -> int | None:
    try:
        return None if said is None else check_vram(parse_mib(said))
    except ValueError as error:
        raise InputError(f"--vram: found {said!r}: {error}") from None


def _read_script(script: str, args: tuple[str, ...], module: bool, no_python: bool) -> JobSpec:
    """What would run with these arguments, from the command line or a job.yaml.

    Raises:
        InputError: it is not there.
    """
    if module or no_python or Path(script).suffix not in (".yaml", ".yml"):
        # Not checked as a job's: nothing is sent, so any path will do.
        spec, directory = JobSpec.model_construct(script=script, args=args, module=module, no_python=no_python), Path()
    else:
        spec = load_job_spec(Path(script))
        spec, directory = (
            spec.model_copy(update={"args": (*spec.args, *args)}),
            Path(script).parent / Path(spec.workdir).expanduser(),
        )
    require_source(directory, spec, start=("ugro", "estimate"))
    return spec


def _as_arguments(options: dict[str, Any]) -> list[str]:
    """The command's own options as a script's arguments; standing last, they win."""
    words = []
    for key, value in options.items():
        if value not in (None, False):
            words.append(f"--{key.replace('_', '-')}={'true' if value is True else value}")
    return words


def _cards(app: App) -> list[Card]:
    """The GPUs that the nodes spoke of last, without what is reserved on them; usual sizes if there are none."""
    chosen = click.get_current_context().find_root().obj
    found = []
    if chosen or inventory_path(None).exists():
        views = app.store.config.remembered_nodes()
        for name, node in app.inventory.nodes.items():
            view = views.get(name)
            for gpu in view.gpus if view else ():
                if gpu.memory_total_mib is not None and not gpu.problem and not gpu.mig:
                    memory = max(0, gpu.memory_total_mib - node.reserve_memory)
                    found.append(Card(name, gpu.uuid, gpu.name, memory))
    return found or [Card(None, None, f"a GPU of {gib} GiB", gib * 1024) for gib in USUAL_GIB]


def _changes(
    predicted: Estimate, workload: Workload | None, cards: Sequence[Card], gpus: int, history: Sequence[PastRun]
) -> list[tuple[str, Estimate]]:
    """What would fit the smallest GPU, where the training surely does not."""
    memory = _smallest(cards).memory_mib
    if workload is None or fit(predicted, memory) is Fit.FITS:
        return []
    return alternatives(workload, memory, gpus, history)


def _smallest(cards: Sequence[Card]) -> Card:
    return min(cards, key=lambda card: card.memory_mib)


def _batch(workload: Workload | None, card: Card, history: Sequence[PastRun]) -> int | None:
    return None if workload is None else fitting_batch(workload, card.memory_mib, history)


def _document(
    predicted: Estimate,
    workload: Workload | None,
    cards: Sequence[Card],
    history: Sequence[PastRun],
    changes: Sequence[tuple[str, Estimate]],
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "estimate": {
            "mib": predicted.mib,
            "low_mib": predicted.low_mib,
            "high_mib": predicted.high_mib,
            "source": predicted.source,
            "terms": [{"name": term.name, "mib": term.mib, "source": term.source} for term in predicted.terms],
            "assumed": list(workload.assumed) if workload and predicted.source == "model" else [],
        },
        "gpus": [
            {
                "node": card.node,
                "gpu": card.gpu,
                "name": card.name,
                "memory_mib": card.memory_mib,
                "fit": fit(predicted, card.memory_mib).value,
                "batch": _batch(workload, card, history),
            }
            for card in cards
        ],
        "alternatives": [{"change": words, "mib": other.mib} for words, other in changes],
    }


def _print(
    predicted: Estimate,
    workload: Workload | None,
    cards: Sequence[Card],
    history: Sequence[PastRun],
    changes: Sequence[tuple[str, Estimate]],
) -> None:
    out = console()
    if predicted.terms:
        terms = table("FOR", "MEMORY", "FROM")
        for term in predicted.terms:
            terms.add_row(
                term.name, size(term.mib) if term.mib >= 0 else f"-{size(-term.mib)}", Text(term.source, "dim")
            )
        out.print(terms)
        out.print()
    between = f" ({size(predicted.low_mib)} to {size(predicted.high_mib)})" if predicted.source != "vram" else ""
    out.print(f"about {size(predicted.mib)} on each GPU{between}, {predicted.detail}")
    if workload and predicted.source == "model":
        gpus = f"{workload.gpus} GPUs" if workload.gpus > 1 else "1 GPU"
        out.print(f"for {gpus}; assumed: {', '.join(workload.assumed) or 'nothing'}")
    out.print()
    fits = table("NODE", "GPU", "MEMORY", "", "BATCH THAT FITS")
    for card in cards:
        batch = _batch(workload, card, history)
        fits.add_row(
            card.node or "-",
            printable(card.name),
            size(card.memory_mib),
            FIT_WORDS[fit(predicted, card.memory_mib)],
            "-" if batch is None else str(batch or "none"),
        )
    out.print(fits)
    if changes:
        smallest = _smallest(cards)
        out.print(f"\nWhat would fit into {size(smallest.memory_mib)} ({printable(smallest.name)}):")
        for words, other in changes:
            out.print(f"  {words}: about {size(other.mib)}")
