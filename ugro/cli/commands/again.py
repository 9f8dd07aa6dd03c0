"""`ugro rerun`, a new job like another, and `ugro edit`, changes of one that waits."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ugro.cli.app import App, ScriptCommand, command, json_option
from ugro.cli.commands.launch import follow_to_end, print_rehearsal, refuse_following
from ugro.cli.complete import complete_job
from ugro.cli.launch_options import field_options, hold_option, submission_options
from ugro.cli.output import print_hanging, print_json, quiet_option
from ugro.cli.prompts import answers, confirm
from ugro.cli.render.code import tell_what_stays
from ugro.cli.render.job_file import as_job_file
from ugro.cli.render.starting import announce, going_on
from ugro.cli.several import one_job
from ugro.common.errors import Declined, InputError, JobFailed, UgroError
from ugro.common.job_spec import load_job_spec
from ugro.common.models.job_state import JobState
from ugro.common.text import printable
from ugro.service.schemas.again import (
    Edit,
    EditOptions,
    EditPlan,
    FieldChange,
    PlanEdit,
    PlanRerun,
    Rerun,
    RerunDocument,
    RerunOptions,
    RerunPlan,
    SpecChanges,
)
from ugro.service.schemas.code import SEND, CodeDocument
from ugro.service.schemas.launch import FIT, TAKE_OVER
from ugro.service.schemas.resume import CodeSource
from ugro.service.schemas.starting import AwaitStart, Started
from ugro.service.spec_changes import FIXED_IN_WAITING
from ugro.service.submission import given_fields
from ugro.service.words import title


class AgainCommand(ScriptCommand):
    """Takes new arguments of the script after `--`."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["JOB", "[OPTIONS]", "[-- SCRIPT ARGUMENTS]"]


set_option = click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="New value of an argument of the script: lr=1e-3."
)


