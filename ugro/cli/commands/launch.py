"""`ugro launch`, in its three forms."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import click

from ugro.cli.app import App, ScriptCommand, command, json_option
from ugro.cli.complete import complete_file
from ugro.cli.launch_options import spec_options, submission_options
from ugro.cli.output import console, print_commands, print_hanging, print_json, quiet_option
from ugro.cli.prompts import answers
from ugro.cli.render.attention import unattended
from ugro.cli.render.code import tell_what_stays
from ugro.cli.render.jobs import ranks_table
from ugro.cli.render.starting import announce, going_on
from ugro.cli.render.sweeps import sweep_in_words
from ugro.common.errors import InputError, JobFailed
from ugro.common.job_spec import JobSpec
from ugro.common.models.job_state import JobState
from ugro.common.text import exactly, printable
from ugro.service.code import read_code
from ugro.service.schemas.code import SEND
from ugro.service.schemas.launch import (
    FIT,
    TAKE_OVER,
    DefaultScript,
    Draft,
    DraftLaunch,
    Launch,
    LaunchDocument,
    LaunchPlan,
    LaunchSweep,
    PlanLaunch,
    Rehearse,
)
from ugro.service.schemas.logs import Follow
from ugro.service.schemas.queries import Attended
from ugro.service.schemas.starting import AwaitStart, Started
from ugro.service.schemas.sweeps import CompareSweep
from ugro.service.submission import LaunchLine, read_spec
from ugro.service.words import end_in_words

EXAMPLES = """\b
Examples:
  ugro launch train.py --nodes 2 -- --epochs 3 --lr 1e-4
  ugro launch -m pkg.train -- --epochs 3
  ugro launch --no-python ./train.sh -- 3
  ugro launch --launcher accelerate train.py --nodes 2
  ugro launch -- bash train.sh 3
  ugro launch job.yaml --follow
  ugro launch --model llama-7b --dataset wikitext --epochs 3 --name test-run-1

In the last form, options that UGRO does not know are passed unchanged to the default `script` of the inventory."""


class _LaunchCommand(ScriptCommand):
    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx)[:-1], "[-- SCRIPT ARGUMENTS | -- COMMAND]"]


@command(
    cls=_LaunchCommand,
    epilog=EXAMPLES,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_file)
@spec_options
@submission_options
@click.option("--no-project", is_flag=True, help="Ignore ugro.toml and [tool.ugro] of pyproject.toml.")
@click.option("--dry-run", is_flag=True, help="Print what would run on each node, and start nothing.")
@quiet_option
@json_option
def launch(
    app: App,
    words: tuple[str, ...],
    following: bool,
    no_project: bool,
    dry_run: bool,
    yes: bool,
    takeover: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Run a training: a script, a job.yaml, a plain command, or the default script.

    SCRIPT can also be a module (-m) or a program (--no-python). Without one, a COMMAND after -- runs as it is typed,
    once, on one node. Without that too, the default script of the inventory runs. The working directory is copied as
    it is now and sent to every node, without files that .gitignore or .ugroignore exclude.
    """
    refuse_following(following, quiet, as_json)
    context = click.get_current_context()
    start, known = line_so_far(context), [name for param in context.command.params for name in param.opts]
    long = [name for name in known if name.startswith("--")]
    said = LaunchLine(words, context.meta["ugro.script_args"], options, start, long)
    read = read_spec(said, lambda: app.call(DefaultScript()), not no_project)
    if read.note and not (as_json or quiet):
        click.echo(read.note, err=True)
    draft = app.call(DraftLaunch(spec=read.spec))
    if read.spec.nodes is None and draft.spec.nodes == 1 and not (as_json or quiet):
        click.echo("note: it runs once, on one node; for more: --nodes N", err=True)
    if draft.spec.sweep and following:
        raise InputError(
            "a sweep is several jobs, and none of them is followed", "leave out --follow, then: ugro wait SWEEP"
        )
    if dry_run:
        _tell_times(draft.spec)
        _dry_run(app, draft.spec, as_json, start)
        return 0
    if draft.note and not (as_json or quiet):
        click.echo(f"note: {draft.note}", err=True)
    code = app.bring(read_code(draft.spec, start))
    if not (as_json or quiet):
        _tell_times(draft.spec)
        _tell_of_env(draft)
        tell_what_stays(code)
    plan = app.call(PlanLaunch(spec=draft.spec, code=code))
    if draft.spec.sweep:
        return _sweep(app, plan, yes, takeover, quiet, as_json)
    started = _carry_out(app, plan, yes, takeover)
    job = started.job
    if as_json:
        print_json(LaunchDocument.of(plan, started, app.call(Attended()).attended).as_json())
    elif quiet:
        click.echo(job.id)
    else:
        announce(app, started, following)
    if job.state == JobState.FAILED:
        raise JobFailed(
            f"{job.id} did not start: {job.reason}", f"for the cause and how to resume: ugro explain {job.id}"
        )
    return follow_to_end(app, job.id) if following else 0


def _answers(plan: LaunchPlan, yes: bool, takeover: bool) -> dict[str, bool]:
    """Answer a plan; `yes` answers the questions about size and memory, `takeover` the one about masters."""
    asked = [question for question in plan.questions if not (yes and question.id == SEND)]
    given = ({SEND: True, FIT: True} if yes else {}) | ({TAKE_OVER: True} if takeover else {})
    return given | answers(asked, given)


