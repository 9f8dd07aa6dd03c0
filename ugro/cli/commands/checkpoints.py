"""Commands about checkpoints: checkpoints, checkpoint."""

from __future__ import annotations

import click

from ugro.cli.app import App, command, duration_option, json_option
from ugro.cli.complete import complete_folder, complete_job
from ugro.cli.output import print_json, wide_option
from ugro.cli.render.checkpoints import checkpoints_grid, not_saved, silence_in_words
from ugro.cli.several import one_job
from ugro.common.text import printable
from ugro.service.schemas.checkpoints import Checkpoints, SaveCheckpoint
from ugro.service.words import saved_in_words, title

directory_option = click.option(
    "--checkpoints",
    "directory",
    metavar="DIR",
    shell_complete=complete_folder,
    help="Folder of the checkpoints, if the job did not name it.",
)


@command()
@click.argument("job", required=False, shell_complete=complete_job)
@directory_option
@click.option("--pull", is_flag=True, help="Copy the last complete checkpoint to this machine.")
@wide_option
@json_option
def checkpoints(app: App, job: str | None, directory: str | None, pull: bool, wide: bool, as_json: bool) -> None:
    """List a job's checkpoints on all nodes, complete or incomplete.

    JOB is an id or a name. Default: the job that was submitted last. Each checkpoint is shown with its step and size.
    """
    listed = app.call(Checkpoints(job=one_job(app, "checkpoints", job, as_json), directory=directory, pull=pull))
    if as_json:
        print_json([one.as_json() for one in listed.checkpoints])
    elif listed.checkpoints:
        checkpoints_grid(listed.checkpoints).print(wide)
    else:
        click.echo("no checkpoints were found")
    if listed.brought and not as_json:
        click.echo(f"copied to this machine: {printable(listed.brought)}")
    for error in listed.silent:
        click.echo(f"{printable(error.message)}: its checkpoints are missing here", err=True)
    for node, places in listed.passed.items():
        for place in places:
            click.echo(f"{node} did not search {printable(place)}", err=True)


@command()
@click.argument("job", shell_complete=complete_job)
@click.option("--wait", "patience", default="120", show_default=True, metavar="TIME", callback=duration_option,
              help="How long to wait for the checkpoint: 90, 10m.")  # fmt: skip
@click.option(
    "--checkpoints",
    "directory",
    metavar="DIR",
    shell_complete=complete_folder,
    help="Folder of the checkpoints, if the job did not name it.",
)
@json_option
def checkpoint(app: App, job: str, patience: float, directory: str | None, as_json: bool) -> None:
    """Ask a running job to save a checkpoint now.

    JOB is an id or a name. The command waits for a new complete checkpoint; the job keeps running in any case. Ranks
    that catch SIGUSR2 get it, and all get a file that UGRO_CHECKPOINT_REQUEST names.
    """
    job = one_job(app, "checkpoint", job, as_json)
    saved = app.call(SaveCheckpoint(job=job, patience=patience, directory=directory))
    answer = saved.answer
    if as_json:
        print_json(answer.as_json())
    else:
        for error in answer.errors:
            click.echo(f"{printable(error.message)}: the request did not reach it", err=True)
        if answer.checkpoint:
            click.echo(f"{title(saved.job)} saved {saved_in_words(answer.checkpoint, answer.seconds)}")
        else:
            click.echo("\n".join(silence_in_words(saved)), err=True)
    if answer.checkpoint is None:
        raise not_saved(saved)
