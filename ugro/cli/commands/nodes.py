"""Commands about nodes: nodes, drain, undrain, measure, run, sweep."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import complete_drained, complete_node, nodes_option
from ugro.cli.output import (
    RANK_COLOURS,
    SHORT_UUID,
    console,
    print_json,
    print_problems,
    table,
    wide_option,
)
from ugro.cli.prompts import typed
from ugro.cli.render.listings import nodes_grid
from ugro.cli.render.news import news_line
from ugro.cli.several import Did, for_each, several
from ugro.common.errors import EXIT_INPUT, EXIT_OK, InputError
from ugro.common.text import one_line, printable, some, without_name
from ugro.service.schemas.maintenance import (
    CommandEnd,
    CommandOutput,
    DrainNode,
    Measure,
    RunCommand,
    SelectNodes,
    Sweep,
    UndrainNode,
)
from ugro.service.schemas.queries import Nodes


@command()
@wide_option
@json_option
def nodes(app: App, wide: bool, as_json: bool) -> None:
    """Show the nodes and their GPUs.

    Observations that are not recent are shown with their age.
    """
    shown = app.call(Nodes())
    if as_json:
        print_json([node.as_json() for node in shown.answer])
        return
    nodes_grid(shown.answer, shown.twins).print(wide)
    for node in shown.answer:
        if node.error and node.error.hint:
            click.echo(f"{node.name}: {node.error.hint}", err=True)
    if any(node.error for node in shown.answer):
        app.tell_inventory()


@command()
@several("NODE", complete_node)
@click.option("--reason", help="Why; shown wherever the node is.")
@json_option
def drain(app: App, names: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Drain a node: start no new jobs on it.

    Running jobs continue. `ugro undrain` ends the drain.
    """
    if reason is None and not sys.stdin.isatty():
        again = f"ugro drain {shlex.join(names)} --reason 'new fan'"
        raise InputError("a reason is required (--reason); others will see it", again)
    said = one_line(reason if reason is not None else typed("Reason", f"{some(names)} was not drained"))
    if not said:
        raise InputError("the reason is empty")

    def one(name: str) -> Did:
        drained = app.call(DrainNode(node=name, reason=said))
        rest = f"; {', '.join(drained.running)} keeps running there" if drained.running else ""
        return drained.as_json(), f"{name} gets no new jobs{rest}. To undo: ugro undrain {name}"

    return for_each(names, one, as_json)


@command()
@several("NODE", complete_drained)
@json_option
def undrain(app: App, names: tuple[str, ...], as_json: bool) -> int:
    """Undrain a node: start jobs on it again."""

    def one(name: str) -> Did:
        done = app.call(UndrainNode(node=name))
        return done.answer.as_json(), f"{name} gets jobs again" if done.was_drained else f"{name} was not drained"

    return for_each(names, one, as_json)


@command()
@nodes_option
@json_option
def measure(app: App, names: str | None, as_json: bool) -> int:
    """Measure how fast each idle GPU trains.

    With the speeds, mixed GPUs can divide a batch. Ranks of later jobs on GPUs of different speeds get
    UGRO_BATCH_SHARE and UGRO_GRADIENT_WEIGHT.
    """
    with console(stderr=True).status("measuring"):
        found = app.call(Measure(nodes=names))
    if as_json:
        print_json([speed.as_json() for speed in found.answer])
    else:
        made = table("NODE", "GPU", "NAME", "STEPS/S")
        for each in found.answer:
            made.add_row(each.node, (each.uuid or "cpu")[:SHORT_UUID], each.name, f"{each.steps_per_second:.1f}")
        if found.answer or not found.errors:
            console().print(made if found.answer else "no idle GPU")
    for error in found.errors:
        click.echo(printable(error.message), err=True)
    return found.exit_code


@command()
@click.option(
    "--textfile",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write ugro.prom there, for the textfile collector of Prometheus's node_exporter.",
)
@json_option
def sweep(app: App, textfile: Path | None, as_json: bool) -> int:
    """Run one scheduling pass, for cron.

    Observes all nodes and takes the next step for every job. Prints only changes. Runs over values of an argument are
    another sweep: ugro launch --sweep.
    """
    swept = app.call(Sweep(textfile=str(textfile.absolute()) if textfile else None))
    if swept.busy:
        click.echo(f"nothing to do: {swept.busy}", err=True)
    print_problems(swept.problems, err=True)
    if as_json:
        print_json(swept.answer.as_json())
    else:
        for event in swept.answer.changes:
            click.echo(news_line(event))
    print_problems([swept.untold] if swept.untold else [], err=True)
    return EXIT_INPUT if swept.untold else EXIT_OK


@command(context_settings={"ignore_unknown_options": False})
@nodes_option
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARG]...")
@json_option
def run(app: App, names: str | None, words: tuple[str, ...], as_json: bool) -> int:
    """Run a command on every node.

    Several words are passed literally. A single word is a line for /bin/sh: ugro run -- 'nvidia-smi | head -3'
    The command has nothing on its stdin.

    Exit code: the worst of all nodes; 3 for an unreachable node.
    """
    chosen = app.call(SelectNodes(nodes=names)).names
    width = max(map(len, chosen))
    lines = {
        name: _LinePrinter(click.style(name.ljust(width) + " | ", fg=RANK_COLOURS[number % len(RANK_COLOURS)]))
        for number, name in enumerate(chosen)
    }
    ended = list[CommandEnd]()
    try:
        for item in app.stream(RunCommand(nodes=names, words=words, live=not as_json)):
            if isinstance(item, CommandOutput):
                lines[item.node].take(item.stream, item.data)
            else:
                ended.append(item)
    finally:
        for printer in lines.values():
            printer.finish()
    if as_json:
        print_json([one.answer.as_json() for one in ended])
    for one in ended:
        if (error := one.answer.error) and not as_json:
            prefix = click.style(one.answer.node.ljust(width) + " | ", fg="red")
            click.echo(prefix + printable(without_name(error.message, one.answer.node)), err=True)
    return max(one.worst for one in ended)


class _LinePrinter:
    """Prints whole lines with a node's prefix as they come."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._partial = {"stdout": b"", "stderr": b""}

    def take(self, stream: str, data: bytes) -> None:
        *lines, self._partial[stream] = (self._partial[stream] + data).split(b"\n")
        for line in lines:
            self._print(stream, line)

    def finish(self) -> None:
        for stream, rest in self._partial.items():
            if rest:
                self._print(stream, rest)

    def _print(self, stream: str, line: bytes) -> None:
        click.echo(self._prefix + printable(line.decode("utf-8", "replace")), err=stream == "stderr")
