"""What functions report while they work."""

from typing import Literal

from ugro.service.schemas.base import Document, Notice
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import JobDocument


class CodeSent(Notice):
    """Bytes of code or of a checkpoint that went to a node, or came from it, so far."""

    node: str
    done: int
    total: int


class JobStopping(Notice):
    """The ranks of a job are being ended: SIGTERM, SIGKILL after `grace` seconds. `asked`: the job was cancelled."""

    job: str
    asked: bool
    grace: float
    since: Moment


class StillWorking(Notice):
    """What was asked for is done but for work on nodes for these jobs; some of them are `stopping`."""

    jobs: tuple[str, ...]
    stopping: tuple[str, ...]


class LeftToNextPass(Notice):
    """Work on nodes for these jobs is under way that the next scheduling pass continues."""

    jobs: tuple[str, ...]


class GpusHeld(Notice):
    """GPUs that the next attempt of a job needs are held by what is in words; it waits at most `within` seconds."""

    held: tuple[str, ...]
    within: float


class GpusStillHeld(Notice):
    """The wait for these GPUs is over and they are not free, so the job waits in the queue."""

    held: tuple[str, ...]


class LeftAlone(Notice):
    """The asker is gone before the answer, and this job does not end with that."""

    job: JobDocument


class TellingNodes(Notice):
    """The new time limit of a job is being sent to its nodes."""

    job: str


class AskedToSave(Notice):
    """A job is being asked to save a checkpoint; `signalled` ranks got the signal so far, `seconds` ago."""

    title: str
    seconds: float | None
    signalled: int


class WaitingForNodes(Notice):
    """These nodes did not answer so far; with `trial`, a trial of the network is under way on them."""

    nodes: tuple[str, ...]
    trial: bool


class TryingPython(Notice):
    """An interpreter of a node is being tried."""

    node: str
    path: str


StepState = Literal["done", "already", "skipped", "problem"]
"""What became of a step. `already`: it was done before. `problem`: it was done, and found something to correct."""


class StepBegan(Notice):
    """A step of first contact begins. `text` says what it does."""

    node: str
    step: str
    text: str


class StepDocument(Document):
    """A step of adding or removing a node."""

    step: str
    """Its name: `host_key`, `key`, `python`, `check`, `links`, `inventory`, `footprint` or `state`."""
    state: StepState
    """`already`: it was done before. `problem`: it was done, and found something to correct."""
    text: str
    """What was done, or why not."""


class StepEnded(Notice):
    """A step of first contact has ended."""

    node: str
    step: StepDocument
