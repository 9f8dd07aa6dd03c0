"""`ugro events`: what happened to a job or in the cluster, and when."""

from __future__ import annotations

import contextlib

import click

from ugro.cli.app import App, command, json_option, moment_option
from ugro.cli.complete import complete_job, complete_node
from ugro.cli.output import event_document, print_hanging, print_json
from ugro.cli.status import as_it_is, tell_unsettled
from ugro.common.errors import InputError
from ugro.common.text import clock, printable

SHOWN = 50


@command()
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--since", callback=moment_option, metavar="TIME", help="Only later ones: 2h (ago), 22:30, 2026-11-24.")
@click.option("--node", shell_complete=complete_node, help="Only of this node.")
@click.option("--all", "everything", is_flag=True, help=f"Without a JOB only the last {SHOWN} are shown.")
@json_option
def events(app: App, job: str | None, since: float | None, node: str | None, everything: bool, as_json: bool) -> None:
    """The timeline of JOB (id or name), or of the whole cluster: every change, its reason and time."""
    if node is not None:
        _require_known(app, node)
    timeline = app.store.timeline
    found = timeline.of_job(app.store.jobs.find(job).id) if job else timeline.of_cluster()
    found = [event for event in found if event.at >= (since or 0.0) and (node is None or event.node == node)]
    if not (job or everything or since):
        found = found[-SHOWN:]
    if as_json:
        print_json([event_document(event) for event in found])
        return
    for event in found:
        print_hanging(f"{clock(event.at)}  {event.job or event.node:<12} {event.kind:<10} ", event.message)
    if not found:
        click.echo("nothing happened yet", err=True)
    if job:
        record = app.store.jobs.find(job)
        tell_unsettled([record], [as_it_is(app, record)] if record.state.on_nodes else [])


def _require_known(app: App, node: str) -> None:
    """See that a node is in the inventory, or was when something was written down of it.

    Raises:
        InputError: it is neither.
    """
    known = dict.fromkeys(
        [*app.store.config.remembered_configs(), *(event.node for event in app.store.timeline.of_cluster())]
    )
    with contextlib.suppress(InputError):  # the timeline can be read without an inventory
        known = {**app.inventory.nodes, **known}
    if node not in known:
        names = ", ".join(printable(name) for name in known if name)
        hint = f"the nodes known are: {names}" if names else "nothing is known of any node yet"
        raise InputError(f"no node is called {printable(node)!r}", hint)
