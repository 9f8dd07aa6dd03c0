"""Prints how much memory a training takes, and what it fits."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from ugro.cli.output import console, table
from ugro.common.text import printable, size
from ugro.service.schemas.estimate import Estimated, Fit

FIT_WORDS: Mapping[Fit, Text] = {
    "fits": Text("fits", "green"),
    "tight": Text("tight", "yellow"),
    "does_not": Text("does not fit", "bold red"),
}


def print_estimate(estimated: Estimated) -> None:
    """Print the parts of the memory, their sum, the GPUs, and what would fit the smallest one."""
    out, answer = console(), estimated.answer
    predicted = answer.estimate
    if predicted.terms:
        terms = table("FOR", "MEMORY", "FROM")
        for term in predicted.terms:
            memory = size(term.mib) if term.mib >= 0 else f"-{size(-term.mib)}"
            terms.add_row(term.name, memory, Text(term.source, "dim"))
        out.print(terms)
        out.print()
    between = f" ({size(predicted.low_mib)} to {size(predicted.high_mib)})" if predicted.source != "vram" else ""
    out.print(f"about {size(predicted.mib)} on each GPU{between}, {estimated.detail}")
    if estimated.world_size is not None:
        gpus = f"{estimated.world_size} GPUs" if estimated.world_size > 1 else "1 GPU"
        out.print(f"for {gpus}; assumed: {', '.join(predicted.assumed) or 'nothing'}")
    out.print()
    fits = table("NODE", "GPU", "MEMORY", "", "BATCH THAT FITS")
    for card in answer.gpus:
        batch = "-" if card.batch is None else str(card.batch or "none")
        fits.add_row(card.node or "-", printable(card.name), size(card.memory_mib), FIT_WORDS[card.fit], batch)
    out.print(fits)
    if answer.alternatives:
        smallest = min(answer.gpus, key=lambda card: card.memory_mib)
        out.print(f"\nWhat would fit into {size(smallest.memory_mib)} ({printable(smallest.name)}):")
        for change in answer.alternatives:
            out.print(f"  {change.change}: about {size(change.mib)}")
