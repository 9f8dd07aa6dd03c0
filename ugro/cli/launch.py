"""`ugro launch`, in its three forms."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ugro.cli.app import App, command, json_option
from ugro.cli.follow import follow, going_on
from ugro.cli.output import console, print_json, ranks_table, title
from ugro.common.config import JobSpec, job_spec, load_job_spec
from ugro.common.errors import InputError, JobFailed
from ugro.common.models import CodeVersion, Job, JobState
from ugro.common.text import printable, size
from ugro.control_plane.controller import Controller
from ugro.control_plane.scheduler import allocate, candidates, check_request, leases
from ugro.control_plane.submission import choose_code, submit
from ugro.nodes.code_sync import LARGE_BYTES, Selection
from ugro.nodes.log_streamer import LogReader
from ugro.nodes.pool import Pool

SLOW_SEND_SECONDS = 1.0
EXAMPLES = """\b
Examples:
  ugro launch train.py --nodes 2 -- --epochs 3 --lr 1e-4
  ugro launch job.yaml --follow
  ugro launch --model llama-7b --dataset wikitext --epochs 3 --name test-run-1

In the last form the options that UGRO does not know go, unchanged, to the `script` of the inventory's defaults."""


class LaunchCommand(click.Command):
    """Keeps what stands after `--` apart: it belongs to the script, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["ugro.script_args"] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[SCRIPT | JOB.YAML]", "[OPTIONS]", "[-- SCRIPT ARGUMENTS]"]


@command(
    cls=LaunchCommand,
    epilog=EXAMPLES,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.option("--nodes", metavar="N|NAMES", help="How many nodes, or which (comma-separated). Default: all.")
@click.option(
    "--gpus-per-node", type=click.IntRange(min=0), metavar="N", help="Default: all GPUs of a node; 0: a CPU rank."
)
@click.option("--name", help="What to call the job; works wherever its id does.")
@click.option("--follow", "following", is_flag=True, help="Show its logs until it has ended; exit code 1 if it failed.")
@click.option("--dry-run", is_flag=True, help="Print exactly what would run on each node, and start nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before a large folder is sent.")
@json_option
def launch(
    app: App, words: tuple[str, ...], following: bool, dry_run: bool, yes: bool, as_json: bool, **options: Any
) -> int:
    """Run a training on the cluster: a script, a job.yaml, or the inventory's default script.

    The working directory is copied as it is now and sent to every node, without what .gitignore and .ugroignore name.
    """
    if as_json and following:
        raise InputError("--json prints one document, so it does not go with --follow", "use: ugro wait JOB --json")
    script_args = click.get_current_context().meta["ugro.script_args"]
    spec = read_spec(app, words, tuple(script_args), options)
    if dry_run:
        _dry_run(app, spec, as_json)
        return 0
    job = _submit(app, spec, yes, quiet=as_json)
    with _CodeProgress() as progress, going_on(job):
        job = app.run(lambda controller, _: _start(app, controller, job), progress.update)
    if as_json:
        print_json({"id": job.id, "name": job.name, "state": job.state.value})
    else:
        _announce(job)
    if job.state == JobState.FAILED:
        raise JobFailed(f"{job.id} did not start: {job.reason}", f"see: ugro status {job.id}")
    return _follow(app, job) if following else 0


def read_spec(app: App, words: tuple[str, ...], script_args: tuple[str, ...], options: dict[str, Any]) -> JobSpec:
    """The job spec of any of the three forms; options on the command line win over the file.

    Raises:
        InputError, JobSpecError: with what is wrong and what is expected.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if words and not words[0].startswith("-"):
        first, *rest = words
        if rest:
            raise InputError(
                f"{printable(rest[0])!r} is not an option of `ugro launch`",
                f"what the script should get stands after --: ugro launch {shlex.quote(first)} -- {shlex.join(rest)}",
            )
        if Path(first).suffix in (".yaml", ".yml"):
            spec = load_job_spec(Path(first))
            workdir = str(Path(first).parent / spec.workdir)  # as the file says it, from where the file is
            return job_spec(**(spec.model_dump() | given | {"args": (*spec.args, *script_args), "workdir": workdir}))
        return job_spec(script=_relative(first), args=script_args, **given)
    script = app.inventory.script
    if not script:
        raise InputError(
            "no script is named", f"ugro launch train.py, or set defaults: script: in {app.inventory.path}"
        )
    return job_spec(script=_relative(script), args=(*words, *script_args), **given)


def _relative(script: str) -> str:
    """A script inside the working directory as a path from there; others are left for the spec to refuse."""
    path = Path(script)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else script


