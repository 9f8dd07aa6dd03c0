"""Rebuilds the indexes of the state directory's records."""

from __future__ import annotations

from ugro.service.context import Context
from ugro.service.documents import unreadable_document
from ugro.service.schemas.records import Rebuild, Rebuilt, RebuiltDocument


async def rebuild(context: Context, request: Rebuild) -> Rebuilt:
    """Rebuild the indexes of jobs from the jobs' folders, which are their truth.

    Raises:
        StateError: the state directory cannot be written. StateLocked: another process acts on it for too long.
    """
    live, ended, unreadable, mended = await context.store.write(context.store.rebuild)
    answer = RebuiltDocument(
        live=live, ended=ended, unreadable=tuple(map(unreadable_document, unreadable)), mended=tuple(mended)
    )
    return Rebuilt(answer=answer, home=str(context.store.home))
