"""A sandbox for the tests of a file, which takes half a second, and `ugro` in the `project` that the file defines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, commands


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    cluster = Sandbox(tmp_path_factory.mktemp("sandbox"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # each rank would have a thread for every processor
        cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def ugro(sandbox: Sandbox, project: Path) -> Iterator[Ugro]:
    with commands(project, os.environ | sandbox.environment()) as ugro:
        yield ugro
