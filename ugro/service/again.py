"""A new job like one that was there before."""

from __future__ import annotations

import shlex

from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.control_plane.metadata_store import MetadataStore


def spec_like(store: MetadataStore, like: str, name: str | None, arguments: str | None) -> JobSpec:
    """Return the spec of a job like another: with the code that this one ran, and another name or other arguments.

    Raises:
        InputError: there is no such job, its code was removed, or the name or the arguments cannot be used.
    """
    job = store.jobs.find(like)
    code = store.jobs.files(job.id).snapshot(job.code.attempt)
    if not code.is_dir():
        raise InputError(f"the code of {job.id} is not kept any more", "launch it from its directory: ugro launch")
    changed: dict[str, object] = {"workdir": str(code)}
    if name:
        changed["name"] = name
    try:
        if arguments is not None:
            changed["args"] = tuple(shlex.split(arguments))
        return JobSpec.model_validate(store.jobs.spec(job.id).model_dump() | changed)
    except ValueError as error:
        first = str(error).splitlines()[0][:200]
        raise InputError(f"no job can be launched so: {first}", "arguments are words as a shell reads them") from None
