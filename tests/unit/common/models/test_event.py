"""Kinds of events: typed where this UGRO knows them, text where only a newer one does."""

from __future__ import annotations

import json
from pathlib import Path

from ugro.common.files import append_line
from ugro.common.job_spec import JobSpec
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.drain import DrainOrigin
from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job_state import JobState
from ugro.control_plane.metadata_store import MetadataStore
from ugro.testing import builders

NEWER = '{"at":2.0,"job":"job-001","node":"","kind":"preempted","message":"by job-002","noted":false,"by":"job-002"}'


def test_reads_known_kinds_as_types_and_keeps_those_of_a_newer_ugro_as_text(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = store.jobs.submit(
        store.jobs.reserve(), JobSpec(script="t.py"), CodeVersion(directory="/w", files=1, size_bytes=1), 1.0
    )
    for path in (tmp_path / "events.jsonl", store.jobs.files(job.id).events):
        append_line(path, NEWER)
    builders.change(store, job.id, EventKind.PRIORITY, "priority 1", priority=1)
    for events in (MetadataStore(tmp_path).timeline.of_cluster(), MetadataStore(tmp_path).timeline.of_job(job.id)):
        assert [event.kind for event in events] == [EventKind.SUBMITTED, "preempted", EventKind.PRIORITY]
        assert [type(event.kind) for event in events] == [EventKind, str, EventKind]


def test_reads_a_record_whose_last_event_is_of_a_newer_kind(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    job = store.jobs.submit(
        store.jobs.reserve(), JobSpec(script="t.py"), CodeVersion(directory="/w", files=1, size_bytes=1), 1.0
    )
    path = store.jobs.files(job.id).record
    fields = json.loads(path.read_text())
    fields["last_event"]["kind"] = "preempted"
    path.write_text(json.dumps(fields))
    (found,) = MetadataStore(tmp_path).jobs.live()
    assert found.last_event and found.last_event.kind == "preempted"


def test_every_state_in_which_a_job_ends_is_a_kind() -> None:
    assert {EventKind(state.value) for state in JobState if state.ended} == {
        EventKind.SUCCEEDED,
        EventKind.FAILED,
        EventKind.CANCELLED,
    }


def test_writes_lines_that_an_earlier_ugro_reads_whole() -> None:
    """It refuses a job's record whose last event has a key that it does not know."""
    plain = Event(at=1.0, job="job-001", kind=EventKind.HELD, message="held")
    assert json.loads(plain.model_dump_json()) == {
        "at": 1.0, "job": "job-001", "node": "", "kind": "held", "message": "held", "noted": False
    }  # fmt: skip
    drained = Event(at=1.0, node="a", kind=EventKind.DRAINED, message="fan", origin=DrainOrigin.PERSON)
    assert json.loads(drained.model_dump_json())["origin"] == "person"
    assert Event.model_validate_json(drained.model_dump_json()) == drained
    assert "origin" not in drained.model_dump(mode="json", exclude={"noted", "origin"})
