"""Requests about secrets, and their answers. No answer has a value."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import PlainSerializer, SecretStr

from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.codec import Moment

Value = Annotated[SecretStr, PlainSerializer(SecretStr.get_secret_value, return_type=str, when_used="json")]
"""A value on its way over the socket of the state directory; a printed request shows asterisks."""


class SecretDocument(Document):
    """A secret that is set."""

    name: str
    """Its name."""
    set_at: Moment
    """When it was set."""


class SecretsDocument(Document):
    """The secrets that are set."""

    answer: tuple[SecretDocument, ...]


class ListSecrets(Request[SecretsDocument]):
    """List the secrets that are set."""

    function: ClassVar[str] = "secrets.list_secrets"


class SecretChange(Document):
    """What came of setting or removing a secret."""

    name: str
    """Its name."""
    was_set: bool
    """Whether a secret of that name was set before."""
    needed_by: tuple[str, ...]
    """Ids of waiting jobs that need it."""
    short: bool = False
    """Whether it is too short to be masked in logs."""


class SetSecret(Request[SecretChange]):
    """Keep a value under a name, in place of the one before."""

    function: ClassVar[str] = "secrets.set_secret"
    name: str
    value: Value


class RemoveSecret(Request[SecretChange]):
    """Forget a secret."""

    function: ClassVar[str] = "secrets.remove_secret"
    name: str
