"""What names equal runs, so that one run's past says something of the next."""

from __future__ import annotations

import functools
import hashlib
import json

from ugro.common.job_spec import JobSpec


def run_of(spec: JobSpec) -> str:
    """The `run_key` of a job."""
    what, *args = spec.command
    return run_key(what, tuple(args), spec.gpus_per_node)


@functools.lru_cache(maxsize=4096)
def run_key(what: str, args: tuple[str, ...], gpus_per_node: int | None) -> str:
    """The same for jobs of the same script with the same arguments on as many GPUs a node."""
    return hashlib.sha256(json.dumps([what, list(args), gpus_per_node]).encode()).hexdigest()[:16]
