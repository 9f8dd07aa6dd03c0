"""Requests for a job like another, and for changes of a waiting one, and their answers."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar

from ugro.common.job_spec import JobSpec
from ugro.common.models.job_state import JobState
from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.code import CodeDocument
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.launch import Draft, ForeignNode
from ugro.service.schemas.starting import Started


class FieldChange(Document):
    """A field of a job spec that differs. `null`: it has no value of its own."""

    field: str
    """Name of the field; `env.NAME` for a variable, `args` for the script's arguments."""
    before: str | None
    """Its value before."""
    after: str | None
    """Its value now."""


class SpecChanges(Document):
    """What a job is asked for otherwise.

    `fields` are those of a job spec: of `env` and `checkpoints` the keys given, of others the whole. With `whole` what
    is not given gets its default. `settings` change single arguments of the script by name, `args` replaces them all.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    args: tuple[str, ...] | None = None
    whole: bool = False


class RerunOptions(Document):
    """Which job is run again, how it differs, and with which code that was brought (null: with its own)."""

    job: str
    changes: SpecChanges = SpecChanges()
    code: CodeDocument | None = None


class RerunPlan(Plan):
    """What a rerun does: it takes the `foreign` nodes over, and submits the job of `draft`.

    `predicted_mib` is what it probably needs of each GPU.
    """

    options: RerunOptions
    job: JobDocument
    draft: Draft
    differences: tuple[FieldChange, ...]
    foreign: tuple[ForeignNode, ...]
    predicted_mib: int | None


class PlanRerun(Request[RerunPlan]):
    """Plan a new job like another."""

    function: ClassVar[str] = "again.plan_rerun"
    options: RerunOptions


class Rerun(Request[JobDocument]):
    """Submit the job of a plan. The next tick starts it where there is room."""

    function: ClassVar[str] = "again.rerun"
    plan: RerunPlan
    answers: dict[str, bool]


class RerunDocument(Document):
    """A new job like another, with what is expected of its start."""

    id: str
    name: str
    """Its name."""
    state: JobState
    rerun_of: str
    """The job that it is like."""
    new_code: bool
    """Whether it runs the files as they are now, and not the code of that job."""
    changes: tuple[FieldChange, ...]
    """What differs from that job."""
    reason: str | None
    """Pending reason of a job that did not start."""
    starts_at: Moment | None
    never_starts: bool

    @classmethod
    def of(cls, plan: RerunPlan, started: Started) -> RerunDocument:
        """Return the document of a rerun that was planned so and came to this."""
        job, expected = started.job, started.expected
        return cls(
            id=job.id,
            name=job.name,
            state=job.state,
            rerun_of=plan.job.id,
            new_code=plan.options.code is not None,
            changes=plan.differences,
            reason=expected.text or None if expected else None,
            starts_at=expected.at if expected else None,
            never_starts=expected.never if expected else False,
        )


class EditOptions(Document):
    """Which waiting job is changed, and how."""

    job: str
    changes: SpecChanges = SpecChanges()


class EditPlan(Plan):
    """What an edit changes of a job; `spec` is what it is asked for now, `edited` what it would be asked for."""

    options: EditOptions
    job: JobDocument
    spec: JobSpec
    edited: JobSpec
    differences: tuple[FieldChange, ...]
    predicted_mib: int | None


class PlanEdit(Request[EditPlan]):
    """Plan changes of a job that waits."""

    function: ClassVar[str] = "again.plan_edit"
    options: EditOptions


class EditedDocument(JobDocument):
    """A job after an edit."""

    changes: tuple[FieldChange, ...]
    """What was changed."""


class Edit(Request[EditedDocument]):
    """Change a job as planned, if it still waits and is as it was."""

    function: ClassVar[str] = "again.edit"
    plan: EditPlan
    answers: dict[str, bool]
