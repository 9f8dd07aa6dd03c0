"""Change jobs, in the order of writes that the package's docstring gives, and list them."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ugro.common.clock import Clock
from ugro.common.errors import InputError, NoSuchJob, RecordNewer, RecordUnreadable, UgroError
from ugro.common.files import write_atomic
from ugro.common.job_names import LAST, LAST_FAILED, is_pattern, matches, number_in
from ugro.common.job_spec import JOB_ID, JobSpec
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job, Summary, SweepPart
from ugro.common.models.job_state import JobState
from ugro.common.paths import JobFiles
from ugro.common.text import clock, printable, some
from ugro.common.troubles import Troubles
from ugro.control_plane.counts import Counts
from ugro.control_plane.metadata_store.cluster_tables import ClusterTables
from ugro.control_plane.metadata_store.job_folders import JobFolders, Seen, id_of, number_of, readable, seen_as
from ugro.control_plane.metadata_store.locks import RecordsLock, alone_on, is_held
from ugro.control_plane.metadata_store.records import (
    OnUnreadable,
    lost,
    pass_over,
    replace_record,
    state_errors,
    stop_at,
)
from ugro.control_plane.metadata_store.timeline import Timeline
from ugro.control_plane.transitions import Change


class JobRegistry(JobFolders):
    """The folders of jobs, with what changes records: each change is also in the indexes and the timelines.

    Raises (from any method):
        StateError: a file or the directory cannot be read or written, with its name.
    """

    def __init__(
        self,
        home: Path,
        lock: RecordsLock,
        tables: ClusterTables,
        timeline: Timeline,
        counts: Counts,
        clock: Clock,
    ) -> None:
        super().__init__(home)
        self._lock = lock
        self._tables = tables
        self._index = tables.index
        self._timeline = timeline
        self._counts = counts
        self._clock = clock
        self._parsed: dict[str, tuple[Seen, Job]] = {}
        self._told: dict[str, Event] = {}
        self.on_end: Callable[[str], object] = lambda job_id: None

    # --- submitting and changing jobs --------------------------------------------------------------------------------

    def submit(
        self,
        files: JobFiles,
        spec: JobSpec,
        code: CodeVersion,
        now: float,
        predicted_mib: int | None = None,
        sweep: SweepPart | None = None,
    ) -> Job:
        """Write a new job's frozen spec and its first record."""
        job_id = files.folder.name
        job = Job(
            id=job_id,
            uid=uuid.uuid4().hex,
            name=spec.name or job_id,
            state=JobState.HELD if spec.hold else JobState.QUEUED,
            reason="held at its submission" if spec.hold else "",
            priority=spec.priority,
            predicted_mib=predicted_mib,
            submitted_at=now,
            launcher=spec.launcher,
            command=spec.command,
            code=code,
            sweep=sweep,
        )
        with state_errors(files.folder):
            write_atomic(files.spec, spec.model_dump_json(indent=1))
        self._enter(job_id)
        # The event first: a tick beside us that sees the record must not take its event for one that a crash lost.
        message = self._timeline.mask(" ".join(job.command))
        event = Event(at=self._clock.now(), job=job_id, kind=EventKind.SUBMITTED, message=message)
        self._timeline.add(event)
        return self._write(job, event)

    def save(self, job: Job, kind: EventKind, message: str) -> Job:
        """Replace a job's record by what came of a step, and add the change to its events.

        What was asked of the job while the step was under way is kept.
        """
        with self._lock.held():
            before = self._job_if_any(job.id)
            return self._save(with_requests(job, before) if before else job, kind, message)

    def _save(self, job: Job, kind: EventKind, message: str) -> Job:
        """The record first: it is the truth."""
        if job.id not in self._told:
            self._catch_up(job)
        event = Event(at=self._clock.now(), job=job.id, kind=kind, message=self._timeline.mask(message))
        job = self._write(_masked(job, self._timeline.mask), event)
        self._timeline.add(event)
        self._told[job.id] = event
        if job.state.ended:
            if str(kind) == job.state.value:
                self._counts.ended.add((job.state.value, _cause(job)))
            self._settle(job)
            self.on_end(job.id)
        return job

    def reopen(self, job: Job, spec: JobSpec, message: str) -> Job:
        """Take a job that ended back among the live ones, for the attempt its record says.

        What the attempt before was asked stays beside, as `spec-<attempt>.json`.

        Raises:
            InputError: its last attempt is not the one before any more.
        """
        files = self.files(job.id)
        with self._lock.held(), state_errors(files.folder):
            now = self.job(job.id)
            if is_held(files.events):
                raise InputError(f"what {job.id} left is being removed just now", f"see: ugro status {job.id}")
            if now.attempt != job.attempt - 1 or not now.state.ended:
                raise InputError(
                    f"{job.id} was resumed meanwhile: it is {now.state.value}", f"see: ugro status {job.id}"
                )
            before = files.spec_of(job.attempt - 1)
            if not before.exists():
                write_atomic(before, files.spec.read_text(encoding="utf-8"))
            write_atomic(files.spec, spec.model_dump_json(indent=1))
            self._enter(job.id)
            return self._save(job, EventKind.RESUMED, message)

    def respecify(self, job_id: str, spec: JobSpec, kind: EventKind, message: str) -> Job:
        """Change a job's spec, and add an event of it. The spec is written first: a crash may only lose the event."""
        files = self.files(job_id)
        with self._lock.held(), state_errors(files.folder):
            write_atomic(files.spec, spec.model_dump_json(indent=1))
            return self._save(self.job(job_id), kind, message)

    def edit(self, change: Change, spec: JobSpec) -> Job:
        """Replace what a waiting job was asked for, and its record. What it was before is in the event."""
        files = self.files(change.job.id)
        with self._lock.held(), state_errors(files.folder):
            write_atomic(files.spec, spec.model_dump_json(indent=1))
            return self._save(*change)

    @contextlib.contextmanager
    def removing(self, job: Job) -> Iterator[bool]:
        """Hold the removal of an ended job's files; False: another process has it, or the job has changed.

        It cannot be resumed meanwhile. Slow work on nodes may be done inside. The lock is on its timeline, which is
        never replaced, so that nothing has to be written on a full disk.
        """
        events = self.files(job.id).events
        with contextlib.ExitStack() as stack:
            with self._lock.held(), state_errors(events):
                now = self._job_if_any(job.id)
                free = now is not None and now.state.ended and now.last_event == job.last_event
                if free:
                    if not events.exists():
                        events.touch(mode=0o600)
                    free = stack.enter_context(alone_on(events))
            yield free

    def forget(self, job: Job) -> None:
        """Remove the record of an ended job and all that is beside it. The caller is `removing` it.

        Killed half-way the job is there as before, or only its folder is, under a name that `ugro gc` knows.
        """
        files = self.files(job.id)
        gone = files.folder.with_name(f".tmp-{job.id}-{job.uid}")
        with self._lock.held(), state_errors(files.folder):
            self._keep_number(job.id)
            self._timeline.note("", EventKind.REMOVED, job.name, job.id)
            with self._tables.change() as db:
                self._index.forget(db, job.id)
            os.rename(files.folder, gone)
        with state_errors(gone):
            shutil.rmtree(gone)

    def _write(self, job: Job, event: Event) -> Job:
        files = self.files(job.id)
        job = job.model_copy(update={"last_event": event})
        with state_errors(files.folder):
            replace_record(files.record, job.model_dump_json(indent=1))
        return job

    def change(self, job_id: str, edge: Callable[[Job], Change]) -> Job:
        """Read a job, take an edge from where it is, and save it."""
        with self._lock.held():
            return self._save(*edge(self.job(job_id)))

    def settle(self) -> list[UgroError]:
        """Finish what a crash left between a record and the timelines or the indexes. Returns what went wrong.

        A record that was put back is an older one than its timeline; that gets an event of its own.
        """
        troubles = Troubles()
        with self._lock.held():
            jobs = self._indexed(pass_over)
            with troubles.boundary("interrupted submissions"):
                self._let_go_of_failed_submissions(jobs)
            for job in jobs:
                with troubles.boundary(f"{job.id}: its timeline", job.id):
                    self._settle_one(job)
        return troubles.found

    def _settle_one(self, job: Job) -> None:
        if (last := job.last_event) and self._told.get(job.id) != last and self._catch_up(job):
            self._save(job, EventKind.RESTORED, f"its record is again that of {clock(last.at)}: {last.kind}")
        elif job.state.ended:
            self._settle(job)

    def _catch_up(self, job: Job) -> bool:
        """Give the timelines the event of a job's record. Returns whether the record is older than its timeline."""
        if job.last_event is None:
            return False
        self._told[job.id] = job.last_event
        return self._timeline.catch_up(job.last_event)

    def _settle(self, job: Job) -> None:
        for cache in (self._parsed, self._specs, self._told):  # a resident process must not grow with every job
            cache.pop(job.id, None)
        with self._tables.change() as db:
            self._index.end(db, job)

    def _enter(self, job_id: str) -> None:
        with self._tables.change() as db:
            self._index.enter(db, job_id)

    def _let_go_of_failed_submissions(self, jobs: Iterable[Job]) -> None:
        """Take out of the index what was entered there before its submission failed, and took its folder along."""
        unread = (self._live_ids() or set()) - {job.id for job in jobs}
        gone = {name for name in unread if not self.files(name).folder.exists()}
        if failed := {name for name in gone if not self._began(name)}:
            with self._tables.change() as db:
                self._index.leave(db, failed)

    # --- reading jobs ------------------------------------------------------------------------------------------------

    def live(self, on_unreadable: OnUnreadable = stop_at) -> list[Job]:
        """The jobs that have not ended, in the order of their ids.

        What an unreadable one holds is not known: who allocates GPUs has to stop there, readers continue.
        """
        return [job for job in self._indexed(on_unreadable) if not job.state.ended]

    def is_unchanged(self, job: Job) -> bool:
        """Whether the record of a job is the one that this was read from."""
        with contextlib.suppress(RecordUnreadable):
            found = self._known_job(job.id)
            return found is not None and found.last_event == job.last_event
        return False

    def _indexed(self, on_unreadable: OnUnreadable) -> list[Job]:
        names = self._live_ids()
        ids = self._folders() if names is None else names
        return list(readable(sorted(ids, key=number_of), self._known_job, on_unreadable))

    def _live_ids(self) -> set[str] | None:
        with self._tables.look() as db:
            return self._index.live(db)

    def _known_job(self, job_id: str) -> Job | None:
        """A job's record, parsed again only when its file changed."""
        seen = seen_as(f"{self._jobs}/{job_id}/job.json")
        if seen is None:
            found = self._job_if_any(job_id)  # which says what is wrong
            if found is None and not self.files(job_id).folder.exists() and self._began(job_id):
                raise lost(self.files(job_id).record)
            return found
        known = self._parsed.get(job_id)
        if known is None or known[0] != seen:
            known = self._parsed[job_id] = (seen, self.job(job_id))
        return known[1]

    def _began(self, job_id: str) -> bool:
        """Whether the cluster's timeline knows more of a job than that it was to be submitted."""
        return any(event.job == job_id and event.kind != EventKind.SUBMITTED for event in self._timeline.of_cluster())

    def summaries(self) -> list[Summary]:
        """Every job that ended, but for those that were resumed since."""
        rows, live = self._index.ended(), self._live_ids()
        return [row for row in rows if row.id not in live] if live else rows

    def ended_ids(self) -> set[str]:
        """The ids of the jobs that ended, but for those that were resumed since."""
        return self._index.ended_ids() - (self._live_ids() or set())

    def recent(self, count: int, on_unreadable: OnUnreadable = stop_at) -> list[Job]:
        """Return the jobs that ended last. `live` reports unreadable ones whose end is not known."""
        ended = {job.id for job in self._indexed(pass_over) if job.state.ended}
        past = {row.id for row in self._index.ended_last(count)} - (self._live_ids() or set())
        return self.all(ended | past, on_unreadable)[-count:]

    def find(self, reference: str) -> Job:
        """The job of that id, name or number, `@last`, `@last-failed`, or the only one that a pattern matches.

        Of several with one name, the newest. A name counts before a number.

        Raises:
            NoSuchJob: there is none, or a pattern matches several.
        """
        if reference.startswith("@"):
            return self._last(reference)
        if is_pattern(reference):
            return self._only(reference)
        if JOB_ID.fullmatch(reference) and (found := self._job_if_any(reference)):
            return found

        def stop_at_namesake(error: RecordUnreadable) -> None:
            if not isinstance(error, RecordNewer) or error.fields.get("name") == reference:
                raise error

        named = [job.id for job in self._indexed(stop_at_namesake) if job.name == reference]
        named = named or [row.id for row in self.summaries() if row.name == reference]
        if named:
            return self.job(max(named, key=number_of))
        number = number_in(reference)
        if number is not None and (found := self._job_if_any(id_of(number))):
            return found
        if sweep := self._sweep_named(reference):
            hint = f"see: ugro status {sweep}"
            raise NoSuchJob(f"there is no job {printable(reference)!r}, but a sweep of that name: {sweep}", hint)
        raise self._unknown(f"there is no job {printable(reference)!r}")

    def _sweep_named(self, name: str) -> str | None:
        """The id of the newest sweep of that name, if there is one."""
        jobs: list[Job | Summary] = [*self.summaries(), *self._indexed(pass_over)]
        found = [job for job in jobs if job.sweep_id and job.name.rpartition("-")[0] == name]
        return max(found, key=lambda job: number_of(job.id)).sweep_id if found else None

    def matching(self, pattern: str, on_unreadable: OnUnreadable = pass_over) -> list[Job | Summary]:
        """The jobs whose id or name is like a pattern, in the order of their ids; of ended ones their summary."""
        jobs: list[Job | Summary] = [*self._indexed(on_unreadable), *self.summaries()]
        found = [job for job in jobs if matches(pattern, job)]
        return sorted(found, key=lambda job: number_of(job.id))

    def _only(self, pattern: str) -> Job:
        found = self.matching(pattern)
        if len(found) == 1:
            return self.job(found[0].id)
        if not found:
            raise self._unknown(f"no job has an id or a name like {printable(pattern)!r}")
        hint = f"name one of them; to list them: ugro status {shlex.quote(printable(pattern))}"
        names = some([job.id for job in found])
        raise NoSuchJob(f"one job is expected here, and {printable(pattern)!r} matches {len(found)}: {names}", hint)

    def _last(self, reference: str) -> Job:
        if reference == LAST:
            for job_id in sorted(self._folders(), key=number_of, reverse=True):
                if found := self._job_if_any(job_id):
                    return found
            raise self._unknown(f"{LAST} names no job: there are none")
        if reference == LAST_FAILED:
            failed = [row.id for row in self.summaries() if row.state == JobState.FAILED]
            if failed:
                return self.job(failed[-1])
            raise self._unknown(f"{LAST_FAILED} names no job: none is failed")
        raise NoSuchJob(f"{printable(reference)!r} names no job", f"there are {LAST} and {LAST_FAILED}")

    def _unknown(self, message: str) -> NoSuchJob:
        hint = "`ugro status` lists the jobs" if self._folders() else "`ugro launch` submits a first job"
        return NoSuchJob(message, hint)


def _masked(job: Job, mask: Callable[[str], str]) -> Job:
    """Return a record without the secrets that a script printed and that a step quotes."""
    failure, back = job.first_failure, job.taken_back
    return job.changed(
        reason=mask(job.reason),
        alert=job.alert and mask(job.alert),
        first_failure=failure and replace(failure, message=mask(failure.message)),
        taken_back=back and back.model_copy(update={"reason": mask(back.reason)}),
    )


def _cause(job: Job) -> str:
    return job.first_failure.cause if job.state == JobState.FAILED and job.first_failure else ""


def with_requests(job: Job, before: Job) -> Job:
    """A job after a step, with what was asked of it meanwhile: its end, or another priority."""
    if job.attempt != before.attempt or job.state.ended:
        return job
    job = job.changed(priority=before.priority, wish=job.wish or before.wish)
    if before.first_failure and not job.first_failure:  # an end that was approved, for a hang
        job = job.changed(first_failure=before.first_failure, alert=before.alert)
    return job
