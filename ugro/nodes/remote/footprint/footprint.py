"""What UGRO left on a node: looked at without following links below `jobs`, and removed where nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from ugro.common.errors import NodeRefused
from ugro.common.text import printable
from ugro.nodes.remote.answers import require
from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Outcome, Transport

T = TypeVar("T")

LOOK_TIMEOUT = 120.0
CLEAN_TIMEOUT = 900.0
FIELDS = {
    "base": 2, "storage": 1, "owner": 1, "job": 4, "other": 2, "foreign": 1, "linked": 1, "process": 4, "removal": 2,
    "setup": 3, "end": 0,
}  # fmt: skip
"""How many fields follow the first word of each record that `footprint.sh` prints."""

MOST = 2**60
"""Bytes or files that are on no node's disk; who says so is not believed."""

Process = tuple[int, str]
"""A pid and its command line, cut short."""


@dataclass(frozen=True)
class JobFootprint:
    """What the node side has of one job. `files` counts everything but folders; `processes` carry its UGRO_RUN.

    `links` are in the place of its folder, or of folders in it: what they lead to is not looked at, and stays.
    """

    id: str
    uid: str
    bytes: int
    files: int
    running: bool
    processes: tuple[Process, ...]
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnvironmentFootprint:
    """An environment that a setup command made: its name relative to the base directory, and when a job started last
    with it, in seconds since the epoch of the node's clock; None: none did, since its setup did not end well.
    """

    name: str
    bytes: int
    used_at: float | None


@dataclass(frozen=True)
class Footprint:
    """What is in a node's base directory, with names relative to it (bytes that are not UTF-8 are surrogates).

    `other` is UGRO's own but belongs to no job, and so are `environments`. `foreign` stays: it was not made by UGRO's
    node side (such as the state of a master that is a node itself), or it is a link. `links` are those that lie where a
    job's folders would: `clean` leaves them, and what they lead to. `bytes` is the sum of what `clean` would remove.
    `processes` are those that carry UGRO_RUN, may be seen, and are of a run in this directory or work below it; those
    of another installation on the same machine are not.
    """

    base_dir: str
    exists: bool
    jobs: tuple[JobFootprint, ...] = ()
    other: tuple[tuple[str, int], ...] = ()
    foreign: tuple[str, ...] = ()
    bytes: int = 0
    processes: tuple[Process, ...] = ()
    storage_id: str = ""
    owner: str = ""
    links: tuple[str, ...] = ()
    environments: tuple[EnvironmentFootprint, ...] = ()

    @property
    def own(self) -> list[str]:
        """The names, for people, of what `clean` would remove, and of links that it would have to follow for that."""
        environments = (one.name for one in self.environments)
        names = [
            *(f"jobs/{job.id}" for job in self.jobs),
            *environments,
            *(name for name, _ in self.other),
            *self.links,
        ]
        return list(dict.fromkeys(names))


async def footprint(transport: Transport) -> Footprint:
    """Look at everything UGRO has on a node. Changes nothing.

    Raises:
        NodeError: the node cannot be reached; NodeRefused: its base directory cannot be read.
    """
    script = load("footprint/footprint.sh") + "report\n"
    outcome = await transport.run(script, (transport.node.base_dir,), timeout=LOOK_TIMEOUT)
    return _footprint(transport, outcome)


async def clean(transport: Transport) -> list[str]:
    """Remove what UGRO's node side made on a node, also what jobs wrote into their code. Returns what remains of it.

    The caller sees to it that no controller acts meanwhile. What is foreign stays, and so does the base directory
    unless it is empty then. May be repeated at any time.

    Raises:
        NodeRefused: a job runs there, which the message names. NodeError: what was removed is unknown.
    """
    script = load("footprint/footprint.sh") + load("footprint/remove.sh") + load("footprint/clean.sh")
    outcome = await transport.run(script, (transport.node.base_dir,), timeout=CLEAN_TIMEOUT)
    return _footprint(transport, outcome).own


class Removal(StrEnum):
    """What became of a job's folder on a node that was to be removed."""

    GONE = "gone"
    ABSENT = "absent"
    REST = "rest"
    """UGRO's part is gone; what others put there stays."""
    OTHER = "other"
    """The folder is marked as that of another job, or of none."""
    RUNNING = "running"
    LEFT = "left"
    """Something of it could not be removed."""
    LINK = "link"
    """A link is in the place of a folder of it; what it leads to stays."""


