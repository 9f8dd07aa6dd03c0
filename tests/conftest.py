"""Fixtures that every test file may use."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock
from testbed.bed import install_missing

pytest_plugins = ["testbed.fixtures", "counting"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own, for this process and for the local node."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("UGRO_HOME", str(folder / ".ugro"))
    monkeypatch.delenv("UGRO_INVENTORY", raising=False)
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory; no git settings of the person who runs the tests count."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "no-gitconfig"))
    monkeypatch.setenv("UGRO_HOME", str(tmp_path / "ugro-home"))
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def pytest_sessionstart() -> None:
    """On a CI machine, what tests of real sshd and rsync need is installed before the first of them looks for it."""
    if os.environ.get("CI") and os.geteuid() == 0:
        with FileLock(Path(tempfile.gettempdir(), "ugro-tests.lock")):  # two sessions may start at once
            install_missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of the testbed is marked, so that `make test` gives one session all of them."""
    for item in items:
        if "testbed" in getattr(item, "fixturenames", ()):
            item.add_marker("testbed")