def _sweep(app: App, plan: LaunchPlan, yes: bool, takeover: bool, quiet: bool, as_json: bool) -> int:
    """Launch the jobs of a sweep as planned."""
    given = _answers(plan, yes, takeover)
    try:
        sweep = app.call(LaunchSweep(plan=plan, answers=given))
    except KeyboardInterrupt:
        print_hanging("", "interrupted while the jobs of the sweep were submitted: `ugro status` shows which are", True)
        raise
    started = app.call(AwaitStart(job=sweep.jobs[0].id))
    sweep = app.call(CompareSweep(sweep=sweep.id))
    if as_json:
        print_json(sweep.as_json())
    elif quiet:
        click.echo(sweep.id)
    else:
        print_hanging("", sweep_in_words(sweep))
        print_commands(f"ugro status {sweep.id}", f"ugro wait {sweep.id}", f"ugro cancel {sweep.id}")
        if told := unattended(app, [started.job]):
            print_hanging("  ", told)
    return 0


def _carry_out(app: App, plan: LaunchPlan, yes: bool, takeover: bool) -> Started:
    """Launch as planned."""
    submitted = app.call(Launch(plan=plan, answers=_answers(plan, yes, takeover)))
    with going_on(submitted):
        return app.call(AwaitStart(job=submitted.id))


def refuse_following(following: bool, quiet: bool, as_json: bool) -> None:
    """Refuse to follow a job where one document or one line is asked for.

    Raises:
        InputError: both are asked for.
    """
    if following and as_json:
        raise InputError("--json prints one document and cannot be combined with --follow", "use: ugro wait JOB --json")
    if following and quiet:
        raise InputError("--quiet prints the id alone and cannot be combined with --follow", "use: ugro logs -f JOB")


def line_so_far(ctx: click.Context) -> list[str]:
    """Return the command with the options that were given, as words: what a better command line begins with.

    How a script is run is left out: that is part of what may be wrong.
    """
    groups = [ctx.find_root(), ctx]
    words = []
    for group in groups:
        words.append(group.info_name or "")
        for param in group.command.params:
            name = param.name or ""
            given = group.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
            if not given or not isinstance(param, click.Option) or name in ("module", "no_python"):
                continue
            value = group.params[name]
            for each in value if param.multiple else [value]:
                words += [param.opts[-1]] if param.is_flag else [param.opts[-1], str(each)]
    return words


def _tell_times(spec: JobSpec) -> None:
    """Say beside the output how given durations were understood."""
    said = {"time limit": spec.time_limit, "warned before": spec.time_warning, "grace": spec.grace}
    words = [f"{name} {exactly(seconds)}" for name, seconds in said.items() if seconds is not None]
    if words:
        click.echo(", ".join(words), err=True)


def _tell_of_env(draft: Draft) -> None:
    """Say which variables should be secrets, and which of the inventory a rank will not find as they stand there."""
    for name in draft.exposed:
        instead = f"to keep it apart: ugro secret set {name}, then --secret {name}"
        click.echo(f"note: the value of {name} is part of the job's spec; {instead}", err=True)
    for one in draft.ignored:
        click.echo(f"note: {one.variable} in the env of {one.node} ({draft.inventory}): {one.reason}", err=True)


def follow_to_end(app: App, job_id: str) -> int:
    """Show the logs of a job until it has ended, and of an attempt that is approved then; return the exit code.

    Raises:
        JobFailed: it did not succeed.
    """
    # Here, so that a launch without it starts sooner.
    from ugro.cli.commands.logs import follow
    from ugro.cli.offer import offer
    from ugro.cli.render.files import tell_success

    out = console()
    ended = follow(app, Follow(job=job_id), out)
    out.print()
    out.print(ranks_table(ended))
    if ended.state == JobState.SUCCEEDED:
        tell_success(ended)
        return 0
    if again := offer(app, job_id):
        return follow_to_end(app, again.id)
    raise JobFailed(end_in_words(ended), f"for the cause and how to resume: ugro explain {ended.id}")


def _dry_run(app: App, spec: JobSpec, as_json: bool, start: Sequence[str]) -> None:
    tell_what_stays(read_code(spec, start).document)
    print_rehearsal(app, spec, as_json)


def print_rehearsal(app: App, spec: JobSpec, as_json: bool) -> None:
    """Print what a job of a spec would run on each node."""
    rehearsal = app.call(Rehearse(spec=spec))
    if spec.sweep:
        click.echo(f"the first of {prod(map(len, spec.sweep.values()))} jobs:", err=True)
    if rehearsal.waits:
        click.echo(f"it would wait: {'; '.join(rehearsal.waits)}", err=True)
    if as_json:
        print_json([script.as_json() for script in rehearsal.scripts])
        return
    if rehearsal.setup:
        click.secho("# --- on each node, once for this content and before the start:", bold=True)
        click.echo(printable_script(rehearsal.setup))
    for script in rehearsal.scripts:
        click.secho(f"# --- {script.node}: nohup setsid sh ./launch.sh, with", bold=True)
        click.echo(printable_script(script.launch_sh))


def printable_script(text: str) -> str:
    """A script for the terminal, without escapes that arguments may carry."""
    return "\n".join(printable(line) for line in text.split("\n"))
