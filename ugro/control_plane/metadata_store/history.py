"""What names equal runs, so that one run's past says something of the next."""

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
    """The same for jobs of the same script with the same arguments on as many GPUs a node, or as many in all."""
    named: list[object] = [what, list(args), gpus_per_node]
    if gpus is not None:
        named.append(gpus)  # only then: runs of an earlier UGRO keep their key
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
