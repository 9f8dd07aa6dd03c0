"""The `testbed` fixture: one bed per test session. Wire it with `pytest_plugins = ["testbed.fixtures"]`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import surroundings

from .bed import Testbed, install_missing
from .errors import TestbedError, system


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """Three hosts, shared by the session's tests: start with `testbed.reset()`. Skipped without root, but not in CI."""
    if (reason := _unavailable()) and not os.environ.get("CI"):
        pytest.skip(reason)
    with Testbed() as bed:
        yield bed


def pytest_exception_interact(call: pytest.CallInfo[object]) -> None:
    """A bed that cannot be made or reset ends the session: every other test would only wait for the same."""
    if call.excinfo and isinstance(error := call.excinfo.value, TestbedError):
        pytest.exit(f"the testbed is of no use: {error}", returncode=1)


def _unavailable() -> str | None:
    if os.geteuid():
        return "the testbed needs root: it makes network, PID and mount namespaces"
    try:
        system("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true")
    except (TestbedError, FileNotFoundError) as error:
        return f"the testbed needs namespaces, which this container may not make ({error})"
    try:
        install_missing(surroundings.GIVEN)
    except TestbedError as error:
        return str(error)
    return None
