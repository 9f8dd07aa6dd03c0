"""One state directory as one object, by its parts; the package's docstring shows what lies where."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ugro.common.clock import SYSTEM_CLOCK, Clock
from ugro.common.errors import InternalError, RecordNewer, RecordUnreadable, StateError, UgroError
from ugro.control_plane.bus import Bus
from ugro.control_plane.counts import Counts
from ugro.control_plane.metadata_store.cleanup import Cleanup
from ugro.control_plane.metadata_store.cluster_tables import ClusterTables
from ugro.control_plane.metadata_store.config_store import ConfigStore
from ugro.control_plane.metadata_store.decisions import Decisions
from ugro.control_plane.metadata_store.job_index import Indexed
from ugro.control_plane.metadata_store.job_registry import JobRegistry
from ugro.control_plane.metadata_store.locks import (
    LOCK_PATIENCE,
    TURN_LOCK,
    RecordsLock,
    alone_on,
    held,
    held_in_turn,
    is_held,
)
from ugro.control_plane.metadata_store.metrics_store import MetricsStore
from ugro.control_plane.metadata_store.outputs import Outputs
from ugro.control_plane.metadata_store.records import make_home, pass_over
from ugro.control_plane.metadata_store.secrets import SecretStore
from ugro.control_plane.metadata_store.timeline import Timeline

T = TypeVar("T")


class MetadataStore:
    """One state directory: its jobs, and what is known of the cluster. Each part is about one thing; what spans them,
    or acts for all of them, is here.

    Raises (from any method):
        StateError: a file or the directory cannot be read or written, with its name.
    """

    def __init__(self, home: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self.home = home
        self.clock = clock
        """The clock of everything that acts for this directory."""
        self._records = RecordsLock(home)
        self.bus = Bus()
        """Changes that this process makes, and troubles that it continues despite."""
        self.counts = Counts()
        """Counters of this process."""
        self.secrets = SecretStore(home)
        """Values that jobs get by name; what is recorded and shown has them masked."""
        self.timeline = Timeline(home, self.bus.publish, clock, self.mask)
        """The events, in order."""
        self._tables = ClusterTables(home, self.timeline, clock)
        self.jobs = JobRegistry(home, self._records, self._tables, self.timeline, self.counts, clock)
        """The jobs' records and specs, and the indexes of them."""
        self.jobs.on_end = self._forget_tokens
        self.config = ConfigStore(home, self._tables, self.timeline, clock)
        """The nodes as they were reached and seen last, which are drained, and which master this is."""
        self.metrics = MetricsStore(home, self._tables)
        """Samples of GPUs, their history and speeds, and the links between nodes."""
        self.decisions = Decisions(self._tables)
        """The failures that wait for the user's decision."""
        self.cleanup = Cleanup(self._tables)
        """The work that nodes still owe for jobs that ended or were removed."""
        self.outputs = Outputs(self._tables, self.jobs.files, clock)
        """The outputs that jobs declare, and which of them are still to come."""

    def mask(self, text: str) -> str:
        """Return a text with the value of each secret masked."""
        return self.secrets.masker.text(text)

    def _forget_tokens(self, job_id: str) -> None:
        """Forget the tokens of a job that ended, unless another one like it has them."""
        with contextlib.suppress(UgroError):  # it ends also where its spec is lost
            if tokens := self.jobs.spec(job_id).tokens:
                live = (job.id for job in self.jobs.live(pass_over) if job.id != job_id)
                self.secrets.forget_tokens(tokens.difference(*(self.jobs.spec(other).tokens for other in live)))

    # --- who acts ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, patience: float = LOCK_PATIENCE) -> Iterator[None]:
        """Hold the lock for reading records and writing what follows from them; may be nested.

        Every process that changes a record holds it, for moments only, and never while it waits for a node: so a
        request is recorded at once, whatever else is under way. For plain commands: coroutines use `write`.

        Raises:
            StateLocked: another process holds it for longer than `patience` seconds; the message says which.
        """
        with self._records.held(patience):
            yield

    async def write(self, change: Callable[[], T], patience: float = LOCK_PATIENCE) -> T:
        """Run a change that reads records and writes what follows from them, with the lock held, in a thread.

        A slow disk or another process does not block the event loop. Once begun a change is finished, also where its
        caller is cancelled.

        Raises:
            StateLocked: another process holds the lock for longer than `patience` seconds; the message says which.
        """
        return await self._records.run(change, patience)

    @contextlib.contextmanager
    def exclusive(self, name: str, patience: float) -> Iterator[None]:
        """Hold a lock of its own, for as long as its work takes.

        Raises:
            StateLocked: another process holds it for longer than `patience` seconds; the message says which.
        """
        make_home(self.home)
        with held(self.home / name, patience):
            yield

    @contextlib.asynccontextmanager
    async def turn(self, patience: float = LOCK_PATIENCE) -> AsyncIterator[None]:
        """Hold the turn to observe the cluster and to decide the next steps.

        Raises:
            StateLocked: another process holds it for longer than `patience` seconds; the message says which.
        """
        make_home(self.home)
        async with held_in_turn(self.home / TURN_LOCK, patience):
            yield

    def alone_with(self, job_id: str) -> contextlib.AbstractContextManager[bool]:
        """Hold a job's next step on its nodes, for as long as it takes; False: another process holds it."""
        return alone_on(self.jobs.files(job_id).folder)

    def is_locked(self, name: str) -> bool:
        """Whether a process holds a lock just now. Nothing is written, but who takes it meanwhile has to wait."""
        return is_held(self.home / name)

    # --- what the disk refuses ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def optional(self) -> Iterator[None]:
        """Run optional work that is no reason to stop: what the disk refuses is reported on the bus."""
        try:
            yield
        except RecordNewer as error:
            self.tell(error)
        except RecordUnreadable:
            raise
        except StateError as error:
            self.tell(error)

    def tell(self, error: UgroError) -> None:
        """Report a trouble that this process continues despite; one of each kind, since a full disk refuses much."""
        if not any(_is_told(error, known) for known in self.bus.troubles):
            self.bus.tell(error)

    # --- the indexes, and what else can be made of the jobs' folders and the timeline --------------------------------

    def problems(self) -> list[StateError]:
        """Return the problems of the indexes that stop no command: lists of ended jobs may lack some."""
        return self._tables.problems()

    def rebuild(self) -> Indexed:
        """Rebuild both indexes from the jobs' folders, and repair `cluster.json`. Return what was found and done."""
        return self._tables.rebuild()


def _is_told(error: UgroError, known: UgroError) -> bool:
    """Return whether the report of one error makes a report of the other unnecessary."""
    if isinstance(error, InternalError) or isinstance(known, InternalError):
        return error.message == known.message
    return error.hint == known.hint
