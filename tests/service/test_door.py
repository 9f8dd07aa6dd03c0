"""Every request has its function, its answer, and a test that sends it through both backends."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ugro.service.local import function_of
from ugro.service.masked import COME_BACK
from ugro.service.schemas.base import Document, Stream, answer_to
from ugro.service.schemas.codec import ways
from ugro.service.wire import requests

TESTS = "".join(path.read_text() for path in Path(__file__).parent.glob("test_service_*.py"))


def test_each_request_names_a_function_and_an_answer() -> None:
    for name, request in requests().items():
        function = function_of(request)  # type: ignore[arg-type]
        assert inspect.getdoc(function) and inspect.getdoc(request) and ways(answer_to(request)), name
        assert inspect.isasyncgenfunction(function) == issubclass(request, Stream), name
        assert not issubclass(request, Document), name


def test_masks_no_answer_that_is_sent_back() -> None:
    def documents(hint: Any) -> list[type[Document]]:
        if isinstance(hint, type):
            return [hint] if issubclass(hint, Document) and not issubclass(hint, COME_BACK) else []
        return [one for inner in get_args(hint) for one in documents(inner)]

    answers = {one for request in requests().values() for one in documents(answer_to(request))}
    for name, request in requests().items():
        sent = [one for hint in get_type_hints(request).values() for one in documents(hint)]
        assert not answers & {*sent}, name


def test_each_request_goes_through_both_backends_in_a_test() -> None:
    untried = [each.__name__ for each in requests().values() if not re.search(rf"\b{each.__name__}\(", TESTS)]
    assert untried == []
