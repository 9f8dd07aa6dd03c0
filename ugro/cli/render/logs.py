"""Lines of logs on the terminal, or in a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ugro.cli.output import RANK_COLOURS
from ugro.common.text import printable
from ugro.service.schemas.logs import LogLine, LogLines


def print_lines(out: Console, part: LogLines) -> None:
    """Print lines of a log with their coloured prefixes; what they say is never taken for markup."""
    for line in part.lines:
        (who, style), text = prefix(line, part.nodes), printable(line.text)
        if out.is_terminal:
            out.print(Text(who, style), Text(text), soft_wrap=True)
        else:  # rich takes its time over each line, and a pipe has no use for it
            out.file.write(f"{who} {text}\n")
    out.file.flush()


def prefix(line: LogLine, nodes: tuple[str, ...]) -> tuple[str, str]:
    """Return who says a line, and the colour that goes with it: `[rank 0]`, or the node for torchrun's own words."""
    if line.rank is not None:
        return f"[rank {line.rank}]", RANK_COLOURS[line.rank % len(RANK_COLOURS)]
    name = nodes[line.node_rank] if line.node_rank is not None and line.node_rank < len(nodes) else "?"
    return f"[{name}]", "dim"
