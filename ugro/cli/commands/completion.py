"""`ugro completion`: the script that teaches a shell to complete `ugro`, and what it is answered."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, add_completion_class, get_completion_class

from ugro.cli.main import COMPLETION


class _Bash(BashComplete):
    """Knows that bash takes the `=` of `--nodes=gpu1` and the `@` of `@last` for words of their own."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        if args and args[-1] == "@":
            return args[:-1], f"@{incomplete}"
        if args and incomplete == "=":
            return args, ""
        return (args[:-1] if len(args) > 1 and args[-1] == "=" else args), incomplete


class _Fish(FishComplete):
    """Leaves a comma-separated list whole."""

    source_template = FishComplete.source_template.replace('split ","', 'split --max 1 ","')


add_completion_class(_Bash)
add_completion_class(_Fish)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the shell completion script.

    \b
    Example, in ~/.bashrc:  eval "$(ugro completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind
    click.echo(kind(ctx.find_root().command, {}, "ugro", COMPLETION).source())
