"""Draws the series of a job: each in a row, and curves."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from io import StringIO

import click
from rich.text import Text

from ugro.cli.output import print_hanging
from ugro.cli.render.grid import Column, Grid
from ugro.cli.render.plot import plot, short
from ugro.common.models.metrics import Axis
from ugro.common.text import clock, count, duration, printable
from ugro.service.schemas.metrics import MetricsDocument, SeriesDocument, TriedDocument
from ugro.service.words import progress_in_words


def series_grid(series: Iterable[SeriesDocument]) -> Grid:
    """One row per series."""
    made = Grid(
        Column("SERIES", 12),
        Column("LAST"),
        Column("MIN", leaves=2),
        Column("MAX", leaves=2),
        Column("POINTS", leaves=3),
        Column("UNIT", leaves=4),
        Column("FROM", leaves=1),
    )
    for one in series:
        values = [_last(one), *("-" if value is None else short(value) for value in (one.min, one.max))]
        bad = f" ({len(one.bad)} not a number)" if one.bad else ""
        made.add(printable(one.name), *values, f"{one.count}{bad}", printable(one.unit) or "-", one.source.value)
    return made


def _last(one: SeriesDocument) -> str:
    """The last value: the last point, where that is not a number."""
    if one.points and one.points[-1][1] is None and one.bad:
        return printable(one.bad[-1][1])
    return "-" if one.last is None else short(one.last)


def print_curve(one: SeriesDocument, axis: Axis, width: int, log: bool) -> None:
    """Print one curve, and what of it no curve shows."""
    unit = f" ({printable(one.unit)})" if one.unit else ""
    click.echo(f"{printable(one.name)}{unit} by {axis.value}")
    for line in plot(one.points, width, log, x_text=_texts(axis)) or ["no point to draw"]:
        click.echo(line)
    if one.bad:
        x, what = one.bad[0]
        click.secho(f"{what} at {axis.value} {_texts(axis)(x)}{', first' if len(one.bad) > 1 else ''}", fg="red")
    again = [part for part in one.segments if part.overwritten]
    for part in again:
        print_hanging("", f"attempt {part.attempt}: its last {count(part.overwritten, 'point')} computed again later")


def _texts(axis: Axis) -> Callable[[float], str]:
    return {Axis.STEP: short, Axis.TIME: clock, Axis.ELAPSED: duration}[axis]


def print_tried(tried: TriedDocument) -> None:
    """Print what a pattern reads, line by line."""
    for line in tried.lines:
        values = [f"{one.name}={one.bad or short(one.value or 0.0)}" for one in line.values]
        step = next((one.step for one in line.values), None)
        print_hanging(f"line {line.number}: ", printable(line.text))
        click.secho(f"    {'' if step is None else f'step {step}: '}{', '.join(map(printable, values))}", fg="green")
    click.echo(f"{tried.matched} of {count(tried.read, 'line')} {'matches' if tried.matched == 1 else 'match'}")


def as_csv(answer: MetricsDocument) -> str:
    """Return the points as CSV, one row each; what is no number is `nan`, `inf` or `-inf`."""
    out = StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("series", answer.x.value, "value"))
    for one in answer.series:
        bad = dict(one.bad)
        rows.writerows((one.name, f"{x:.15g}", bad.get(x, "nan") if y is None else repr(y)) for x, y in one.points)
    return out.getvalue()


def head(answer: MetricsDocument) -> Text | None:
    """Return how far the run is, in a line."""
    words = progress_in_words(answer.progress) if answer.progress else ""
    return Text(f"{answer.id}: {words}") if words else None
