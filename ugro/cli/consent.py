"""What a person is asked, above all before a launch: much to send, memory that may not be enough, another master."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import click

from ugro.cli.prompts import confirm
from ugro.common.errors import Declined, InputError, NodeError
from ugro.common.job_spec import JobSpec
from ugro.common.models.node import NodeView
from ugro.common.text import printable, size
from ugro.control_plane.resource_manager.predictor.expectation import Expectation
from ugro.nodes.code_sync import LARGE_BYTES, Selection
from ugro.nodes.pool import Pool
from ugro.nodes.remote.owner import owner


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

    def to_fit(self, spec: JobSpec, expected: Expectation | None) -> int | None:
        """A job that may not fit the GPUs' memory starts only when somebody agrees. Returns the formulas' MiB.

        Raises:
            InputError: nobody is there to ask. Declined: the answer is no.
        """
        if expected is None:
            return None
        if expected.warning:
            click.echo(f"memory: {printable(expected.warning)}", err=True)
            if not self.yes:
                _ask("Submit it all the same?", "it may not fit into the GPUs' memory", "say --yes to submit it anyway")
        return expected.formula_mib

    async def to_own(self, master: str, pool: Pool, views: Mapping[str, NodeView | NodeError]) -> None:
        """Nodes that another master runs are taken over only when somebody agrees.

        Raises:
            InputError: nobody is there to ask. Declined: the answer is no.
            NodeError: a node cannot be claimed.
        """
        others = {
            name: view.owner
            for name, view in views.items()
            if isinstance(view, NodeView) and view.owner and not owner.is_same_master(view.owner, master)
        }
        if not others:
            return
        for name, line in others.items():
            click.echo(f"{name} is run by another master: {_who(line)}", err=True)
        if not self.takeover:
            hint = "two masters do not know of each other's jobs; to make this one the master: --takeover"
            refusal = f"another master runs {', '.join(others)}"
            _ask("Take over? The other master starts nothing there any more.", refusal, hint)
        for claimed in (await pool.each(others, lambda transport: owner.claim(transport, master, True))).values():
            if isinstance(claimed, NodeError):
                raise claimed


def to_clean(node: str, line: str, master: str, takeover: bool) -> None:
    """What another master has on a node, results that it did not fetch yet among it, goes only when somebody agrees.

    Raises:
        InputError: nobody is there to ask. Declined: the answer is no.
    """
    if not line or owner.is_same_master(line, master) or takeover:
        return
    refusal = f"another master runs {node}: {_who(line)}"
    hint = "its results there may not be collected yet; clean it from there, or, to remove them too: --takeover"
    _ask(f"{refusal}. Remove what it has there too?", refusal, hint)


def _who(line: str) -> str:
    """The master of an owner line, for people."""
    return printable(line.partition(" ")[2] or line)


def _ask(question: str, refusal: str, hint: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(refusal, hint)
    if not confirm(question):
        raise Declined
