"""The only places that know a job's file names: `RunPaths` on a node, `JobFiles` in the master's state directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ugro.common.config import Inventory, NodeConfig
from ugro.common.models.job import Job

JOBS = "jobs"
CODE = "code"


@dataclass(frozen=True)
class RunPaths:
    """One attempt of a job on one node. `base_dir` may begin with `~/`, which the node expands."""

    base_dir: str
    job: str
    attempt: int
    node_rank: int

    @property
    def job_dir(self) -> str:
        """What all attempts of the job share on the node: its code."""
        return f"{self.base_dir.rstrip('/')}/{JOBS}/{self.job}"

    @property
    def run_dir(self) -> str:
        """`launch.sh`, `claim/`, `pid`, `log`, `exit`, `rank-<rank>.{log,pid,exit,error,limit,oom}` of this attempt.

        `time-limit` has the seconds that its ranks may run, where there is a limit. `reaper.pid`, `adopted` and `gone`
        are those of `reaper.py`. `exit.room` and the like are room on the disk for files that are still to come.

        `checkpoint-request` is there from when a checkpoint is asked for until the script takes it.
        """
        return f"{self.job_dir}/{self.attempt}/node-{self.node_rank}"


def run_config(inventory: Inventory, job: Job, node: str) -> NodeConfig | None:
    """A node as a job was placed on it, else as the inventory describes it; None when neither knows it."""
    return job.node_configs.get(node) or inventory.nodes.get(node)


def run_paths(inventory: Inventory, job: Job, node: str) -> RunPaths | None:
    """Where the current attempt of a job lies on a node, or None when it has no part there, or the node is not known.

    It lies where it was started, whatever the inventory says of the node by now.
    """
    config = run_config(inventory, job, node)
    if node not in job.nodes or config is None:
        return None
    return RunPaths(config.base_dir, job.id, job.attempt, job.nodes.index(node))


@dataclass(frozen=True)
class JobFiles:
    """A job's folder in the master's state directory."""

    folder: Path

    @property
    def record(self) -> Path:
        """The job's record, replaced atomically."""
        return self.folder / "job.json"

    @property
    def spec(self) -> Path:
        """What was asked for, frozen at submission."""
        return self.folder / "spec.json"

    def spec_of(self, attempt: int) -> Path:
        """What an attempt that is over was asked for, where the next one was asked for something else."""
        return self.folder / f"spec-{attempt}.json"

    @property
    def events(self) -> Path:
        """Every state change, one JSON line each."""
        return self.folder / "events.jsonl"

    @property
    def metrics(self) -> Path:
        """What its GPUs showed while it ran, one JSON line for each rank and look."""
        return self.folder / "metrics.jsonl"

    @property
    def watchdog(self) -> Path:
        """What the watchdog remembers of the attempt that runs."""
        return self.folder / "watchdog.json"

    def hang(self, attempt: int) -> Path:
        """Where the ranks of an attempt stood when it was found to hang."""
        return self.folder / f"hang-{attempt}.json"

    def snapshot(self, attempt: int) -> Path:
        """The code that came with an attempt (`CodeVersion.attempt`): that of the submission, or newer one.

        All are kept as long as the job may be resumed: by that of before nodes know which of their files were code.
        """
        return self.folder / ("snapshot" if attempt == 1 else f"snapshot-{attempt}")

    @property
    def checkpoints(self) -> Path:
        """Checkpoints that were brought here, each in a folder under its label, with LABEL.json that tells of it."""
        return self.folder / "checkpoints"

    @property
    def all_logs(self) -> Path:
        """The logs of all attempts."""
        return self.folder / "logs"

    @property
    def pruned(self) -> Path:
        """When its logs were removed; absent while they are there."""
        return self.folder / "logs-removed"

    @property
    def snapshot_pruned(self) -> Path:
        """When its snapshots were removed; absent while they are there."""
        return self.folder / "snapshot-removed"

    def logs(self, attempt: int) -> Path:
        """Copies of an attempt's logs: as many bytes of each file as were read from its node so far."""
        return self.all_logs / str(attempt)
