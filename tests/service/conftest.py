"""Fixtures of the tests of the service layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from door import Door, opened
from kept_worlds import KeptWorlds


@pytest.fixture
def home_folder(kept_home_folder: Path) -> Path:
    return kept_home_folder


@pytest.fixture(params=["local", "socket"])
def door(home: Path, kept_worlds: KeptWorlds, request: pytest.FixtureRequest) -> Iterator[Door]:
    with opened(home, request.param == "socket", kept_worlds) as door:
        yield door
