"""`ugro launch`, in its three forms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from ugro.cli.announce import (
    CodeProgress,
    announce,
    expectation_document,
    expected_start,
    going_on,
    selection_document,
    tell_going_on,
    tell_what_stays,
)
from ugro.cli.app import App, ScriptCommand, Whole, command, json_option
from ugro.cli.complete import complete_file, complete_folder, complete_jobs_listed, complete_nodes
from ugro.cli.consent import Consent
from ugro.cli.launch_spec import line_so_far, read_spec
from ugro.cli.output import console, end_in_words, print_json, ranks_table
from ugro.common.errors import InputError, JobFailed
from ugro.common.fields import without_effect
from ugro.common.job_spec import PRIORITIES, JobSpec
from ugro.common.models.job import CodeVersion, Job, JobState
from ugro.common.text import exactly, printable
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.control_plane.resource_manager.predictor.expectation import expect_memory
from ugro.control_plane.scheduler.allocator import candidates
from ugro.control_plane.scheduler.forecast import Forecast
from ugro.control_plane.scheduler.queue import read_offers, read_queue
from ugro.control_plane.scheduler.scheduling import check_request, placement_of, placement_when_idle, why
from ugro.control_plane.scheduler.submission import choose_code, namesake, submit
from ugro.nodes.code_sync import Selection
from ugro.nodes.pool import Pool

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
@click.option("--gpus-per-node", type=Whole(min=0), metavar="N", help="Default: all GPUs of a node; 0: one CPU rank.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable of every rank's environment.")
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
    start = line_so_far(click.get_current_context())
    spec = read_spec(app, words, script_args, options, start)
    if dry_run:
        _tell_times(spec)
        _dry_run(app, spec, as_json, start)
        return 0
    note = _note_on_name(app, spec)
    if note and not as_json:
        click.echo(f"note: {note}", err=True)
    selection = choose_code(spec, start=start)
    if not as_json:
        _tell_times(spec)
        _tell_of_env(app, spec)
        tell_what_stays(selection)
    consent = Consent(yes, takeover)
    with CodeProgress() as progress:

        async def act(controller: Controller, pool: Pool) -> Job:
            job = await _submit_and_start(app, controller, pool, spec, selection, consent)
            submitted.append(job)
            return job

        submitted: list[Job] = []
        try:
            job = app.run(act, progress.update)
        except KeyboardInterrupt:  # while other jobs are waited for
            for job in submitted:
                tell_going_on(job)
            raise
    if as_json:
        expected = expected_start(app, job) or Forecast(None, "")
        document = {"id": job.id, "name": job.name, "state": job.state.value, "note": note, "attended": app.attended()}
        print_json(document | expectation_document(expected) | selection_document(selection))
    else:
        announce(app, job, following)
    if job.state == JobState.FAILED:
        raise JobFailed(f"{job.id} did not start: {job.reason}", f"why, and how to go on: ugro explain {job.id}")
    return _follow(app, job) if following else 0


async def _submit_and_start(
    app: App, controller: Controller, pool: Pool, spec: JobSpec, selection: Selection, consent: Consent
) -> Job:
    """Submit a job that the cluster can run and the person agrees to; the tick after it starts what fits."""
    views = (await controller.observe([], candidates(spec, app.inventory))).views
    await consent.to_own(app.store.config.master(), pool, views)
    found = read_offers(app.store, app.inventory, app.store.jobs.live(stop_where_held), views)
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


def _tell_of_env(app: App, spec: JobSpec) -> None:
    """Say which variables of the inventory a rank will not find as they stand there."""
    for name in candidates(spec, app.inventory):
        for variable, reason in without_effect(app.inventory.nodes[name].env, spec.gpus_per_node != 0).items():
            click.echo(f"note: {variable} in the env of {name} ({app.inventory.path}): {reason}", err=True)


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
    from ugro.nodes.remote.logs.log_streamer import LogReader

    out = console()

    async def act(controller: Controller, _: Pool) -> Job:
        reader = LogReader(app.store.jobs.files(job.id).logs(job.attempt))
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
    raise JobFailed(end_in_words(ended), f"why, and how to go on: ugro explain {ended.id}")


def _dry_run(app: App, spec: JobSpec, as_json: bool, start: Sequence[str]) -> None:
    tell_what_stays(choose_code(spec, start=start))
    draft = Job(
        id=app.store.jobs.next_id(),
        uid="dry-run",
        name=spec.name or "dry-run",
        submitted_at=time.time(),
        command=spec.command,
        code=CodeVersion(directory=spec.workdir, files=0, size_bytes=0),
    )

    async def rehearse(controller: Controller, _: Pool) -> dict[str, str]:
        jobs = app.store.jobs.live(stop_where_held)
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
