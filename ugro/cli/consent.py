"""What a person is asked, above all before a launch: much to send, memory that may not be enough, another master."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import click

from ugro.cli.prompts import confirm
from ugro.common.errors import Declined, InputError
from ugro.common.text import printable, size
from ugro.nodes.code_sync import LARGE_BYTES, Selection


@dataclass(frozen=True)
class Consent:
    """`yes` answers the questions about size and memory; taking over a node needs its own word."""

    yes: bool
    takeover: bool

    def to_send(self, selection: Selection) -> None:
        """Much code goes to every node only when somebody agrees.

        Raises:
            InputError: nobody is there to ask. Declined: the answer is no.
        """
        if selection.size_bytes <= LARGE_BYTES or self.yes:
            return
        total = size(selection.size_bytes / 2**20)
        largest = ", ".join(f"{printable(path)} ({size(count / 2**20)})" for path, count in selection.largest(3))
        click.echo(f"The working directory has {total}; the largest: {largest}.", err=True)
        refusal = f"the working directory has {total} to send to every node"
        _ask("Send all of it to every node?", refusal, "keep data out with .ugroignore, or say --yes")


def _ask(question: str, refusal: str, hint: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(refusal, hint)
    if not confirm(question):
        raise Declined
