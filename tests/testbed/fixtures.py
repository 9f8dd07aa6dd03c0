"""The `testbed` fixture: one bed per test session. Wire it with `pytest_plugins = ["testbed.fixtures"]`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest
import surroundings

from .bed import Testbed, install_missing
from .errors import TestbedError, system


def pytest_configure() -> None:
    """On a CI machine, what tests of real sshd and rsync need is installed before the first of them looks for it."""
    if os.environ.get("CI") and os.geteuid() == 0:
        try:
            install_missing(surroundings.GIVEN)
        except TestbedError as error:
            stop(error)


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """Three hosts, shared by the session's tests: start with `testbed.reset()`. Skipped without root, but not in CI."""
    if reason := _unavailable():
        stop(reason) if os.environ.get("CI") else pytest.skip(reason)
    try:
        bed = Testbed()
    except TestbedError as error:
        stop(error)
    with bed:
        yield bed


def stop(reason: object) -> NoReturn:
    """End the session with one line: without a bed, every other test would only wait for the same."""
    pytest.exit(f"no testbed: {'; '.join(str(reason).splitlines())}", returncode=1)


def pytest_exception_interact(call: pytest.CallInfo[object]) -> None:
    """A host that cannot be reset ends the session too."""
    if call.excinfo and isinstance(call.excinfo.value, TestbedError):
        stop(call.excinfo.value)


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
