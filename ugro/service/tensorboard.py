"""Event files of jobs, brought to this machine for TensorBoard.

Copies are kept with the job on the master and go with it. What TensorBoard reads is a folder beside it: it holds files
open, and of a file that was replaced it would not see what is new. So files of a job that still runs are extended in
their place there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from ugro.common.errors import NodeRefused, StateError, UgroError
from ugro.control_plane.metadata_store.output_store.files import JobFilesOnNodes, places
from ugro.control_plane.metadata_store.records import make_home
from ugro.nodes.remote.files.fetch import PART
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.schemas.tensorboard import BringEventFiles, EventFiles

EVENT_FILES = "**/events.out.tfevents.*"


async def bring(context: Context, request: BringEventFiles) -> EventFiles:
    """Copy what is new of a job's event files to this machine. What nodes do not give now may come the next time.

    Raises:
        InputError: there is no such job. StateError: the copies cannot be written.
    """
    job = context.store.jobs.find(request.job)
    copies = context.store.jobs.files(job.id).event_files
    received, errors = 0, list[UgroError]()
    if job.placement is not None:
        files = JobFilesOnNodes((await context.reach()).pool, job, places(context.cluster, job))
        found = await files.find((EVENT_FILES,))
        make_home(context.store.home)
        brought = await files.bring(found, copies, context.tell_sent, trusted=True)
        received, errors = sum(one.received for _, one in brought.done), brought.errors
        errors += [NodeRefused(one.node, f"{one.path} did not come: {one.why}") for one in brought.missing]
    try:
        number = await asyncio.to_thread(_show, copies, Path(request.shown), job.state.ended)
    except OSError as error:
        raise StateError(f"{request.shown} cannot be written: {error.strerror}", "free some space there") from None
    return EventFiles(
        id=job.id,
        name=job.name,
        ended=job.state.ended,
        folder=str(copies),
        files=number,
        received=received,
        errors=tuple(map(error_document, errors)),
    )


def _show(copies: Path, shown: Path, ended: bool) -> int:
    """Show the files of a folder in another one, extended where they grew. Returns how many there are."""
    names = [path.relative_to(copies) for path in sorted(copies.rglob("*")) if path.is_file() and path.suffix != PART]
    if ended and names and not (shown.exists() or shown.is_symlink()):
        shown.symlink_to(copies)
    if not shown.is_symlink():
        for name in names:
            _extend(copies / name, shown / name)
    return len(names)


def _extend(copy: Path, shown: Path) -> None:
    """Add to a file what its copy has more."""
    shown.parent.mkdir(parents=True, exist_ok=True)
    with copy.open("rb") as source, shown.open("ab") as target:
        size = os.fstat(source.fileno()).st_size
        if size < target.tell():  # it was written from its beginning again
            target.truncate(0)
        source.seek(target.tell() if size >= target.tell() else 0)
        shutil.copyfileobj(source, target)
