"""States of a job and of its ranks."""

from enum import StrEnum


class JobState(StrEnum):
    """State of a job."""

    QUEUED = "queued"
    HELD = "held"
    STARTING = "starting"
    RUNNING = "running"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Return whether the state is final."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)

    @property
    def on_nodes(self) -> bool:
        """Return whether the job may have processes on nodes, so that its GPUs are occupied."""
        return self in (JobState.STARTING, JobState.RUNNING, JobState.UNKNOWN)


class RankState(StrEnum):
    """State of one rank. `pending`: it has not started. `lost`: it is gone without an exit code."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
