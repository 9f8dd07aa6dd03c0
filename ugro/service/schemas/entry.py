"""Requests about entering a node or a running job: a command, a terminal, a connection to a port."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from ugro.service.schemas.base import Document, Request, Stream
from ugro.service.schemas.maintenance import CommandEnd, CommandOutput

Port = Annotated[int, Ge(1), Le(65535)]


class Execute(Stream[CommandOutput | CommandEnd]):
    """Run a command where a rank of a job runs: in its directory, with its environment and GPUs.

    `rank` or `node` says where; else it is the node of rank 0. One word is a line for /bin/sh; more are passed
    literally. With `live` what it prints comes as it is printed; else it comes with the end.
    """

    function: ClassVar[str] = "entry.execute"
    job: str
    rank: int | None = None
    node: str | None = None
    words: tuple[str, ...]
    live: bool


class ExecuteOnInput(Execute):
    """The same, with what this process has on its stdin."""

    function: ClassVar[str] = "entry.execute_on_input"
    here: ClassVar[bool] = True


class Terminal(Document):
    """The command line that gives a terminal on a node, and the job whose surroundings it has, if any."""

    node: str
    job: str | None
    words: tuple[str, ...]


class OpenTerminal(Request[Terminal]):
    """Ask how to get a terminal at a `target`: a node, or a job that has ranks on nodes.

    `rank` or `node` says which node of a job; else it is that of rank 0. With `words` these run instead of a shell.
    """

    function: ClassVar[str] = "entry.open_terminal"
    here: ClassVar[bool] = True
    target: str
    rank: int | None = None
    node: str | None = None
    words: tuple[str, ...] = ()


class Forwarding(Document):
    """A port of this machine that leads to a port of a node."""

    node: str
    job: str | None
    """The job that was named; `null`: a node was."""
    local_port: int
    """Port of this machine."""
    remote_port: int
    """Port of the node."""
    problem: str | None
    """Why nothing answers there so far."""


class Forward(Stream[Forwarding]):
    """Forward a port of this machine's loopback to one of a node's, until the asker has enough. Says so once.

    `target`, `rank` and `node` are as in `OpenTerminal`, and an ended job stands for the node it was on. `local_port`
    0 is a free one.
    """

    function: ClassVar[str] = "entry.forward"
    here: ClassVar[bool] = True
    target: str
    rank: int | None = None
    node: str | None = None
    local_port: Annotated[int, Ge(0), Le(65535)]
    remote_port: Port
