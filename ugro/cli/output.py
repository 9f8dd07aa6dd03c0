"""What commands print: JSON documents for programs, rich tables for people. Foreign text is made harmless here."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ugro.cli.terminal import is_plain
from ugro.common.errors import UgroError
from ugro.common.text import printable
from ugro.service.schemas.base import ErrorDocument

PIPE_WIDTH = 10_000
"""Characters of a line that is read by a program: nothing is wrapped."""

SHORT_UUID = 12
"""Characters of a GPU's UUID that are enough to identify it; nvidia-smi and CUDA take it too."""


INDENT, READABLE = 4, 40
"""Indent a continuation line by `INDENT` cells where fewer than `READABLE` would be left beside the prefix."""

_COMMAND = re.compile(r"`[^`]*`|(?<=: )(?:ugro|cp|rm|mv|kill|ssh-keygen) [^;`)]*")
_KEPT = "\ue000"
"""Stands for a space where no line ends, and is as wide as one; no text has a character for private use."""

RANK_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "bright_green")
STATE_STYLES = {
    "running": "bold blue", "starting": "blue", "queued": "yellow", "held": "yellow", "unknown": "bold yellow",
    "stopping": "magenta", "succeeded": "green", "failed": "bold red", "cancelled": "magenta",
    "lost": "bold red", "pending": "dim", "not started": "dim", "stopped": "magenta",
}  # fmt: skip


def terminal_width(err: bool = False) -> int | None:
    """How many cells a line of the output has; None: it is no terminal, and a line has any length."""
    return console(err).width if (sys.stderr if err else sys.stdout).isatty() else None


quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print ids only, one a line.")

wide_option = click.option("--wide", is_flag=True, help="Show every column in full, however wide.")


def console(stderr: bool = False) -> Console:
    """A console that does not wrap what is no terminal's, and draws nothing on a terminal without escape sequences."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        width=None if stream.isatty() else PIPE_WIDTH,
        force_terminal=False if is_plain() else None,
        highlight=False,
        markup=False,
    )


def hanging(before: str, text: str, width: int | None) -> list[str]:
    """Return the lines of a prefix and a text, wrapped between words at `width` cells, continuation lines indented.

    A command is not wrapped, so that it can be copied: one that is wider than the terminal has a line of its own.
    """
    if width is None:
        return [before + text]
    text = _COMMAND.sub(lambda found: found[0].replace(" ", _KEPT), text)
    begins = cell_len(before)
    indent = " " * (begins if width - begins >= READABLE else INDENT)
    lines = [before]
    for word in text.split(" "):
        space = "" if lines[-1] in (before, indent) else " "
        if cell_len(lines[-1] + space + word) <= width or lines[-1] == indent:
            lines[-1] += space + word
        else:
            lines.append(indent + word)
    return [line.rstrip().replace(_KEPT, " ") for line in lines]


def print_hanging(before: str, text: str, err: bool = False, **style: Any) -> None:
    """Print such a text, of foreign words, as the terminal is wide; the style is click's."""
    for line in hanging(printable(before), printable(text), terminal_width(err)):
        click.echo(click.style(line, **style) if any(style.values()) else line, err=err)  # else a reset follows it


def print_marked(mark: Text, text: str, style: str = "") -> None:
    """Print such a text behind a mark with styles of its own; the style is rich's."""
    out, begins = console(), len(mark.plain)
    first, *rest = hanging(mark.plain, printable(text), terminal_width())
    out.print(mark + Text(first[begins:], style), soft_wrap=True)
    for line in rest:
        out.print(Text(line, style), soft_wrap=True)


def print_commands(*commands: str) -> None:
    """Print commands that are useful next, none of them broken, as many a line as the terminal has room for."""
    width, line = terminal_width(), ""
    for command in commands:
        if line and width is not None and cell_len(f"{line}   {command}") > width:
            click.echo(line)
            line = ""
        line = f"{line}   {command}" if line else f"  {command}"
    click.echo(line)


def print_json(document: Any) -> None:
    """One JSON document on stdout, and nothing else."""
    click.echo(json.dumps(document, ensure_ascii=True))


def print_json_list(items: Iterable[Any]) -> None:
    """The same of a list of any length, which is never there as a whole."""
    separator = "["
    for item in items:
        sys.stdout.write(separator + json.dumps(item, ensure_ascii=True))
        separator = ", "
    click.echo("[]" if separator == "[" else "]")


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, STATE_STYLES.get(state, ""))


def table(*columns: str, title: str | None = None) -> Table:
    """Return a new table in the style of all tables."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_problems(problems: Sequence[UgroError | ErrorDocument], err: bool = False) -> None:
    """Print one line for each problem that stopped nothing, with what to do about it."""
    for problem in problems:
        print_hanging("", f"{problem.message} ({problem.hint})", err, fg="red")
