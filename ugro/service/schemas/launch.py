"""Requests about a new job, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.common.job_spec import JobSpec
from ugro.common.models.job_state import JobState
from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.code import CodeDocument, FileName, LeftOut, NotSent
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.starting import Started
from ugro.service.schemas.sweeps import SweepDocument

TAKE_OVER, FIT = "take_over", "fit"
"""The questions whether nodes of another master are taken over, and whether a job that may not fit is submitted."""


class DefaultScriptDocument(Document):
    """The script that a launch without one runs (null: there is none), and the inventory that says so."""

    script: str | None
    inventory: str


class DefaultScript(Request[DefaultScriptDocument]):
    """Ask which script a launch without one runs."""

    function: ClassVar[str] = "launch.default_script"


class IgnoredVariable(Document):
    """A variable in the inventory's `env` of a node that a rank does not find as it stands there, and why."""

    node: str
    variable: str
    reason: str


class Draft(Document):
    """A job as it would be submitted: `spec` names other jobs by their ids, `note` a job that has its name already.

    `exposed`: variables of its environment with the names of secrets, whose values are in the spec for all to see.
    """

    spec: JobSpec
    note: str | None
    exposed: tuple[str, ...] = ()
    ignored: tuple[IgnoredVariable, ...]
    inventory: str


class DraftLaunch(Request[Draft]):
    """Read a spec against the records and the inventory. Reaches no node."""

    function: ClassVar[str] = "launch.draft"
    spec: JobSpec


class ForeignNode(Document):
    """A node that another master runs, with the line that this master left there."""

    node: str
    owner: str


class LaunchPlan(Plan):
    """What a launch does: it takes the `foreign` nodes over, sends the code, and submits the job.

    `predicted_mib` is what the job probably needs of each GPU.
    """

    draft: Draft
    code: CodeDocument
    foreign: tuple[ForeignNode, ...]
    predicted_mib: int | None


class PlanLaunch(Request[LaunchPlan]):
    """Plan a launch of a spec with code that was brought."""

    function: ClassVar[str] = "launch.plan_launch"
    spec: JobSpec
    code: CodeDocument


class Launch(Request[JobDocument]):
    """Submit the job of a plan. The next tick starts it where there is room."""

    function: ClassVar[str] = "launch.launch"
    plan: LaunchPlan
    answers: dict[str, bool]


class LaunchDocument(Document):
    """A job that was launched, with what is expected of its start, and what of the working directory stayed here."""

    id: str
    name: str
    """Its name."""
    state: JobState
    note: str | None
    """Another job has its name: a sentence that says which."""
    attended: bool
    reason: str | None
    """Pending reason of a job that did not start."""
    starts_at: Moment | None
    never_starts: bool
    left_out: tuple[LeftOut, ...]
    """What UGRO's own list alone leaves out of the code."""
    not_sent: tuple[NotSent, ...]
    """What cannot be sent."""
    lfs_pointers: tuple[FileName, ...]
    """Files that are pointers of Git LFS: their content is not there."""

    @classmethod
    def of(cls, plan: LaunchPlan, started: Started, attended: bool) -> LaunchDocument:
        """Return the document of a launch that was planned so and came to this."""
        job, expected, code = started.job, started.expected, plan.code
        return cls(
            id=job.id,
            name=job.name,
            state=job.state,
            note=plan.draft.note,
            attended=attended,
            reason=expected.text or None if expected else None,
            starts_at=expected.at if expected else None,
            never_starts=expected.never if expected else False,
            left_out=code.left_out,
            not_sent=code.not_sent,
            lfs_pointers=code.lfs_pointers,
        )


class NodeScript(Document):
    """The script that starts a job's ranks on a node."""

    node: str
    launch_sh: str
    """The script."""
    python: str
    """What runs the job there."""


class Rehearsal(Document):
    """What would run on each node, now or, where the job `waits` for these reasons, on an idle cluster.

    `setup` is the command that would run first where its environment is not there so far; null: there is none.
    """

    scripts: tuple[NodeScript, ...]
    waits: tuple[str, ...]
    setup: str | None


class Rehearse(Request[Rehearsal]):
    """Ask what a launch would run. Starts nothing."""

    function: ClassVar[str] = "launch.rehearse"
    spec: JobSpec


class LaunchSweep(Request[SweepDocument]):
    """Submit the jobs of a plan whose spec has a sweep, in the order of their numbers."""

    function: ClassVar[str] = "sweeps.launch_sweep"
    plan: LaunchPlan
    answers: dict[str, bool]
