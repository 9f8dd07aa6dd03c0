"""Fingerprints of plans."""

from __future__ import annotations

from ugro.common.job_spec import JobSpec
from ugro.service.plan import Fingerprint, digest


def test_a_record_counts_by_all_of_its_fields() -> None:
    spec = JobSpec(script="t.py", env={"A": "1"})
    other = spec.model_copy(update={"env": {"A": "2"}})
    assert Fingerprint.of({"what is asked for": spec}) != Fingerprint.of({"what is asked for": other})
    assert digest(spec) == digest(spec.model_dump(mode="json")) == digest(spec.model_copy())
