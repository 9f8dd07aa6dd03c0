"""`ugro status SWEEP`: the jobs of a sweep with their values, and the best of them."""

from __future__ import annotations

import click

from ugro.cli.output import print_hanging, print_json
from ugro.cli.render.sweeps import sweep_grid, sweep_in_words, values_in_words
from ugro.service.schemas.sweeps import SweepDocument


def print_sweep(sweep: SweepDocument, quiet: bool, wide: bool, as_json: bool) -> bool:
    """Print a sweep; return whether it may still change."""
    if as_json:
        print_json(sweep.as_json())
    elif quiet:
        for job in sweep.jobs:
            click.echo(job.id)
    else:
        print_hanging("", sweep_in_words(sweep))
        click.echo()
        sweep_grid(sweep).print(wide)
        if best := next((job for job in sweep.jobs if job.id == sweep.best), None):
            extreme = "highest" if sweep.highest else "lowest"
            print_hanging("", f"{extreme} {sweep.metric}: {best.metric:.6g} of {best.id} ({values_in_words(best)})")
    return not all(job.state.ended for job in sweep.jobs)
