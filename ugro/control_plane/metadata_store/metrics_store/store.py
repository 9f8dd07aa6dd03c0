"""Measurements: series of trainings, GPU samples of jobs, the history of every GPU, speeds of GPUs and links."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ugro.common.files import append_line
from ugro.common.models.metrics import GpuSample
from ugro.common.paths import JOBS, JobFiles
from ugro.control_plane.metadata_store.cluster_tables import ClusterTables
from ugro.control_plane.metadata_store.gpu_history import GpuHistory
from ugro.control_plane.metadata_store.links import Links
from ugro.control_plane.metadata_store.metrics_store.training import JobSeries
from ugro.control_plane.metadata_store.records import read_lines, read_tail, state_errors

TAIL = 4096
"""Bytes in which the last line of a job's metrics is surely found."""


class MetricsStore:
    """`links` and `history` have files of their own; a job's series and samples are in its folder.

    Raises (from any method):
        StateError: a file cannot be read or written, with its name.
    """

    def __init__(self, home: Path, tables: ClusterTables) -> None:
        self.links = Links(home)
        self.history = GpuHistory(home)
        self._jobs = home / JOBS
        self._tables = tables

    def series(self, job_id: str) -> JobSeries:
        """Return the series that a job's training reported. Several of one job may be in use at a time."""
        return JobSeries(JobFiles(self._jobs / job_id).series)

    def add_samples(self, job_id: str, samples: Iterable[GpuSample]) -> None:
        """Add what a job's GPUs showed to its metrics."""
        lines = [sample.model_dump_json() for sample in samples]
        if lines:
            with state_errors(path := self._of_job(job_id)):
                append_line(path, "\n".join(lines))

    def last_sample(self, job_id: str) -> GpuSample | None:
        """Return the last of them. Its time is of this machine's clock, which that of the file need not be."""
        with state_errors(path := self._of_job(job_id)):
            return next(reversed(read_tail(path, GpuSample, TAIL)), None)

    def samples(self, job_id: str) -> Iterator[GpuSample]:
        """Yield what a job's GPUs showed while it ran, one at a time: there are many of a long run."""
        with state_errors(path := self._of_job(job_id)):
            yield from read_lines(path, GpuSample)

    def rename(self, old: str, new: str) -> list[str]:
        """Keep what was measured of a node under its new name. Return what that is: `history`, `links`."""
        return [*self.history.rename(old, new), *self.links.rename(old, new)]

    def _of_job(self, job_id: str) -> Path:
        return JobFiles(self._jobs / job_id).metrics

    def speeds(self) -> dict[str, tuple[str, float]]:
        """Return the measured speed of GPUs: name and steps a second by UUID."""
        with self._tables.look() as db:
            return {str(row["uuid"]): (str(row["name"]), float(row["speed"])) for row in db.table("speeds").all()}

    def remember_speed(self, uuid: str, name: str, speed: float) -> None:
        """Keep how fast a GPU was measured to be, in steps a second."""
        with self._tables.change() as db:
            table = db.table("speeds")
            table.remove(lambda row: row.get("uuid") == uuid)
            table.insert({"uuid": uuid, "name": name, "speed": speed})