def _submit(app: App, spec: JobSpec, yes: bool, quiet: bool) -> Job:
    async def check(controller: Controller, _: Pool) -> None:
        check_request(spec, app.inventory, (await controller.observe([], candidates(spec, app.inventory))).views)

    selection = choose_code(spec)
    app.run(check)
    _ask_about_size(selection, yes)
    if selection.refused and not quiet:
        click.echo(f"not sent: {_refused_in_words(selection)}", err=True)
    return submit(app.store, spec, selection)


def _ask_about_size(selection: Selection, yes: bool) -> None:
    if selection.size_bytes <= LARGE_BYTES or yes:
        return
    largest = ", ".join(f"{printable(path)} ({size(count / 2**20)})" for path, count in selection.largest(3))
    click.echo(f"The working directory has {size(selection.size_bytes / 2**20)}; the largest: {largest}.", err=True)
    if not sys.stdin.isatty():
        raise InputError(
            f"the working directory has {size(selection.size_bytes / 2**20)} to send to every node",
            "keep data out with .ugroignore, or say --yes",
        )
    click.confirm("Send all of it to every node?", abort=True, err=True)


def _refused_in_words(selection: Selection) -> str:
    shown = [f"{printable(path)} ({reason})" for path, reason in list(selection.refused.items())[:3]]
    more = len(selection.refused) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


async def _start(app: App, controller: Controller, job: Job) -> Job:
    await app.tick(controller)
    return app.store.job(job.id)


def _announce(job: Job) -> None:
    state = f"{job.state.value}: {printable(job.reason)}" if job.reason else job.state.value
    where = f" on {', '.join(job.nodes)}" if job.nodes else ""
    click.echo(f"{title(job)} {state}{where}")
    if job.state == JobState.QUEUED:
        click.echo("  it starts when its turn comes, at the next `ugro sweep` or command that follows a job")
    if not job.state.ended:
        click.echo(f"  ugro logs -f {job.id}   ugro status {job.id}   ugro cancel {job.id}")


def _follow(app: App, job: Job) -> int:
    out = console()

    async def act(controller: Controller, _: Pool) -> Job:
        reader = LogReader(app.store.files(job.id).logs(job.attempt))
        return await follow(app, controller, job, reader, out)

    with going_on(job):
        ended = app.run(act)
    out.print()
    out.print(ranks_table(ended))
    if ended.state == JobState.SUCCEEDED:
        click.echo(f"{ended.id} succeeded")
        return 0
    raise JobFailed(f"{ended.id} {ended.state.value}: {ended.reason}", f"see: ugro status {ended.id}")


def _dry_run(app: App, spec: JobSpec, as_json: bool) -> None:
    choose_code(spec)
    draft = Job(
        id=app.store.next_id(),
        uid="dry-run",
        name=spec.name or "dry-run",
        submitted_at=time.time(),
        command=(spec.script, *spec.args),
        code=CodeVersion(directory=spec.workdir, files=0, size_bytes=0),
    )

    async def rehearse(controller: Controller, _: Pool) -> dict[str, str]:
        jobs = app.store.jobs()
        seen = await controller.observe(jobs)
        views = seen.views
        check_request(spec, app.inventory, views)
        held = leases([await controller.live(job, seen) for job in jobs])
        found = allocate(spec, app.inventory, views, held)
        if not found.placement:
            # What holds it up now would be waited for; the rest of the answer is the same on an idle cluster.
            click.echo(f"it would wait: {'; '.join(found.reasons)}", err=True)
            found = allocate(spec, app.inventory, views, {})
        return await controller.launcher.rehearse(draft.model_copy(update={"placement": found.placement}), spec)

    scripts = app.run(rehearse)
    if as_json:
        print_json([{"node": node, "launch_sh": text} for node, text in scripts.items()])
        return
    for node, text in scripts.items():
        click.secho(f"# --- {node}: nohup setsid sh ./launch.sh, with", bold=True)
        click.echo(printable_script(text))


def printable_script(text: str) -> str:
    """A script for the terminal, without escapes that arguments may carry."""
    return "\n".join(printable(line) for line in text.split("\n"))


class _CodeProgress:
    """A progress bar per node for code that takes more than a second to send, on a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=console(stderr=True), transient=True)
        self._tasks: dict[str, Any] = {}
        self._began = time.monotonic()

    def __enter__(self) -> _CodeProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tasks:
            self._progress.stop()

    def update(self, node: str, sent: int, total: int) -> None:
        if not self._progress.console.is_terminal or time.monotonic() - self._began < SLOW_SEND_SECONDS:
            return
        self._progress.start()
        if node not in self._tasks:
            self._tasks[node] = self._progress.add_task(f"code to {node}", total=total)
        self._progress.update(self._tasks[node], completed=sent, total=total)
