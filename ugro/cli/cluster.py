"""Commands about the machines: nodes, run, sweep."""

from __future__ import annotations

import click

from ugro.cli.app import LOOK_WITHIN, App, command, json_option
from ugro.cli.jobs import fresh_or_remembered
from ugro.cli.output import RANK_COLOURS, console, node_document, nodes_table, print_json
from ugro.common.errors import InputError, NodeError, StateLocked
from ugro.common.text import printable
from ugro.control_plane.controller import Controller
from ugro.nodes.pool import Pool
from ugro.nodes.transport import Outcome, Transport

QUIET_KINDS = ("ranks", "placed")
"""Events that are told in a job's timeline and are no news of their own."""


@command()
@json_option
def nodes(app: App, as_json: bool) -> None:
    """The machines and their GPUs. What is not fresh is shown with its age."""
    seen = app.run(lambda controller, _: controller.observe([], within=LOOK_WITHIN))
    views, errors = fresh_or_remembered(app, seen)
    if as_json:
        print_json([node_document(name, app.inventory, views[name], errors[name]) for name in app.inventory.nodes])
    else:
        console().print(nodes_table(app.inventory, views, errors))
    for error in errors.values():
        if error and error.hint and not as_json:
            click.echo(f"{error.node}: {error.hint}", err=True)


@command()
@json_option
def sweep(app: App, as_json: bool) -> None:
    """One look at the cluster and the next step for every job. Quiet unless something changed, for cron."""

    async def act(controller: Controller, _: Pool) -> None:
        try:
            await app.tick(controller, patience=0)
        except StateLocked as error:
            click.echo(f"nothing to do: {error.message}", err=True)

    app.run(act)
    news = [event for event in app.store.changes if event.kind not in QUIET_KINDS]
    if as_json:
        print_json({"schema_version": 1, "changes": [event.model_dump(mode="json") for event in news]})
        return
    for event in news:
        click.echo(f"{event.job} {event.kind}" + (f": {printable(event.message)}" if event.message else ""))


@command(context_settings={"ignore_unknown_options": False})
@click.option("--on", "names", metavar="NODES", help="Comma-separated. Default: all nodes.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARG]...")
@json_option
def run(app: App, names: str | None, words: tuple[str, ...], as_json: bool) -> int:
    """Run the same command on every node; the exit code is the worst of theirs (3 for a node that is not reached).

    Several words are passed literally; a single word is a line for /bin/sh: ugro run -- 'nvidia-smi | head -3'
    """
    chosen = [node.name for node in app.inventory.select(names)]
    if not words[0]:
        raise InputError("the command is empty")
    script, args = (words[0], ()) if len(words) == 1 else ('exec "$@"', words)
    width = max(map(len, chosen))

    async def act(_: Controller, pool: Pool) -> dict[str, Outcome | NodeError]:
        async def one(transport: Transport) -> Outcome:
            if as_json:
                return await transport.run(script, args, timeout=None)
            colour = RANK_COLOURS[chosen.index(transport.name) % len(RANK_COLOURS)]
            lines = _LinePrinter(click.style(transport.name.ljust(width) + " | ", fg=colour))
            try:
                return await transport.run(script, args, timeout=None, on_output=lines.take)
            finally:
                lines.finish()

        return await pool.each(chosen, one)

    outcomes = app.run(act)
    if as_json:
        print_json([_outcome_document(name, outcome) for name, outcome in outcomes.items()])
    for name, outcome in outcomes.items():
        if isinstance(outcome, NodeError) and not as_json:
            click.echo(f"{click.style(name.ljust(width) + ' | ', fg='red')}{printable(outcome.message)}", err=True)
    return max(_exit_code(outcome) for outcome in outcomes.values())


def _exit_code(outcome: Outcome | NodeError) -> int:
    if isinstance(outcome, NodeError):
        return outcome.exit_code
    return outcome.status if outcome.status >= 0 else 128 - outcome.status


def _outcome_document(name: str, outcome: Outcome | NodeError) -> dict[str, object]:
    if isinstance(outcome, NodeError):
        return {"node": name, "exit_code": None, "stdout": "", "stderr": "", "error": outcome.as_dict()}
    return {
        "node": name,
        "exit_code": _exit_code(outcome),
        "stdout": outcome.text,
        "stderr": outcome.stderr.decode("utf-8", "replace"),
        "truncated": outcome.truncated,
        "error": None,
    }


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
