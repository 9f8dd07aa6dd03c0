"""The `testbed` fixture: one bed per test session. Wire it with `pytest_plugins = ["testbed_fixtures"]`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest
import surroundings

from ugro.testing.testbed.bed import Testbed, install_missing
from ugro.testing.testbed.errors import TestbedError, system


def pytest_configure() -> None:
    """On a CI machine, what tests of real sshd and rsync need is installed before the first of them looks for it."""
    if os.environ.get("CI") and os.geteuid() == 0:
        try:
            install_missing(surroundings.GIVEN)
        except TestbedError as error:
            stop(error)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests of the testbed are skipped where there can be none, with one reason for all; but not in CI."""
    tests = [item for item in session.items if "testbed" in getattr(item, "fixturenames", ())]
    if tests and not session.config.option.collectonly and (reason := _unavailable()):
        if os.environ.get("CI"):
            stop(reason)
        for test in tests:
            test.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """Three hosts, shared by the session's tests: start with `testbed.reset()`."""
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