async def remove_jobs(transport: Transport, jobs: Sequence[tuple[str, str]]) -> dict[str, Removal]:
    """Remove what UGRO's node side made of ended jobs (id and uid), also what they wrote into their code.

    Only a folder that carries the job's uid is touched, and nothing that runs. Links in it are never followed. It
    may be repeated at any time.

    Raises:
        NodeRefused: the base directory cannot be entered. NodeError: what was removed is unknown.
    """
    script = load("footprint/footprint.sh") + load("footprint/remove.sh") + load("footprint/remove_jobs.sh")
    args = (transport.node.base_dir, *(word for job in jobs for word in job))
    outcome = await transport.run(script, args, timeout=CLEAN_TIMEOUT)
    told = understood(transport, outcome, lambda records: {name: Removal(word) for kind, name, word in records[:-1]})
    if told.keys() != {job_id for job_id, _ in jobs}:
        raise NodeRefused(transport.name, f"{transport.node.base_dir}: its answer does not cover all jobs")
    return told


def _footprint(transport: Transport, outcome: Outcome) -> Footprint:
    return understood(transport, outcome, _assembled)


def understood(transport: Transport, outcome: Outcome, how: Callable[[list[list[str]]], T]) -> T:
    """Return what a script that follows `footprint.sh` says, as `how` reads its records.

    Raises:
        NodeRefused: it failed, or its answer makes no sense.
    """
    require(transport, outcome, transport.node.base_dir)
    try:
        records = list(_records(outcome.stdout.decode("utf-8", "surrogateescape")))
        if not outcome.truncated and records and records[-1][0] == "end":
            return how(records)
    except ValueError:
        pass  # something else spoke, or not to its end
    raise NodeRefused(transport.name, f"{transport.node.base_dir}: its answer is incomplete")


def _records(text: str) -> Iterator[list[str]]:
    """The records of `footprint.sh`; one that is cut short ends them.

    Raises:
        ValueError: there is one that it does not print.
    """
    fields = iter(text.split("\0")[:-1])
    for word in fields:
        if word not in FIELDS:
            raise ValueError(f"no record is called {word!r}")
        # The numbers first: `zip` takes one field too many otherwise.
        yield [word, *(field for _, field in zip(range(FIELDS[word]), fields, strict=False))]


def _assembled(records: list[list[str]]) -> Footprint:
    def of(kind: str) -> list[list[str]]:
        return [record[1:] for record in records if record[0] == kind]

    of_jobs = {pid for *_, pids in of("job") for pid in pids.split()}
    told = [record for record in of("process") if record[2] == "here" or record[0] in of_jobs]
    runs = [(run, (int(pid), _line(command))) for pid, run, _, command in told]
    links = tuple(path for [path] in of("linked"))
    jobs = []
    for job_id, uid, counted, pids in of("job"):
        total, files = map(_counted, counted.split())
        own = tuple(process for run, process in runs if uid and run.startswith(f"{uid}/"))
        its = tuple(path for path in links if f"{path}/".startswith(f"jobs/{job_id}/"))
        jobs.append(JobFootprint(job_id, uid, total, files, bool(pids.split()), own, its))
    other = tuple((name, _counted(counted.partition(" ")[0])) for name, counted in of("other"))
    environments = environments_in(records)
    [[base_dir, exists]] = of("base")
    return Footprint(
        base_dir=base_dir,
        exists=exists == "yes",
        jobs=tuple(jobs),
        other=other,
        foreign=tuple(path for [path] in of("foreign")),
        bytes=sum(job.bytes for job in jobs) + sum(size for _, size in other) + sum(one.bytes for one in environments),
        processes=tuple(process for _, process in runs),
        storage_id="".join(line.strip() for [line] in of("storage")),
        owner="".join(_line(text) for [text] in of("owner")),
        links=links,
        environments=environments,
    )


def environments_in(records: list[list[str]]) -> tuple[EnvironmentFootprint, ...]:
    """Return the environments of setup commands that records are about.

    Raises:
        ValueError: a record makes no sense.
    """
    return tuple(
        EnvironmentFootprint(_line(name), _counted(counted.partition(" ")[0]), float(_counted(used)) or None)
        for kind, name, counted, used in (record for record in records if record[0] == "setup")
    )


def _counted(text: str) -> int:
    """A number of bytes or files.

    Raises:
        ValueError: no disk has so many, or fewer than none.
    """
    number = int(text)
    if not 0 <= number < MOST:
        raise ValueError(f"{number} bytes or files")
    return number


def _line(text: str) -> str:
    """Foreign text as one harmless line of valid Unicode."""
    return printable(text.strip().encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
