"""Secrets: values that jobs get by name, one file each in `secrets/`, apart from specs and records."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ugro.common.errors import InputError, StateError
from ugro.common.fields import NAME, TOKEN_NAME
from ugro.common.files import write_atomic
from ugro.common.masking import Masker, check_secret_name
from ugro.control_plane.metadata_store.records import make_home, state_errors

LARGEST = 64 * 1024
"""Bytes of a value: Linux takes no more than twice that as a variable."""


TOKEN_BYTES = 32


class SecretMissing(InputError):
    """A secret is needed and not set."""

    code = "secret_missing"


class SecretExposed(StateError):
    """Others than its owner may read a secret, or its folder."""


@dataclass(frozen=True)
class StoredSecret:
    """A secret that is set, and since when, in seconds since the epoch."""

    name: str
    set_at: float


class SecretStore:
    """The folder `secrets/`, mode 0700, with a file of mode 0600 for each secret.

    Raises (from any method):
        StateError: a file or the folder cannot be read or written, with its name.
        SecretExposed: others may read it. Nothing is read then.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._folder = home / "secrets"
        self._known: tuple[object, Masker] = (None, Masker())

    def set(self, name: str, value: str) -> bool:
        """Keep a value under a name, in place of the one before. Returns whether there was one.

        Raises:
            InputError: the name or the value is none.
        """
        check_secret_name(name)
        if not value:
            raise InputError(f"the value of {name} is empty", f"give one: ugro secret set {name}")
        if "\0" in value:
            raise InputError(f"the value of {name} has a NUL byte, which cannot be passed to a program")
        if len(value.encode("utf-8", "surrogateescape")) > LARGEST:
            raise InputError(f"the value of {name} is larger than {LARGEST // 1024} KiB")
        make_home(self._home)
        with state_errors(path := self._folder / name):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._require_private(self._folder)
            there = path.exists()
            write_atomic(path, value)  # its temporary file has mode 0600
        return there

    def remove(self, name: str) -> None:
        """Forget a secret.

        Raises:
            SecretMissing: it is not set.
        """
        check_secret_name(name)
        with state_errors(path := self._folder / name):
            try:
                path.unlink()
            except FileNotFoundError:
                hint = "`ugro secret list` lists those that are set"
                raise SecretMissing(f"the secret {name} is not set", hint) from None

    def all(self) -> list[StoredSecret]:
        """Return the secrets that are set, by name."""
        with state_errors(self._folder):
            try:
                entries = list(os.scandir(self._folder))
            except FileNotFoundError:
                return []
            found = []
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    if NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        found.append(StoredSecret(entry.name, entry.stat().st_mtime))
        return sorted(found, key=lambda one: one.name)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of these names that are not set."""
        return [
            name for name in dict.fromkeys(names) if not ((self._folder / name).is_file() or TOKEN_NAME.fullmatch(name))
        ]

    def require(self, names: Iterable[str]) -> None:
        """Check that secrets are set and that no other user can read them. Missing tokens are made.

        Raises:
            SecretMissing: one is not set; the hint says how to set it.
        """
        for name in names:
            self._made(name)

    def value(self, name: str) -> str:
        """Return a secret's value.

        Raises:
            SecretMissing: it is not set.
        """
        check_secret_name(name)
        with state_errors(path := self._folder / name):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                hint = f"set it: ugro secret set {name}"
                raise SecretMissing(f"the secret {name} is not set", hint) from None
            with os.fdopen(descriptor, "rb") as file:
                self._require_private(self._folder)
                self._require_private(path, os.fstat(file.fileno()))
                found = file.read()
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise StateError(f"{path} is no text in UTF-8", f"set it again: ugro secret set {name}") from None

    def values(self, uses: Mapping[str, str]) -> dict[str, str]:
        """Return by variable the values of these secrets, `uses` having a secret's name by variable. Tokens are made.

        Raises:
            SecretMissing: one is not set.
        """
        return {variable: self._made(name) for variable, name in uses.items()}

    def forget_tokens(self, names: Iterable[str]) -> None:
        """Remove those of these secrets that are tokens."""
        for name in filter(TOKEN_NAME.fullmatch, names):
            with state_errors(path := self._folder / name):
                path.unlink(missing_ok=True)

    def _made(self, name: str) -> str:
        """Return a secret's value; a token that is not there is made."""
        if TOKEN_NAME.fullmatch(name) and not (self._folder / name).is_file():
            self.set(name, secrets.token_hex(TOKEN_BYTES))
        return self.value(name)

    @property
    def masker(self) -> Masker:
        """The masker of every secret that is set, rebuilt once a file changed.

        A secret that cannot be read is not masked, and raises no error.
        """
        try:
            entries = [(one.name, one.stat().st_mtime_ns, one.stat().st_ino) for one in os.scandir(self._folder)]
        except OSError:  # most have none
            return Masker()
        seen = sorted(entries)
        if self._known[0] != seen:
            self._known = (seen, Masker(filter(None, map(self._value_if_any, (name for name, *_ in seen)))))
        return self._known[1]

    def _value_if_any(self, name: str) -> str:
        try:
            return (self._folder / name).read_text("utf-8") if NAME.fullmatch(name) else ""
        except (OSError, UnicodeDecodeError):
            return ""

    def _require_private(self, path: Path, found: os.stat_result | None = None) -> None:
        """Check that only this user can read a file or open a folder."""
        found = found or os.stat(path)
        if found.st_uid != os.geteuid():
            raise SecretExposed(f"{path} belongs to another user", "move it away, and set the secret again")
        if stat.S_IMODE(found.st_mode) & 0o077:
            private = "700" if stat.S_ISDIR(found.st_mode) else "600"
            hint = f"if you still trust it: {shlex.join(['chmod', private, str(path)])}"
            raise SecretExposed(f"others may read {path} (mode {stat.S_IMODE(found.st_mode):04o})", hint)
