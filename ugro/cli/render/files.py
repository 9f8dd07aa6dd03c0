"""Lists files, and says what became of copying them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click

from ugro.cli.output import print_hanging
from ugro.cli.render.grid import Column, Grid
from ugro.common.errors import UgroError
from ugro.common.text import bytes_in_words, clock, count, some, visible
from ugro.service.schemas.files import (
    FilesDocument,
    NodeFilesDocument,
    PullAnswer,
    PullDocument,
    PulledFile,
    PushAnswer,
    PushDocument,
)
from ugro.service.schemas.jobs import JobDocument
from ugro.service.words import outputs_in_words

NAMED = 20
"""Files that are named one by one after a pull."""

SIGNS = {"folder": "/", "link": " (link)", "other": " (no file)"}


def print_listing(found: FilesDocument) -> None:
    """Print what each node holds."""
    for number, one in enumerate(found.nodes):
        if number:
            click.echo()
        _print_node(found, one)
    for error in found.silent:
        print_hanging("", f"{error.message}: its files are missing here", True)


def _print_node(found: FilesDocument, one: NodeFilesDocument) -> None:
    shared = f" (the same disk: {', '.join(one.same_as)})" if one.same_as else ""
    place = f"{one.folder}/{found.path}" if found.path else one.folder
    print_hanging("", f"{one.node}: {place}{shared}", bold=True)
    if not one.exists:
        click.echo("  no such path")
    elif not one.files:
        click.echo("  empty")
    else:
        grid = Grid(Column("SIZE"), Column("CHANGED", leaves=1), Column("PATH", 16))
        for file in one.files:
            size = bytes_in_words(file.bytes) if file.kind == "file" else "-"
            sign = "*" if file.executable else SIGNS.get(file.kind, "")
            grid.add(size, clock(file.modified_at)[:16], visible(file.path) + sign)
        grid.print()
    if one.more:
        print_hanging("  ", f"and more: name a folder, as in `ugro ls {found.id} {_example(one)}`", True)
    if one.unnamed:
        print_hanging("  ", f"{count(one.unnamed, 'name')} that are no UTF-8 are left out", True)
    for path in one.unreadable:
        print_hanging("  ", f"{path} may not be read", True)


def _example(one: NodeFilesDocument) -> str:
    return next((shlex.quote(visible(file.path)) for file in one.files if file.kind == "folder"), "PATH")


def tell_success(job: JobDocument) -> None:
    """Say that a job succeeded, and where its outputs are."""
    click.echo(f"{job.id} succeeded")
    tell_outputs(job)


def tell_outputs(job: JobDocument) -> None:
    """Say where the outputs of a job are that declares some."""
    if job.outputs:
        print_hanging("outputs: ", outputs_in_words(job.id, job.outputs))


def pull_in_lines(came: PullDocument) -> Iterator[str]:
    """Yield what came, file by file where these are few."""
    new = [one for one in came.files if one.received or one.how != "same"]
    for one in new[:NAMED]:
        yield f"  {visible(one.path)}  {bytes_in_words(one.bytes)}{_how(one)}"
    if len(new) > NAMED:
        yield f"  and {len(new) - NAMED} more"
    already = len(came.files) - len(new)
    told = [f"{count(len(new), 'file')} copied ({bytes_in_words(sum(one.received for one in new))})"] if new else []
    told += [f"{count(already, 'file')} already here"] if already else []
    if told:
        yield f"{', '.join(told)}: {visible(came.folder)}"
    if came.left_out:
        yield f"left out, since they are no files (links are not followed): {visible(some(came.left_out))}"
    for glob in came.unmatched:
        yield f"no file is named {visible(glob)}"


def _how(one: PulledFile) -> str:
    words = [f"from {one.node}"]
    if one.how == "grown":
        words.append("it has grown since")
    elif 0 < one.received < one.bytes:
        words.append(f"continued, {bytes_in_words(one.received)} came now")
    return f"  ({', '.join(words)})"


def failure_of(came: PullAnswer) -> UgroError:
    """Return the error that says what did not come."""
    answer = came.answer
    again = "the same command continues: what is here stays"
    if answer.errors:
        first, *others = answer.errors
        error = UgroError(first.message + (f", and {count(len(others), 'more error')}" if others else ""))
        error.code, error.hint = first.code, first.hint or again
    elif answer.missing:
        one = answer.missing[0]
        more = f", and {count(len(answer.missing) - 1, 'more file')}" if len(answer.missing) > 1 else ""
        error = UgroError(f"{one.node}: {visible(one.path)} did not come: {one.reason}{more}", again)
        error.code = "node"
    elif not answer.files:
        why = f"no file, and links are not followed: {visible(some(answer.left_out))}" if answer.left_out else "no file"
        error = UgroError(
            f"nothing was copied: what is named there is {why}",
            f"name files, or what a link leads to: ugro ls {answer.id} shows what there is",
        )
        error.code = "input"
    else:
        names = ", ".join(map(visible, answer.unmatched))
        error = UgroError(f"{answer.id} has nothing named {names}", f"see what there is: ugro ls {answer.id}")
        error.code = "input"
    error.exit_code = came.exit_code
    return error


def push_in_lines(went: PushDocument) -> Iterator[str]:
    """Yield what came of a push, node by node."""
    for one in went.nodes:
        if one.error or one.missing:
            continue
        shared = f" (the same disk: {', '.join(one.same_as)})" if one.same_as else ""
        sent = went.files - one.same
        told = [f"{count(sent, 'file')} sent ({bytes_in_words(one.sent)})"] if sent else []
        told += [f"{count(one.same, 'file')} already there"] if one.same else []
        yield f"{one.node}: {', '.join(told)}: {visible(one.folder)}{shared}"
    if went.left_out:
        yield f"left out, since they are no files (links are not followed): {visible(some(went.left_out))}"


def failure_of_push(went: PushAnswer) -> UgroError:
    """Return the error that says where it did not come."""
    again = "the same command continues: what is there stays"
    words, code, hint = list[str](), "node", ""
    for one in went.answer.nodes:
        if one.error:
            words.append(one.error.message)
            code, hint = one.error.code, hint or one.error.hint
        elif one.missing:
            words.append(f"{one.node}: {visible(one.missing[0].path)}: {one.missing[0].reason}")
    error = UgroError(some(words, "; "), hint or again)
    error.code, error.exit_code = code, went.exit_code
    return error
