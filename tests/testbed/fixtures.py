"""The `testbed` fixture: one bed per test session. Wire it with `pytest_plugins = ["testbed.fixtures"]`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .bed import Testbed
from .errors import TestbedError, system


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """Three hosts, shared by the session's tests: start with `testbed.reset()`. Skipped without root, but not in CI."""
    if (reason := _unavailable()) and not os.environ.get("CI"):
        pytest.skip(reason)
    with Testbed() as bed:
        yield bed


def _unavailable() -> str | None:
    if os.geteuid():
        return "the testbed needs root: it makes network, PID and mount namespaces"
    try:
        system("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true")
    except (TestbedError, FileNotFoundError) as error:
        return f"the testbed needs namespaces, which this container may not make ({error})"
    return None
