"""The same nvidia-smi query on 3, 16 and 64 nodes: UGRO, raw asyncssh, parallel-ssh and Ansible, round about."""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.ansible import PROGRAM, Ansible
from benchmarks.fleet import Fleet
from benchmarks.report import CLOCK, CPU, Row, Times, ratio

ROUNDS = {3: 15, 16: 9, 64: 7}
ANSIBLE_ROUNDS = {3: 3, 16: 2, 64: 1}

Key = tuple[str, str, str]
Round = Callable[[str, str], Times]

WAYS: tuple[Key, ...] = (
    ("asyncssh", "cold", "-"),
    ("ugro", "cold", "run"),
    ("ugro", "cold", "ask"),
    ("parallel-ssh", "cold", "-"),
    ("asyncssh", "warm", "-"),
    ("ugro", "warm", "run"),
    ("ugro", "warm", "ask"),
    ("ugro", "warm", "observe"),
    ("parallel-ssh", "warm", "-"),
    ("asyncssh", "warm", "echo"),
    ("ugro", "warm", "echo"),
)


def measure(sizes: tuple[int, ...] = (3, 16, 64)) -> Iterator[Row]:
    """The rows of every size; a peer that is not installed has no figures.

    Raises:
        Unavailable: there is no sshd here.
    """
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="ugro-bench-") as folder, Fleet(Path(folder), size) as fleet:
            yield from _rows(size, _times(fleet))


def _times(fleet: Fleet) -> dict[Key, list[Times]]:
    times: dict[Key, list[Times]] = defaultdict(list)
    with ExitStack() as stack:
        kinds = ["asyncssh", "ugro"] + ["parallel-ssh"] * (importlib.util.find_spec("pssh") is not None)
        rounds = {kind: stack.enter_context(_contender(kind, fleet)) for kind in kinds}
        ways = [way for way in WAYS if way[0] in rounds]
        for kind, how, way in ways:  # not counted: imports, and connections that stay
            rounds[kind](how, way)
        for number in range(ROUNDS[fleet.size]):
            turn = number % len(ways)
            for key in (*ways[turn:], *ways[:turn]):
                times[key].append(rounds[key[0]](*key[1:]))
    if PROGRAM.exists():
        ansible = Ansible(fleet)
        try:
            for _ in range(ANSIBLE_ROUNDS[fleet.size]):
                for how in ("cold", "warm"):
                    times["ansible", how, "-"].append(ansible.round(how, "-"))
        finally:
            ansible.close()
    return times


@contextmanager
def _contender(kind: str, fleet: Fleet) -> Iterator[Round]:
    """A process that asks in one way, and the function that lets it do one round."""
    where = {
        "user": getpass.getuser(),
        "ports": fleet.ports,
        "client_key": str(fleet.client_key),
        "known_hosts": str(fleet.known_hosts),
        "inventory": fleet.inventory().model_dump(mode="json"),
    }
    (path := fleet.folder / "fleet.json").write_text(json.dumps(where))
    environment = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
    argv = [sys.executable, "-m", "benchmarks.contender", kind, str(path)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=Path(__file__).parent.parent
    ) as process:
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def one_round(how: str, way: str) -> Times:
            stdin.write(f"{how} {way}\n".encode())
            stdin.flush()
            if not (line := stdout.readline()):
                raise RuntimeError(f"{kind} {how} {way} ended with {process.wait()}")
            wall, cpu = json.loads(line)
            return float(wall), float(cpu)

        try:
            yield one_round
        finally:
            stdin.close()


def _rows(size: int, times: dict[Key, list[Times]]) -> Iterator[Row]:
    group = f"sweep, {size} nodes"
    for (kind, how, way), found in times.items():
        name = f"{kind} {how}" + (f" {way}" if way != "-" else "")
        seconds, cpu = [wall for wall, _ in found], statistics.median(cpu for _, cpu in found)
        note = f"{min(seconds) * 1000:.0f}–{max(seconds) * 1000:.0f} in {len(found)} rounds; own CPU {cpu * 1000:.0f}"
        yield Row(group, name, statistics.median(seconds) * 1000, note=note)

    def compare(first: Key, second: Key, which: int = CLOCK) -> float | None:
        return ratio(times.get(first, ()), times.get(second, ()), which)

    raw = {how: ("asyncssh", how, "-") for how in ("cold", "warm")}
    peer = {how: ("parallel-ssh", how, "-") for how in ("cold", "warm")}
    run = {how: ("ugro", how, "run") for how in ("cold", "warm")}
    ask, observe = ("ugro", "warm", "ask"), ("ugro", "warm", "observe")
    echo = [(kind, "warm", "echo") for kind in ("asyncssh", "ugro")]
    faster = 3.0 if size == 64 else None
    yield Row(group, "ugro ask / parallel-ssh, warm", compare(ask, peer["warm"]), "×", 1.0)
    yield Row(group, "ugro ask / parallel-ssh, cold", compare(("ugro", "cold", "ask"), peer["cold"]), "×", 1.0)
    yield Row(group, "ugro ask / asyncssh, warm", compare(ask, raw["warm"]), "×", 1.3)
    yield Row(group, "ugro ask / asyncssh, cold", compare(("ugro", "cold", "ask"), raw["cold"]), "×")
    yield Row(group, "asyncssh / ugro ask, warm, a bare echo", compare(echo[0], echo[1]), "×", faster, True)
    yield Row(group, "asyncssh / ugro ask, warm", compare(raw["warm"], ask), "×")
    yield Row(group, "  the same, master's CPU alone", compare(raw["warm"], ask, CPU), "×")
    yield Row(group, "ugro run / asyncssh, warm", compare(run["warm"], raw["warm"]), "×")
    yield Row(group, "  the same, master's CPU alone", compare(run["warm"], raw["warm"], CPU), "×")
    yield Row(group, "ugro run / asyncssh, cold", compare(run["cold"], raw["cold"]), "×")
    yield Row(group, "asyncssh / ugro observe, warm", compare(raw["warm"], observe), "×")
