"""`ugro events`: what happened to a job or in the cluster, and when."""

from __future__ import annotations

import click

from ugro.cli.app import App, command, json_option, moment_option
from ugro.cli.complete import complete_job, complete_node
from ugro.cli.output import print_hanging, print_json
from ugro.cli.render.attention import unsettled
from ugro.common.text import clock
from ugro.service.schemas.queries import LAST_EVENTS, Events
from ugro.service.words import kind_in_words


@command()
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--since", callback=moment_option, metavar="TIME", help="Only later events: 2h (ago), 22:30, 2026-11-24.")
@click.option("--node", shell_complete=complete_node, help="Only events of this node.")
@click.option("--all", "everything", is_flag=True, help=f"All events. Default without a JOB: the last {LAST_EVENTS}.")
@json_option
def events(app: App, job: str | None, since: float | None, node: str | None, everything: bool, as_json: bool) -> None:
    """Show the timeline of a job or of the cluster.

    JOB is an id or a name. Each event is shown with its time and reason.
    """
    shown = app.call(Events(job=job, since=since, node=node, everything=everything))
    if as_json:
        print_json([event.as_json() for event in shown.answer])
        return
    for event in shown.answer:
        kind = kind_in_words(event.kind)
        print_hanging(f"{clock(event.at)}  {event.job or event.node:<12} {kind:<10} ", event.message)
    if not shown.answer:
        click.echo("no events", err=True)
    if shown.job:
        unsettled(shown.recorded, [shown.job])
