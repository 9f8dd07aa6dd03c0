"""The outputs of jobs on the master: waited for at the end of a job that is followed, and read."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO

from ugro.common.errors import InputError
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.text import visible
from ugro.nodes.remote.files.on_node.below import open_file, open_top
from ugro.service.context import Context

PIECE = 256 * 1024

WITHIN, POLL_SECONDS = 10.0, 0.2
"""Seconds to wait for outputs that another process brings, and between two checks of that."""


async def await_outputs(context: Context, job: Job) -> None:
    """Have the outputs of a job that succeeded brought, if no scheduler does; else wait a moment for them.

    Raises:
        UgroError: its records cannot be read, or the state directory cannot be written.
    """
    if job.state != JobState.SUCCEEDED or job.id not in context.store.outputs.owed():
        return
    if not await asyncio.to_thread(context.attended):
        from ugro.control_plane.metadata_store.output_store.bringing import bring_owed  # here, since few jobs have any

        await bring_owed(context.store, context.cluster, (await context.reach()).pool, job.id, context.tell_sent)
    end = time.monotonic() + WITHIN
    while time.monotonic() < end and job.id in context.store.outputs.owed() and _is_new(context, job):
        await asyncio.sleep(POLL_SECONDS)


def _is_new(context: Context, job: Job) -> bool:
    """Return whether nothing has come in the way of a job's outputs."""
    record = context.store.outputs.record(job.id)
    return record is not None and not record.problem


@dataclass(frozen=True)
class OpenOutput:
    """An open file of a job's outputs; its holder reads it to its end once."""

    name: str
    size: int
    file: BinaryIO

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield as many bytes as it has."""
        with self.file as file:
            left = self.size
            while left and (piece := await asyncio.to_thread(file.read, min(PIECE, left))):
                left -= len(piece)
                yield piece


async def read_output(context: Context, job: str, path: str) -> OpenOutput:
    """Open a file of a job's outputs that is on the master.

    Raises:
        InputError: there is no such job or file.
    """
    found = context.store.jobs.find(job)
    folder = context.store.jobs.files(found.id).outputs
    try:
        return await asyncio.to_thread(_open, str(folder), path)
    except OSError:
        where = f"{found.id} has no output {visible(path)} on the master"
        raise InputError(where, f"see what its nodes have: ugro ls {found.id}") from None


def _open(folder: str, path: str) -> OpenOutput:
    top = open_top(folder)
    try:
        descriptor = open_file(top, path)
    finally:
        os.close(top)
    file = open(descriptor, "rb")  # noqa: SIM115 - who reads it closes it
    return OpenOutput(path.rpartition("/")[2], os.fstat(descriptor).st_size, file)
