"""Man pages of all commands, from the same help that `--help` and docs/reference show."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from ugro import __version__
from ugro.cli.main import ALIASES, SUBJECTS, LazyGroup

_CODE = re.compile(r"`([^`]+)`")


def pages(root: click.Command) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page: `ugro.1`, `ugro-launch.1`, `ugro-node-clean.1` …"""
    context = root.make_context("ugro", [], resilient_parsing=True)
    yield from _pages(root, context)


def _pages(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    yield f"{_name(context)}.1", page(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is None or below.hidden or _stands_elsewhere(command, name, context):
                continue
            yield from _pages(below, below.make_context(name, [], parent=context, resilient_parsing=True))


def _stands_elsewhere(group: click.Group, name: str, context: click.Context) -> bool:
    """Whether a command of a group is one of `ugro` itself, which has a page."""
    root = context.find_root().command
    if not isinstance(group, LazyGroup) or not isinstance(root, LazyGroup) or group is root:
        return False
    return group.table[name] in root.table.values()


def page(command: click.Command, context: click.Context) -> str:
    """Return the page of one command."""
    name, help_ = _name(context), command.help or ""
    first, _, rest = help_.partition("\n\n")
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [
        f'.TH "{_plain(name.upper())}" 1 "" "ugro {__version__}" "UGRO"',
        ".nh\n.ad l",
        f".SH NAME\n{_text(name)} \\- {_text(_joined(first).rstrip('.'))}",
        f".SH SYNOPSIS\n.B {_text(context.command_path)}\n{_text(usage)}",
    ]
    if rest:
        parts.append(f".SH DESCRIPTION\n{_prose(rest)}")
    if isinstance(command, click.Group):
        parts.append(f".SH COMMANDS\n{_commands(command, context)}")
    options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    records = [record for one in options if (record := one.get_help_record(context))]
    if records:
        parts.append(".SH OPTIONS\n" + "\n".join(f".TP\n.B {_text(names)}\n{_text(text)}" for names, text in records))
    if command.epilog:
        parts.append(f".SH NOTES\n{_prose(command.epilog)}")
    if name != "ugro":
        parts.append(".SH SEE ALSO\n.BR ugro (1)")
    return "\n".join(parts) + "\n"


def _commands(group: click.Group, context: click.Context) -> str:
    if group is not context.find_root().command:
        names = group.list_commands(context)
        return "\n".join(_entry(name, _summary(group, name, context)) for name in names)
    parts = []
    for subject, names_of in SUBJECTS.items():
        entries = "\n".join(_entry(name, _summary(group, name, context)) for name in names_of)
        parts.append(f".SS {_text(subject)}\n{entries}")
    parts.append(".SS Other names\n" + _text(", ".join(f"{name} = {meant}" for name, meant in ALIASES.items())))
    return "\n".join(parts)


def _summary(group: click.Group, name: str, context: click.Context) -> str:
    if isinstance(group, LazyGroup):
        return group.table[name][2]
    command = group.get_command(context, name)
    return command.get_short_help_str(200) if command else ""


def _entry(name: str, text: str) -> str:
    return f".TP\n.B {_text(name)}\n{_text(text)}"


def _name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _prose(text: str) -> str:
    """Return paragraphs; a block that begins with a backspace keeps its lines, as click has it."""
    made = []
    for block in text.split("\n\n"):
        lines = block.strip("\n").split("\n")
        if lines[0].strip() == "\b":
            made.append("\n".join([".PP", ".nf", *map(_text, lines[1:]), ".fi"]))
        elif words := _joined(block):
            made.append(f".PP\n{_text(words)}")
    return "\n".join(made)


def _joined(text: str) -> str:
    return " ".join(text.split())


def _text(text: str) -> str:
    """Return text as roff has it: bold what is code, and no character of it is taken for a request."""
    bold = _CODE.sub(lambda found: f"\0B{found[1]}\0R", text)
    safe = _plain(bold).replace("\0", "\\f")
    return f"\\&{safe}" if safe[:1] in (".", "'") else safe


def _plain(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
