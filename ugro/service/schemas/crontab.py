"""Requests about the sweep in the user's crontab, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.schemas.base import Document, Request


class CrontabChanged(Document):
    """What became of the crontab."""

    schema_version: int = 1
    changed: bool
    """Whether it changed."""
    lines: tuple[str, ...]
    """UGRO's lines in it now."""


class InstallSweep(Request[CrontabChanged]):
    """Add the sweep to the crontab, `every` so many minutes, or replace what was added before."""

    function: ClassVar[str] = "crontab.install"
    here: ClassVar[bool] = True
    every: int = 1


class RemoveSweep(Request[CrontabChanged]):
    """Take the sweep out of the crontab."""

    function: ClassVar[str] = "crontab.remove"
    here: ClassVar[bool] = True


class CrontabLines(Document):
    """What the crontab has."""

    schema_version: int = 1
    installed: bool
    """Whether it has the sweep."""
    lines: tuple[str, ...]
    """UGRO's lines in it."""


class ShowSweep(Request[CrontabLines]):
    """Show UGRO's lines in the crontab."""

    function: ClassVar[str] = "crontab.show"
    here: ClassVar[bool] = True
