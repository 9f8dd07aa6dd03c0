"""Commands about the end of jobs: cancel, wait."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

import click

from ugro.cli.app import App, command, duration_option, json_option
from ugro.cli.output import console, print_hanging, print_json, quiet_option
from ugro.cli.render.files import tell_success
from ugro.cli.render.live import WaitDisplay
from ugro.cli.several import Did, JobChoice, choose, jobs_arguments, shown_progress, tell_error
from ugro.common.errors import JobFailed, UgroError, WaitTimedOut
from ugro.common.job_names import LAST, SWEEP_ID, is_pattern
from ugro.common.models.job_state import JobState
from ugro.common.text import duration, printable, some
from ugro.service.schemas.ending import Cancel, Cancelled, CarryOutCancels, CheckCancelled, JobProgress, Wait
from ugro.service.schemas.jobs import JobDocument
from ugro.service.words import end_in_words, phase, state_in_words


@command()
@jobs_arguments()
@click.option("--abandon", is_flag=True, help="Do not wait for unreachable nodes; treat their ranks as lost.")
@quiet_option
@json_option
def cancel(app: App, choice: JobChoice, abandon: bool, quiet: bool, as_json: bool) -> int:
    """End a job on every node and verify that no processes remain.

    JOB is an id, a name or a pattern like 'lr-*'. Ranks get SIGTERM, and SIGKILL after ten seconds. The output names
    the nodes where the absence of processes is proven; on the others none was found. With --abandon the job ends
    without its unreachable nodes. Once such a node answers again, the remaining processes are ended there. -q prints
    the ids of the jobs that have ended.
    """
    chosen = choose(app, "cancel", choice, as_json, quiet=quiet)
    asked = dict[str, JobDocument | UgroError]()
    for job in shown_progress(chosen.ids, "requesting the end of"):
        asked[job] = _request(app, job, abandon)
    ending = list(
        dict.fromkeys(job.id for job in asked.values() if isinstance(job, JobDocument) and not job.state.ended)
    )
    last = _carry_out(app, ending) if ending else {}

    def one(name: str) -> Did:
        job = asked[name]
        if isinstance(job, UgroError):
            raise job
        if as_json and len(asked) == 1 and job.id in last and not last[job.id].state.ended:
            print_json(last[job.id].as_json())  # how far it came, beside the error
        ended = app.call(CheckCancelled(job=job.id))
        words = ended.job.id if quiet else "\n".join(_end_in_lines(ended, already=job.state.ended))
        return ended.job.as_json(), words

    return chosen.each(one, as_json, doing="checking the end of")


def _request(app: App, name: str, abandon: bool) -> JobDocument | UgroError:
    """Return the job as it is once its end is requested, or why that cannot be."""
    try:
        return app.call(Cancel(job=name, abandon=abandon))
    except UgroError as error:
        return error


def _carry_out(app: App, jobs: list[str]) -> dict[str, JobDocument]:
    """End jobs whose end was requested; return them as they were seen last."""
    text, last = f"ending {some(jobs)}", dict[str, JobDocument]()
    try:
        with closing(app.stream(CarryOutCancels(jobs=tuple(jobs)))) as updates:
            first = next(updates)
            last[first.job.id] = first.job
            alone = WaitDisplay(first, text) if len(jobs) == 1 else None
            with alone or console(stderr=True).status(text) as shown:
                for update in updates:
                    last[update.job.id] = update.job
                    if isinstance(shown, WaitDisplay):
                        shown.tell(update)
                    else:
                        over = sum(job.state.ended for job in last.values())
                        shown.update(f"{text}: {over} of {len(jobs)} have ended")
    except KeyboardInterrupt:
        words = "the cancel is recorded; the next scheduling pass carries it out: ugro sweep"
        print_hanging(f"{some(jobs)}: ", words, True)
        raise
    except UgroError as error:
        error.add_note(f"{some(jobs)}: the cancel is recorded; it is carried out without this command")
        raise
    return last


def _end_in_lines(ended: Cancelled, already: bool) -> list[str]:
    job = ended.job
    if already:
        return [f"{job.id} had already ended: {job.state.value}"]
    if job.state != JobState.CANCELLED:
        return [f"{job.id} ended by itself meanwhile: {job.state.value}"]
    lines = ["; ".join(filter(None, (f"{job.id} is cancelled", ended.remains)))]
    if job.abandoned:
        sure = [node for node in job.nodes if node not in job.abandoned]
        lines.append(f"  {', '.join(job.abandoned)} is abandoned; remaining processes there are ended once it answers")
        if sure:
            lines.append(f"  to resume without it: ugro resume {job.id} --nodes {','.join(sure)}")
    return lines


@command()
@jobs_arguments("[JOB]...", consent=False)
@click.option("--timeout", "patience", metavar="TIME", callback=duration_option,
              help="Stop waiting after this time, with exit code 6: 90 (seconds), 10m.")  # fmt: skip
@quiet_option
@json_option
def wait(app: App, choice: JobChoice, patience: float | None, quiet: bool, as_json: bool) -> int:
    """Wait until jobs have ended.

    JOB is an id, a name, a sweep, or a pattern like 'lr-*', which means the jobs that have not ended. Default: the job
    that was submitted last. Exit code 0 if all of them succeeded, 1 if one did not, 6 if --timeout was reached first;
    the jobs continue. -q prints the ids of the jobs that succeeded.
    """
    chosen = choose(app, "wait", choice, as_json, default=LAST, quiet=quiet)
    until = None if patience is None else time.time() + patience
    alone, late = len(chosen.found) == 1, list[JobDocument]()

    def one(job_id: str) -> Did:
        last = _until_ended(app, job_id, until)
        if problem := _not_succeeded(last, patience):
            if as_json and alone:
                print_json([last.job.as_json()] if chosen.as_list else last.job.as_json())
            late.extend([last.job] if isinstance(problem, WaitTimedOut) else [])
            raise problem
        if not (as_json or quiet):
            tell_success(last.job)
        return last.job.as_json(), last.job.id if quiet else ""

    def tell(error: UgroError) -> None:
        if not isinstance(error, WaitTimedOut):  # `_all_late` reports them together
            tell_error(error)

    code = chosen.each(one, as_json, tell)
    if late and not as_json:
        tell_error(_all_late(late, len(chosen.found), choice, patience or 0.0))
    return code


def _all_late(late: Sequence[JobDocument], of: int, choice: JobChoice, patience: float) -> WaitTimedOut:
    """Return the error of all jobs that have not ended in time, of so many that were waited for."""
    [first, *others] = choice.references or ("",)
    which = (
        "" if others or not is_pattern(first) else f" of {first}" if SWEEP_ID.fullmatch(first) else f" like {first!r}"
    )
    states = Counter(phase(job) for job in late)
    there = ", ".join(f"{number} {state}" for state, number in states.most_common())
    have, they = ("has", "it continues") if len(late) == 1 else ("have", "they continue")
    return WaitTimedOut(
        f"{len(late)} of {of} jobs{printable(which)} {have} not ended within {duration(patience)}: {there}; {they}",
        f"to wait longer: {choice.typed('wait')}",
    )


def _not_succeeded(seen: JobProgress, patience: float | None) -> UgroError | None:
    job = seen.job
    if not job.state.ended:
        return WaitTimedOut(
            f"{state_in_words(job)}: it has not ended within {duration(patience or 0.0)}; it continues",
            f"to wait longer: ugro wait {job.id}",
        )
    if job.state == JobState.SUCCEEDED:
        return None
    proposed = f"; proposed: ugro approve {job.id}" if seen.proposed else ""
    return JobFailed(end_in_words(job), f"for the cause and how to resume: ugro explain {job.id}{proposed}")


def _until_ended(app: App, job: str, until: float | None) -> JobProgress:
    with closing(app.stream(Wait(job=job, until=until))) as updates:
        last = next(updates)
        with WaitDisplay(last, f"waiting for {last.job.id}") as waiting:
            for last in updates:
                waiting.tell(last)
    return last
