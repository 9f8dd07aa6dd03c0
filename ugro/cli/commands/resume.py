"""`ugro resume`: a new attempt of a job that ended."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from ugro.cli.app import App, Whole, command, json_option, span_option
from ugro.cli.complete import complete_folder, complete_job, complete_nodes
from ugro.cli.output import print_json
from ugro.cli.prompts import answers
from ugro.cli.render.code import tell_what_stays
from ugro.cli.render.resume import tell_changes, tell_where
from ugro.cli.render.starting import announce
from ugro.cli.several import one_job
from ugro.common.errors import InputError
from ugro.common.text import printable
from ugro.service.schemas.code import SEND, CodeDocument
from ugro.service.schemas.resume import (
    BEGIN_AGAIN,
    RESUME,
    SMALLER_BATCH,
    CodeSource,
    PlanResume,
    Resume,
    ResumeOptions,
    ResumePlan,
)
from ugro.service.schemas.starting import Started
from ugro.service.words import state_in_words, title


@command()
@click.argument("job", shell_complete=complete_job)
@click.option(
    "--from",
    "step",
    type=Whole(min=0),
    metavar="STEP",
    help="Step of the checkpoint. Default: the last complete one; 0: start again.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="New value of an argument.")
@click.option("--nodes", shell_complete=complete_nodes, metavar="N|NODES", help="New number of nodes, or their names.")
@click.option(
    "--time", "time_limit", metavar="TIME", callback=span_option, help="New time limit: 4h, 90 (minutes), 1:30:00."
)
@click.option(
    "--checkpoints",
    "directory",
    metavar="DIR",
    shell_complete=complete_folder,
    help="Folder of the checkpoints, if the job did not name it.",
)
@click.option("--resume-with", metavar="WORDS", help="Arguments to resume with: '--resume_from_checkpoint {path}'.")
@click.option("--new-code", is_flag=True, help="Use the current files of the working directory.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def resume(
    app: App,
    job: str,
    step: int | None,
    settings: tuple[str, ...],
    nodes: str | None,
    time_limit: float | None,
    directory: str | None,
    resume_with: str | None,
    new_code: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Resume an ended job from its last complete checkpoint.

    JOB is an id or a name. It runs as a new attempt with the same code, or with the current code (--new-code), for
    instance a corrected script. What the job wrote on the nodes stays there. The script gets the checkpoint in the
    environment variable UGRO_RESUME_FROM, and as an argument if it has one for that.
    """
    job = one_job(app, "resume", job, as_json)
    options = ResumeOptions(
        job=job,
        step=step,
        settings=dict(map(_setting, settings)),
        nodes=nodes,
        time_limit=time_limit,
        directory=directory,
        resume_with=resume_with,
    )
    given = dict[str, bool]()
    if new_code:
        code, given = _new_code(app, job, yes, as_json)
        options = replace(options, code=code)
    plan = app.call(PlanResume(options=options))
    given |= _consent(plan, yes, told=not as_json or (sys.stdin.isatty() and not yes))
    resumed = app.call(Resume(plan=plan, answers=given))
    if as_json:
        print_json(resumed.answer.as_json())
    else:
        announce(app, Started(job=resumed.answer, expected=resumed.expected))


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.lstrip("-"):
        raise InputError(f"--set {printable(text)!r}: NAME=VALUE is expected", "for instance: --set batch_size=1")
    return name, value


def _new_code(app: App, job: str, yes: bool, as_json: bool) -> tuple[CodeDocument, dict[str, bool]]:
    """Bring the job's working directory as it is now; ask first if it is large."""
    from ugro.service.code import question_of_size, read_new_code  # here, since most resumes have no use for it

    code = app.bring(read_new_code(app.call(CodeSource(job=job))))
    if not as_json:
        tell_what_stays(code)
    large = question_of_size(code)
    if large is None or yes or as_json:
        return code, {SEND: True}
    return code, answers([large])


def _consent(plan: ResumePlan, yes: bool, told: bool) -> dict[str, bool]:
    """Show the plan and ask its questions; `yes` answers all but whether to begin again."""
    job = plan.job
    if told and job.first_failure:
        click.echo(f"{title(job)} failed: {printable(job.reason)}", err=True)
    elif told:
        click.echo(state_in_words(job), err=True)
    questions = {question.id: question for question in plan.questions}
    if yes and (again := questions.get(BEGIN_AGAIN)):
        raise InputError(again.refusal, again.hint)

    def ask(name: str) -> dict[str, bool]:
        return answers([questions[name]], ask=sys.stdin.isatty()) if name in questions and not yes else {}

    given = ask(BEGIN_AGAIN)
    if told:
        tell_where(plan.checkpoint)
    given |= ask(SMALLER_BATCH)
    if told:
        tell_changes(plan)
    given |= ask(RESUME)
    return {SMALLER_BATCH: False, RESUME: True} if yes else given
