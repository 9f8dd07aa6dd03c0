"""Fixtures that every test file may use."""

from __future__ import annotations

from pathlib import Path

import pytest

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
