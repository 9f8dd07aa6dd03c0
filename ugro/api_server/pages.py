"""The page and its files, from a table that is made at the start: no path of a request is ever opened."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.responses import Response

from ugro import __version__
from ugro.api_server.guard import STATIC
from ugro.common.errors import StateError

KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
    "json": "application/json",
    "txt": "text/plain; charset=utf-8",
}
"""The content type of files by how their names end; others are not served."""

FOREVER = "public, max-age=31536000, immutable"


class Pages:
    """Everything that a browser loads before it is logged in.

    Files have a digest of all of them in their address and are kept by browsers; `index.html` is not, and names them by
    it. So an update never mixes old files with new ones, also one between two versions.
    """

    def __init__(self) -> None:
        """Read the files.

        Raises:
            StateError: they are not installed.
        """
        root = files("ugro.dashboard").joinpath("static")
        index = root.joinpath("index.html")
        if not index.is_file():
            raise StateError("the dashboard's files are missing", "install UGRO again")
        found = sorted(_read(root, ""))
        digest = hashlib.sha256(b"".join(name.encode() + content for name, (_, content) in found)).hexdigest()
        place = f"{STATIC}{__version__}-{digest[:12]}/"
        self._index = index.read_bytes().replace(b'"static/', f'"{place}'.encode())
        self._files = {f"{place}{name}": file for name, file in found}
        self.router = APIRouter(include_in_schema=False)
        self.router.add_api_route("/", self._page, methods=["GET", "HEAD"])
        self.router.add_api_route(f"{STATIC}{{rest:path}}", self._file, methods=["GET", "HEAD"])
        self.router.add_api_route("/healthz", self._health, methods=["GET", "HEAD"])

    @property
    def paths(self) -> frozenset[str]:
        """The addresses of the files."""
        return frozenset(self._files)

    async def _page(self) -> Response:
        return Response(self._index, headers={"cache-control": "no-store"}, media_type=KINDS["html"])

    async def _file(self, request: Request) -> Response:
        found = self._files.get(request.url.path)
        if found is None:
            return Response(status_code=404)
        kind, content = found
        return Response(content, headers={"cache-control": FOREVER}, media_type=kind)

    async def _health(self) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")


def _read(folder: Traversable, before: str) -> list[tuple[str, tuple[str, bytes]]]:
    found: list[tuple[str, tuple[str, bytes]]] = []
    for one in folder.iterdir():
        if one.is_dir():
            found += _read(one, f"{before}{one.name}/")
        elif kind := KINDS.get(one.name.rpartition(".")[2]):
            found.append((f"{before}{one.name}", (kind, one.read_bytes())))
    return found
