"""Keys of equal runs, so that one run's past predicts the next."""

from __future__ import annotations

import functools
import hashlib
import json

from ugro.common.job_spec import JobSpec


def run_of(spec: JobSpec) -> str:
    """The `run_key` of a job."""
    what, *args = spec.command
    return run_key(what, tuple(args), spec.gpus_per_node, spec.gpus)


@functools.lru_cache(maxsize=4096)
def run_key(what: str, args: tuple[str, ...], gpus_per_node: int | None, gpus: int | None = None) -> str:
    """Return the key of jobs with the same script, arguments and GPUs a node or in all."""
    named: list[object] = [what, list(args), gpus_per_node]
    if gpus is not None:
        named.append(gpus)  # only then: runs of an earlier UGRO keep their key
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
