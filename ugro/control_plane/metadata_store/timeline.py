"""The events, in order: each job's in its folder, and all of them in the cluster's `events.jsonl`."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ugro.common.clock import SYSTEM_CLOCK, Clock
from ugro.common.files import append_line
from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.common.models.record import Record
from ugro.common.paths import JOBS, JobFiles
from ugro.control_plane.metadata_store.records import read_lines, read_tail, state_errors, whole_lines

log = logging.getLogger(__name__)

EVENTS_LIMIT = 4 * 2**20
"""Bytes of the cluster's timeline before its older half is put aside, and of a job's that are read."""

TAIL_SLACK = 4096
"""Bytes beyond an event's own in which the end of a timeline is searched: room for a line that a crash cut short."""


class Mark(Record):
    """Position to which the cluster's timeline was read, and when: a place in a file, also after it was put aside."""

    at: float
    inode: int = 0
    offset: int = 0


class Timeline:
    """A job's event goes to the cluster's timeline first: one that is in the job's is in both."""

    def __init__(
        self,
        home: Path,
        publish: Callable[[Event], None] = lambda _: None,
        clock: Clock = SYSTEM_CLOCK,
        mask: Callable[[str], str] = str,
    ) -> None:
        """`publish` is called with each event that this process adds; `mask` takes secrets out of its message."""
        self._home = home
        self._publish = publish
        self._clock = clock
        self.mask = mask
        self._cluster, self._older = home / "events.jsonl", home / "events.1.jsonl"

    def add(self, event: Event) -> None:
        """Add what happened to a job or a node."""
        self._to_cluster(event)
        if event.job:
            self._to_job(event)
        self._publish(event)
        log.info("%s %s", " on ".join(filter(None, (event.job, event.node))) or "cluster", event.kind)

    def note(self, node: str, kind: EventKind, message: str, job: str = "") -> None:
        """Add an event about a node, or of a job there that is no change of its record."""
        told = self.mask(message)
        self.add(Event(at=self._clock.now(), job=job, node=node, kind=kind, message=told, noted=True))

    def catch_up(self, event: Event) -> bool:
        """Add the last event of a job's record to the timelines that a crash kept it from.

        Return whether the job's timeline has it and later events: then the record is an older one.
        """
        line = event.model_dump_json()
        with state_errors(path := self._of_job(event.job)):
            if event in read_tail(path, Event, TAIL_SLACK + 2 * len(line.encode()))[-1:]:
                return False
        told = [other for other in self.of_job(event.job) if not (other.noted or other.node)]
        if event in told:
            return told[-1] != event
        if event not in self.of_cluster():
            self._to_cluster(event)
        self._to_job(event)
        self._publish(event)
        return False

    def of_job(self, job_id: str) -> list[Event]:
        """A job's timeline, the last `EVENTS_LIMIT` bytes of it; an incomplete line is passed over."""
        with state_errors(path := self._of_job(job_id)):
            return read_tail(path, Event, EVENTS_LIMIT)

    def of_cluster(self) -> list[Event]:
        """The cluster's timeline."""
        with state_errors(self._cluster):
            return [event for path in (self._older, self._cluster) for event in read_lines(path, Event)]

    def since(self, mark: Mark, now: float) -> tuple[list[Event], Mark]:
        """Return the events added to the cluster's timeline after a mark, and the next mark.

        Where the mark's file is gone or never was, these are the events after its time. A line that is being written
        is left to the next call.
        """
        with state_errors(self._cluster), contextlib.ExitStack() as opened:
            files = [opened.enter_context(path.open("rb")) for path in (self._cluster, self._older) if path.exists()]
            inodes = [os.fstat(file.fileno()).st_ino for file in files]
            known = mark.inode in inodes
            if known:
                files = files[: inodes.index(mark.inode) + 1]
                files[-1].seek(mark.offset)
            new = [(data := file.read())[: data.rfind(b"\n") + 1] for file in files]
        if not any(new) and (known or not files):
            return [], mark
        found = whole_lines(b"".join(reversed(new)).split(b"\n"), Event)
        start = mark.offset if inodes[0] == mark.inode else 0
        reached = Mark(at=now, inode=inodes[0], offset=start + len(new[0]))
        return [event for event in found if known or event.at > mark.at], reached

    def _of_job(self, job_id: str) -> Path:
        return JobFiles(self._home / JOBS / job_id).events

    def _to_job(self, event: Event) -> None:
        with state_errors(path := self._of_job(event.job)):
            append_line(path, event.model_dump_json())

    def _to_cluster(self, event: Event) -> None:
        with state_errors(self._cluster):
            append_line(self._cluster, event.model_dump_json())
            if self._cluster.stat().st_size > EVENTS_LIMIT:
                os.replace(self._cluster, self._older)
