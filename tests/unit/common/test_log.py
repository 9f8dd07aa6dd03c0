"""The log: readable by its owner alone, bounded, without secrets, and no reason for anything to fail."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ugro.common import log
from ugro.common.log import RECORD_LIMIT, path_of, without_secrets
from ugro.common.models.job import Job
from ugro.control_plane.metadata_store import MetadataStore
from ugro.testing.cluster import Master

LOGGER = logging.getLogger("ugro.test")


@pytest.fixture(autouse=True)
def own_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in log.LOGGERS]
    before = [(logger, list(logger.handlers), logger.level) for logger in loggers]
    monkeypatch.setattr(logging.getLogger("ugro"), "propagate", False)  # pytest's handler raises what it cannot format
    yield
    for logger, handlers, level in before:
        logger.handlers, logger.level = handlers, level


def test_has_known_secrets_masked_also_in_tracebacks(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    log.start(tmp_path, "info", store.mask)
    store.secrets.set("A", "value-1")
    try:
        raise ValueError("refused: value-1")
    except ValueError:
        LOGGER.exception("%s of %s", "value-1", "x")
    text = path_of(tmp_path).read_text()
    assert "**** of x" in text and "ValueError: refused: ****" in text and "value-1" not in text


def test_is_its_owners_alone_and_begins_with_the_first_record(tmp_path: Path) -> None:
    path = path_of(tmp_path)
    log.start(tmp_path, "info")
    LOGGER.debug("nothing")
    assert not path.parent.exists()
    LOGGER.info("something")
    assert "INFO" in path.read_text() and path.read_text().endswith(" ugro.test: something\n")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_stays_bounded_with_several_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "FILE_LIMIT", 4000)
    monkeypatch.setattr(log, "RECORD_LIMIT", 1000)
    path = path_of(tmp_path)
    handlers = [log._File(path) for _ in range(4)]  # as of four processes
    record = LOGGER.makeRecord("ugro", logging.INFO, "f", 1, "x" * 5000, (), None)
    threads = [
        threading.Thread(target=lambda handler=handler: [handler.emit(record) for _ in range(50)])  # type: ignore[misc]
        for handler in handlers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "ugro.log.1" in {one.name for one in path.parent.iterdir()} <= {"ugro.log", "ugro.log.1"}
    assert all(one.stat().st_size <= 4000 + 4 * 1100 for one in path.parent.iterdir())


@pytest.mark.parametrize("broken", ["full", "a file", "a folder", "no home"])
def test_nothing_fails_where_it_cannot_be_written(
    tmp_path: Path, broken: str, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    if broken != "no home":
        home.mkdir()
    path = path_of(home)
    if broken == "full":
        path.parent.mkdir()
        path.symlink_to("/dev/full")
    elif broken == "a file":
        path.parent.touch()
    elif broken == "a folder":
        path.mkdir(parents=True)
    log.start(home, "debug")
    LOGGER.error("something %s", "of it")
    LOGGER.error("\ud800")
    log._File(path).handle(LOGGER.makeRecord("ugro", logging.INFO, "f", 1, "too few %s %s", ("arguments",), None))
    assert capfd.readouterr() == ("", "")
    assert broken != "no home" or not home.exists()


SECRETS = [
    "slack://TokenA/TokenB/TokenC/#training",
    "mailtos://user:hunter2@example.org?to=you@example.org",
    "Authorization: Bearer hunter2",
    "WANDB_API_KEY=hunter2",
    "{'HF_TOKEN': 'hunter2'}",
    "--password hunter2",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_hides_addresses_and_tokens(tmp_path: Path, secret: str) -> None:
    log.start(tmp_path, "info")
    try:
        raise ValueError(f"it says {secret}!")
    except ValueError:
        LOGGER.exception("with %s", secret)
    said = path_of(tmp_path).read_text()
    assert "hunter2" not in said and "TokenC" not in said and said.count("(") >= 2 and "Traceback" in said


def test_hides_what_a_record_says_that_is_refused(tmp_path: Path) -> None:
    log.start(tmp_path, "info")
    fields = {"id": {"env": "hunter2"}, "uid": 5, "no_such_key": "hunter2"}
    try:
        Job.model_validate(fields)
    except ValueError:
        LOGGER.exception("refused")
    said = path_of(tmp_path).read_text()
    assert "hunter2" not in said and "no_such_key" in said


@pytest.mark.parametrize("part", ["f", "a.", "token", "-", "input_value="])
def test_a_text_of_any_length_is_searched_in_linear_time_and_then_cut(tmp_path: Path, part: str) -> None:
    text = part * (1_000_000 // len(part))
    without_secrets(text)
    log.start(tmp_path, "info")
    LOGGER.error("begins %s token=hunter2 %s ends", text[: RECORD_LIMIT // 2 - 60], text)
    written = path_of(tmp_path).read_text()
    assert "begins " in written and "\n...\n" in written and written.endswith(" ends\n") and "hunter" not in written


def test_hides_nothing_else() -> None:
    said = "job-001 on gpu1 running: 5000 tokens per second; /home/a/secrets.py, line 3"
    assert without_secrets(said) == said


def test_a_call_for_help_does_not_load_it() -> None:
    program = "import sys; from ugro.cli.main import cli; cli(['--help'], standalone_mode=False)"
    subprocess.run([sys.executable, "-c", f"{program}; assert 'logging' not in sys.modules"], check=True)


def test_commands_log_what_changed_at_the_level_that_is_asked_for(master: Master) -> None:
    path = path_of(master.home)
    master.ugro("--log-level", "error", "launch", "t.py", "--hold")
    assert not path.exists()
    master.ugro("--log-level=info", "cancel", "job-001")
    assert "job-001 cancel" in path.read_text()
    master.ugro("--log-level", "loud", "status", code=2)
    assert "jobs" in json.loads(master.ugro("--json", "--log-level", "debug", "status").stdout)


def test_commands_work_where_it_cannot_be_written(master: Master) -> None:
    master.home.mkdir()
    (master.home / "log").write_text("")
    master.ugro("launch", "t.py", "--hold")
    assert os.path.getsize(master.home / "log") == 0
