"""Requests about the dashboard and the API that `ugro serve` offers over HTTP."""

from enum import StrEnum
from typing import ClassVar

from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.codec import Moment


class Role(StrEnum):
    """What a caller over HTTP may do."""

    VIEW = "view"
    """Look at everything."""
    OPERATE = "operate"
    """Change everything, too."""


class LoginLink(Document):
    """A link that logs a browser in, once."""

    url: str
    """The address of the dashboard with the code, which is good for one login."""
    expires_at: Moment
    """When the code is over."""
    host: str
    """Where the server listens."""
    port: int
    """Its port."""


class Login(Request[LoginLink]):
    """Ask the resident controller for a link that logs a browser in, with a role."""

    function: ClassVar[str] = "web.login"
    role: Role = Role.OPERATE
