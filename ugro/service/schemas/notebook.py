"""Requests about notebooks: Jupyter servers that run as jobs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import SecretStr

from ugro.service.schemas.base import Document, Request


class NotebookServer(Document):
    """The Jupyter server of a job, as far as it is known."""

    id: str
    node: str | None
    """Node that it runs on; `null`: it waits for one."""
    python: str | None
    """Python that runs it there; `null`: that is not known."""
    port: int | None
    """Port of the node's loopback that it listens at; `null`: it is still starting."""
    path: str
    """Path that its pages begin with."""
    token: SecretStr | None
    """What a browser has to show; JSON has it masked."""


class FindNotebook(Request[NotebookServer]):
    """Find the Jupyter server of a job that `ugro notebook` started. Answered in the client's process only."""

    function: ClassVar[str] = "notebook.find"
    here: ClassVar[bool] = True
    job: str


class NotebookLink(Document):
    """A link to a notebook on this machine. The token is shown on the terminal alone."""

    id: str
    node: str
    """Node that it runs on."""
    local_port: int
    """Port of this machine."""
    remote_port: int
    """Port of the node."""
    url: str
    """Address on this machine, without the token."""
