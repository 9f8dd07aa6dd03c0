"""`ugro launch`, in its three forms."""

from __future__ import annotations

import difflib
import shlex
import time
from pathlib import Path
from typing import Any

import click

from ugro.cli.announce import (
    CodeProgress,
    announce,
    expectation_document,
    expected_start,
    going_on,
    selection_document,
    tell_what_stays,
)
from ugro.cli.app import App, ScriptCommand, Whole, command, json_option
from ugro.cli.complete import complete_file, complete_folder, complete_jobs_listed, complete_nodes
from ugro.cli.consent import Consent
from ugro.cli.output import console, end_in_words, print_json, ranks_table
from ugro.common.errors import InputError, JobFailed, JobSpecError
from ugro.common.job_spec import OPTIONS, PRIORITIES, JobSpec, job_spec, load_job_spec
from ugro.common.models import CodeVersion, Job, JobState
from ugro.common.text import exactly, printable
from ugro.common.units import parse_duration
from ugro.control_plane.command import interpreter_hint
from ugro.control_plane.controller import Controller
from ugro.control_plane.failure_handler.aftermath import once_mended
from ugro.control_plane.forecast import Forecast
from ugro.control_plane.memory import expect_memory
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.control_plane.queue import read_offers, read_queue
from ugro.control_plane.resource_manager.balancer import candidates
from ugro.control_plane.scheduler import check_request, placement_of, placement_when_idle, why
from ugro.control_plane.submission import choose_code, namesake, submit
from ugro.nodes.code_sync import Selection
from ugro.nodes.pool import Pool

ALIKE = 0.7
"""How alike a word and an option are, of 1, for the option to be what was meant."""

EXAMPLES = """\b
Examples:
  ugro launch train.py --nodes 2 -- --epochs 3 --lr 1e-4
  ugro launch -m pkg.train -- --epochs 3
  ugro launch --no-python ./train.sh -- 3
  ugro launch job.yaml --follow
  ugro launch --model llama-7b --dataset wikitext --epochs 3 --name test-run-1

In the last form the options that UGRO does not know go, unchanged, to the `script` of the inventory's defaults."""


@command(
    cls=ScriptCommand,
    epilog=EXAMPLES,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_file)
