"""What is known of one attempt of a job on one node, by the files that it left there."""

from __future__ import annotations

from dataclasses import dataclass

from ugro.common.models.job import LimitMark


@dataclass(frozen=True)
class Effort:
    """What a living rank has done so far. `state` is the kernel's letter for its process: R, S, D, T …

    CPU seconds and bytes are those of the process and its descendants, ended ones included. The bytes are a measure of
    traffic: what went through system calls (files, pipes, most sockets), and once more what reached a disk.
    """

    state: str
    cpu_seconds: float
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class RankFiles:
    """The contents of a rank's files. `ended_at` is in the node's clock.

    `limit` is the last step of its time limit, `oom` the evidence, in words, that it was killed for lack of memory.
    `effort` and `log_bytes` are known of running ranks only.
    """

    rank: int
    pid: int
    alive: bool
    exit_code: int | None = None
    signal: str | None = None
    ended_at: float | None = None
    limit: LimitMark | None = None
    oom: str | None = None
    effort: Effort | None = None
    log_bytes: int | None = None

    @property
    def ended(self) -> bool:
        """Whether the rank left its exit code or signal."""
        return self.exit_code is not None or self.signal is not None


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run's folder: nothing at all (`claimed` False) when the run never started there.

    `exit_code` is torchrun's, as a shell reports it (128 + N for a signal N). `exit_at` is in whole seconds of the
    node's clock. With `reaper_died` both are those of `reaper.py`, which ended before torchrun did.
    `time_limit` is what its ranks keep, in seconds: None where they keep none, or one that cannot be changed.
    """

    node_time: float
    claimed: bool = False
    uid: str | None = None
    runner_alive: bool = False
    rebooted: bool = False
    exit_code: int | None = None
    exit_at: float | None = None
    reaper_died: bool = False
    time_limit: float | None = None
    ranks: tuple[RankFiles, ...] = ()

    @property
    def over(self) -> bool:
        """Whether torchrun is gone from the node, with or without an exit code.

        The runner may outlive it: it stays until what the ranks left running has ended.
        """
        return self.claimed and (self.exit_code is not None or not self.runner_alive)


@dataclass(frozen=True)
class LogFetch:
    """What one round trip brought of logs: how many bytes, and how many more there were then."""

    bytes: int
    left: int


@dataclass(frozen=True)
class LogEnd:
    """The end of a log on its node: its size, and the offset at which its last lines begin."""

    size: int
    start: int
