"""Clusters of this machine alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ugro.testing.cluster import Bed, Master
from ugro.testing.commands import Ask


@pytest.fixture
def bed(home: Path) -> Bed:
    return Bed(home)


@pytest.fixture
def master(tmp_path: Path, forks: Ask) -> Master:
    return Master(tmp_path, forks)
