"""Fixtures that every test file may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from testbed.bed import install_missing

pytest_plugins = ["testbed.fixtures"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own, for this process and for the local node."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("UGRO_HOME", str(folder / ".ugro"))
    monkeypatch.delenv("UGRO_INVENTORY", raising=False)
    return folder


def pytest_sessionstart() -> None:
    """On a CI machine, what tests of real sshd and rsync need is installed before the first of them looks for it."""
    if os.environ.get("CI") and os.geteuid() == 0:
        install_missing()
