"""What the shell completes beside options: jobs, nodes and files, from the records alone. No node is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from ugro.cli.app import App
from ugro.service.schemas.base import Request
from ugro.service.schemas.completion import CompleteJobs, CompleteNodes, Words

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem[str]]"]


def _ask(ctx: click.Context, request: Request[Words]) -> tuple[str, ...]:
    with App(ctx.find_root().params.get("inventory")) as app:
        return app.call(request).words


def _item(word: str, kind: str = "plain") -> CompletionItem[str]:
    from click.shell_completion import CompletionItem  # here, since a command that runs completes nothing

    return CompletionItem(word, type=kind)


def _fitting(words: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    return [_item(word) for word in dict.fromkeys(words) if word.startswith(incomplete)]


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Ids and names of the jobs of which the command can be asked."""
    return _fitting(_ask(ctx, CompleteJobs(command=ctx.info_name or "", given=_given(ctx, param))), incomplete)


def complete_jobs_listed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """A comma-separated list of jobs that have not ended."""
    return _listed(_ask(ctx, CompleteJobs()), incomplete)


def complete_node(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The names of nodes, without those that the command line has already."""
    return _others(ctx, param, incomplete, CompleteNodes())


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The names of nodes, and the ids and names of jobs that run."""
    return _fitting([*_ask(ctx, CompleteNodes()), *_ask(ctx, CompleteJobs(command="exec"))], incomplete)


def complete_drained(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The names of drained nodes."""
    return _others(ctx, param, incomplete, CompleteNodes(drained=True))


def _others(
    ctx: click.Context, param: click.Parameter, incomplete: str, request: CompleteNodes
) -> list[CompletionItem[str]]:
    given = _given(ctx, param)
    return _fitting((name for name in _ask(ctx, request) if name not in given), incomplete)


def complete_nodes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """A comma-separated list of nodes."""
    return _listed(_ask(ctx, CompleteNodes()), incomplete)


def complete_secret(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The names of the secrets that are set."""
    from ugro.service.schemas.secrets import ListSecrets  # here, since few have a use for it

    with App(ctx.find_root().params.get("inventory")) as app:
        return _fitting((one.name for one in app.call(ListSecrets()).answer), incomplete)


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Files, by the shell's own means."""
    return [_item(incomplete, "file")]


def complete_folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Folders, likewise."""
    return [_item(incomplete, "dir")]


def _listed(words: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    before, comma, _ = incomplete.rpartition(",")
    given = before.split(",")
    return _fitting((f"{before}{comma}{word}" for word in words if word not in given), incomplete)


def _given(ctx: click.Context, param: click.Parameter) -> tuple[str, ...]:
    """The values that an argument has so far, where it takes several."""
    value = ctx.params.get(param.name or "")
    return value if isinstance(value, tuple) else ()


nodes_option = click.option(
    "--on", "names", metavar="NODES", shell_complete=complete_nodes, help="Comma-separated. Default: all nodes."
)
