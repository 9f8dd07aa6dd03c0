"""Findings, and the words they are made with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ugro.common.models.record import Record


class Level(StrEnum):
    """Severity of a finding: a problem keeps trainings from working, a warning may do so one day."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(Record):
    """One thing a checkup found. `node` is None for what concerns several nodes, or the machine UGRO runs on."""

    level: Level
    node: str | None
    subject: str
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Remark:
    """A finding before it is said whom it is about."""

    level: Level
    subject: str
    text: str
    hint: str = ""

    def about(self, node: str | None) -> Finding:
        """The finding about a node."""
        return Finding(level=self.level, node=node, subject=self.subject, text=self.text, hint=self.hint)


def ok(subject: str, text: str) -> Remark:
    """Something is as it should be."""
    return Remark(Level.OK, subject, text)


def info(subject: str, text: str, hint: str = "") -> Remark:
    """Good to know."""
    return Remark(Level.INFO, subject, text, hint)


def warning(subject: str, text: str, hint: str) -> Remark:
    """A training may suffer from it."""
    return Remark(Level.WARNING, subject, text, hint)


def problem(subject: str, text: str, hint: str) -> Remark:
    """A training would not start, or would not end well."""
    return Remark(Level.PROBLEM, subject, text, hint)
