"""Lines of logs on the terminal, or in a pipe."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from ugro.cli.output import RANK_COLOURS
from ugro.common.text import bytes_in_words, printable
from ugro.service.schemas.logs import LogLine, LogLines, LogPart, NumberedLine


def print_lines(out: Console, part: LogLines) -> None:
    """Print lines of a log with their coloured prefixes; what they say is never taken for markup."""
    for line in part.lines:
        _print_line(out, prefix(line, part.nodes), printable(line.text))
    out.file.flush()


def print_numbered(out: Console, lines: Iterable[NumberedLine]) -> None:
    """Print lines of one rank's log with their numbers, and what is left out of long ones."""
    for line in lines:
        before = f"({bytes_in_words(line.before)} before this) … " if line.before else ""
        after = f" … ({bytes_in_words(line.after)} after this)" if line.after else ""
        _print_line(out, _rank_prefix(line.rank), f"{line.number}: {before}{printable(line.text)}{after}")
    out.file.flush()


def words_of_left_out(part: LogPart) -> str:
    """Say what of a log is not shown, and why."""
    if part.unreadable:
        return f"{printable(part.unreadable.message)}: the output of rank {part.rank} since then is missing here"
    if not part.size:
        return f"there is no output of rank {part.rank}"
    return f"{bytes_in_words(part.behind or 0)} of the output of rank {part.rank} could not be copied here"


def _print_line(out: Console, prefix: tuple[str, str], text: str) -> None:
    who, style = prefix
    if out.is_terminal:
        out.print(Text(who, style), Text(text), soft_wrap=True)
    else:  # rich takes its time over each line, and a pipe has no use for it
        out.file.write(f"{who} {text}\n")


def prefix(line: LogLine, nodes: tuple[str, ...]) -> tuple[str, str]:
    """Return who says a line, and the colour that goes with it: `[rank 0]`, the node for torchrun's own words, or
    `[gpu1 setup]`.
    """
    if line.rank is not None:
        return _rank_prefix(line.rank)
    name = nodes[line.node_rank] if line.node_rank is not None and line.node_rank < len(nodes) else "?"
    return (f"[{name} setup]" if line.setup else f"[{name}]"), "dim"


def _rank_prefix(rank: int) -> tuple[str, str]:
    return f"[rank {rank}]", RANK_COLOURS[rank % len(RANK_COLOURS)]
