"""Log in by what a machine asks for, at a server that is scripted for what sshd cannot be made to do here."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import asyncssh
import paramiko
import pytest

from ugro.common.config import NodeConfig
from ugro.common.errors import AuthenticationFailed, HostKeyChanged, Unreachable
from ugro.common.models.login import LoginPrompt
from ugro.nodes.bootstrap.first_login import FirstLogin
from ugro.nodes.bootstrap.methods import asks_for_password

PASSWORD = "correct horse"
CODE = "424242"


class Scripted(paramiko.ServerInterface):
    """Lets in by the methods of `ways`, one after the other. `seen` has every answer that came."""

    def __init__(self, ways: Sequence[str], prompts: Sequence[tuple[str, bool]], right: Sequence[str]) -> None:
        self.left = list(ways)
        self.prompts, self.right = prompts, list(right)
        self.seen: list[tuple[str, str]] = []

    def get_allowed_auths(self, username: str) -> str:
        return self.left[0]

    def _step(self) -> int:
        self.left.pop(0)
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL if self.left else paramiko.AUTH_SUCCESSFUL

    def check_auth_password(self, username: str, password: str) -> int:
        self.seen.append(("password", password))
        return self._step() if self.left[0] == "password" and password == PASSWORD else paramiko.AUTH_FAILED

    def check_auth_interactive(self, username: str, submethods: str) -> Any:
        if self.left[0] != "keyboard-interactive":
            return paramiko.AUTH_FAILED
        return paramiko.InteractiveQuery("", "", *self.prompts)

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        self.seen += [("answer", response) for response in responses]
        return self._step() if responses == self.right else paramiko.AUTH_FAILED


@contextmanager
def server(script: Scripted) -> Iterator[tuple[int, asyncssh.SSHKey]]:
    """A server for one connection: its port, and its host key."""
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    key = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    host_key = paramiko.ECDSAKey.from_private_key(io.StringIO(key.export_private_key("pkcs1-pem").decode()))
    listener = socket.create_server(("127.0.0.1", 0))
    opened: list[paramiko.Transport] = []

    def serve() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(accepted)
            opened.append(transport)
            transport.add_server_key(host_key)
            try:
                transport.start_server(server=script)
            except (paramiko.SSHException, EOFError):
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], key
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for transport in opened:
            transport.close()
            transport.join(5)


def log_in(port: int, key: asyncssh.SSHKey, *replies: str | None) -> list[LoginPrompt]:
    """Log in, with these replies; the prompts that they answered."""
    asked: list[LoginPrompt] = []
    waiting = iter(replies)

    def ask(prompt: LoginPrompt) -> str | None:
        asked.append(prompt)
        return next(waiting)

    async def main() -> None:
        node = NodeConfig(name="gpu3", address="127.0.0.1", port=port, user="ob")
        await (await FirstLogin.open(node, [key], ask)).close()

    asyncio.run(main())
    return asked


def test_logs_in_with_a_password() -> None:
    script = Scripted(["password"], (), ())
    with server(script) as (port, key):
        [prompt] = log_in(port, key, PASSWORD)
    assert prompt.is_password and prompt.secret and prompt.text == "Password of ob@127.0.0.1"


def test_logs_in_with_a_password_and_a_second_factor() -> None:
    """One that stops after the password would say that it is logged in, and is not."""
    script = Scripted(["password", "keyboard-interactive"], [("Verification code: ", True)], [CODE])
    with server(script) as (port, key):
        first, second = log_in(port, key, PASSWORD, CODE)
    assert (first.is_password, second.is_password, second.secret) == (True, False, False)
    assert second.text == "Verification code:"
    assert script.seen == [("password", PASSWORD), ("answer", CODE)]


def test_answers_the_password_prompt_of_keyboard_interactive_and_asks_the_others() -> None:
    prompts = [("Password: ", False), ("One-time password (OATH): ", False)]
    script = Scripted(["keyboard-interactive"], prompts, [PASSWORD, CODE])
    with server(script) as (port, key):
        first, second = log_in(port, key, PASSWORD, CODE)
    assert first.is_password and not second.is_password and second.secret


def test_asks_three_times_and_no_more() -> None:
    script = Scripted(["password"], (), ())
    with server(script) as (port, key), pytest.raises(AuthenticationFailed, match="it refused 3 answers") as refused:
        log_in(port, key, "a", "b", "c", "never asked")
    assert refused.value.exit_code == 3 and "AllowUsers" in refused.value.hint
    assert script.seen == [("password", "a"), ("password", "b"), ("password", "c")]


def test_asks_again_for_a_refused_code_alone_with_the_password() -> None:
    script = Scripted(["keyboard-interactive"], [("Password: ", False), ("Code: ", True)], [PASSWORD, CODE])
    with server(script) as (port, key):
        asked = log_in(port, key, PASSWORD, "000000", PASSWORD, CODE)
    assert [prompt.again for prompt in asked] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("ways", "prompts", "problem", "hint"),
    [
        (["password"], (), "it asks for the password", "--password-file"),
        (["keyboard-interactive"], [("Code: ", True)], "asks for more than a password: Code:", "in a terminal"),
        (["publickey"], (), "neither a password nor answers to questions, only: publickey", "append your public key"),
        (["keyboard-interactive"], [("New password: ", False)], "its password has expired", "set it: ssh ob@"),
    ],
)
def test_reports_what_cannot_be_answered(
    ways: list[str], prompts: list[tuple[str, bool]], problem: str, hint: str
) -> None:
    with server(Scripted(ways, prompts, [CODE])) as (port, key), pytest.raises(AuthenticationFailed) as refused:
        log_in(port, key, None)
    assert problem in refused.value.message and hint in refused.value.hint


def test_reports_a_second_factor_that_takes_too_long() -> None:
    """sshd ends the login after LoginGraceTime, while the user still looks for the code."""
    script = Scripted(["keyboard-interactive"], [("Code: ", True)], [CODE])
    with server(script) as (port, key), pytest.raises(AuthenticationFailed, match="waited for: Code:") as refused:

        async def main() -> None:
            node = NodeConfig(name="gpu3", address="127.0.0.1", port=port, user="ob")

            def ask(prompt: LoginPrompt) -> str:
                for thread in threading.enumerate():
                    if isinstance(thread, paramiko.Transport) and thread.server_mode:
                        thread.close()
                        thread.join(5)
                return CODE

            await FirstLogin.open(node, [key], ask)

        asyncio.run(main())
    assert "LoginGraceTime" in refused.value.hint


def test_sends_nothing_to_a_machine_with_another_host_key() -> None:
    script = Scripted(["password"], (), ())
    pinned = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    with server(script) as (port, _), pytest.raises(HostKeyChanged, match="between two connections") as refused:
        log_in(port, pinned, PASSWORD)
    assert script.seen == [] and pinned.get_fingerprint() in refused.value.message


def test_reports_a_machine_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable, match="no SSH connection"):
        log_in(port, asyncssh.generate_private_key("ssh-ed25519"), PASSWORD)


def test_raises_what_the_user_interrupts() -> None:
    class Stopped(RuntimeError):
        pass

    def ask(prompt: LoginPrompt) -> str:
        raise Stopped

    async def main(port: int, key: asyncssh.SSHKey) -> None:
        await FirstLogin.open(NodeConfig(name="gpu3", address="127.0.0.1", port=port, user="ob"), [key], ask)

    for ways in (["password"], ["keyboard-interactive"]):
        with server(Scripted(ways, [("Code: ", True)], [CODE])) as (port, key), pytest.raises(Stopped):
            asyncio.run(main(port, key))


@pytest.mark.parametrize(
    ("text", "echo", "expected"),
    [
        ("Password: ", False, True),
        ("(ob@gpu3) Password:", False, True),
        ("ob@gpu3's password: ", False, True),
        ("Password for ob: ", False, True),
        ("Password: ", True, False),
        ("One-time password (OATH) for `ob': ", False, False),
        ("Verification code: ", False, False),
        ("Passcode or option (1-3): ", False, False),
        ("New password: ", False, False),
        ("Retype new password:", False, False),
        ("Enter passphrase for key: ", False, False),
        ("Duo two-factor password", False, False),
        ("Enter PIN for token: ", False, False),
        ("", False, False),
    ],
)
def test_tells_the_password_prompt_from_others(text: str, echo: bool, expected: bool) -> None:
    assert asks_for_password(text, echo) is expected
