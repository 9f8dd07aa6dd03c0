"""`ugro secret`: values that jobs get by name. None of them is an argument, and none is printed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click
from pydantic import SecretStr

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import complete_file, complete_secret
from ugro.cli.output import print_hanging, print_json
from ugro.cli.prompts import typed
from ugro.common.errors import InputError
from ugro.common.masking import SHORTEST, check_secret_name
from ugro.common.text import duration, printable, some
from ugro.service.schemas.secrets import ListSecrets, RemoveSecret, SecretChange, SetSecret

LARGEST = 1024 * 1024
"""Bytes that are read of a value; a value that is kept is far smaller."""


@click.group()
def secret() -> None:
    """Keep tokens and passwords for jobs: set, list, remove.

    A job gets one with `ugro launch --secret NAME`. Values are in $UGRO_HOME/secrets, which only you can read. They are
    not in specs, arguments or scripts, and what UGRO prints has **** in their place.
    """


@command(name="set")
@click.argument("name", shell_complete=complete_secret)
@click.argument("value", nargs=-1, metavar="")
@click.option("--from-env", is_flag=True, help="Take the value of the variable NAME.")
@click.option("--file", "path", metavar="FILE", shell_complete=complete_file, help="Take what is in a file.")
@json_option
def set_(app: App, name: str, value: tuple[str, ...], from_env: bool, path: str | None, as_json: bool) -> None:
    """Set a secret, or replace its value.

    The value is asked for without an echo; if stdin is not a terminal, it is read from there. A line end behind it does
    not count.
    """
    name, equals, _ = name.partition("=")
    if value or equals:
        raise InputError(
            "the value of a secret is no argument: `ps` and the shell's history would show it",
            f"leave it out, and type it when it is asked for: ugro secret set {printable(name)}",
        )
    check_secret_name(name)
    done = app.call(SetSecret(name=name, value=SecretStr(_value(name, from_env, path))))
    if as_json:
        print_json(done.as_json())
        return
    click.echo(f"{name} is {'replaced' if done.was_set else 'set'}; for a job: ugro launch --secret {name} …")
    if done.was_set:
        print_hanging("note: ", "logs in which scripts printed the value before are no longer masked", err=True)
    if done.short:
        words = f"a value of fewer than {SHORTEST} characters is not masked in logs and messages"
        print_hanging("note: ", words, err=True)
    if done.needed_by:
        click.echo(f"it goes to {some(list(done.needed_by))} at the start")


def _value(name: str, from_env: bool, path: str | None) -> str:
    """Return the value that was given in one of the ways there are.

    Raises:
        InputError: none, or it cannot be read. No part of a value is in the message.
    """
    if from_env and path is not None:
        raise InputError("--from-env and --file were both given", "give one of them")
    if from_env:
        if name not in os.environ:
            raise InputError(f"{printable(name)} is not set in this shell", f"set it there, or: ugro secret set {name}")
        return os.environ[name]
    try:
        if path is not None:
            with Path(path).expanduser().open("rb") as file:
                data = file.read(LARGEST + 1)
        elif sys.stdin.isatty():
            return typed(f"value of {printable(name)}", f"{printable(name)} was not set", hidden=True)
        else:
            data = sys.stdin.buffer.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path or 'stdin'} cannot be read: {error.strerror}") from None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path or 'stdin'} is not UTF-8 text", "encode it first, as with base64") from None
    return text.removesuffix("\n").removesuffix("\r")


@command(name="list")
@json_option
def list_(app: App, as_json: bool) -> None:
    """List the secrets that are set. Values are never shown."""
    found = app.call(ListSecrets()).answer
    if as_json:
        print_json([one.as_json() for one in found])
        return
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        click.echo(f"{one.name.ljust(width)}  set {duration(max(0.0, time.time() - one.set_at))} ago")
    if not found:
        click.echo("no secret is set: ugro secret set NAME")


@command()
@click.argument("name", shell_complete=complete_secret)
@json_option
def remove(app: App, name: str, as_json: bool) -> None:
    """Remove a secret. Running ranks keep it; a job that waits needs it to be set again."""
    done = app.call(RemoveSecret(name=name))
    if as_json:
        print_json(done.as_json())
        return
    click.echo(f"{name} is removed")
    print_hanging("note: ", "logs in which scripts printed the value are no longer masked", err=True)
    _tell_of_jobs(done)


def _tell_of_jobs(done: SecretChange) -> None:
    if done.needed_by:
        ids = list(done.needed_by)
        words = f"{some(ids)} cannot start without it: ugro secret set {done.name}, or ugro cancel {' '.join(ids)}"
        print_hanging("note: ", words, err=True)


for _part in (set_, list_, remove):
    secret.add_command(_part)
