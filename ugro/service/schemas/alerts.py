"""Requests about alerts, and their answers. Addresses of channels are secrets, and in none of them."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.schemas.base import Document, Request


class ChannelDocument(Document):
    """A channel."""

    name: str
    """Its name."""
    kind: str | None
    """Scheme of its address; `null`: not known here."""
    url_env: str | None
    """Variable that has the address; `null`: the file has it."""


class RuleDocument(Document):
    """Which kinds of alerts go to which channels."""

    when: tuple[str, ...]
    """Kinds of alerts."""
    to: tuple[str, ...]
    """Names of channels."""
    jobs: str | None
    """Pattern of the jobs that it is about; `null`: all."""
    quiet: float
    """Seconds in which the same alert goes out once."""


class AlertsDocument(Document):
    """The channels and rules of alerts.yaml."""

    channels: tuple[ChannelDocument, ...]
    """Where alerts can go."""
    rules: tuple[RuleDocument, ...]
    """Which alerts go where."""


class ShowAlerts(Request[AlertsDocument]):
    """Show the channels and rules of alerts.yaml."""

    function: ClassVar[str] = "alerts.show"


class OutcomeDocument(Document):
    """What came of a test message."""

    channel: str
    """Name of the channel."""
    ok: bool
    """Whether it was sent."""
    reason: str | None
    """Why it was not."""


class TestedAlerts(Document):
    """What came of the test messages, one for each channel."""

    outcomes: tuple[OutcomeDocument, ...]


class SendTestAlerts(Request[TestedAlerts]):
    """Send a test message through these channels; without any, through all."""

    function: ClassVar[str] = "alerts.send_test"
    channels: tuple[str, ...] = ()


class WrittenDocument(Document):
    """A file that was written."""

    path: str
    """Its path."""


class InitAlerts(Request[WrittenDocument]):
    """Write an alerts.yaml in which everything is a comment."""

    function: ClassVar[str] = "alerts.init"
