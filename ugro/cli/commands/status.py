"""`ugro status`: the cluster and its jobs, or one job in detail."""

from __future__ import annotations

from typing import Any

import click

from ugro.cli.app import App, command, json_option, moment_option
from ugro.cli.complete import complete_job
from ugro.cli.output import print_hanging, print_json, wide_option
from ugro.cli.render.attention import tell_proposed, unattended, unsettled
from ugro.cli.render.jobs import attempts_grid, print_job
from ugro.cli.render.listings import jobs_grid, nodes_grid
from ugro.common.models.job import JobState
from ugro.common.text import printable
from ugro.service.schemas.queries import ShowJob, Status


@command()
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--all", "everything", is_flag=True, help="All jobs, not only the last ones that ended.")
@click.option(
    "--since", callback=moment_option, metavar="TIME", help="Jobs submitted since: 2h (ago), 22:30, 2026-11-24."
)
@click.option("--state", "states", multiple=True, type=click.Choice([state.value for state in JobState]),
              help="Jobs in this state.")  # fmt: skip
@click.option("--name", "pattern", metavar="PATTERN", help="Jobs with a name like this: 'test-*'.")
@wide_option
@json_option
def status(app: App, job: str | None, wide: bool, as_json: bool, **wanted: Any) -> None:
    """Show the cluster and its jobs, or one job in detail.

    JOB is an id or a name. An unreachable node is shown with its last observation. Nothing is changed.
    """
    if job is None:
        _cluster_status(app, Status(**wanted), wide, as_json)
        return
    shown = app.call(ShowJob(job=job))
    found = shown.answer
    if as_json:
        print_json(found.as_json())
        return
    print_job(found, shown.folders)
    if found.past:
        click.echo()
        attempts_grid(found).print()
    unsettled({found.id: shown.recorded}, [found])
    tell_proposed(shown.proposed)
    if told := unattended(app, [found]):
        print_hanging("", told, dim=True)


def _cluster_status(app: App, request: Status, wide: bool, as_json: bool) -> None:
    shown = app.call(request)
    answer = shown.answer
    if as_json:
        print_json(answer.as_json())
        return
    nodes_grid(answer.nodes, shown.twins).print(wide)
    click.echo()
    if answer.jobs:
        jobs_grid(answer.jobs).print(wide)
    else:
        click.echo("no such jobs" if shown.ever else "no jobs yet: `ugro launch` submits one")
    for broken in answer.unreadable:
        hint = f"; {broken.error.hint}" if broken.error.hint else ""
        print_hanging("", f"{broken.id} is unreadable: {broken.error.message}{hint}", fg="red")
    for problem in answer.problems:
        print_hanging("", f"{problem.message} ({problem.hint})", fg="red")
    if any(node.error for node in answer.nodes):
        app.tell_inventory()
    unsettled(shown.recorded, answer.jobs)
    tell_proposed(shown.proposed)
    if not answer.attended and (told := unattended(app, answer.jobs)):
        print_hanging("", printable(told), dim=True)
