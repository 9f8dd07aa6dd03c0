"""Log in by the methods that a machine asks for: password, keyboard-interactive, or one after the other.

paramiko's own `SSHClient.connect` returns without an error where a password is not enough, and the connection is not
logged in (paramiko issue 1224). Here the only end is `is_authenticated`, or an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import paramiko
from paramiko.auth_strategy import AuthStrategy

from ugro.common.errors import AuthenticationFailed, NodeError
from ugro.common.models.login import AskPerson, LoginPrompt
from ugro.common.text import one_line, printable

MOST_REFUSALS = 3
"""Answers that a machine refuses before the login ends: sshd >= 9.8 punishes addresses that keep trying."""

MOST_STEPS = 8
"""Methods in a row; a machine that asks for more goes in a circle."""

LONGEST_PROMPT = 200
"""Characters of a prompt that are shown."""

_PASSWORD = re.compile(r"\bpass(word|wort|code for)?\b", re.IGNORECASE)
_NOT_THE_PASSWORD = re.compile(
    r"one.?time|otp|token|verification|code|factor|duo|yubi|pin\b|new|retype|again|confirm|repeat|passphrase",
    re.IGNORECASE,
)
_NEW_PASSWORD = re.compile(r"\b(new|current|retype|change)\b.*password|password.*expired", re.IGNORECASE)


def asks_for_password(text: str, echo: bool) -> bool:
    """Return whether a prompt asks for the account's password. In doubt it does not, and the user is asked."""
    return not echo and bool(_PASSWORD.search(text)) and not _NOT_THE_PASSWORD.search(text)


class Methods(AuthStrategy):
    """The ways to log in of one connection. The password is asked for once, and forgotten with this object."""

    def __init__(self, node: str, user: str, host: str, ask: AskPerson) -> None:
        self._node = node
        self._user = user
        self._account = printable(f"{user}@{host}")
        self._ask = ask
        self._password: str | None = None
        self._refusals = 0
        self._stopped: BaseException | None = None
        self._asking = ""

    def __repr__(self) -> str:
        return f"Methods({self._account})"

    def get_sources(self) -> Any:
        """Return nothing: `authenticate` does it all."""
        return ()

    def authenticate(self, transport: Any) -> list[Any]:
        """Log in.

        Raises:
            AuthenticationFailed: it could not be done; what the user's answer raised, too.
        """
        try:
            self._log_in(transport)
        except NodeError:
            raise
        except (paramiko.SSHException, EOFError, OSError) as error:
            if self._stopped:
                raise self._stopped from None
            raise self._ended(error) from None
        finally:
            self._password = None
        if not transport.is_authenticated():
            raise self._failed("the login did not complete", "log in by hand to see what it asks for")
        return []

    def _log_in(self, transport: Any) -> None:
        try:
            transport.auth_none(self._user)
            left: Sequence[str] = ()
        except paramiko.BadAuthenticationType as error:
            left = error.allowed_types
        steps = 0
        while not transport.is_authenticated():
            steps += 1
            if steps > MOST_STEPS:
                raise self._failed("it asks for one method after the other and never lets in", "")
            try:
                left = self._one(transport, left)
            except paramiko.BadAuthenticationType as error:
                left = error.allowed_types
            except paramiko.AuthenticationException as error:
                if self._stopped or not transport.is_active() or "timeout" in str(error):
                    raise
                self._refuse()

    def _one(self, transport: Any, left: Sequence[str]) -> Sequence[str]:
        """Take one step; return the methods that are still asked for."""
        if "password" in left:
            found: Sequence[str] = transport.auth_password(self._user, self._the_password(), fallback=False)
        elif "keyboard-interactive" in left:
            found = transport.auth_interactive(self._user, self._answers)
        else:
            words = printable(", ".join(left)) or "nothing"
            raise self._failed(
                f"it takes neither a password nor answers to questions, only: {words}",
                "install the key with the access that you have: append your public key to ~/.ssh/authorized_keys "
                "there; then run the same command",
            )
        return found

    def _refuse(self) -> None:
        self._refusals += 1
        self._password = None
        if self._refusals >= MOST_REFUSALS:
            raise self._failed(
                f"it refused {self._refusals} answers",
                "is it the right user and password, and may the account log in so (AllowUsers, PermitRootLogin, "
                "a locked account)? Wait a minute before you try again: sshd may ban this address for a while",
            )

    def _the_password(self) -> str:
        if self._password is None:
            prompt = LoginPrompt(self._node, self._account, f"Password of {self._account}", True, True, self._refusals)
            self._password = self._answer(prompt)
        return self._password

    def _answers(self, title: str, instructions: str, fields: Sequence[tuple[str, bool]]) -> list[str]:
        """Answer one round of keyboard-interactive. Runs in paramiko's thread, where an error has to be kept."""
        try:
            said = one_line(f"{title} {instructions}").strip()
            if any(_NEW_PASSWORD.search(text) for text, _ in fields) or _NEW_PASSWORD.search(said):
                raise self._failed(
                    f"its password has expired: it asks for a new one ({printable(fields[0][0]) if fields else said})",
                    f"log in once by hand and set it: ssh {self._account}; then run the same command",
                )
            return [self._field(text, echo, said) for text, echo in fields]
        except BaseException as error:
            self._stopped = error
            raise paramiko.SSHException("the answer is missing") from None

    def _field(self, text: str, echo: bool, said: str) -> str:
        if asks_for_password(text, echo):
            return self._the_password()
        words = one_line(text)[:LONGEST_PROMPT] or said[:LONGEST_PROMPT] or "Answer"
        return self._answer(LoginPrompt(self._node, self._account, words, False, not echo, self._refusals))

    def _answer(self, prompt: LoginPrompt) -> str:
        self._asking = prompt.text
        answer = self._ask(prompt)
        if answer is None:
            in_terminal = "run the same command in a terminal, where you can answer"
            if not prompt.is_password:
                raise self._failed(f"it asks for more than a password: {prompt.text}", in_terminal)
            if self._refusals:
                raise self._failed("it refused the password", f"correct the password file, or {in_terminal}")
            raise self._failed("it asks for the password", f"{in_terminal}, or name a file: --password-file FILE")
        return answer

    def _ended(self, error: Exception) -> AuthenticationFailed:
        """The machine, or its network, ended the login."""
        waited = f" while it waited for: {self._asking}" if self._asking else ""
        if "timeout" in str(error).lower():
            return self._failed(f"no answer in time{waited}", "run the same command, with the answer at hand")
        return self._failed(
            f"it ended the login{waited}",
            "did the answer take too long (LoginGraceTime), or were there too many tries (MaxAuthTries)? "
            "Run the same command, with the answer at hand",
        )

    def _failed(self, problem: str, hint: str) -> AuthenticationFailed:
        return AuthenticationFailed(self._node, f"{self._account}: {problem}", hint)
