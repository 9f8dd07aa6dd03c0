"""Fixtures that every test file may use."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest
import pytest_timeout
import surroundings
from kept_worlds import KeptWorlds

from ugro.testing.commands import Ask, Ugro, program, ugro_of

pytest_plugins = ["testbed_fixtures", "counting"]

# A busy machine is no failure, and two sessions at once share no file of examples.
hypothesis.settings.register_profile("suite", deadline=None, database=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture
def home_folder(tmp_path: Path) -> Path:
    """Where the home directory is to be."""
    return tmp_path / "home"


@pytest.fixture(scope="session")
def kept_worlds(tmp_path_factory: pytest.TempPathFactory) -> KeptWorlds:
    """Homes in which a job has ended."""
    return KeptWorlds(tmp_path_factory.mktemp("worlds"))


@pytest.fixture
def kept_home_folder(tmp_path: Path, kept_worlds: KeptWorlds) -> Iterator[Path]:
    """A home directory in the place where kept worlds can be laid; it is left with the test's other files."""
    yield kept_worlds.home
    kept_worlds.home.rename(tmp_path / "home")


@pytest.fixture
def home(home_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home directory of the test's own, for this process and for the local node. What it left running is ended."""
    folder = home_folder
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("UGRO_HOME", str(folder / ".ugro"))
    yield folder
    if next(folder.rglob("launch.sh"), None):
        end_processes_of(folder)


def end_processes_of(folder: Path) -> None:
    """End every process whose command line names a file below a folder, such as the ranks that a failed test left."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid != os.getpid() and any(f"{folder}/" in word for word in process.cmdline()):
                process.kill()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory."""
    monkeypatch.setenv("UGRO_HOME", str(tmp_path / "ugro-home"))
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def forks() -> Iterator[Ask]:
    """What commands are forked from."""
    with program() as ask:
        yield ask


@pytest.fixture(scope="session")
def forked(forks: Ask) -> Ugro:
    """`ugro`, without a process of its own to start."""
    return ugro_of(forks)


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is read, the session leaves its surroundings."""
    folder = Path(tempfile.mkdtemp(prefix="ugro-tests-", dir="/tmp"))
    config.add_cleanup(lambda: shutil.rmtree(folder))
    surroundings.isolate(folder)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)  # who comes beside it leaves nothing among its files
    if place := surroundings.in_memory():
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(place)


def pytest_collection_finish() -> None:
    """What was imported stays, and is not searched for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """A teardown has as long as a test: after a failure pytest-timeout watches no more."""
    item.config.hook.pytest_timeout_set_timer(item=item, settings=pytest_timeout._get_item_settings(item))
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of the testbed is marked, so that they can be chosen."""
    for item in items:
        if "testbed" in getattr(item, "fixturenames", ()):
            item.add_marker("testbed")
