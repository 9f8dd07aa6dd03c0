"""Files of jobs: what their nodes hold, and the outputs that are on the master."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from ugro.api_server.errors import RESPONSES
from ugro.api_server.state import Here, document
from ugro.service.outputs import read_output
from ugro.service.schemas.files import FilesDocument, ListFiles

router = APIRouter(tags=["files"], responses=RESPONSES)

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
) -> Response:
    """List what a job's folder holds on each of its nodes."""
    return await document(await web.ask(ListFiles(job=job, path=path, depth=depth, attempt=attempt, node=node)))


@router.get("/jobs/{job}/files/{path:path}", response_model=None, responses=BYTES)
async def download(web: Here, job: str, path: str) -> Response:
    """Read a file of a job's outputs that is on the master; a file for a browser."""
    async with web.context() as context:
        found = await read_output(context, job, path)
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(found.name, safe='')}",
        "content-length": str(found.size),
    }
    return StreamingResponse(found.pieces(), headers=headers, media_type="application/octet-stream")
