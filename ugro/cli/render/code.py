"""What is said of the code that goes with a job."""

from __future__ import annotations

import click

from ugro.common.text import count, printable, size, some, visible
from ugro.service.schemas.code import CodeDocument, LeftOut


def tell_what_stays(code: CodeDocument) -> None:
    """Report on stderr which files are not sent though the user did not exclude them, or are sent without content."""
    refused = [f"{visible(one.path)} ({printable(one.reason)})" for one in code.not_sent]
    left_out = [f"{visible(one.path)} ({_amount(one)})" for one in code.left_out]
    if refused:
        click.echo(f"not sent: {some(refused)}", err=True)
    if left_out:
        hint = "a line !NAME in .ugroignore sends it"
        click.echo(f"excluded by the built-in list: {some(left_out)}; {hint}", err=True)
    if code.lfs_pointers:
        names = some([visible(path) for path in code.lfs_pointers])
        click.echo(f"sent without their content, as pointers of git-lfs: {names}; `git lfs pull` brings it", err=True)


def _amount(left_out: LeftOut) -> str:
    more = "more than " if left_out.more else ""
    return f"{more}{count(left_out.files, 'file')}, {size(left_out.bytes / 2**20)}"
