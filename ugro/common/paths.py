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
        """Shared by all attempts of the job on the node: its code."""
        return f"{self.base_dir.rstrip('/')}/{JOBS}/{self.job}"

    @property
    def run_dir(self) -> str:
        """`launch.sh`, `claim/`, `pid`, `log`, `exit`, `rank-<rank>.{log,pid,exit,error,limit,oom}` of this attempt.

        `time-limit` has the seconds that its ranks may run, where there is a limit. `reaper.pid`, `adopted` and `gone`
        are those of `reaper.py`. `exit.room` and its siblings reserve disk space for later files.

        `setup.pid` names what waits for the job's setup command, and `setup.gone` says that nothing of that remains.

        `checkpoint-request` is there from when a checkpoint is asked for until the script takes it.
        """
        return f"{self.job_dir}/{self.attempt}/node-{self.node_rank}"


def run_config(inventory: Inventory, job: Job, node: str) -> NodeConfig | None:
    """Return a node as a job was placed on it, else as the inventory describes it; None if neither has it."""
    return job.node_configs.get(node) or inventory.nodes.get(node)


def run_paths(inventory: Inventory, job: Job, node: str) -> RunPaths | None:
    """Return where the current attempt of a job is on a node; None if it has no ranks there, or the node is unknown.

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
        """The request, frozen at submission."""
        return self.folder / "spec.json"

    def spec_of(self, attempt: int) -> Path:
        """The request of an ended attempt, if the next one has another."""
        return self.folder / f"spec-{attempt}.json"

    @property
    def events(self) -> Path:
        """Every state change, one JSON line each."""
        return self.folder / "events.jsonl"

    @property
    def metrics(self) -> Path:
        """Samples of its GPUs while it ran, one JSON line for each rank and observation."""
        return self.folder / "metrics.jsonl"

    @property
    def series(self) -> Path:
        """The series that its training reported: `readings.jsonl`, and what is made of it for charts."""
        return self.folder / "metrics"

    @property
    def watchdog(self) -> Path:
        """The watchdog's memory of the running attempt."""
        return self.folder / "watchdog.json"

    def hang(self, attempt: int) -> Path:
        """Stack traces of an attempt's ranks when it was found to hang."""
        return self.folder / f"hang-{attempt}.json"

    def snapshot(self, attempt: int) -> Path:
        """The code that came with an attempt (`CodeVersion.attempt`): that of the submission, or newer one.

        All are kept as long as the job may be resumed: by that of before nodes know which of their files were code.
        """
        return self.folder / ("snapshot" if attempt == 1 else f"snapshot-{attempt}")

    @property
    def checkpoints(self) -> Path:
        """Checkpoints copied here, each in a folder named by its label, with LABEL.json that describes it."""
        return self.folder / "checkpoints"

    @property
    def outputs(self) -> Path:
        """The outputs that it declares, copied here after its success."""
        return self.folder / "outputs"

    @property
    def outputs_record(self) -> Path:
        """What became of them."""
        return self.folder / "outputs.json"

    @property
    def event_files(self) -> Path:
        """Copies of its TensorBoard event files, which `ugro tensorboard` brings."""
        return self.folder / "tensorboard"

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
        """Copies of an attempt's logs: the bytes of each file read from its node so far."""
        return self.all_logs / str(attempt)
