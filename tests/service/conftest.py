"""Fixtures of the tests of the service layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from door import Door, opened


@pytest.fixture(params=["local", "socket"])
def door(home: Path, request: pytest.FixtureRequest) -> Iterator[Door]:
    with opened(home, request.param == "socket") as door:
        yield door
