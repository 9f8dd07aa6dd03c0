"""The description of the API, tried against the API: nothing that it allows ends in a bug or in another form."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ugro.api_server.server import Listen

from .conftest import Served

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

EXAMPLES = 6
"""Requests to each route; few, since every test run makes them."""


@pytest.mark.long
async def test_answers_as_it_says(served: Served, listening: Listen) -> None:
    served.submit("print(1)\n", hold=True, name="first")
    description = json.loads((await served.get("/openapi.json")).body)
    tried = await asyncio.to_thread(_try_all, description, listening.url, served.bearer["authorization"])
    assert len(tried) == sum(len(methods) for methods in description["paths"].values())


def _try_all(description: dict[str, Any], url: str, token: str) -> list[str]:
    schema = schemathesis.openapi.from_dict(description)
    tried = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
        )
        def attempt(case: Any) -> None:
            case.call_and_validate(base_url=url, headers={"Authorization": token}, checks=CHECKS)

        attempt()
        tried.append(operation.label)
    return tried
