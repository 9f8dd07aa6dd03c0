"""Files of jobs: what their nodes hold, and the outputs that are on the master."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response, StreamingResponse

from ugro.api_server.errors import RESPONSES
from ugro.api_server.state import Here, document
from ugro.common.text import CONTROLS
from ugro.service.outputs import read_output
from ugro.service.schemas.files import FilesDocument, ListFiles, ListOutputs, OutputFilesDocument


class AnyPath(StringConvertor):
    """A path whose names may have any character: that of the framework ends at a newline."""

    regex = "(?s:.+)"


register_url_convertor("any_path", AnyPath())

router = APIRouter(tags=["files"], responses=RESPONSES)

Limit = Annotated[int | None, Query(ge=1, le=100_000)]

BYTES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "description": "The file",
    }
}


@router.get("/jobs/{job}/files", response_model=FilesDocument)
async def listing(
    web: Here,
    job: str,
    path: Annotated[str, Query(max_length=4096)] = "",
    depth: Annotated[int, Query(ge=1, le=64)] = 1,
    attempt: Annotated[int | None, Query(ge=1, le=2**31)] = None,
    node: Annotated[str | None, Query(max_length=200)] = None,
    limit: Limit = None,
) -> Response:
    """List what a job's folder holds on each of its nodes, so many names of each at most as `limit` says."""
    asked = ListFiles(job=job, path=path, depth=depth, attempt=attempt, node=node, limit=limit)
    return await document(await web.ask(asked))


@router.get("/jobs/{job}/outputs", response_model=OutputFilesDocument)
async def outputs(web: Here, job: str, limit: Limit = None) -> Response:
    """List the files of a job's outputs that are on the master, and can be read there."""
    return await document(await web.ask(ListOutputs(job=job, limit=limit)))


@router.get("/jobs/{job}/files/{path:any_path}", response_model=None, responses=BYTES)
async def download(web: Here, job: str, path: str) -> Response:
    """Read a file of a job's outputs that is on the master; a file for a browser."""
    async with web.context() as context:
        found = await read_output(context, job, path)
    name = CONTROLS.sub("_", found.name)  # one that turns text around would pass for another kind of file
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "content-length": str(found.size),
    }
    return StreamingResponse(found.pieces(), headers=headers, media_type="application/octet-stream")
