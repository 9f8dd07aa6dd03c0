"""Commands about the end of jobs: cancel, wait."""

from __future__ import annotations

from contextlib import closing

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.output import console, print_hanging, print_json
from ugro.cli.render.files import tell_success
from ugro.cli.render.live import WaitDisplay
from ugro.cli.several import Did, for_each, several
from ugro.common.errors import JobFailed, UgroError
from ugro.common.models.job import JobState
from ugro.service.schemas.ending import Cancel, Cancelled, CarryOutCancels, CheckCancelled, JobProgress, Wait
from ugro.service.schemas.jobs import JobDocument
from ugro.service.words import end_in_words


@command()
@several("JOB")
@click.option("--abandon", is_flag=True, help="Do not wait for unreachable nodes; treat their ranks as lost.")
@json_option
def cancel(app: App, names: tuple[str, ...], abandon: bool, as_json: bool) -> int:
    """End a job on every node and verify that no processes remain.

    JOB is an id or a name. Ranks get SIGTERM, and SIGKILL after ten seconds. The output names the nodes where the
    absence of processes is proven; on the others none was found. With --abandon the job ends without its unreachable
    nodes. Once such a node answers again, the remaining processes are ended there.
    """
    asked: dict[str, JobDocument | UgroError] = {name: _request(app, name, abandon) for name in dict.fromkeys(names)}
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
        return ended.job.as_json(), "\n".join(_end_in_lines(ended, already=job.state.ended))

    return for_each(names, one, as_json)


def _request(app: App, name: str, abandon: bool) -> JobDocument | UgroError:
    """Return the job as it is once its end is requested, or why that cannot be."""
    try:
        return app.call(Cancel(job=name, abandon=abandon))
    except UgroError as error:
        return error


def _carry_out(app: App, jobs: list[str]) -> dict[str, JobDocument]:
    """End jobs whose end was requested; return them as they were seen last."""
    text, last = f"ending {', '.join(jobs)}", dict[str, JobDocument]()
    try:
        with closing(app.stream(CarryOutCancels(jobs=tuple(jobs)))) as updates:
            first = next(updates)
            last[first.job.id] = first.job
            alone = WaitDisplay(first, text) if len(jobs) == 1 else None
            with alone or console(stderr=True).status(text):
                for update in updates:
                    last[update.job.id] = update.job
                    if alone:
                        alone.tell(update)
    except KeyboardInterrupt:
        words = "the cancel is recorded; the next scheduling pass carries it out: ugro sweep"
        print_hanging(f"{', '.join(jobs)}: ", words, True)
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
@click.argument("job", shell_complete=complete_job)
@json_option
def wait(app: App, job: str, as_json: bool) -> int:
    """Wait until a job has ended.

    JOB is an id or a name. Exit code 0 if it succeeded, 1 if not.
    """
    seen = _until_ended(app, job)
    ended = seen.job
    if as_json:
        print_json(ended.as_json())
    if ended.state != JobState.SUCCEEDED:
        proposed = f"; proposed: ugro approve {ended.id}" if seen.proposed else ""
        raise JobFailed(end_in_words(ended), f"for the cause and how to resume: ugro explain {ended.id}{proposed}")
    if not as_json:
        tell_success(ended)
    return 0


def _until_ended(app: App, job: str) -> JobProgress:
    with closing(app.stream(Wait(job=job))) as updates:
        last = next(updates)
        with WaitDisplay(last, f"waiting for {last.job.id}") as waiting:
            for last in updates:
                waiting.tell(last)
    return last
