"""Requests about resuming a job that ended, and their answers."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from ugro.common.job_spec import JobSpec
from ugro.common.models.argument_change import ArgumentChange
from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.code import CodeDocument, FileName
from ugro.service.schemas.jobs import CheckpointDocument, JobDocument
from ugro.service.schemas.starting import Expected

BEGIN_AGAIN, SMALLER_BATCH, RESUME = "begin_again", "smaller_batch", "resume"
"""The questions of a ResumePlan, apart from whether much code is sent. That of the smaller batch is optional."""


class CodeSourceDocument(Document):
    """The directory that the code of a job came from, and the spec that says what of it runs."""

    directory: FileName
    spec: JobSpec


class CodeSource(Request[CodeSourceDocument]):
    """Ask where the code of a job that ended came from."""

    function: ClassVar[str] = "resume.code_source"
    job: str
    any_state: bool = False


class ResumeOptions(Document):
    """How a job is resumed; what is not given stays as it was.

    `step`: that of a checkpoint, else of the last complete one; 0: from the beginning. `settings`: other values of
    arguments. `nodes`: a number, or names. `time_limit` is in seconds. `directory` is where the checkpoints are, and
    `resume_with` how the script takes one, if the job did not say. `code`: the working directory as it is now.
    """

    job: str
    step: int | None = None
    settings: dict[str, str] = field(default_factory=dict)
    nodes: str | None = None
    time_limit: float | None = None
    directory: str | None = None
    resume_with: str | None = None
    code: CodeDocument | None = None


class CodeChanges(Document):
    """The files in which the new code differs from the code of the attempt before."""

    changed: tuple[FileName, ...]
    """Files whose content differs."""
    added: tuple[FileName, ...]
    """New files."""
    removed: tuple[FileName, ...]
    """Files that are gone."""


class ResumePlan(Plan):
    """The next attempt of a job: the checkpoint it begins from (null: the beginning), and what is new in it.

    `smaller_batch` are further changes, if that question is answered with yes.
    """

    options: ResumeOptions
    job: JobDocument
    checkpoint: CheckpointDocument | None
    changes: tuple[ArgumentChange, ...]
    smaller_batch: tuple[ArgumentChange, ...]
    code_changes: CodeChanges | None


class PlanResume(Request[ResumePlan]):
    """Plan to resume a job that ended."""

    function: ClassVar[str] = "resume.plan_resume"
    options: ResumeOptions


class ResumedDocument(JobDocument):
    """A job that was resumed."""

    code_changes: CodeChanges | None
    """How the new code differs; `null`: it runs the code it had."""


class ResumeAnswer(Document):
    """A job that was resumed, with what is expected of its start where it waits."""

    answer: ResumedDocument
    expected: Expected | None


class Resume(Request[ResumeAnswer]):
    """Resume a job as planned."""

    function: ClassVar[str] = "resume.resume"
    plan: ResumePlan
    answers: dict[str, bool]
