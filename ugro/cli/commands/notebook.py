"""`ugro notebook`: starts Jupyter as a job, or connects to one that runs."""

from __future__ import annotations

import shlex
import sys
from contextlib import closing
from typing import Any

import click

from ugro.cli.app import App, ScriptCommand, Whole, command, json_option
from ugro.cli.commands.launch import line_so_far
from ugro.cli.complete import complete_job, complete_node
from ugro.cli.launch_options import environment_options, identity_options
from ugro.cli.link import browser_option, show_link
from ugro.cli.output import print_commands, print_hanging, print_json
from ugro.cli.prompts import answers
from ugro.cli.render.code import tell_what_stays
from ugro.cli.several import one_job
from ugro.common.errors import EXIT_OK, InputError, JobFailed
from ugro.common.models.job_state import JobState
from ugro.common.text import printable
from ugro.service.code import read_code
from ugro.service.notebook import NOTEBOOKS, notebook_spec
from ugro.service.schemas.code import SEND
from ugro.service.schemas.ending import Wait
from ugro.service.schemas.entry import Forward
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.launch import FIT, DraftLaunch, Launch, PlanLaunch
from ugro.service.schemas.notebook import FindNotebook, NotebookLink, NotebookServer
from ugro.service.words import end_in_words

HIGHEST_PORT = 65535


class _NotebookCommand(ScriptCommand):
    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[JOB]", "[OPTIONS]", "[-- JUPYTER ARGUMENTS]"]


@command(cls=_NotebookCommand)
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--node", metavar="NODE", shell_complete=complete_node, help="On this node. Default: one with room.")
@click.option("--gpus", type=Whole(min=0), metavar="N", help="GPUs, all of one node. Default: 1; 0: none.")
@click.option("--share", is_flag=False, flag_value="vram", metavar="[FRACTION]",
              help="Share one GPU with other jobs: 0.5 of it, or the memory that --vram says.")  # fmt: skip
@click.option("--vram", metavar="SIZE", help="Minimum memory of each GPU: 10G.")
@click.option("--time", "time_limit", metavar="TIME", help="Time limit: 4h. Default: none.")
@environment_options
@identity_options
@click.option("--port", type=Whole(min=0, max=HIGHEST_PORT), default=0, metavar="LOCAL",
              help="Port of this machine. Default: a free one.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask about large folders or a memory shortfall.")
@browser_option
@json_option
def notebook(app: App, job: str | None, port: int, yes: bool, no_browser: bool, as_json: bool, **options: Any) -> int:
    """Start a Jupyter notebook on a node's GPU, or connect to one that runs.

    Without JOB, a job is submitted that runs JupyterLab, Jupyter Notebook or Jupyter Server, whichever the node's
    python has. The working directory is sent as by `ugro launch`, and its copy on the node is what you edit. Once the
    job runs, a port of this machine leads to it, and the link with its token is printed. Ctrl-C ends the connection;
    the job continues until `ugro cancel`. With JOB, connect to one again.
    """
    jupyter = click.get_current_context().meta["ugro.script_args"]
    if job is None:
        submitted = _submit(app, options, jupyter, yes, as_json)
        reference = submitted.id
    else:
        given = [name for name, value in options.items() if value not in (None, ())]
        if given or jupyter:
            raise InputError(f"{printable(job)} has its options from its start", "leave out all but the JOB and --port")
        reference = one_job(app, "notebook", job, as_json)
    server = _until_it_serves(app, reference, as_json)
    return _connect(app, server, port, no_browser, as_json)


def _submit(app: App, options: dict[str, Any], jupyter: tuple[str, ...], yes: bool, as_json: bool) -> JobDocument:
    """Submit the job of a notebook."""
    options["nodes"] = options.pop("node") or 1
    gpus = options.pop("gpus")
    options["gpus_per_node"] = gpus if gpus is not None else None if options["share"] else 1
    read = notebook_spec(options, jupyter)
    if read.note and not as_json:
        click.echo(read.note, err=True)
    draft = app.call(DraftLaunch(spec=read.spec))
    code = app.bring(read_code(draft.spec, line_so_far(click.get_current_context())))
    if not as_json:
        tell_what_stays(code)
    plan = app.call(PlanLaunch(spec=draft.spec, code=code))
    given = {SEND: True, FIT: True} if yes else {}
    asked = [question for question in plan.questions if question.id not in given]
    job = app.call(Launch(plan=plan, answers=given | answers(asked)))
    if not as_json:
        print_hanging("", f"Notebook submitted (ID: {job.id})", err=True)
    return job


def _until_it_serves(app: App, reference: str, as_json: bool) -> NotebookServer:
    """Wait until the server of a job can be reached; say what it waits for.

    Raises:
        JobFailed: it ended instead.
    """
    job, told, python = "", "", "PYTHON"
    try:
        with closing(app.stream(Wait(job=reference))) as updates:
            for seen in updates:
                if seen.job.state.ended and job == seen.job.id:
                    break
                job = seen.job.id
                server = app.call(FindNotebook(job=job))
                python = server.python or python
                if server.port is not None:
                    return server
                words = f"{job} is {seen.job.state.value}"
                words += f": {printable(seen.job.reason)}" if seen.job.reason else ""
                words += ", Jupyter is starting" if seen.job.state == JobState.RUNNING else ""
                if words != told and not as_json:
                    print_hanging("", words, err=True, dim=True)
                told = words
    except KeyboardInterrupt:
        click.echo(err=True)
        job = job or reference
        print_hanging(
            "", f"{job} stays. Connect once it runs: ugro notebook {job}. End it: ugro cancel {job}", err=True
        )
        raise
    ended = seen.job
    hint = f"for the cause: ugro explain {job}"
    if ended.nodes and ended.state == JobState.FAILED:
        install = f"ugro run --on {ended.nodes[0]} -- {shlex.quote(python)} -m pip install jupyterlab"
        hint += f"; if Jupyter is missing there: {install}"
    raise JobFailed(f"{end_in_words(ended)}; it serves no notebook", hint)


def _connect(app: App, server: NotebookServer, port: int, no_browser: bool, as_json: bool) -> int:
    """Lead a port of this machine to the server until Ctrl-C."""
    assert server.node is not None and server.port is not None
    request = Forward(target=server.id, node=server.node, local_port=port, remote_port=server.port)
    try:
        for one in app.stream(request):
            url = f"http://127.0.0.1:{one.local_port}{server.path}"
            if as_json:
                link = NotebookLink(id=server.id, node=server.node, local_port=one.local_port,
                                    remote_port=server.port, url=url)  # fmt: skip
                print_json(link.as_json())
                sys.stdout.flush()
                continue
            click.echo(
                f"{server.id} serves notebooks on {server.node}; Ctrl-C ends the connection, not the job", err=True
            )
            token = f"?token={server.token.get_secret_value()}" if server.token else ""
            show_link(f"{url}{token}", no_browser)
            sys.stdout.flush()
    except KeyboardInterrupt:  # the way to end it
        click.echo(err=True)
    if not as_json:
        click.echo(f"{server.id} continues on {server.node}. To connect again, copy its notebooks, end it:")
        print_commands(f"ugro notebook {server.id}", f"ugro pull {server.id} '{NOTEBOOKS}'", f"ugro cancel {server.id}")
    return EXIT_OK
