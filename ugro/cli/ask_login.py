"""Asks the user what a machine wants to know at a first login, at the terminal itself: stdin may be something else.

What is typed is returned, and neither printed, logged nor kept here.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import sys
from pathlib import Path

import click

from ugro.cli.output import print_hanging
from ugro.common.errors import InputError
from ugro.common.models.login import LoginPrompt

TERMINAL = "/dev/tty"


class LoginAnswers:
    """Answers prompts: the password from a file where one was named, everything else at the terminal."""

    def __init__(self, password_file: str | None) -> None:
        self._password = None if password_file is None else _read(password_file)

    def __call__(self, prompt: LoginPrompt) -> str | None:
        """Return the answer; None: there is nowhere to get it from, or the machine refused the file's password."""
        if prompt.is_password and self._password is not None:
            return None if prompt.again else self._password
        if not _has_terminal():
            return None
        if prompt.again:
            click.echo("that was refused", err=True)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio would only take note of it
        try:
            return _typed(prompt)
        except EOFError:
            return None
        except KeyboardInterrupt:
            click.echo(err=True)
            raise click.Abort from None
        finally:
            signal.signal(signal.SIGINT, before)


def _typed(prompt: LoginPrompt) -> str:
    words = prompt.text if prompt.is_password or not prompt.secret else f"{prompt.account} asks: {prompt.text}"
    if prompt.secret:
        return getpass.getpass(f"{words.rstrip(': ')}: ")
    print_hanging("", f"{words.rstrip()} ", err=True)
    with open(TERMINAL, encoding="utf-8", errors="replace") as terminal:
        line = terminal.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _has_terminal() -> bool:
    with contextlib.suppress(OSError):
        os.close(os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY))
        return True
    return False


def _read(name: str) -> str:
    """The first line of a file, or of stdin for `-`.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    try:
        if name == "-":
            line = sys.stdin.readline()
        else:
            with Path(name).expanduser().open(encoding="utf-8") as file:
                line = file.readline()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"--password-file {name}: {reason}") from None
    if not (password := line.rstrip("\r\n")):
        raise InputError(f"--password-file {name}: its first line is empty", "the password is expected there")
    return password
