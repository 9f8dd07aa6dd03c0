"""Fixtures of the tests of the service layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from door import Door, opened


@pytest.fixture
def door(home: Path) -> Iterator[Door]:
    with opened(home) as door:
        yield door
