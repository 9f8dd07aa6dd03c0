"""Requests about what UGRO proposes after a failure, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.job_state import JobState
from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import CheckpointDocument, JobDocument
from ugro.service.schemas.starting import Started

APPROVE = "approve"
"""The question of an ApprovePlan."""


class ProposalDocument(Document):
    """What UGRO would do about a job, and why."""

    job: str
    attempt: int
    """The attempt that failed."""
    at: Moment
    """When it was proposed."""
    cause: str
    text: str
    """The proposal and its reason, in sentences."""
    checkpoint: CheckpointDocument | None
    """The checkpoint to resume from; `null`: from the beginning."""
    changes: tuple[ArgumentChange, ...]
    """Arguments that change."""
    nodes: tuple[str, ...]
    """Nodes of the next attempt; empty: those that were requested."""
    ends: bool
    """Whether the job has not ended, and would be ended first."""
    what: str
    """All of it in one line."""


class ProposalsAnswer(Document):
    """All proposals that wait for an answer. `running` are the jobs on nodes as these show them, `recorded` their
    states in the records."""

    answer: tuple[ProposalDocument, ...]
    running: tuple[JobDocument, ...]
    recorded: dict[str, JobState]


class Proposals(Request[ProposalsAnswer]):
    """List what is proposed."""

    function: ClassVar[str] = "proposals.proposals"


class ApprovePlan(Plan):
    """What would be done about a job."""

    proposal: ProposalDocument
    job: JobDocument


class PlanApprove(Request[ApprovePlan]):
    """Plan to do what is proposed about a job."""

    function: ClassVar[str] = "proposals.plan_approve"
    job: str


class Offered(Document):
    """What is proposed about a job that just ended; null: nothing."""

    plan: ApprovePlan | None


class Offer(Request[Offered]):
    """Ask what is proposed about a job that just ended."""

    function: ClassVar[str] = "proposals.offer"
    job: str


class Approve(Request[Started]):
    """Do what is proposed: the job is queued again as a new attempt, and started if there is room."""

    function: ClassVar[str] = "proposals.approve"
    plan: ApprovePlan
    answers: dict[str, bool]


class DeniedDocument(Document):
    """A proposal that was turned down."""

    job: str
    denied: bool = True
    """Always true."""


class DenyAnswer(Document):
    """A proposal that was turned down; `later` is the command that still resumes the job, if it has ended."""

    answer: DeniedDocument
    later: str | None


class Deny(Request[DenyAnswer]):
    """Leave a job as it is."""

    function: ClassVar[str] = "proposals.deny"
    job: str
