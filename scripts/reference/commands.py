"""commands.md: every command with its arguments, options and help, from click."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import click

import ugro
from reference.markdown import Incomplete, code, first_paragraph, help_text, page, prose, table
from ugro.cli.main import COMMANDS, EPILOG, SUBJECTS, LazyGroup, cli
from ugro.common import errors
from ugro.common.errors import UgroError

Found = tuple[str, click.Command, click.Context]


def commands_page() -> str:
    """Return the page of all commands, in the order of `ugro --help`."""
    found = list(_walk("ugro", cli, click.Context(cli, info_name="ugro")))
    return page(
        "Commands",
        *(f"**{subject}**\n\n{table(('command', 'help'), map(_line, names))}" for subject, names in SUBJECTS.items()),
        "A job may be named by its id or its name. `-h` and `--help` work after every command.",
        *(_section(*each) for each in found),
        "## Exit codes",
        help_text(EPILOG),
        "A command for several jobs or nodes ends with the worst. Other meanings of a command's own are in its help.",
        'With `--json` an error is `{"error": {"code", "message", "hint"}}` on stderr. `code` is one of:',
        table(("code", "exit code", "meaning"), _error_rows()),
    )


def _line(name: str) -> tuple[str, str]:
    return f"[`ugro {name}`](#ugro-{name})", prose(COMMANDS[name][2])


def _walk(path: str, command: click.Command, context: click.Context) -> Iterator[Found]:
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is None:
                raise Incomplete(f"`{path} {name}` is listed and cannot be found")
            if not (below.hidden or (path != "ugro" and _flat_name(command, name))):
                yield from _walk(f"{path} {name}", below, click.Context(below, parent=context, info_name=name))


def _flat_name(group: click.Group, name: str) -> str | None:
    """Return what a command of a group is called as a command of `ugro`, if it is one."""
    entry = group.table[name] if isinstance(group, LazyGroup) else None
    return next((flat for flat, known in COMMANDS.items() if known == entry), None)


def _also(path: str, group: click.Command) -> str:
    """The commands of a group that `ugro` has too, with links."""
    names = group.table if isinstance(group, LazyGroup) and path != "ugro" else ()
    found = ((name, flat) for name in names if isinstance(group, LazyGroup) and (flat := _flat_name(group, name)))
    return table(
        ("command", "is"), ((code(f"{path} {name}"), f"[`ugro {flat}`](#ugro-{flat})") for name, flat in found)
    )


def commands_with(option: str) -> list[str]:
    """Return the commands that have an option, without `ugro`, in the order of the page."""
    found = _walk("ugro", cli, click.Context(cli, info_name="ugro"))
    return [
        path.removeprefix("ugro ") for path, command, _ in found if any(option in one.opts for one in command.params)
    ]


def _section(path: str, command: click.Command, context: click.Context) -> str:
    if not command.help:
        raise Incomplete(f"`{path}` has no help: give its function a docstring")
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    arguments = [one for one in command.params if isinstance(one, click.Argument) and _metavar(one) in usage]
    epilog = help_text(command.epilog) if command.epilog and path != "ugro" else ""
    parts = [
        f"{'##' if path.count(' ') < 2 else '###'} {path}",
        f"```text\n{usage}\n```",
        help_text(command.help),
        _also(path, command),
        table(("argument", "value"), ((code(_metavar(one)), _argument(one)) for one in arguments)),
        table(("option", "default", "help"), map(_option, options)),
        epilog,
    ]
    return "\n\n".join(part for part in parts if part)


def _argument(argument: click.Argument) -> str:
    words = ["required" if argument.required else "optional"]
    words += ["one or more" if argument.required else "any number"] if argument.nargs == -1 else []
    return ", ".join(words + _bounds(argument.type))


def _option(option: click.Option) -> tuple[str, str, str]:
    names = ", ".join(map(code, [*option.opts, *option.secondary_opts]))
    value = "" if option.is_flag else f" {code(_metavar(option))}"
    more = [*_bounds(option.type), *(["may be repeated"] if option.multiple else [])]
    environment = [option.envvar] if isinstance(option.envvar, str) else option.envvar or ()
    more += [f"also from `{name}`" for name in environment]
    text = prose(option.help or "")
    return names + value, _default(option), f"{text} ({'; '.join(more)})".strip() if more else text


def _default(option: click.Option) -> str:
    """The default that an option names, if it has one: click's marks of none differ between its versions."""
    value = option.default
    plain = isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""
    return code(f"{value:g}" if isinstance(value, float) else str(value)) if plain else ""


def _metavar(parameter: click.Parameter) -> str:
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter.type, click.Choice):
        return "|".join(map(str, parameter.type.choices))
    named = isinstance(parameter, click.Argument)
    return (parameter.name or "").upper() if named else parameter.type.name.upper()


def _bounds(kind: object) -> list[str]:
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is not None and high is not None:
        return [f"from {low:g} to {high:g}"]
    return [f"at least {low:g}"] if low is not None else []


BESIDE_ERRORS = {
    "usage": (errors.EXIT_INPUT, "The command line cannot be read: an unknown command, option or value."),
    "system": (errors.EXIT_INPUT, "The operating system refused something, such as reading a file."),
    "interrupted": (errors.EXIT_INTERRUPTED, "Ctrl-C, or the end of the input at a question."),
}
"""Codes that `ugro.cli.main` gives to errors of other libraries."""


def _error_rows() -> Iterator[tuple[str, str, str]]:
    """One row for each code, of the class that is nearest to the root of the tree, sorted by exit code."""
    for module in pkgutil.walk_packages(ugro.__path__, "ugro."):
        if ".scripts." not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: dict[str, tuple[int, str]] = {}
    for one in sorted(_below(UgroError), key=lambda one: (len(one.__mro__), one.__name__)):
        found.setdefault(one.code, (one.exit_code, first_paragraph(one)))
    for name, (exit_code, text) in sorted((found | BESIDE_ERRORS).items(), key=lambda item: (item[1][0], item[0])):
        yield code(name), str(exit_code), text


def _below(kind: type[UgroError]) -> Iterator[type[UgroError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
