"""Commands about files: ls, pull, push."""

from __future__ import annotations

import click

from ugro.cli.app import App, Whole, attempt_option, command, json_option
from ugro.cli.complete import complete_file, complete_folder, complete_job, complete_node
from ugro.cli.output import print_json
from ugro.cli.render.files import failure_of, failure_of_push, print_listing, pull_in_lines, push_in_lines
from ugro.service.schemas.files import ListFiles, Pull, Push

node_option = click.option("--node", metavar="NODE", shell_complete=complete_node, help="Only this node.")


@command()
@click.argument("job", shell_complete=complete_job)
@click.argument("path", required=False, default="")
@click.option("--depth", type=Whole(min=1, max=64), default=1, show_default=True, metavar="N",
              help="Levels of folders to show.")  # fmt: skip
@node_option
@attempt_option
@json_option
def ls(app: App, job: str, path: str, depth: int, node: str | None, attempt: int | None, as_json: bool) -> int:
    """List the files of a job on its nodes.

    JOB is an id or a name. PATH is below the folder in which the script runs. Nodes that share a disk are listed once.
    Links are shown and not followed. Exit code 3: a node is unreachable; the others are listed.
    """
    found = app.call(ListFiles(job=job, path=path, depth=depth, node=node, attempt=attempt))
    if as_json:
        print_json(found.as_json())
    else:
        print_listing(found)
    return 3 if found.silent else 0


@command()
@click.argument("job", shell_complete=complete_job)
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--to", metavar="DIR", shell_complete=complete_folder,
              help="Folder on this machine. Default: one named by the job's id, here.")  # fmt: skip
@node_option
@attempt_option
@json_option
def pull(
    app: App, job: str, paths: tuple[str, ...], to: str | None, node: str | None, attempt: int | None, as_json: bool
) -> int:
    """Copy files of a job from its nodes to this machine.

    JOB is an id or a name. PATH is a file, a folder or a glob below the folder in which the script runs: 'out/**'.
    Default: the outputs that the job declares. Every file's SHA-256 sum is compared. A file that is here is not copied
    again, one that differs is replaced, and an interrupted copy continues. What nodes have with different content goes
    to a folder for each node. A new folder is left out of the code of later jobs, by a .ugroignore in it.
    """
    came = app.call(Pull(job=job, paths=paths, to=to, node=node, attempt=attempt))
    if as_json:
        print_json(came.answer.as_json())
    else:
        for line in pull_in_lines(came.answer):
            click.echo(line)
    if came.exit_code:
        raise failure_of(came)
    return 0


@command()
@click.argument("path", shell_complete=complete_file)
@click.argument("node", shell_complete=complete_node)
@click.option("--to", metavar="DIR", help="Folder on the node that takes it. Default: data in the node's base_dir.")
@json_option
def push(app: App, path: str, node: str, to: str | None, as_json: bool) -> int:
    """Copy a file or folder of this machine to a node.

    NODE is a name, or `all`: then to all nodes at the same time, and once where nodes share a disk. Every file's
    SHA-256 sum is compared. A file that is there is not sent again, one that differs is replaced, and an interrupted
    copy continues. Links are not followed.
    """
    went = app.call(Push(path=path, node=node, to=to))
    if as_json:
        print_json(went.answer.as_json())
    else:
        for line in push_in_lines(went.answer):
            click.echo(line)
    if went.exit_code:
        raise failure_of_push(went)
    return 0
