"""Commands that take several jobs or nodes: each is done by itself, and the failure of one stops no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ugro.cli.complete import Completer, complete_job
from ugro.cli.main import report
from ugro.cli.output import print_json
from ugro.common.errors import EXIT_OK, UgroError

Did = tuple[dict[str, Any], str]
"""What was done with one: the document for programs, and words for people."""


def several(name: str, complete: Completer = complete_job) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The argument of such a command; its function gets `names`."""
    return click.argument("names", nargs=-1, required=True, metavar=f"{name}...", shell_complete=complete)


def for_each(names: Sequence[str], act: Callable[[str], Did], as_json: bool) -> int:
    """Do it with each; returns the worst exit code.

    With --json one name makes one document, as it always was, and several a list in their order, where a failure is
    `{"name", "error"}`.

    Raises:
        UgroError: there is one name only, and it failed.
    """
    names = tuple(dict.fromkeys(names))
    documents, worst = list[dict[str, Any]](), EXIT_OK
    for name in names:
        try:
            document, words = act(name)
        except UgroError as error:
            if len(names) == 1:
                raise
            document, worst = {"name": name, "error": error.as_dict()}, max(worst, error.exit_code)
            if not as_json:
                report(error.as_dict(), as_json)
        else:
            if not as_json:
                click.echo(words)
        documents.append(document)
    if as_json:
        print_json(documents if len(names) > 1 else documents[0])
    return worst
