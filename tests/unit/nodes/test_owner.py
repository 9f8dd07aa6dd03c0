"""A node belongs to one master."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ugro.common.errors import InputError, NodeRefused
from ugro.nodes.remote.owner.owner import claim, is_same_master
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders

MINE = "m-1 me@master since 2026-11-24T10:00:00+00:00"
LATER = "m-1 me@master since 2026-11-25T10:00:00+00:00"
THEIRS = "m-2 you@other since 2026-11-24T11:00:00+00:00"


@pytest.fixture
def node(home: Path) -> LocalTransport:
    return LocalTransport(builders.this_machine(base_dir='~/it\'s a "place" $(x)'))


@pytest.fixture
def base(home: Path) -> Path:
    return home / 'it\'s a "place" $(x)'


async def test_a_free_node_is_taken(node: LocalTransport, base: Path) -> None:
    assert await claim(node, MINE, takeover=False) == MINE
    assert (base / "owner").read_text() == MINE + "\n"
    assert base.stat().st_mode & 0o777 == 0o700 and (base / "owner").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in base.iterdir()] == ["owner"]


async def test_my_own_line_stays_as_it_is(node: LocalTransport, base: Path) -> None:
    await claim(node, MINE, takeover=False)
    inode = (base / "owner").stat().st_ino
    assert await claim(node, LATER, takeover=False) == MINE
    assert await claim(node, LATER, takeover=True) == MINE
    assert (base / "owner").stat().st_ino == inode and len(list(base.iterdir())) == 1


async def test_another_masters_line_stays_unless_it_is_taken_over(node: LocalTransport, base: Path) -> None:
    await claim(node, THEIRS, takeover=False)
    assert await claim(node, MINE, takeover=False) == THEIRS
    assert await claim(node, MINE, takeover=True) == MINE
    assert (base / "owner").read_text() == MINE + "\n" and len(list(base.iterdir())) == 1


async def test_of_many_at_once_one_wins(node: LocalTransport, base: Path) -> None:
    lines = [f"m-{number} a@b since now" for number in range(8)]
    told = await asyncio.gather(*(claim(node, line, takeover=False) for line in lines))
    assert len(set(told)) == 1 and told[0] in lines
    assert (base / "owner").read_text() == told[0] + "\n"


async def test_an_empty_owner_file_means_no_owner(node: LocalTransport, base: Path) -> None:
    base.mkdir()
    (base / "owner").touch()
    assert await claim(node, MINE, takeover=False) == MINE


@pytest.mark.parametrize("kind", ["folder", "link", "dangling"])
async def test_leaves_an_owner_that_is_no_plain_file_alone(
    node: LocalTransport, base: Path, home: Path, kind: str
) -> None:
    base.mkdir()
    outside = home / "outside"
    if kind == "folder":
        (base / "owner").mkdir()
    else:
        (base / "owner").symlink_to(outside)
    if kind == "link":
        outside.write_text(THEIRS)
    with pytest.raises(NodeRefused, match="not a plain file"):
        await claim(node, MINE, takeover=True)
    assert len(list(base.iterdir())) == 1 and (kind != "link" or outside.read_text() == THEIRS)


async def test_makes_the_owner_line_harmless(node: LocalTransport, base: Path) -> None:
    base.mkdir()
    (base / "owner").write_bytes(b"m-2 \x1b[31mred\xff" + b"x" * 5000 + b"\nsecond\n")
    told = await claim(node, MINE, takeover=False)
    assert told.startswith("m-2 red\ufffdxxx") and len(told) == 200


@pytest.mark.parametrize("line", ["", " m-1 a@b", "m-1\nm-2", "m-1 \x1b[2J", "m" * 201, "m-1 \u202e", "m-1\ta"])
async def test_only_a_plain_line_names_an_owner(node: LocalTransport, base: Path, line: str) -> None:
    with pytest.raises(InputError):
        await claim(node, line, takeover=True)
    assert not base.exists()


async def test_a_line_is_no_shell(node: LocalTransport, base: Path) -> None:
    line = "m-1 $(touch x)'\"`touch y`\\n %s \u00e9 since now"
    assert await claim(node, line, takeover=False) == line
    assert len(list(base.iterdir())) == 1


async def test_a_place_that_cannot_be_written_is_said(node: LocalTransport, base: Path) -> None:
    base.write_text("a file")
    with pytest.raises(NodeRefused, match="owner"):
        await claim(node, MINE, takeover=False)


def test_distinguishes_masters_by_the_first_word() -> None:
    assert is_same_master(MINE, LATER) and not is_same_master(MINE, THEIRS)
