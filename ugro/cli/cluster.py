"""Commands about the machines: nodes, run, sweep."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence

import click

from ugro.cli.app import LOOK_WITHIN, App, command, json_option
from ugro.cli.complete import complete_drained, complete_node, nodes_option
from ugro.cli.listings import nodes_grid
from ugro.cli.output import (
    RANK_COLOURS,
    SHORT_UUID,
    console,
    event_document,
    node_documents,
    print_json,
    print_problems,
    table,
    wide_option,
)
from ugro.cli.several import Did, for_each, several
from ugro.common.errors import InputError, NodeError, StateLocked
from ugro.common.models.event import Event
from ugro.common.models.node import Drain
from ugro.common.text import one_line, printable
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.control_plane.resource_manager.governor import leases
from ugro.control_plane.resource_manager.observation import fresh_or_remembered
from ugro.control_plane.scheduler.queue import read_offers
from ugro.nodes import speed
from ugro.nodes.pool import Pool
from ugro.nodes.speed import MeasuredSpeed
from ugro.nodes.transport import Outcome, Transport

QUIET_KINDS = ("ranks", "placed")
"""Events that are told in a job's timeline and are no news of their own."""


@command()
@wide_option
@json_option
def nodes(app: App, wide: bool, as_json: bool) -> None:
    """The machines and their GPUs. What is not fresh is shown with its age."""
    seen = app.run(lambda controller, _: controller.observe([], within=LOOK_WITHIN))
    views, errors = fresh_or_remembered(app.store, seen)
    drains, cluster = app.store.drains(), app.cluster
    if as_json:
        print_json(node_documents(cluster, views, errors, drains))
    else:
        nodes_grid(cluster, views, errors, drains).print(wide)
    for error in errors.values():
        if error and error.hint and not as_json:
            click.echo(f"{error.node}: {error.hint}", err=True)
    if any(errors.values()) and not as_json:
        app.tell_inventory()


@command()
@several("NODE", complete_node)
@click.option("--reason", help="Why; it is shown wherever the node is.")
@json_option
def drain(app: App, names: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Give each NODE no new jobs. What runs there goes on."""
    if reason is None and not sys.stdin.isatty():
        again = f"ugro drain {shlex.join(names)} --reason 'new fan'"
        raise InputError("a reason is needed, for whoever wonders later", again)
    said = one_line(reason if reason is not None else click.prompt("Reason", err=True))
    if not said:
        raise InputError("the reason is empty")

    def one(name: str) -> Did:
        app.cluster.node(name)
        with app.store.lock():
            app.store.drain(Drain(node=name, reason=said, since=time.time()))
            running = [job.id for job in app.store.live(stop_where_held) if name in job.nodes and job.state.on_nodes]
        rest = f"; {', '.join(running)} goes on there" if running else ""
        words = f"{name} gets no new jobs{rest}. Take it back: ugro undrain {name}"
        return {"node": name, "drained": True, "reason": said, "running": running}, words

    return for_each(names, one, as_json)


@command()
@several("NODE", complete_drained)
@json_option
def undrain(app: App, names: tuple[str, ...], as_json: bool) -> int:
    """Give each NODE jobs again."""

    def one(name: str) -> Did:
        app.cluster.node(name)
        with app.store.lock():
            was = app.store.undrain(name)
        return {"node": name, "drained": False}, f"{name} gets jobs again" if was else f"{name} was not drained"

    return for_each(names, one, as_json)


@command()
@nodes_option
@json_option
def measure(app: App, names: str | None, as_json: bool) -> int:
    """Measure how fast each idle GPU trains, so that mixed GPUs can share a batch by speed.

    Jobs launched afterwards on GPUs that differ get UGRO_BATCH_SHARE and UGRO_GRADIENT_WEIGHT for each rank.
    """
    from ugro.cli.whence import is_sandbox  # here, since only this command of the module has a use for the sandbox

    chosen = [node.name for node in app.inventory.select(names)]
    if is_sandbox(app.inventory.path):
        raise InputError("the sandbox's GPUs are simulated: there is no speed to measure", "use your own inventory")

    async def act(controller: Controller, pool: Pool) -> dict[str, list[MeasuredSpeed] | NodeError]:
        views = (await controller.observe([], chosen)).views
        idle = read_offers(app.store, app.inventory, app.store.live(stop_where_held), views)
        held = leases(app.store.live(stop_where_held))

        async def one(transport: Transport) -> list[MeasuredSpeed]:
            offer = idle[transport.name]
            free = [slot.key for slot in offer.gpus if slot.key not in held and slot.key not in offer.busy]
            return await speed.measure(transport, free) if free else []

        return await pool.each(chosen, one)

    with console(stderr=True).status("measuring"):
        found = app.run(act)
    speeds = [(node, each) for node, answer in found.items() if not isinstance(answer, NodeError) for each in answer]
    with app.store.lock():
        for _, each in speeds:
            if each.uuid:
                app.store.remember_speed(each.uuid, each.name, each.steps_per_second)
    errors = [answer for answer in found.values() if isinstance(answer, NodeError)]
    if as_json:
        print_json([{"node": node, **each.model_dump()} for node, each in speeds])
    else:
        made = table("NODE", "GPU", "NAME", "STEPS/S")
        for node, each in speeds:
            made.add_row(node, (each.uuid or "cpu")[:SHORT_UUID], each.name, f"{each.steps_per_second:.1f}")
        if speeds or not errors:
            console().print(made if speeds else "no idle GPU")
    for error in errors:
        click.echo(printable(error.message), err=True)
    return max((error.exit_code for error in errors), default=0)


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
    print_problems(app.store.problems(), err=True)
    news = list(filter(is_news, app.store.bus.read(0).events))
    if as_json:
        print_json(changes_document(news))
        return
    for event in news:
        click.echo(news_line(event))


def is_news(event: Event) -> bool:
    """Whether a change is worth telling beside its job's timeline."""
    return event.kind not in QUIET_KINDS


def changes_document(news: Sequence[Event]) -> dict[str, object]:
    """The stable JSON form of what a tick changed."""
    return {"schema_version": 1, "changes": [event_document(event) for event in news]}


def news_line(event: Event) -> str:
    """One change in one line."""
    what = f"{event.job or event.node} {event.kind}".lstrip()
    return what + (f": {printable(event.message)}" if event.message else "")


@command(context_settings={"ignore_unknown_options": False})
@nodes_option
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
