"""`ugro dashboard` where nothing is served, and the tunnel that it names in an ssh session."""

from __future__ import annotations

from pathlib import Path

import pytest

from ugro.cli.commands.dashboard import tunnel
from ugro.service.schemas.web import LoginLink
from ugro.testing.commands import Ugro


def test_says_what_to_start_where_nothing_is_served(forked: Ugro, work: Path) -> None:
    done = forked("dashboard", "--no-browser", cwd=work)
    assert done.returncode == 2 and "no dashboard is served here" in done.stderr and "ugro serve" in done.stderr


@pytest.mark.parametrize(
    ("host", "connection", "command"),
    [
        ("127.0.0.1", "10.0.0.9 5 10.0.0.1 22", "ssh -N -L 8470:127.0.0.1:8470 ob@10.0.0.1"),
        ("127.0.0.1", "10.0.0.9 5 10.0.0.1 2222", "ssh -N -p 2222 -L 8470:127.0.0.1:8470 ob@10.0.0.1"),
        ("0.0.0.0", "10.0.0.9 5 10.0.0.1 22", "ssh -N -L 8470:127.0.0.1:8470 ob@10.0.0.1"),
        ("::1", "x", "ssh -N -L '8470:[::1]:8470' ob@HOST"),
    ],
)
def test_names_the_tunnel(host: str, connection: str, command: str) -> None:
    link = LoginLink(url="http://x/#t=c", expires_at=0, host=host, port=8470)
    assert tunnel(link, connection, "ob") == command
