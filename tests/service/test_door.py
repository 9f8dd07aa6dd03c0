"""Every request has its function, its answer, and a test that sends it through both backends."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from ugro.service.local import function_of
from ugro.service.schemas.base import Document, Stream
from ugro.service.wire import answer_of, requests

TESTS = "".join(path.read_text() for path in Path(__file__).parent.glob("test_service_*.py"))


def test_each_request_names_a_function_and_an_answer() -> None:
    for name, request in requests().items():
        function = function_of(request)  # type: ignore[arg-type]
        assert inspect.getdoc(function) and inspect.getdoc(request) and answer_of(request), name
        assert inspect.isasyncgenfunction(function) == issubclass(request, Stream), name
        assert not issubclass(request, Document), name


def test_each_request_goes_through_both_backends_in_a_test() -> None:
    untried = [each.__name__ for each in requests().values() if not re.search(rf"\b{each.__name__}\(", TESTS)]
    assert untried == []
