"""What names equal runs, so that one run's past says something of the next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from ugro.common.config import JobSpec


def run_of(spec: JobSpec) -> str:
    """The `run_key` of a job."""
    return run_key(spec.script, spec.args, spec.gpus_per_node)


def run_key(script: str, args: Sequence[str], gpus_per_node: int | None) -> str:
    """The same for jobs of the same script with the same arguments on as many GPUs a node."""
    return hashlib.sha256(json.dumps([script, list(args), gpus_per_node]).encode()).hexdigest()[:16]
