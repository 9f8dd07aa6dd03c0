"""What callers over HTTP need beside the service functions: a login for a browser, proof that what they show is what
is, and a record of who changed what.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator

from ugro.common.errors import InputError, UgroError
from ugro.common.models.event_kind import EventKind
from ugro.common.text import one_line
from ugro.service.context import Context
from ugro.service.schemas.web import Login, LoginLink
from ugro.service.web_door import CODE_SECONDS, NotServed


class Stale(InputError):
    """What a caller wants to change is not as they saw it."""

    code = "stale"


async def login(context: Context, request: Login) -> LoginLink:
    """Return a link that logs a browser in, once.

    Raises:
        InputError: no dashboard is served here.
    """
    if context.web is None:
        raise InputError("no dashboard is served here", "start the resident controller: ugro serve")
    if isinstance(context.web, NotServed):
        hint = f"end it with `kill {os.getpid()}` (jobs keep running), then: ugro serve --listen 127.0.0.1:0"
        raise InputError(f"`ugro serve` runs here without a dashboard: {context.web.why}", hint)
    code = context.web.mint(request.role)
    return LoginLink(
        url=f"{context.web.url}/#t={code}",
        expires_at=time.time() + CODE_SECONDS,
        host=context.web.host,
        port=context.web.port,
    )


def require_attempt(context: Context, job: str, attempt: int | None) -> str:
    """Return the id of a job after a check that its attempt is the one that the asker saw; None: any will do.

    Raises:
        InputError: there is no such job. Stale: it has another attempt.
    """
    found = context.store.jobs.find(job)
    if attempt is not None and found.attempt != attempt:
        message = f"{found.id} is in attempt {found.attempt}, not {attempt}; nothing was done"
        raise Stale(message, f"look again: ugro status {found.id}")
    return found.id


def require_proposal(context: Context, job: str, attempt: int | None) -> None:
    """Check that what is proposed about a job is about the attempt that the asker saw; None: any will do.

    Raises:
        Stale: it is not, or nothing is proposed any more.
    """
    proposal = context.store.decisions.proposals().get(job)
    if attempt is not None and (proposal is None or proposal.attempt != attempt):
        raise Stale(f"what was proposed about {job} is no longer proposed; nothing was done", "see: ugro proposals")


@contextlib.asynccontextmanager
async def noted(context: Context, what: str, who: str, job: str = "", node: str = "") -> AsyncIterator[None]:
    """Around a change asked for over HTTP: add to the timeline who asked, from where, and whether it was done."""

    async def note(end: str) -> None:
        message = f"{what}, by {one_line(who)}{end}"
        await context.store.write(lambda: context.store.timeline.note(node, EventKind.ASKED, message, job))

    try:
        yield
    except UgroError as error:
        await note(f"; not done: {one_line(error.message)}")
        raise
    await note("")


def require_node(context: Context, node: str) -> None:
    """Check that the inventory has a node.

    Raises:
        NoSuchNode: it does not.
    """
    context.cluster.node(node)
