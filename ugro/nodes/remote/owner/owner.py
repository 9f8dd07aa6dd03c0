"""A node belongs to one master, whose line stands in BASE_DIR/owner: two would place jobs on the same GPUs."""

from __future__ import annotations

from ugro.common.errors import InputError
from ugro.common.text import printable
from ugro.nodes.remote.answers import require
from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Transport

LONGEST = 200


async def claim(transport: Transport, owner_line: str, takeover: bool) -> str:
    """Claim a node for this master if it has none. Return the line that stands on the node then, made harmless.

    `owner_line` is `<master id> <user>@<host> since <ISO time>`. A line with the same first word is this master's own
    and is kept as it is; another master's stays unless `takeover`. Of several masters at the same time one wins, and
    all get its line. The base directory is made (0700) where it is missing.

    Raises:
        InputError: `owner_line` is not one line of printable text of at most 200 characters.
        NodeRefused: the file cannot be read or written. NodeError: whether it was written is unknown.
    """
    if not owner_line.isprintable() or not 0 < len(owner_line) <= LONGEST or owner_line.strip() != owner_line:
        raise InputError(f"{printable(owner_line)[:LONGEST]!r} cannot name the owner of a node", "use plain text")
    args = (transport.node.base_dir, owner_line, "takeover" if takeover else "respect")
    outcome = await transport.run(load("owner/owner.sh"), args)
    require(transport, outcome, f"its owner cannot be noted in {transport.node.base_dir}")
    return printable(outcome.text)[:LONGEST]


def is_same_master(line: str, other: str) -> bool:
    """Whether two owner lines are of one master, at whatever time they were written."""
    return line.split(" ", 1)[0] == other.split(" ", 1)[0]
