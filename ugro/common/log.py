"""`$UGRO_HOME/log/ugro.log`: what UGRO did and what surprised it, for those who look into it. Bounded, without secrets.

Any number of processes write to it. Nothing ever fails for it: what cannot be written is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error")

FILE_LIMIT = 2 * 2**20
"""Bytes of the file before it becomes `ugro.log.1`, in the place of the one before it."""

RECORD_LIMIT = 32 * 2**10
"""Bytes of one record; the middle of a longer one is left out."""

LOGGERS = ("ugro", "asyncio")

# Each is bounded: the time that a search takes is linear in the text, whatever a request brings.
_NAME = r"(?:token|secret|passw(?:or)?d|api[_-]?key|credential)[\w-]{0,64}"

_SECRETS = (
    (re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{0,30}://\S+"), "(address hidden)"),
    (re.compile(r"input_value=.{0,1000}?, input_type="), "input_value=(hidden), input_type="),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]+"), r"\1 (hidden)"),
    (re.compile(rf"(?i)({_NAME}['\"]?\s*[=:]\s*)\S+"), r"\1(hidden)"),
    (re.compile(rf"(?i)((?<![\w-])--[\w-]{{0,64}}{_NAME}\s+)\S+"), r"\1(hidden)"),
)


def path_of(home: Path) -> Path:
    """Return the path of a state directory's log."""
    return home / "log" / "ugro.log"


def start(home: Path, level: str, mask: Callable[[str], str] = str) -> None:
    """Write what is logged from now on, from a level on, to the log of a state directory. `mask` knows its secrets."""
    handler = _File(path_of(home))
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s", mask))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for before in [one for one in logger.handlers if isinstance(one, _File)]:
            logger.removeHandler(before)
        logger.addHandler(handler)
    logging.getLogger("ugro").setLevel(level.upper())


def without_secrets(text: str) -> str:
    """Return a text without addresses, tokens and other secrets: addresses of alert channels contain their tokens."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


class _Formatter(logging.Formatter):
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"
    converter = staticmethod(time.gmtime)

    def __init__(self, form: str, mask: Callable[[str], str]) -> None:
        super().__init__(form)
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(self._mask(super().format(record)))


class _File(logging.Handler):
    """Appends each record to the file as it is now: another process may have put it aside."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            data = self.format(record).encode("utf-8", "backslashreplace")
            if len(data) > RECORD_LIMIT:
                data = data[: RECORD_LIMIT // 2] + b"\n...\n" + data[-RECORD_LIMIT // 2 :]
            with contextlib.suppress(FileExistsError):
                self._path.parent.mkdir(mode=0o700)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, data + b"\n")
                if os.fstat(descriptor).st_size > FILE_LIMIT:
                    self._put_aside(descriptor)
            finally:
                os.close(descriptor)

    def _put_aside(self, descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == self._path.stat().st_ino:  # else another process has done so
            self._path.replace(self._path.with_suffix(".log.1"))
