"""`ugro help`: the help of a command, and the man pages of all."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ugro.cli.complete import complete_folder
from ugro.cli.man import pages
from ugro.common.errors import InputError
from ugro.common.text import count, printable, visible


@click.command(name="help", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.option(
    "--man",
    "folder",
    is_flag=False,
    flag_value="",
    type=click.Path(file_okay=False),
    metavar="[DIR]",
    shell_complete=complete_folder,
    help="Write a man page of each command to DIR/man1. Default: share/man beside this `ugro`.",
)
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...], folder: str | None) -> None:
    """Show the help of a command, or write the man pages.

    \b
    Examples:
      ugro help job cancel
      ugro help --man && man ugro-launch
    """
    if folder is not None:
        if words:
            raise click.UsageError("--man writes the pages of all commands: leave out the COMMAND", ctx)
        _write_pages(ctx.find_root(), Path(folder) if folder else Path(sys.prefix) / "share" / "man")
        return
    shown = ctx.find_root()
    for word in words:
        if not isinstance(shown.command, click.Group):
            raise click.UsageError(f"`{shown.command_path}` has no commands of its own", shown)
        name, command, _ = shown.command.resolve_command(shown, [word])
        if command is None:  # an option, perhaps
            raise click.UsageError(f"{printable(word)!r} is no command", shown)
        shown = command.make_context(name, [], parent=shown, resilient_parsing=True)
    click.echo(shown.command.get_help(shown))


def _write_pages(root: click.Context, folder: Path) -> None:
    written = 0
    try:
        (folder / "man1").mkdir(parents=True, exist_ok=True)
        for name, text in pages(root.command):
            (folder / "man1" / name).write_text(text, encoding="utf-8")
            written += 1
    except OSError as error:
        hint = "name a folder of yours: ugro help --man ~/.local/share/man"
        raise InputError(f"{visible(str(error.filename))}: {error.strerror}", hint) from None
    where = visible(str(folder))
    click.echo(f"{count(written, 'page')} in {where}/man1; to read one: man -M {where} ugro")
