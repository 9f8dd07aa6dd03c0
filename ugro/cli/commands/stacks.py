"""`ugro stacks`: shows each rank's stack trace."""

from __future__ import annotations

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.output import print_json
from ugro.cli.render.stacks import print_rank
from ugro.cli.several import one_job
from ugro.common.text import clock, printable
from ugro.service.schemas.stacks import Stacks
from ugro.service.words import state_in_words


@command(name="stacks")
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--rank", type=Whole(min=0), help="Only this rank.")
@json_option
def stacks_(app: App, job: str | None, rank: int | None, as_json: bool) -> int:
    """Show each rank's stack trace.

    JOB is the id or name of a running job, or of one that ended after a hang: then the stack traces of the hang are
    shown. Default: the job that was submitted last. Python stacks need py-spy, on the node or here, and permission to
    trace. Otherwise the kernel's state of each thread is shown. Nothing is paused or changed.
    """
    found = app.call(Stacks(job=one_job(app, "stacks", job, as_json), rank=rank))
    answer = found.answer
    if as_json:
        print_json(answer.as_json())
        return found.exit_code
    if answer.at is not None:
        click.echo(f"{state_in_words(found.job)}; stack traces of {clock(answer.at)}, when the hang was found:")
    for one in answer.ranks:
        print_rank(one)
    if answer.nccl:
        click.secho("NCCL says", bold=True)
    for line in (answer.nccl or "").splitlines():
        click.echo(f"  {printable(line)}")
    for error in answer.errors:
        click.echo(printable(error.message), err=True)
    return found.exit_code
