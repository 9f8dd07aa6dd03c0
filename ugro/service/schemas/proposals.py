"""Requests about what UGRO proposes after a failure, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.common.models.job import JobState
from ugro.common.models.proposal import Change
from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, Moment, Request
from ugro.service.schemas.jobs import CheckpointDocument, JobDocument
from ugro.service.schemas.starting import Started

APPROVE = "approve"
"""The question of an ApprovePlan."""


class ProposalDocument(Document):
    """What UGRO would do about a job, and why. `checkpoint` null: from the beginning; `what`: all of it in one line.

    `nodes` are those of the next attempt, where they are not the ones it was asked for. `ends`: the job has not ended,
    and would be ended first.
    """

    job: str
    attempt: int
    at: Moment
    cause: str
    text: str
    checkpoint: CheckpointDocument | None
    changes: tuple[Change, ...]
    nodes: tuple[str, ...]
    ends: bool
    what: str


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


class DenyAnswer(Document):
    """A proposal that was turned down; `later` is the command that still resumes the job, if it has ended."""

    answer: DeniedDocument
    later: str | None


class Deny(Request[DenyAnswer]):
    """Leave a job as it is."""

    function: ClassVar[str] = "proposals.deny"
    job: str
