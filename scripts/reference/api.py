"""api.md: every route of `ugro serve`, from the application's own description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from reference.markdown import Incomplete, code, page, prose, table
from ugro.api_server.routes import API, ROUTERS


def api_page() -> str:
    """Return the page of the routes."""
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router, prefix=API)
    description = app.openapi()
    routes = [
        (path, method.upper(), operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    return page(
        "Routes of the API",
        "What `ugro serve` answers under `/api/v1/`; `/api/v1/openapi.json` describes it for programs. Tokens, consent "
        "and the live view: [api.md](../api.md). Fields of the documents: [json.md](json.md).",
        table(("route", "does", "answers"), (_row(*route) for route in routes if route[1] == "GET")),
        "## Acts",
        "Each takes a JSON object; fields with `?` may be left out.",
        table(
            ("route", "does", "takes", "answers"),
            (
                (*_row(path, method, operation)[:2], _body(description, operation), _row(path, method, operation)[2])
                for path, method, operation in routes
                if method != "GET"
            ),
        ),
    )


def _row(path: str, method: str, operation: dict[str, Any]) -> tuple[str, str, str]:
    asked = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
    query = f"?{'&'.join(asked)}" if asked else ""
    if not (text := operation.get("description")):
        raise Incomplete(f"{method} {path} has no docstring")
    return code(f"{method} {path.removeprefix(API)}{query}"), prose(text.split("\n\n")[0]), code(_answer(operation))


def _answer(operation: dict[str, Any]) -> str:
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    name = str(schema.get("items", schema).get("$ref", "")).rpartition("/")[2]
    return f"[{name}, …]" if "items" in schema else name


def _body(description: dict[str, Any], operation: dict[str, Any]) -> str:
    if "requestBody" not in operation:
        return ""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    found = schema if "$ref" in schema else next(one for one in schema["anyOf"] if "$ref" in one)
    fields = description["components"]["schemas"][found["$ref"].rpartition("/")[2]]
    return " ".join(_fields(fields))


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    for name in schema.get("properties", {}):
        yield code(name if name in schema.get("required", ()) else f"{name}?")
