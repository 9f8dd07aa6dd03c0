"""The state directory with 10,000 jobs that ended: writes, lists, and the CPU time of whole commands."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.report import CLOCK, CPU, Row, Times, child_seconds, clocked, in_turns, median_ms, ratio
from benchmarks.tick import spec
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.job import Job, NodeShare, Placement, Rank
from ugro.common.models.job_state import JobState, RankState
from ugro.control_plane.metadata_store import MetadataStore

FINISHED = 10_000
WRITES = 200
READS = 15
RUNS = 9
GROUP = f"store with {FINISHED:,} ended jobs"
SUBMIT, CHANGE, END = "submit()", "save(): a change of a job", "save(): the end of a job"
PLAIN = "one file"
WRITE_LIMITS = {SUBMIT: 10.0, CHANGE: 5.0, END: 10.0}
"""At most so many times as long as one file takes."""

BARE, CLICK, SHOWS, ASKS = "python", "import click", "import click, rich", "import … and asyncssh"
PEERS = {
    BARE: "pass",
    CLICK: "import click",
    SHOWS: "import click, rich.table, rich.console",
    ASKS: "import click, rich.table, pydantic, yaml, asyncssh",
}
ALONE = {"ugro --help": (CLICK, 2.0), "ugro status": (ASKS, 1.5), "ugro status --json": (ASKS, 1.5)}
BESIDE = {"ugro status": (SHOWS, 2.5), "ugro status --json": (SHOWS, 2.5)}
"""By command its peer, and at most so many times as much CPU as that takes."""

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
        files, wish = store.jobs.files(f"job-{number:03}"), spec(dice)
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
    wish, home = spec(random.Random(2)), store.home.parent
    writes: dict[str, list[Times]] = defaultdict(list)

    def write(name: str, act: Callable[[], Job]) -> Job:
        made: list[Job] = []
        writes[name].append(clocked(lambda: made.append(act()))())
        return made[0]

    def life() -> None:
        """A job from its submission to its end, and the peer after each write."""
        files = store.jobs.reserve()
        job = write(SUBMIT, lambda: store.jobs.submit(files, wish, CODE, time.time()))
        begun = job.model_copy(update={"state": JobState.RUNNING, "started_at": time.time()})
        begun = write(CHANGE, lambda: store.jobs.save(begun, "running", "2 ranks started"))
        done = begun.model_copy(update={"state": JobState.SUCCEEDED, "ended_at": time.time()})
        done = write(END, lambda: store.jobs.save(done, "succeeded", ""))
        writes[PLAIN].append(clocked(lambda: _write_plainly(home / "plain", done.model_dump_json(indent=1)))())

    for _ in range(WRITES):
        life()
    for name, times in writes.items():
        yield _row(name, times, "the peer: the record written, fsync, rename" if name == PLAIN else "")
    for name, limit in WRITE_LIMITS.items():
        yield Row(GROUP, f"{name} / {PLAIN}", ratio(writes[name], writes[PLAIN]), "×", limit)
    reads: dict[str, Callable[[], object]] = {
        "reserve(): a folder and an id": lambda: store.jobs.reserve().folder.rmdir(),
        "live()": store.jobs.live,
        "recent(10)": lambda: store.jobs.recent(10),
        "summaries()": store.jobs.summaries,
        "recent(10), new process": lambda: MetadataStore(store.home).jobs.recent(10),
    }
    for name, taken in in_turns({name: clocked(act) for name, act in reads.items()}, READS).items():
        yield _row(name, taken)


def _write_plainly(path: Path, text: str) -> None:
    """What a file that outlives a power cut costs at least."""
    with open(path.with_suffix(".tmp"), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def _row(what: str, times: list[Times], note: str = "") -> Row:
    most = max(taken[CLOCK] for taken in times) * 1000
    return Row(GROUP, what, median_ms(times), note="; ".join(filter(None, (f"most {most:.1f} of {len(times)}", note))))


def _commands(home: Path) -> Iterator[Row]:
    inventory = home / "inventory.yaml"
    inventory.write_text("nodes:\n  here:\n    address: 127.0.0.1\n    local: true\n")
    own = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment = own | {
        "UGRO_HOME": str(home / "state"),
        "UGRO_INVENTORY": str(inventory),
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }

    def python(*words: str) -> Callable[[], Times]:
        return partial(_run, [sys.executable, *words], home, environment)

    def ugro(*words: str) -> Callable[[], Times]:
        return python("-m", "ugro", *words)

    peers = {name: python("-c", code) for name, code in PEERS.items()}
    shown = {"ugro status": ugro("status"), "ugro status --json": ugro("status", "--json")}
    yield from _against(peers | {"ugro --help": ugro("--help")} | shown, ALONE, "")
    with _resident(home, environment):
        yield from _against(peers | shown, BESIDE, " beside `ugro serve`")


def _against(
    acts: Mapping[str, Callable[[], Times]], limits: Mapping[str, tuple[str, float]], where: str
) -> Iterator[Row]:
    """The CPU time of commands, and its ratio to a Python that only imports what they are made of."""
    group = f"commands, {GROUP}"
    times = in_turns(acts, RUNS)
    for name, taken in times.items():
        note = f"CPU, with its children; {median_ms(taken):.0f} ms on the clock"
        yield Row(group, name + where, median_ms(taken, CPU), note=note)
    for name, (peer, limit) in limits.items():
        yield Row(group, f"{name}{where} / {peer}", ratio(times[name], times[peer], CPU), "×", limit, note="of CPU")


def _run(command: list[str], home: Path, environment: Mapping[str, str]) -> Times:
    used, begin = child_seconds(), time.perf_counter()
    subprocess.run(command, env=environment, cwd=home, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin, child_seconds() - used


@contextmanager
def _resident(home: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """`ugro serve`, from its first look on."""
    store = MetadataStore(home / "state")
    seen = store.config.remembered_node("here")
    with subprocess.Popen(
        [sys.executable, "-m", "ugro", "serve"], env=environment, cwd=home, stdout=subprocess.DEVNULL
    ) as process:
        try:
            while store.config.remembered_node("here") == seen:
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
