"""A log of 2 GB on a node: its end as `ugro logs --tail` brings it, next to `ssh node tail`, and the memory used.

The node is one of the sandbox: real SSH over loopback. The master's copy of the log is empty when the first one asks.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.report import Row, in_ms, program
from ugro.sandbox.cluster import Sandbox

LOG_BYTES = 2_000_000_000
RUNS = 5
NODE = "gpu1"
GROUP = "a log of 2 GB"
MEMORY_LIMIT = 150.0
"""MiB of resident memory that a command may take."""

SCRIPT = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.2)\nraise SystemExit(3)\n"
LINE = b"step %08d loss 0.123456 lr 0.0003 tokens/s 12345 grad_norm 1.234 eta 1:23:45 mem 12.3GiB\n"
PROGRAM = """\
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measure() -> Iterator[Row]:
    """The rows of this benchmark.

    Raises:
        Unavailable: there is no ssh here.
    """
    program("ssh", "openssh-client")
    with tempfile.TemporaryDirectory(prefix="ugro-bench-") as name:
        folder = Path(name)
        sandbox = Sandbox(folder / "sandbox")
        sandbox.up()
        try:
            yield from _rows(folder, os.environ | sandbox.environment())
        finally:
            sandbox.down()


def _rows(folder: Path, environment: Mapping[str, str]) -> Iterator[Row]:
    (folder / "wait.py").write_text(SCRIPT)
    ugro = [sys.executable, "-m", "ugro"]
    subprocess.run([*ugro, "launch", "wait.py", "--nodes", NODE], cwd=folder, env=environment, check=True)
    log = folder / f"sandbox/home/{NODE}/.ugro/jobs/job-001/1/node-0/rank-0.log"
    while not log.exists():
        time.sleep(0.05)
    _fill(log)
    copies = Path(environment["UGRO_HOME"]) / "jobs/job-001/logs"
    peer = ["ssh", "-F", str(folder / "sandbox/ssh_config"), NODE, f"tail -n 2 {log}"]
    bare, tails, runs, memory = [], [], [], []
    for _ in range(RUNS):  # in turns, so that both meet the same load
        shutil.rmtree(copies, ignore_errors=True)
        bare.append(_timed(peer, folder, environment)[0])
        seconds, mib = _timed([*ugro, "logs", "job-001", "--tail", "2"], folder, environment)
        tails.append(seconds)
        memory.append(mib)
        runs.append(_timed([*ugro, "run", "--on", NODE, "true"], folder, environment)[0])
    ratios = [one / other for one, other in zip(tails, runs, strict=True)]
    note = f"{in_ms(tails)}; `ssh {NODE} tail -n 2` {in_ms(bare)}, `ugro run true` {in_ms(runs)}"
    yield Row(GROUP, "logs --tail 2, to `ugro run true`", statistics.median(ratios), "×", 3.0, note=note)
    yield Row(GROUP, "logs --tail 2", statistics.median(tails) * 1000)
    yield Row(GROUP, "logs --tail 2: memory", max(memory), "MiB", MEMORY_LIMIT)
    (log.parents[2] / "code/go").touch()
    for words in (["sweep"], ["explain", "job-001"], ["logs", "job-001"]):
        seconds, mib = _timed([*ugro, *words], folder, environment)
        what = f"{words[0]}, of the job that failed: memory"
        yield Row(GROUP, what, mib, "MiB", MEMORY_LIMIT, note=f"{seconds:.1f} s")


def _fill(log: Path) -> None:
    block = b"".join(LINE % number for number in range(100_000))
    with log.open("ab") as file:
        for _ in range(LOG_BYTES // len(block)):
            file.write(block)


def _timed(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """The seconds that a command takes, and the most resident memory of any process of it, in MiB."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PROGRAM, *command], cwd=folder, env=environment, capture_output=True)
    return time.perf_counter() - begin, int(done.stdout.split()[-1]) / 1024
