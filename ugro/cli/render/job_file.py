"""Renders a job spec as the text of a job.yaml for the user to edit."""

from __future__ import annotations

import yaml

from ugro.common.job_spec import JobSpec
from ugro.service.spec_changes import FIXED_IN_WAITING

HEAD = """\
# {job}: change what it is asked for, save, and leave the editor. Without a change it stays as it is.
# Durations are in seconds; the keys are those of a job.yaml.
"""


def as_job_file(job: str, spec: JobSpec) -> str:
    """Return a spec as a job.yaml, without what cannot be changed and what has its default."""
    fields = spec.model_dump(mode="json", exclude=set(FIXED_IN_WAITING), exclude_defaults=True)
    body = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)
    return HEAD.format(job=job) + body
