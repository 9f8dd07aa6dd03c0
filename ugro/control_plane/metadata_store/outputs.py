"""Jobs whose outputs are still to come to the master (`outputs` in `cluster.json`), and the state of outputs."""

from __future__ import annotations

from collections.abc import Callable

from ugro.common.clock import Clock
from ugro.common.errors import UgroError
from ugro.common.files import write_atomic
from ugro.common.models.outputs import OutputsRecord
from ugro.common.models.outputs_state import OutputsState
from ugro.common.paths import JobFiles
from ugro.control_plane.metadata_store.cluster_tables import ClusterTables
from ugro.control_plane.metadata_store.records import read_record, state_errors


class Outputs:
    """The outputs that jobs declare.

    Raises (from any method):
        StateError: `cluster.json` or the job's file cannot be read or written.
    """

    def __init__(self, tables: ClusterTables, files: Callable[[str], JobFiles], clock: Clock) -> None:
        self._tables = tables
        self._files = files
        self._clock = clock

    def owed(self) -> list[str]:
        """Return the jobs whose outputs are still to come."""
        with self._tables.look() as db:
            return [str(row["job"]) for row in db.table("outputs").all()]

    def owe(self, job_id: str) -> None:
        """Keep that the outputs of a job are to come, once it has succeeded."""
        self.keep(job_id, OutputsRecord(state=OutputsState.OWED, since=self._clock.now()))
        with self._tables.change() as db:
            table = db.table("outputs")
            table.remove(lambda row: row.get("job") == job_id)
            table.insert({"job": job_id})

    def settle(self, job_id: str) -> None:
        """Let go of a job: nothing more comes of it."""
        with self._tables.change() as db:
            db.table("outputs").remove(lambda row: row.get("job") == job_id)

    def keep(self, job_id: str, record: OutputsRecord) -> None:
        """Write down what became of a job's outputs so far."""
        path = self._files(job_id).outputs_record
        with state_errors(path):
            write_atomic(path, record.model_dump_json())

    def record(self, job_id: str) -> OutputsRecord | None:
        """Return what became of a job's outputs; None: nothing so far, or that is lost."""
        try:
            return read_record(OutputsRecord, self._files(job_id).outputs_record)
        except UgroError:
            return None
