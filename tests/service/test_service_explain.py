"""Why a run failed, through the service layer."""

from __future__ import annotations

import pytest
from door import Door

from tests.unit.control_plane.failure_handler.recovery.test_next_attempt import SCRIPT
from ugro.common.errors import InputError
from ugro.common.models.job_state import JobState
from ugro.service.findings import explain_logs
from ugro.service.schemas.explain import DiagnosisDocument, Explain
from ugro.service.schemas.resume import RESUME, PlanResume, Resume, ResumeOptions


def test_explains_a_failure_with_what_it_cost(door: Door) -> None:
    job = door.failed("raise ValueError('no such shard')\n")
    found = door.call(Explain(job=job.id))
    answer = found.answer
    assert (answer.cause, answer.rank, answer.node, answer.exit_code) == ("python_exception", 0, "here", 1)
    assert answer.message and "no such shard" in answer.message and found.words
    assert answer.last_checkpoint is None and answer.resume == f"ugro resume {job.id} --from 0 --new-code"
    assert found.recorded == found.job.state == JobState.FAILED


def test_explains_an_earlier_attempt_with_what_followed(door: Door) -> None:
    job = door.failed(SCRIPT)
    plan = door.call(PlanResume(options=ResumeOptions(job=job.id)))
    door.call(Resume(plan=plan, answers={RESUME: True}))
    door.until(job, JobState.SUCCEEDED)
    found = door.call(Explain(job=job.id, attempt=1)).answer
    assert (found.attempt, found.exit_code, found.resume) == (1, 3, None)
    followed = found.as_json()["next_attempt"]
    assert followed == {"attempt": 2, "state": "succeeded", "step": 70, "epoch": None, "from": "step 70 of attempt 1"}
    assert door.call(Explain(job=job.id)).answer.cause is None
    with pytest.raises(InputError, match="has no attempt 3"):
        door.call(Explain(job=job.id, attempt=3))


def test_explains_log_files_of_any_run() -> None:
    logs = [(3, [b"step 1\nRuntimeError: CUDA out of ", b"memory. Tried to allocate 2.00 GiB.\n"]), (None, [b""])]
    found = explain_logs(logs)
    assert (found.answer.cause, found.answer.rank) == ("cuda_oom", 3) and found.words == "a GPU ran out of memory"
    assert explain_logs([(0, [b"fine\n"])]).answer == DiagnosisDocument()
