"""Setting a job's environment up before its start: real commands on two simulated nodes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.unit.control_plane.controller.test_tick import cancel
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState, RankState
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.metadata_store import MetadataStore
from ugro.nodes.remote.logs.log_streamer import LogReader
from ugro.testing import builders
from ugro.testing.cluster import STARTED, Bed, controller_over

LOGGED = 'echo "$UGRO_JOB" >> "$HOME/runs"; base=${UGRO_ENV_DIR%/setups/*}; echo setting up on "${base##*/}"'
WAITS = f'{LOGGED}; until [ -e "$HOME/go" ]; do sleep 0.05; done; echo went on'


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Bed(tmp_path)


def runs(bed: Bed) -> list[str]:
    """The jobs whose setup commands ran, in order."""
    path = bed.home / "runs"
    return path.read_text().split() if path.exists() else []


def output(bed: Bed, job: Job, attempt: int = 1) -> list[str]:
    """What the setup commands of a job printed, as it is kept on the master."""
    reader = LogReader(bed.store.jobs.files(job.id).logs(attempt), setup=True)
    return sorted(line.text for line in reader.lines(final=True))


@asynccontextmanager
async def ticking(bed: Bed) -> AsyncIterator[Controller]:
    """A controller that ticks until this is over, as a resident does; then it is killed."""
    controller = controller_over(MetadataStore(bed.store.home), bed.inventory, bed.pool)

    async def tick() -> None:
        while True:
            await controller.tick()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(tick())
    try:
        yield controller
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await controller.close()


async def seen(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.05)


def state(bed: Bed, job: Job) -> Job:
    return bed.store.jobs.job(job.id)


async def test_runs_the_setup_once_on_each_node_for_two_jobs(bed: Bed) -> None:
    first = await bed.until(bed.submit(STARTED, setup=LOGGED), JobState.SUCCEEDED, JobState.FAILED)
    assert first.state == JobState.SUCCEEDED, first.reason
    assert output(bed, first) == ["setting up on a", "setting up on b"]
    kinds = bed.kinds(first)
    assert kinds.index("setup") < kinds.index("placed") and kinds[-1] == "succeeded"
    second = await bed.until(bed.submit(STARTED, setup=LOGGED), JobState.SUCCEEDED, JobState.FAILED)
    assert second.state == JobState.SUCCEEDED, second.reason
    assert runs(bed) == ["job-001", "job-001"] and output(bed, second) == []
    assert "setup" not in bed.kinds(second)


async def test_runs_it_again_for_other_content(bed: Bed) -> None:
    for content in ("torch==2.5", "torch==2.6"):
        (bed.project / "requirements.txt").write_text(content)
        await bed.until(bed.submit(STARTED, setup=LOGGED, nodes=1), JobState.SUCCEEDED)
    (bed.project / "notes.txt").write_text("no input of it")
    await bed.until(bed.submit(STARTED, setup=LOGGED, nodes=1), JobState.SUCCEEDED)
    assert runs(bed) == ["job-001", "job-002"]


async def test_runs_the_job_with_the_python_that_the_setup_makes(bed: Bed) -> None:
    made = f'mkdir -p "$UGRO_ENV_DIR/bin" && cp {bed.home}/python "$UGRO_ENV_DIR/bin/python"'
    script = "import os; open(os.environ['HOME'] + '/env', 'w').write(os.environ['UGRO_ENV_DIR'])\n"
    job = await bed.until(bed.submit(script, python="setup", setup=made, nodes=("a",)), JobState.SUCCEEDED)
    folder = Path((bed.home / "env").read_text())
    assert folder.parent.parent == bed.home / "a/setups"
    launch = (bed.home / "a/jobs/job-001/1/node-0/launch.sh").read_text()
    assert f"python={folder}/bin/python" in launch
    placed = next(event.message for event in bed.store.timeline.of_job(job.id) if event.kind == "placed")
    assert placed.endswith(f"; python {folder}/bin/python")


async def test_fails_by_the_node_whose_setup_fails_and_ends_it_on_the_others(bed: Bed) -> None:
    command = f'case $UGRO_ENV_DIR in {bed.home}/b/*) echo "no such package" >&2; exit 2 ;; esac; {WAITS}'
    job = await bed.until(bed.submit(STARTED, setup=command), JobState.FAILED, JobState.RUNNING)
    assert job.state == JobState.FAILED
    failure = job.first_failure
    assert failure and (failure.cause, failure.node, failure.rank) == ("setup_failed", "b", None)
    assert failure.message.startswith("b: the setup command `case ")
    assert failure.message.endswith("ended with exit code 2: no such package")
    assert set(job.gone_from) == {"a", "b"}, "no process of the setup remains"
    assert {rank.state for rank in job.ranks} == {RankState.PENDING}, "none has started"
    assert not (bed.home / "started").exists()
    again = await bed.until(bed.submit(STARTED, setup="true"), JobState.SUCCEEDED, JobState.FAILED)
    assert again.state == JobState.SUCCEEDED


async def test_tries_a_setup_that_failed_again_for_another_job(bed: Bed) -> None:
    command = f"{LOGGED}; test -e $HOME/go"
    first = await bed.until(bed.submit(STARTED, setup=command, nodes=("a",)), JobState.FAILED)
    (bed.home / "go").touch()
    second = await bed.until(bed.submit(STARTED, setup=command, nodes=("a",)), JobState.SUCCEEDED, JobState.FAILED)
    assert second.state == JobState.SUCCEEDED
    assert runs(bed) == [first.id, second.id] and output(bed, second) == ["setting up on a"]


async def test_ends_a_setup_that_takes_too_long(bed: Bed) -> None:
    job = await bed.until(
        bed.submit(STARTED, setup={"run": "sleep 600", "timeout": 0.2}, nodes=("a",)), JobState.FAILED
    )
    assert job.first_failure
    assert job.first_failure.message == "a: the setup command `sleep 600` took too long and was ended"


async def test_ends_the_setup_of_a_cancelled_job_and_proves_it(bed: Bed) -> None:
    job = bed.submit(STARTED, setup=f"(setsid sleep 600 &) ; {WAITS}")
    async with ticking(bed):
        await seen(lambda: len(runs(bed)) == 2)
        assert state(bed, job).state == JobState.STARTING
        assert state(bed, job).reason.startswith("setup on a, b: (setsid sleep 600 &) ; echo")
        builders.cancel(bed.store, job.id)
        await seen(lambda: state(bed, job).state.ended)
    ended = state(bed, job)
    assert ended.state == JobState.CANCELLED and set(ended.gone_from) == {"a", "b"}


async def test_continues_a_setup_after_the_controller_was_killed(bed: Bed) -> None:
    job = bed.submit(STARTED, setup=WAITS)
    async with ticking(bed):
        await seen(lambda: len(runs(bed)) == 2)
    (bed.home / "go").touch()
    job = await bed.until(job, JobState.SUCCEEDED, JobState.FAILED)
    assert job.state == JobState.SUCCEEDED, job.reason
    assert runs(bed) == [job.id, job.id]
    assert output(bed, job) == ["setting up on a", "setting up on b", "went on", "went on"]


async def test_takes_a_setup_over_whose_processes_were_killed(bed: Bed) -> None:
    job = bed.submit(STARTED, setup=WAITS, nodes=("a",))
    async with ticking(bed):
        await seen(lambda: len(runs(bed)) == 1)
        keeper = int((bed.home / "a/jobs/job-001/1/node-0/setup.pid").read_text().split()[0])
        os.kill(keeper, signal.SIGKILL)
        await seen(lambda: len(runs(bed)) == 2)
        (bed.home / "go").touch()
        await seen(lambda: state(bed, job).state.ended)
    assert state(bed, job).state == JobState.SUCCEEDED


async def test_keeps_a_job_whose_node_is_unreachable_in_its_setup(bed: Bed) -> None:
    job = bed.submit(STARTED, setup=WAITS)
    async with ticking(bed):
        await seen(lambda: len(runs(bed)) == 2)
        bed.nodes["b"].silent = True
        await seen(lambda: state(bed, job).reason == "b: does not answer")
        assert state(bed, job).state == JobState.STARTING
        bed.nodes["b"].silent = False
        (bed.home / "go").touch()
        await seen(lambda: state(bed, job).state.ended)
    assert state(bed, job).state == JobState.SUCCEEDED and runs(bed) == [job.id, job.id]


async def test_names_every_node_that_lacks_the_python(bed: Bed) -> None:
    (bed.home / "miniforge3/envs/other/bin").mkdir(parents=True)
    job = await bed.until(bed.submit(STARTED, python="conda:train"), JobState.FAILED)
    assert job.first_failure and job.first_failure.cause == "launch_failed"
    assert "a: the conda environment train is not there; looked for " in job.reason
    assert "looked for envs/train/bin/python in ~/miniconda3, ~/anaconda3, ~/miniforge3, " in job.reason
    assert "; the same on b; make it on a, or name another one: --python PATH" in job.reason


async def test_runs_the_job_in_a_conda_environment_and_keeps_it_in_the_next_attempt(bed: Bed) -> None:
    python = bed.home / "miniforge3/envs/train/bin/python"
    python.parent.mkdir(parents=True)
    python.write_bytes((bed.home / "python").read_bytes())
    python.chmod(0o755)
    job = bed.submit(STARTED, python="train", setup='command -v python > "$HOME/found"', nodes=("a",))
    await bed.until(job, JobState.SUCCEEDED)
    assert (bed.home / "found").read_text().strip() == str(python), "the setup finds it first"
    launch = (bed.home / "a/jobs/job-001/1/node-0/launch.sh").read_text()
    assert f"python={python}" in launch
    await cancel(bed, bed.submit(STARTED))


LEAKS = 'tr "\\0" " " < /proc/$PPID/cmdline; tr "\\0" " " < /proc/$$/cmdline; echo; echo "refused: $TOKEN"; exit 3'


async def test_hands_the_secrets_of_a_job_to_its_setup_and_to_nothing_that_stays(bed: Bed) -> None:
    value = "value-that-is-a-secret"
    bed.store.secrets.set("HF_TOKEN", value)
    job = await bed.until(bed.submit(STARTED, setup=LEAKS, secrets=("TOKEN=HF_TOKEN",), nodes=("a",)), JobState.FAILED)
    arguments, refused = output(bed, job)
    assert refused == f"refused: {value}" and "/bin/sh -c" in arguments and value not in arguments
    assert job.reason.endswith("ended with exit code 3: refused: ****")
    there = [path for path in bed.home.rglob("*") if path.is_file() and value.encode() in path.read_bytes()]
    assert {path.name for path in there} == {"HF_TOKEN", "log", "setup-0.log"}, "where it is kept, and was printed"
