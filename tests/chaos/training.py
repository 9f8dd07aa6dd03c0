"""What is trained: a gang of ranks that step together without torch, leave a trace of every step, and save and resume.

Its state after each step is a function of the steps alone, so that a run can be compared with an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SAVE_EVERY = 15

SCRIPT = f'''\
import io, os, signal, socket, sys, time, zipfile

steps, rank, world = int(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
job, attempt, home = os.environ["UGRO_JOB"], os.environ["UGRO_ATTEMPT"], os.environ["HOME"]
trace = os.open(f"{{home}}/trace-{{job}}", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
trap = f"{{home}}/tear-{{job}}"

def note(what, step, state):
    os.write(trace, f"{{time.monotonic():.4f}} {{attempt}} {{rank}} {{what}} {{step}} {{state}}\\n".encode())

def gather():
    """The connections to the other ranks: rank 0 has one to each, the others have one to rank 0."""
    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank == 0:
        server = socket.create_server(where)
        return [server.accept()[0] for _ in range(world - 1)]
    while True:
        try:
            return [socket.create_connection(where)]
        except ConnectionRefusedError:
            time.sleep(0.02)

def hear(peers):
    for peer in peers:
        if not peer.recv(1):
            raise RuntimeError("Connection closed by peer")

def tell(peers):
    for peer in peers:
        peer.sendall(b".")

def meet(peers):
    """Wait until every rank is here."""
    if rank == 0:
        hear(peers)
        tell(peers)
    else:
        tell(peers)
        hear(peers)

def save(step, state):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("archive/data.pkl", f"{{step}} {{state}}")
        archive.writestr("archive/data/0", os.urandom(50_000))
    data = whole.getvalue()
    with open(f"checkpoint-{{step}}.pt", "wb", buffering=0) as file:
        file.write(data[: len(data) // 2])
        if os.path.exists(trap):
            os.unlink(trap)
            note("torn", step, state)
            os.kill(os.getpid(), signal.SIGKILL)
        file.write(data[len(data) // 2 :])
    note("saved", step, state)

step, state = 0, 1
if path := os.environ.get("UGRO_RESUME_FROM"):
    with zipfile.ZipFile(path) as archive:
        step, state = map(int, archive.read("archive/data.pkl").split())
note("began", step, state)
peers = gather() if world > 1 else []
while step < steps:
    step += 1
    state = (state * 1103515245 + step) % 2**31
    time.sleep(0.02)
    note("step", step, state)
    meet(peers)
    if rank == 0 and step % {SAVE_EVERY} == 0:
        save(step, state)
note("done", step, state)
'''


@dataclass(frozen=True)
class Mark:
    """One line of a trace; `at` is in the machine's monotonic clock."""

    at: float
    node: str
    attempt: int
    rank: int
    what: str
    step: int
    state: int


def state_after(step: int) -> int:
    """The state of an undisturbed run."""
    state = 1
    for number in range(1, step + 1):
        state = (state * 1103515245 + number) % 2**31
    return state


def trace_of(homes: Mapping[str, Path], job: str) -> list[Mark]:
    """What all ranks of all attempts of a job did, in the order of time."""
    marks = []
    for node, home in homes.items():
        path = home / f"trace-{job}"
        for line in path.read_text().splitlines() if path.exists() else ():
            at, attempt, rank, what, step, state = line.split()
            marks.append(Mark(float(at), node, int(attempt), int(rank), what, int(step), int(state)))
    return sorted(marks, key=lambda mark: mark.at)
