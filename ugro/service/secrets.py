"""Secrets: set, list and remove them. Their values come in here, and never go out."""

from __future__ import annotations

import asyncio

from ugro.common.masking import SHORTEST
from ugro.common.models.job_state import JobState
from ugro.control_plane.metadata_store.records import pass_over
from ugro.service.context import Context
from ugro.service.schemas.secrets import (
    ListSecrets,
    RemoveSecret,
    SecretChange,
    SecretDocument,
    SecretsDocument,
    SetSecret,
)


async def list_secrets(context: Context, _: ListSecrets) -> SecretsDocument:
    """Return the names of the secrets that are set, and since when.

    Raises:
        StateError: their folder cannot be read.
    """
    found = await asyncio.to_thread(context.store.secrets.all)
    return SecretsDocument(answer=tuple(SecretDocument(name=one.name, set_at=one.set_at) for one in found))


async def set_secret(context: Context, request: SetSecret) -> SecretChange:
    """Keep a value under a name. Jobs get it at the start of their next attempt.

    Raises:
        InputError: the name or the value is none. StateError: it cannot be written, or others may read the folder.
    """
    value = request.value.get_secret_value()
    was_set = await context.store.write(lambda: context.store.secrets.set(request.name, value))
    needed_by = await asyncio.to_thread(_waiting_for, context, request.name)
    return SecretChange(name=request.name, was_set=was_set, needed_by=needed_by, short=len(value) < SHORTEST)


async def remove_secret(context: Context, request: RemoveSecret) -> SecretChange:
    """Forget a secret. Ranks that have it keep it; jobs that wait for their start wait until it is set again.

    Raises:
        SecretMissing: it is not set. StateError: it cannot be removed.
    """
    await context.store.write(lambda: context.store.secrets.remove(request.name))
    needed_by = await asyncio.to_thread(_waiting_for, context, request.name)
    return SecretChange(name=request.name, was_set=True, needed_by=needed_by)


def _waiting_for(context: Context, name: str) -> tuple[str, ...]:
    """Return the jobs that wait and need a secret."""
    found = []
    for job in context.store.jobs.live(pass_over):
        if job.state in (JobState.QUEUED, JobState.HELD) and (spec := context.asked(job)):
            found += [job.id] if name in spec.secret_names.values() else []
    return tuple(found)
