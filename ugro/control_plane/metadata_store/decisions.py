"""Decisions about jobs that failed: the `undecided` and `proposals` tables of `cluster.json`."""

from __future__ import annotations

from ugro.common.models.proposal import Proposal
from ugro.control_plane.metadata_store.cluster_tables import ClusterTables
from ugro.control_plane.metadata_store.records import known_part


class Decisions:
    """At most one proposal a job.

    Raises (from any method):
        StateError: `cluster.json` cannot be read or written.
    """

    def __init__(self, tables: ClusterTables) -> None:
        self._tables = tables

    def undecided(self) -> list[str]:
        """Return the jobs that failed, or are about to, without a decision whether they are tried again."""
        with self._tables.look() as db:
            return [str(row["job"]) for row in db.table("undecided").all()]

    def remember_undecided(self, job_id: str, undecided: bool = True) -> None:
        """Note that a job's failure is to be decided, or that it was."""
        with self._tables.change() as db:
            table = db.table("undecided")
            table.remove(lambda row: row.get("job") == job_id)
            if undecided:
                table.insert({"job": job_id})

    def proposals(self) -> dict[str, Proposal]:
        """Return the proposals that wait for the user's approval, or are approved and still to be done, by job."""
        with self._tables.look() as db:
            rows = [dict(row) for row in db.table("proposals").all()]
        found = [known_part(Proposal, row) for row in rows]
        return {proposal.job: proposal for proposal in sorted(found, key=lambda proposal: proposal.at)}

    def unanswered(self) -> dict[str, Proposal]:
        """Return those of the proposals that were neither approved nor denied, by job."""
        return {job: one for job, one in self.proposals().items() if not one.approved}

    def propose(self, proposal: Proposal) -> None:
        """Keep a proposal; an earlier one about the same job is replaced."""
        with self._tables.change() as db:
            table = db.table("proposals")
            table.remove(lambda row: row.get("job") == proposal.job)
            table.insert(proposal.model_dump(mode="json"))

    def withdraw(self, job_id: str) -> None:
        """Let go of the proposal about a job: it was answered, or nothing came of it."""
        with self._tables.change() as db:
            db.table("proposals").remove(lambda row: row.get("job") == job_id)
