"""The line of a key in authorized_keys: added once, removed alone, whatever stands there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ugro.common.errors import NodeRefused
from ugro.nodes.remote.account import account
from ugro.nodes.transport import LocalTransport, Outcome
from ugro.testing import builders

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIAbc+def/0"
LINE = f"ssh-ed25519 {BLOB} me@master"


@pytest.fixture
def node(home: Path) -> LocalTransport:
    return LocalTransport(builders.this_machine())


@pytest.fixture
def keys(home: Path) -> Path:
    return home / ".ssh/authorized_keys"


async def test_makes_the_folder_and_adds_the_line_once(node: LocalTransport, keys: Path) -> None:
    assert await account.install_key(node, BLOB, LINE) == account.Installed(added=True)
    assert keys.read_text() == f"{LINE} added-by-ugro\n"
    assert (keys.stat().st_mode & 0o777, keys.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert not (await account.install_key(node, BLOB, LINE)).added and len(keys.read_text().splitlines()) == 1


async def test_keeps_what_stands_there_also_without_a_last_newline(node: LocalTransport, keys: Path) -> None:
    keys.parent.mkdir(mode=0o700)
    others = f"# {BLOB}\n\nrestrict ssh-rsa AAAA other\\n $(x) 'q'"
    keys.write_text(others)
    keys.chmod(0o644)
    assert (await account.install_key(node, BLOB, LINE)).added  # the comment has no key
    assert keys.read_text() == f"{others}\n{LINE} added-by-ugro\n" and keys.stat().st_mode & 0o777 == 0o644
    assert await account.remove_key(node, BLOB) == (1, 1)
    assert keys.read_text() == f"{others}\n" and keys.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in keys.parent.iterdir()] == ["authorized_keys"]


async def test_removes_no_line_that_ugro_did_not_add(node: LocalTransport, keys: Path) -> None:
    keys.parent.mkdir(mode=0o700)
    keys.write_text(f"{LINE}\n")
    assert not (await account.install_key(node, BLOB, LINE)).added
    assert await account.remove_key(node, BLOB) == (0, 1)
    assert keys.read_text() == f"{LINE}\n"
    keys.unlink()
    assert await account.remove_key(node, BLOB) == (0, 0)


async def test_closes_to_others_what_sshd_would_refuse(node: LocalTransport, keys: Path, home: Path) -> None:
    keys.parent.mkdir()
    keys.write_text("")
    keys.parent.chmod(0o777)
    keys.chmod(0o664)
    home.chmod(0o777)
    done = await account.install_key(node, BLOB, LINE)
    assert done.corrected == (".ssh", ".ssh/authorized_keys")
    modes = [path.stat().st_mode & 0o777 for path in (keys.parent, keys, home)]
    assert modes == [0o755, 0o644, 0o777]


async def test_reports_a_link_in_place_of_the_folder(node: LocalTransport, keys: Path, home: Path) -> None:
    (home / "else where").mkdir()
    keys.parent.symlink_to("else where")
    assert await account.install_key(node, BLOB, LINE) == account.Installed(added=False, link="else where")
    assert not keys.exists()
    assert (await account.install_key(node, BLOB, LINE, follow=True)).added and keys.exists()
    assert (await account.look(node)).link == "else where"


class Homeless(LocalTransport):
    """A login whose home directory does not exist: sshd then begins in `/`."""

    async def run(self, script: str, args: Sequence[str] = (), **options: Any) -> Outcome:
        return await super().run(f"HOME=/nonexistent; cd /\n{script}", args, **options)


async def test_refuses_what_is_no_file_and_no_home(node: LocalTransport, keys: Path) -> None:
    keys.mkdir(parents=True)
    with pytest.raises(NodeRefused, match="authorized_keys is not a plain file"):
        await account.install_key(node, BLOB, LINE)
    homeless = Homeless(node.node)
    with pytest.raises(NodeRefused, match="the home directory /nonexistent does not exist") as refused:
        await account.install_key(homeless, BLOB, LINE)
    assert "sudo mkhomedir_helper" in refused.value.hint
    assert (await account.look(homeless)).homeless


async def test_looks_at_owners_and_modes(node: LocalTransport, keys: Path, home: Path) -> None:
    await account.install_key(node, BLOB, LINE)
    home.chmod(0o775)
    seen = await account.look(node)
    assert (seen.home, seen.homeless, seen.link) == (str(home), False, "")
    assert {name: found.mode for name, found in seen.modes.items()} == {"home": 0o775, "ssh": 0o700, "file": 0o600}
    assert seen.modes["home"].open_to_others and not seen.modes["ssh"].open_to_others
    assert seen.config_path == "/etc/ssh/sshd_config"