@click.option("-m", "--module", is_flag=True, default=None, help="SCRIPT is a module, as for torchrun: pkg.train.")
@click.option(
    "--no-python", is_flag=True, default=None, help="SCRIPT is a program: ./train.sh, or one in the nodes' PATH."
)
@click.option(
    "--nodes",
    shell_complete=complete_nodes,
    metavar="N|NAMES",
    help="How many nodes, or which (comma-separated). Default: all.",
)
@click.option("--gpus-per-node", type=Whole(min=0), metavar="N", help="Default: all GPUs of a node; 0: a CPU rank.")
@click.option("--name", help="What to call the job; works wherever its id does.")
@click.option(
    "--vram",
    metavar="SIZE",
    help="Only GPUs with so much memory: 10G. Each of its nodes has to give that.",
)
@click.option("--priority", type=Whole(*PRIORITIES), help="Higher starts sooner; 0 is usual.")
@click.option("--hold", is_flag=True, default=None, help="Submit it held: it waits for `ugro release`.")
@click.option(
    "--after",
    multiple=True,
    shell_complete=complete_jobs_listed,
    metavar="JOB[:any],…",
    help="Start when JOB has succeeded (:failure failed, :any ended).",
)
@click.option("--not-before", metavar="TIME", help="Do not start earlier: +2h, 22:30, 2026-11-24T22:30.")
@click.option(
    "--time",
    "time_limit",
    metavar="TIME",
    help="End it after so long: 90m, 1h30m, or as in Slurm: 90 (minutes), 1:30:00, 1-12. Lets shorter jobs go ahead.",
)
@click.option(
    "--time-warning", metavar="TIME", help="SIGUSR2 so long before. Default: a tenth of the time, at most 5m."
)
@click.option("--grace", metavar="TIME", help="What it leaves running when it succeeds may go on for so long: 10m.")
@click.option(
    "--on-failure", multiple=True, metavar="[CAUSE=]ask|retry|fail", help="Propose and wait, try again, or neither."
)
@click.option(
    "--checkpoints",
    metavar="DIR",
    shell_complete=complete_folder,
    help="Where the script saves, if not in its own folder.",
)
@click.option("--resume-with", metavar="WORDS", help="How it is told to go on: '--resume_from_checkpoint {path}'.")
@click.option("--follow", "following", is_flag=True, help="Show its logs until it has ended; exit code 1 if it failed.")
@click.option("--dry-run", is_flag=True, help="Print exactly what would run on each node, and start nothing.")
@click.option("--yes", is_flag=True, help="Do not ask: about a large folder, or memory that may not be enough.")
@click.option("--takeover", is_flag=True, help="Take over nodes that another master runs.")
@json_option
def launch(
    app: App,
    words: tuple[str, ...],
    following: bool,
    dry_run: bool,
    yes: bool,
    takeover: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Run a training on the cluster: a script, a module, a program, a job.yaml, or the inventory's default script.

    The working directory is copied as it is now and sent to every node, without what .gitignore and .ugroignore name.
    """
    if as_json and following:
        raise InputError("--json prints one document, so it does not go with --follow", "use: ugro wait JOB --json")
    script_args = click.get_current_context().meta["ugro.script_args"]
    spec = read_spec(app, words, script_args, options)
    if dry_run:
        _tell_times(spec)
        _dry_run(app, spec, as_json)
        return 0
    note = _note_on_name(app, spec)
    if note and not as_json:
        click.echo(f"note: {note}", err=True)
    selection = choose_code(spec)
    if not as_json:
        _tell_times(spec)
        tell_what_stays(selection)
    consent = Consent(yes, takeover)
    with CodeProgress() as progress:

        async def act(controller: Controller, pool: Pool) -> Job:
            return await _submit_and_start(app, controller, pool, spec, selection, consent)

        job = app.run(act, progress.update)
    if as_json:
        expected = expected_start(app, job) or Forecast(None, "")
        document = {"id": job.id, "name": job.name, "state": job.state.value, "note": note, "attended": app.attended()}
        print_json(document | expectation_document(expected) | selection_document(selection))
    else:
        announce(app, job, following)
    if job.state == JobState.FAILED:
        raise JobFailed(f"{job.id} did not start: {job.reason}", f"see: ugro status {job.id}")
    return _follow(app, job) if following else 0


def read_spec(app: App, words: tuple[str, ...], script_args: tuple[str, ...], options: dict[str, Any]) -> JobSpec:
    """The job spec of any of the three forms; options on the command line win over the file.

    Raises:
        InputError, JobSpecError: with what is wrong and what is expected.
    """
    given = {key: value for key, value in options.items() if value not in (None, ())}
    rules = {key: given.pop(name) for name, key in (("checkpoints", "dir"), ("resume_with", "resume")) if name in given}
    given |= {key: _span(key, given[key]) for key in ("time_limit", "time_warning", "grace") if key in given}
    if "after" in given:
        given["after"] = tuple(_by_id(app, word.strip()) for words in given["after"] for word in words.split(","))
    if words and not words[0].startswith("-"):
        first, *rest = words
        how = "-m " if given.get("module") else "--no-python " if given.get("no_python") else ""
        if rest:
            hint = "" if how else interpreter_hint(Path(), (*words, *script_args))
            raise InputError(
                f"{printable(rest[0])!r} is not an option of `ugro launch`",
                hint
                or f"{_meant(rest[0])}what the script should get stands after --: "
                f"ugro launch {how}{shlex.quote(first)} -- {shlex.join(rest)}",
            )
        if Path(first).suffix in (".yaml", ".yml") and not how:
            spec = load_job_spec(Path(first))
            given = {"after": tuple(_by_id(app, word) for word in spec.after)} | given
            workdir = str(Path(first).parent / spec.workdir)  # as the file says it, from where the file is
            if rules:
                given["checkpoints"] = spec.checkpoints.model_dump() | rules
            return job_spec(**(spec.model_dump() | given | {"args": (*spec.args, *script_args), "workdir": workdir}))
        script = first if given.get("module") else _relative(first)
        if given.get("no_python") and script != first:
            script = f"./{script}"  # a name alone would be looked for in PATH
        return job_spec(script=script, args=script_args, checkpoints=rules or None, **given)
    if "module" in given or "no_python" in given:
        raise InputError("no module or program is named", "name it: ugro launch -m pkg.train")
    default = app.inventory.script
    if not default:
        raise InputError(
            "no script is named", f"ugro launch train.py, or set defaults: script: in {app.inventory.path}"
        )
    return job_spec(script=_relative(default), args=(*words, *script_args), checkpoints=rules or None, **given)


def _span(key: str, text: str) -> float:
    """Seconds of a duration on the command line, where a bare number counts minutes, as in Slurm.

    Raises:
        JobSpecError: it is none.
    """
    try:
        return parse_duration(text, bare="m")
    except ValueError as error:
        raise JobSpecError(f"--{OPTIONS.get(key, key).replace('_', '-')}: found {text!r}: {error}") from None


def _meant(word: str) -> str:
    """The option of `ugro launch` that somebody mistyped, as a question; nothing where none is like it."""
    options = [name for param in launch.params for name in param.opts if name.startswith("--")]
    near = difflib.get_close_matches(word.partition("=")[0], options, 1, ALIKE) if word.startswith("--") else []
    return f"did you mean {near[0]}? Else " if near else ""


def _relative(script: str) -> str:
    """A script inside the working directory as a path from there; others are left for the spec to refuse."""
    path = Path(script)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else script


def _by_id(app: App, dependency: str) -> str:
    """A dependency with the id of its job, which stays the same when another job gets the name."""
    name, colon, when = dependency.partition(":")
    return f"{app.store.find(name).id}{colon}{when}"


async def _submit_and_start(
    app: App, controller: Controller, pool: Pool, spec: JobSpec, selection: Selection, consent: Consent
) -> Job:
    """Submit a job that the cluster can run and the person agrees to; the tick after it starts what fits."""
    views = (await controller.observe([], candidates(spec, app.inventory))).views
    await consent.to_own(app.store.master(), pool, views)
    found = read_offers(app.store, app.inventory, app.store.live(stop_where_held), views)
    check_request(spec, app.inventory, found)
    consent.to_send(selection)
    predicted = consent.to_fit(spec, expect_memory(app.store, spec, found))
    job = submit(app.store, spec, selection, predicted)
    with going_on(job):
        return await app.started(controller, job.id)


def _tell_times(spec: JobSpec) -> None:
    """Say beside the output how the durations were understood that somebody gave."""
    said = {"time limit": spec.time_limit, "warned before": spec.time_warning, "grace": spec.grace}
    words = [f"{name} {exactly(seconds)}" for name, seconds in said.items() if seconds is not None]
    if words:
        click.echo(", ".join(words), err=True)


def _note_on_name(app: App, spec: JobSpec) -> str | None:
    """A name stands for the newest job that has it, so a second one takes it away from the first."""
    first = namesake(app.store, spec)
    if first is None:
        return None
    return f"there is a job named {first.name} already ({first.id}, {first.state.value}); use its ID to mean that one"


def _follow(app: App, job: Job) -> int:
    # Here, so that a launch without it starts sooner.
    from ugro.cli.follow import follow
    from ugro.cli.proposals import offer
    from ugro.nodes.log_streamer import LogReader

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
    if again := offer(app, ended):
        return _follow(app, again)
    raise JobFailed(end_in_words(ended), f"see: ugro status {ended.id}{once_mended(ended)}")


def _dry_run(app: App, spec: JobSpec, as_json: bool) -> None:
    tell_what_stays(choose_code(spec))
    draft = Job(
        id=app.store.next_id(),
        uid="dry-run",
        name=spec.name or "dry-run",
        submitted_at=time.time(),
        command=spec.command,
        code=CodeVersion(directory=spec.workdir, files=0, size_bytes=0),
    )

    async def rehearse(controller: Controller, _: Pool) -> dict[str, str]:
        jobs = app.store.live(stop_where_held)
        seen = await controller.observe(jobs)
        live = [await controller.live(job, seen) for job in jobs]
        check_request(spec, app.inventory, read_offers(app.store, app.inventory, live, seen.views))
        queue = read_queue(app.store, app.cluster, live, seen.views, seen.at).with_draft(draft, spec)
        if not (placement := placement_of(queue, draft.id)):
            # What holds it up now would be waited for; the rest of the answer is the same on an idle cluster.
            placement = placement_when_idle(queue, spec)
            click.echo(f"it would wait: {'; '.join(why(queue, draft.id))}", err=True)
        return await controller.launcher.rehearse(draft.model_copy(update={"placement": placement}), spec)

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