@command(cls=AgainCommand)
@click.argument("job", shell_complete=complete_job)
@set_option
@click.option("--new-code", is_flag=True, help="Use the current files of the working directory.")
@hold_option
@field_options
@submission_options
@click.option("--dry-run", is_flag=True, help="Print what differs and what would run on each node, and start nothing.")
@quiet_option
@json_option
def rerun(
    app: App,
    job: str,
    settings: tuple[str, ...],
    new_code: bool,
    following: bool,
    dry_run: bool,
    yes: bool,
    takeover: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Run a job again: a new job with the same spec and the same code.

    JOB is an id or a name, of a job in any state. Options change the new job; arguments after -- replace those of the
    script, and --set changes one of them. It runs the code that JOB ran, or the current files (--new-code). Its name is
    that of JOB with a number: lr-1-r2. When JOB was to start (--hold, --after, --not-before) is not repeated.
    """
    refuse_following(following, quiet, as_json)
    silent = as_json or quiet
    job = one_job(app, "rerun", job, silent)
    code = _bring_new_code(app, job, silent) if new_code else None
    wanted = RerunOptions(job=job, changes=_changes(options, settings), code=code)
    plan = app.call(PlanRerun(options=wanted))
    if not silent:
        _tell_rerun(plan)
    if dry_run:
        print_rehearsal(app, plan.draft.spec, as_json)
        return 0
    started = _carry_out(app, plan, yes, takeover)
    if as_json:
        print_json(RerunDocument.of(plan, started).as_json())
    elif quiet:
        click.echo(started.job.id)
    else:
        announce(app, started, following)
    made = started.job
    if made.state == JobState.FAILED:
        hint = f"for the cause and how to resume: ugro explain {made.id}"
        raise JobFailed(f"{made.id} did not start: {made.reason}", hint)
    return follow_to_end(app, made.id) if following else 0


def _changes(options: dict[str, Any], settings: tuple[str, ...]) -> SpecChanges:
    """Return what the command line changes."""
    meta = click.get_current_context().meta
    args = meta["ugro.script_args"] if meta["ugro.dashes"] else None
    return SpecChanges(fields=given_fields(options), settings=dict(map(_setting, settings)), args=args)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.lstrip("-"):
        raise InputError(f"--set {printable(text)!r}: NAME=VALUE is expected", "for instance: --set lr=1e-3")
    return name, value


def _bring_new_code(app: App, job: str, as_json: bool) -> CodeDocument:
    from ugro.service.code import read_new_code  # here, since most reruns have no use for it

    code = app.bring(read_new_code(app.call(CodeSource(job=job, any_state=True))))
    if not as_json:
        tell_what_stays(code)
    return code


def _tell_rerun(plan: RerunPlan) -> None:
    if plan.draft.note:
        print_hanging("note: ", plan.draft.note, err=True)
    code = "the files as they are now" if plan.options.code else "the same code"
    click.echo(f"like {title(plan.job)}, with {code}" + (":" if plan.differences else ""), err=True)
    _tell_differences(plan.differences)


def _tell_differences(changes: tuple[FieldChange, ...]) -> None:
    for one in changes:
        before, after = (value if value is not None else "default" for value in (one.before, one.after))
        print_hanging(f"  {one.field}: ", f"{before} → {after}", err=True)


def _carry_out(app: App, plan: RerunPlan, yes: bool, takeover: bool) -> Started:
    asked = [question for question in plan.questions if not (yes and question.id == SEND)]
    given = ({SEND: True, FIT: True} if yes else {}) | ({TAKE_OVER: True} if takeover else {})
    submitted = app.call(Rerun(plan=plan, answers=given | answers(asked, given)))
    with going_on(submitted):
        return app.call(AwaitStart(job=submitted.id))


# --- edit ------------------------------------------------------------------------------------------------------------


@command(cls=AgainCommand)
@click.argument("job", shell_complete=complete_job)
@set_option
@field_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def edit(app: App, job: str, settings: tuple[str, ...], yes: bool, as_json: bool, **options: Any) -> None:
    """Change a job that waits: its nodes, its arguments, when it starts.

    JOB is the id or name of a queued or held job. Arguments after -- replace those of the script, and --set changes one
    of them. Without options, $EDITOR opens the job as a job.yaml, and the changes are shown before they are made. A job
    that starts meanwhile is not changed.
    """
    job = one_job(app, "edit", job, as_json)
    changes = _changes(options, settings)
    if changes == SpecChanges():
        plan = _edited_by_hand(app, job, as_json)
    else:
        plan = app.call(PlanEdit(options=EditOptions(job=job, changes=changes)))
    if not as_json:
        _tell_differences(plan.differences)
    given = {question.id: True for question in plan.questions} if yes else None
    done = app.call(Edit(plan=plan, answers=answers(plan.questions, given, ask=not as_json)))
    if as_json:
        print_json(done.as_json())
    elif done.changes:
        click.echo(f"{title(done)} is changed: it is {done.state.value}")
    else:
        click.echo(f"{title(done)} stays as it is: nothing differs")


def _edited_by_hand(app: App, job: str, as_json: bool) -> EditPlan:
    """Let the person change the job as a file; return the plan of that, if the job is as it was when it was shown."""
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError(
            "no change is named, and there is no terminal for an editor", "for instance: ugro edit JOB --nodes 2"
        )
    shown = app.call(PlanEdit(options=EditOptions(job=job)))
    text = as_job_file(shown.job.id, shown.spec)
    while True:
        edited = click.edit(text, extension=".yaml")
        if edited is None or edited == text:
            raise Declined(f"{title(shown.job)} stays as it is: the file was not changed")
        text = edited
        try:
            changes = SpecChanges(fields=_read(text), whole=True)
            plan = app.call(PlanEdit(options=EditOptions(job=job, changes=changes)))
            return replace(plan, fingerprint=shown.fingerprint)
        except UgroError as error:
            print_hanging("error: ", error.message, err=True, fg="red")
            if not confirm("Edit it again?", default=True):
                raise


def _read(text: str) -> dict[str, Any]:
    """Return the fields of a job file that stands in no folder.

    Raises:
        JobSpecError: it has a mistake; the message names the line.
    """
    with tempfile.TemporaryDirectory(prefix="ugro-edit-") as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(text, encoding="utf-8")
        spec = load_job_spec(path)
    return spec.model_dump(exclude=set(FIXED_IN_WAITING))
