"""The job spec: a job as requested on the command line or in a job.yaml."""

from ugro.common.job_spec.launchers import RANK_PY, agent_of
from ugro.common.job_spec.reading import OPTIONS, OPTIONS_HINT, PATTERN_HINT, job_spec, load_job_spec
from ugro.common.job_spec.rules import CheckpointRules, FailurePolicy, HangAfter, MetricsRules
from ugro.common.job_spec.setup import INPUTS, Setup
from ugro.common.job_spec.spec import JOB_ID, PRIORITIES, JobSpec

__all__ = [
    "INPUTS",
    "JOB_ID",
    "OPTIONS",
    "OPTIONS_HINT",
    "PATTERN_HINT",
    "PRIORITIES",
    "RANK_PY",
    "CheckpointRules",
    "FailurePolicy",
    "HangAfter",
    "JobSpec",
    "MetricsRules",
    "Setup",
    "agent_of",
    "job_spec",
    "load_job_spec",
]
