"""The state directory with 10,000 jobs that ended: writes, lists, and the CPU time of whole commands."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import Row, child_seconds
from benchmarks.tick import spec
from ugro.common.models import CodeVersion, Job, JobState, NodeShare, Placement, Rank, RankState
from ugro.control_plane.metadata_store import MetadataStore

FINISHED = 10_000
WRITES = 200
RUNS = 7
GROUP = f"store with {FINISHED:,} ended jobs"
CODE = CodeVersion(directory="/home/anna/project", files=10, size_bytes=10000)


def measure() -> Iterator[Row]:
    """The store's own calls, then commands as processes of their own."""
    with tempfile.TemporaryDirectory(prefix="ugro-bench-") as folder:
        home = Path(folder)
        fill(store := MetadataStore(home / "state"))
        yield from _commands(home)
        yield from _calls(store)


def fill(store: MetadataStore) -> None:
    """10,000 jobs that ended, as the store's own files, and the indexes made from them."""
    dice = random.Random(1)
    now = time.time() - 86400 * 30
    for number in range(1, FINISHED + 1):
        files, wish = store.files(f"job-{number:03}"), spec(dice)
        files.folder.mkdir(parents=True)
        started = now + number * 100
        state = dice.choice((JobState.SUCCEEDED, JobState.FAILED))
        job = _ended(files.folder.name, wish.script, wish.args, started, state)
        files.spec.write_text(wish.model_dump_json(indent=1))
        files.record.write_text(job.model_dump_json(indent=1))
    store.rebuild()


def _ended(job_id: str, script: str, args: tuple[str, ...], started: float, state: JobState) -> Job:
    share = NodeShare(node="here", node_rank=0, first_rank=0, nproc=2, gpus=("GPU-00000000", "GPU-00000001"))
    ranks = tuple(
        Rank(rank=rank, local_rank=rank, node="here", pid=1000 + rank, state=RankState.SUCCEEDED, exit_code=0)
        for rank in range(2)
    )
    return Job(
        id=job_id,
        uid=f"{job_id:>032}",
        name=job_id,
        state=state,
        submitted_at=started - 60,
        started_at=started,
        ended_at=started + 50,
        command=(script, *args),
        code=CODE,
        placement=Placement(shares=(share,), master_addr="127.0.0.1", master_port=29500),
        ranks=ranks,
    )


def _calls(store: MetadataStore) -> Iterator[Row]:
    wish = spec(random.Random(2))
    submits: list[float] = []
    saves: list[float] = []
    ends: list[float] = []
    for _ in range(WRITES):
        files = store.reserve()
        begin = time.perf_counter()
        job = store.submit(files, wish, CODE, time.time())
        submits.append(time.perf_counter() - begin)
        running = job.model_copy(update={"state": JobState.RUNNING, "started_at": time.time()})
        begin = time.perf_counter()
        store.save(running, "running", "2 ranks started")
        saves.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        store.save(running.model_copy(update={"state": JobState.SUCCEEDED, "ended_at": time.time()}), "succeeded", "")
        ends.append(time.perf_counter() - begin)
    yield _row("save(): a change of a job", saves, 5.0)
    yield _row("save(): the end of a job", ends, 5.0)
    yield _row("submit()", submits, 5.0)
    yield _row("reserve(): a folder and an id", _seconds(lambda: store.reserve().folder.rmdir()))
    yield _row("live()", _seconds(store.live))
    yield _row("recent(10)", _seconds(lambda: store.recent(10)))
    yield _row("summaries()", _seconds(store.summaries))
    yield _row("recent(10), new process", _seconds(lambda: MetadataStore(store.home).recent(10)))


def _seconds(act: Callable[[], object], repeats: int = 15) -> list[float]:
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        act()
        found.append(time.perf_counter() - begin)
    return found


def _row(what: str, seconds: list[float], limit: float | None = None) -> Row:
    note = f"median of {len(seconds)}; most {max(seconds) * 1000:.1f}"
    return Row(GROUP, what, statistics.median(seconds) * 1000, limit=limit, note=note)


def _commands(home: Path) -> Iterator[Row]:
    inventory = home / "inventory.yaml"
    inventory.write_text("nodes:\n  here:\n    address: 127.0.0.1\n    local: true\n")
    own = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment = own | {
        "UGRO_HOME": str(home / "state"),
        "UGRO_INVENTORY": str(inventory),
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    for argv, limit in (("--help", None), ("status", 300.0), ("status --json", 300.0)):
        yield _command(argv, "", home, environment, limit)
    with _resident(home, environment):
        for argv in ("status", "status --json"):
            yield _command(argv, " beside `ugro serve`", home, environment, 300.0)
    cpu = []
    for _ in range(RUNS):
        before = child_seconds()
        subprocess.run([sys.executable, "-c", "pass"], env=environment, cwd=home, check=True)
        cpu.append(child_seconds() - before)
    yield Row("commands, " + GROUP, "python -c pass", statistics.median(cpu) * 1000, note="for comparison")


def _command(argv: str, where: str, home: Path, environment: Mapping[str, str], limit: float | None) -> Row:
    cpu, wall = [], []
    for _ in range(RUNS + 1):
        before, begin = child_seconds(), time.perf_counter()
        command = [sys.executable, "-m", "ugro", *argv.split()]
        subprocess.run(command, env=environment, cwd=home, check=True, stdout=subprocess.DEVNULL)
        cpu.append(child_seconds() - before)
        wall.append(time.perf_counter() - begin)
    note = f"CPU, with its children; {statistics.median(wall[1:]) * 1000:.0f} ms on the clock"
    return Row("commands, " + GROUP, f"ugro {argv}{where}", statistics.median(cpu[1:]) * 1000, limit=limit, note=note)


@contextmanager
def _resident(home: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """`ugro serve`, from its first look on."""
    store = MetadataStore(home / "state")
    seen = store.remembered_node("here")
    with subprocess.Popen(
        [sys.executable, "-m", "ugro", "serve"], env=environment, cwd=home, stdout=subprocess.DEVNULL
    ) as process:
        try:
            while store.remembered_node("here") == seen:
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
