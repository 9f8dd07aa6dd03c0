"""Nodes, their history, and the timeline of the cluster."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from ugro.api_server.errors import RESPONSES
from ugro.api_server.routes.consent import Body, once
from ugro.api_server.routes.moments import Past
from ugro.api_server.state import Here, Who, document
from ugro.common.models.metrics import EVERY_SECONDS
from ugro.service.schemas.base import Document
from ugro.service.schemas.history import GpuHistoryDocument, History
from ugro.service.schemas.jobs import EventDocument
from ugro.service.schemas.maintenance import Drained, DrainNode, UndrainedDocument, UndrainNode
from ugro.service.schemas.nodes import NodeDocument
from ugro.service.schemas.queries import Events, Nodes
from ugro.service.web import noted, require_node

router = APIRouter(tags=["nodes"], responses=RESPONSES)

HISTORY_SECONDS = 86400.0
"""How far back the history of a node goes where it is not said."""


@router.get("/nodes", response_model=list[NodeDocument])
async def nodes(web: Here) -> Response:
    """Show the nodes and their GPUs."""
    return await document((await web.ask(Nodes())).answer)


@router.get("/nodes/{node}/history", response_model=list[GpuHistoryDocument])
async def history(
    web: Here, node: str, since: Past = None, every: Annotated[float, Query(ge=1, le=86400)] = EVERY_SECONDS
) -> Response:
    """Show what each GPU of a node did since a time: the last day, where none is given. `every`: seconds a sample."""
    begin = time.time() - HISTORY_SECONDS if since is None else since
    return await document((await web.ask(History(nodes=(node,), since=begin, every=every))).answer)


@router.get("/events", response_model=list[EventDocument])
async def events(
    web: Here,
    since: Past = None,
    node: Annotated[str | None, Query(max_length=200)] = None,
    everything: Annotated[bool, Query(alias="all")] = False,
) -> Response:
    """Show the timeline of the cluster: the last events, or those that are asked for."""
    return await document((await web.ask(Events(since=since, node=node, everything=everything))).answer)


class DrainBody(Body):
    """Why a node is drained; others will see it."""

    reason: Annotated[str, Field(min_length=1, max_length=500)]


async def _act(
    web: Here, who: Who, request: Request, node: str, what: str, act: Callable[[], Awaitable[Document]]
) -> Response:
    async def checked() -> Response:
        async with web.context() as context:
            require_node(context, node)
            async with noted(context, what, str(who), node=node):
                return await document(await act())

    return await once(web, request, checked)


@router.post("/nodes/{node}/drain", response_model=Drained)
async def drain(web: Here, who: Who, request: Request, node: str, body: DrainBody) -> Response:
    """Give a node no new jobs."""

    async def act() -> Document:
        return await web.ask(DrainNode(node=node, reason=body.reason))

    return await _act(web, who, request, node, "drain", act)


@router.post("/nodes/{node}/undrain", response_model=UndrainedDocument)
async def undrain(web: Here, who: Who, request: Request, node: str, body: Body | None = None) -> Response:
    """Give a node jobs again."""

    async def act() -> Document:
        return (await web.ask(UndrainNode(node=node))).answer

    return await _act(web, who, request, node, "undrain", act)
