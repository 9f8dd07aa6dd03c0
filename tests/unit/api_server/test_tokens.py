"""Tokens, cookies and how many wrong tokens a client may send."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ugro.api_server.tokens import CLIENTS_KNOWN, COOKIE_DAYS, FILES, Attempts, Tokens
from ugro.common.errors import StateError
from ugro.service.schemas.web import Role


def test_makes_tokens_that_only_their_owner_reads(tmp_path: Path) -> None:
    home = tmp_path / "state"
    tokens = Tokens.of(home)
    found = {role: (home / name).read_text().strip() for role, name in FILES.items()}
    assert len(set(found.values())) == 2 and all(len(token) >= 43 for token in found.values())
    assert {(home / name).stat().st_mode & 0o777 for name in FILES.values()} == {0o600}
    assert {role: tokens.role_of(token) for role, token in found.items()} == {role: role for role in Role}
    assert tokens.role_of("") is None and tokens.role_of("ü") is None and tokens.role_of(found[Role.VIEW][:-1]) is None
    assert Tokens.of(home).role_of(found[Role.OPERATE]) == Role.OPERATE, "they stay"
    assert sorted(path.name for path in home.iterdir()) == ["token", "token.view"]


def test_several_processes_make_one(tmp_path: Path) -> None:
    threads = [threading.Thread(target=Tokens.of, args=(tmp_path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Tokens.of(tmp_path).role_of((tmp_path / "token").read_text().strip()) == Role.OPERATE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["token", "token.view"]


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [("x" * 40, 0o644, "chmod 600"), ("short", 0o600, "rm "), ("", 0o600, "rm "), ("\udcff" * 40, 0o600, "remove it")],
)
def test_refuses_a_token_that_is_none(tmp_path: Path, content: str, mode: int, told: str) -> None:
    path = tmp_path / "token"
    path.write_text(content, errors="surrogateescape")
    path.chmod(mode)
    with pytest.raises(StateError) as caught:
        Tokens.of(tmp_path)
    assert told in caught.value.hint and str(path) in caught.value.message + caught.value.hint


def test_a_cookie_has_its_role_until_it_is_over() -> None:
    now = [1000.0]
    tokens = Tokens({Role.OPERATE: "o" * 20, Role.VIEW: "v" * 20}, lambda: now[0])
    for role in Role:
        cookie = tokens.cookie(role)
        assert tokens.role_of_cookie(cookie) == role
        for at in range(len(cookie)):
            changed = cookie[:at] + ("x" if cookie[at] != "x" else "y") + cookie[at + 1 :]
            assert tokens.role_of_cookie(changed) is None, "signed"
        assert Tokens({Role.OPERATE: "n" * 20, Role.VIEW: "m" * 20}).role_of_cookie(cookie) is None, "a new token"
    now[0] += COOKIE_DAYS * 86400
    assert tokens.role_of_cookie(cookie) is None
    for nonsense in ("", ".", "...", "operate", "operate.9.x", "operate.²²²²²²²²²²².x.y", f"operate.{'9' * 5000}.x.y"):
        assert tokens.role_of_cookie(nonsense) is None


def test_wrong_tokens_are_counted_in_bounded_memory() -> None:
    attempts = Attempts(lambda: 0.0)
    for number in range(CLIENTS_KNOWN + 50):
        assert not attempts.too_many(str(number))
    assert len(attempts._clients) == CLIENTS_KNOWN
