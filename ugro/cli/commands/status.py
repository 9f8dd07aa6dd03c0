"""`ugro status`: the cluster and its jobs, or one job in detail."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import click

from ugro.cli.app import App, command, json_option, moment_option
from ugro.cli.complete import complete_job
from ugro.cli.output import print_hanging, print_json, quiet_option, wide_option
from ugro.cli.render.attention import tell_proposed, unattended, unsettled
from ugro.cli.render.jobs import attempts_grid, print_job
from ugro.cli.render.listings import jobs_grid, nodes_grid
from ugro.cli.several import JobChoice, choose, one_job
from ugro.cli.terminal import is_dumb
from ugro.common.errors import InputError
from ugro.common.job_names import SWEEP_ID
from ugro.common.models.job_state import JobState
from ugro.common.text import count, printable
from ugro.service.schemas.queries import ClusterStatus, JobStatus, ShowJob, Status


@command()
@click.argument("names", nargs=-1, metavar="[JOB]...", shell_complete=complete_job)
@click.option("--all", "everything", is_flag=True, help="All jobs, not only the last ones that ended.")
@click.option(
    "--since", callback=moment_option, metavar="TIME", help="Jobs submitted since: 2h (ago), 22:30, 2026-11-24."
)
@click.option("--state", "states", multiple=True, type=click.Choice([state.value for state in JobState]),
              help="Jobs in this state.")  # fmt: skip
@click.option("--name", "pattern", metavar="PATTERN", help="Jobs with a name like this: 'test-*'.")
@click.option("--metric", metavar="SERIES", help="Compare the jobs of a sweep by this series.")
@click.option("--highest/--lowest", default=None, help="Which value is the best. Default: as its name suggests.")
@click.option("-w", "--watch", is_flag=True, help="Draw it again as it changes, until Ctrl-C.")
@quiet_option
@wide_option
@json_option
def status(
    app: App,
    names: tuple[str, ...],
    metric: str | None,
    highest: bool | None,
    watch: bool,
    states: tuple[str, ...],
    quiet: bool,
    wide: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Show the cluster and its jobs, or one job in detail.

    JOB is an id or a name; a pattern like 'lr-*', and several JOBs, are shown as a list. A sweep (sweep-012) is shown
    with the values of its jobs and the best of them. An unreachable node is shown with its last observation. Nothing
    is changed.
    """
    choice = JobChoice(names, False, (), True)
    sweep = names[0] if len(names) == 1 and SWEEP_ID.fullmatch(names[0]) else None
    if (metric is not None or highest is not None) and sweep is None:
        raise InputError(
            "--metric, --highest and --lowest compare the jobs of a sweep", "name it: ugro status sweep-012"
        )
    if sweep:
        # here, as below, since few have a use for it
        from ugro.cli.commands.sweep_status import print_sweep
        from ugro.service.schemas.sweeps import CompareSweep

        of_sweep = CompareSweep(sweep=sweep, metric=metric, highest=highest)

        def show() -> bool:
            return print_sweep(app.call(of_sweep), quiet, wide, as_json)

    elif len(names) == 1 and choice.is_one:
        job = one_job(app, "status", names[0], as_json or quiet)

        def show() -> bool:
            return _job_status(app.call(ShowJob(job=job)), app, quiet, as_json)

    else:
        ids = tuple(choose(app, "status", choice, as_json).checked()) if names else ()
        request = Status(ids=ids, states=tuple(map(JobState, states)), **wanted)

        together = not (names or states or any(wanted.values()))

        def show() -> bool:
            return _cluster_status(app, app.call(request), quiet, wide, as_json, together)

    if watch:
        _watch(app, show, quiet or as_json)
    else:
        show()


def _watch(app: App, show: Callable[[], bool], for_programs: bool) -> None:
    """Draw something again with every change of the cluster, until Ctrl-C or until it is over."""
    if for_programs or is_dumb() or not sys.stdout.isatty():
        raise InputError("--watch draws on a terminal", "without one, watch a job: ugro wait JOB, ugro logs -f JOB")
    from ugro.cli.render.frames import frames

    over = False

    def once() -> None:
        nonlocal over
        over = not show()

    try:
        with frames() as draw:
            for _ in _changes(app):
                draw(once, f"{datetime.now():%H:%M:%S}  (Ctrl-C ends this view)")
                if over:
                    return
    except KeyboardInterrupt:
        return


def _changes(app: App) -> Iterator[object]:
    from ugro.service.schemas.live import Watch

    with closing(app.stream(Watch())) as updates:
        yield from updates


def _job_status(shown: JobStatus, app: App, quiet: bool, as_json: bool) -> bool:
    """Print one job; return whether it may still change."""
    found = shown.answer
    if as_json:
        print_json(found.as_json())
        return True
    if quiet:
        click.echo(found.id)
        return True
    print_job(found, shown.folders)
    if found.past:
        click.echo()
        attempts_grid(found).print()
    unsettled({found.id: shown.recorded}, [found])
    tell_proposed(shown.proposed)
    if told := unattended(app, [found]):
        print_hanging("", told, dim=True)
    return not found.state.ended


def _cluster_status(app: App, shown: ClusterStatus, quiet: bool, wide: bool, as_json: bool, together: bool) -> bool:
    """Print the cluster, `together` with one row for each sweep; it may always change."""
    answer = shown.answer
    if as_json:
        print_json(answer.as_json())
        return True
    if quiet:
        for job in answer.jobs:
            click.echo(job.id)
        return True
    nodes_grid(answer.nodes, shown.twins).print(wide)
    click.echo()
    if answer.jobs:
        jobs_grid(answer.jobs, together).print(wide)
        if shown.older:
            click.echo(f"{count(shown.older, 'older job')}: ugro status --all")
    else:
        click.echo("no such jobs" if shown.ever else "no jobs yet: `ugro launch` submits one")
    for broken in answer.unreadable:
        hint = f"; {broken.error.hint}" if broken.error.hint else ""
        print_hanging("", f"{broken.id} is unreadable: {broken.error.message}{hint}", fg="red")
    for problem in answer.problems:
        print_hanging("", f"{problem.message} ({problem.hint})", fg="red")
    if shown.no_dashboard:
        print_hanging("", f"no dashboard: {shown.no_dashboard}; see: ugro dashboard", fg="yellow")
    if any(node.error for node in answer.nodes):
        app.tell_inventory()
    unsettled(shown.recorded, answer.jobs)
    tell_proposed(shown.proposed)
    if not answer.attended and (told := unattended(app, answer.jobs)):
        print_hanging("", printable(told), dim=True)
    return True
