"""Requests about alerts, and their answers. Addresses of channels are secrets, and in none of them."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.schemas.base import Document, Request


class ChannelDocument(Document):
    """A channel: `kind` is the scheme of its address, `url_env` the variable that has the address; null: the file."""

    name: str
    kind: str | None
    url_env: str | None


class RuleDocument(Document):
    """Which kinds of alerts go to which channels, the same at most once in `quiet` seconds; `jobs` is a pattern."""

    when: tuple[str, ...]
    to: tuple[str, ...]
    jobs: str | None
    quiet: float


class AlertsDocument(Document):
    """The channels and rules of alerts.yaml."""

    channels: tuple[ChannelDocument, ...]
    rules: tuple[RuleDocument, ...]


class ShowAlerts(Request[AlertsDocument]):
    """Show the channels and rules of alerts.yaml."""

    function: ClassVar[str] = "alerts.show"


class OutcomeDocument(Document):
    """What came of a test message; `reason` is null where it was sent."""

    channel: str
    ok: bool
    reason: str | None


class TestedAlerts(Document):
    """What came of the test messages, one for each channel."""

    outcomes: tuple[OutcomeDocument, ...]


class SendTestAlerts(Request[TestedAlerts]):
    """Send a test message through these channels; without any, through all."""

    function: ClassVar[str] = "alerts.send_test"
    channels: tuple[str, ...] = ()


class WrittenDocument(Document):
    """The path of a file that was written."""

    path: str


class InitAlerts(Request[WrittenDocument]):
    """Write an alerts.yaml in which everything is a comment."""

    function: ClassVar[str] = "alerts.init"
