"""Secrets: their names alone. They are set and removed on the command line."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from ugro.api_server.errors import RESPONSES
from ugro.api_server.state import Here, document
from ugro.service.schemas.secrets import ListSecrets, SecretDocument

router = APIRouter(tags=["secrets"], responses=RESPONSES)


@router.get("/secrets", response_model=list[SecretDocument])
async def secrets(web: Here) -> Response:
    """List the secrets that are set, without their values."""
    return await document((await web.ask(ListSecrets())).answer)
