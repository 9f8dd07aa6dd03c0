"""JSON of documents and requests: what the codec writes and reads is what pydantic would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge
from pydantic import AfterValidator, BaseModel, SecretStr, ValidationError

from ugro.common.mistakes import without_values
from ugro.common.models.checking import adapter
from ugro.common.models.gpu import Gpu
from ugro.common.models.value import Value
from ugro.service.schemas.base import ErrorDocument, answer_to
from ugro.service.schemas.code import LargeFile
from ugro.service.schemas.codec import LooksLike, Moment, to_json, ways
from ugro.service.schemas.explain import NextAttemptDocument
from ugro.service.schemas.jobs import EventDocument, JobDocument
from ugro.service.schemas.live import LiveGpu
from ugro.service.schemas.logs import Follow, LogLines, PageOfLog, Span
from ugro.service.schemas.queries import ListedJob, ShowJob, Status
from ugro.service.schemas.secrets import SetSecret
from ugro.service.wire import notices, requests

PLAIN: dict[Any, tuple[Any, Any]] = {
    str: ("", "ä\n"),
    int: (0, -7),
    float: (0.5, 1e300),
    bool: (False, True),
    bytes: (b"", b"\xff"),
    Any: (None, "x"),
}


def below(hint: Any) -> set[type[Any]]:
    """The classes with fields that a type is, or has inside."""
    if get_args(hint):
        return {kind for inner in get_args(hint) for kind in below(inner)}
    return {hint} if isinstance(hint, type) and issubclass(hint, Value | BaseModel | SecretStr) else set()


def inside(kind: type[Any]) -> set[type[Any]]:
    """A class, and all those with fields that its own fields have inside."""
    found, due = set[type[Any]](), [kind]
    while due:
        if (one := due.pop()) not in found:
            found.add(one)
            hints = get_type_hints(one) if issubclass(one, Value) else {}
            due += [each for hint in hints.values() for each in below(hint)]
    return found


ALL = {*requests().values(), *notices().values()}
ALL |= {kind for request in requests().values() for answer in below(answer_to(request)) for kind in inside(answer)}
VALUES = sorted((kind for kind in ALL if issubclass(kind, Value)), key=lambda kind: kind.__qualname__)
OWN = [kind for kind in VALUES if all(issubclass(one, Value) for one in inside(kind))]
"""Those with nothing inside that is left to pydantic: records and secrets."""


def sample(hint: Any, number: int) -> Any:
    """A value of a type; another number gives another one."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint == Moment:
        return (0.5, 1_700_000_000.25)[number % 2]
    if origin is Annotated:
        if any(isinstance(one, LooksLike) for one in parts):
            return "rank-0.log"
        if any(isinstance(one, AfterValidator) for one in parts):
            return "uv"
        return next((one.ge for one in parts if isinstance(one, Ge)), sample(parts[0], number))
    if origin is tuple:
        return tuple(sample(one, number) for one in (parts[:1] * (number % 3) if parts[-1] is ... else parts))
    if origin in (dict, Mapping):
        return {sample(parts[0], number): sample(parts[1], number)} if number % 3 else {}
    if origin is Literal:
        return parts[number % len(parts)]
    if parts:
        return sample(parts[number % len(parts)], number // len(parts))
    if hint is NoneType:
        return None
    if hint in PLAIN:
        return PLAIN[hint][number % 2]
    return list(hint)[number % len(hint)] if issubclass(hint, Enum) else made(hint, number)


def made(kind: type[Value], number: int) -> Value:
    """A value of a class with a sample in each field."""
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{each.name: sample(hints[each.name], number + at) for at, each in enumerate(fields(kind))})


def over_a_wire(form: Any) -> Any:
    return json.loads(json.dumps(form))


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_reads_and_writes_as_pydantic_does(kind: type[Value]) -> None:
    for number in range(7):
        value = made(kind, number)
        form = over_a_wire(to_json(value))
        if not any(one.left_out_where_empty for one in inside(kind)):
            assert form == over_a_wire(adapter(kind).dump_python(value, mode="json", by_alias=True))
            assert value == kind.checked(form)
        read = ways(kind).read(form)
        assert read == kind.checked(form) and to_json(read) == form


def test_finds_all_there_are() -> None:
    assert {JobDocument, ListedJob, Status, LogLines, NextAttemptDocument} <= {*OWN}
    assert len(VALUES) > 300 and len(OWN) > 0.8 * len(VALUES)


def test_a_field_that_python_has_a_word_for_has_its_own_name_in_json() -> None:
    form = {"text": "x", "class": "bold"}
    assert to_json(Span(text="x", class_="bold")) == form
    assert Span.checked(form) == ways(Span).read(form) == Span(text="x", class_="bold")


def test_times_are_iso_8601_and_those_of_no_calendar_are_null() -> None:
    event = EventDocument(at=1.5, job="", node="", kind="k", message="m")
    assert to_json(event)["at"] == "1970-01-01T00:00:01.500+00:00"
    assert to_json(EventDocument(at=1e300, job="", node="", kind="k", message="m"))["at"] is None


def test_a_name_of_a_file_may_be_no_text() -> None:
    named = LargeFile(path="caf\udce9.bin", bytes=1)
    assert ways(LargeFile).read(over_a_wire(to_json(named))) == named == LargeFile.checked(over_a_wire(to_json(named)))


def test_leaves_out_what_few_have() -> None:
    shown = replace(made(LiveGpu, 0), jobs=None)
    assert "jobs" not in to_json(shown)
    assert to_json(replace(shown, jobs=("job-001",)))["jobs"] == ["job-001"]


def test_what_another_ugro_wrote_is_no_value() -> None:
    for form in ({"job": "job-001", "colour": "red"}, {}, [], None, "job-001"):
        with pytest.raises(ValueError, match="ShowJob"):
            ways(ShowJob).read(form)
        with pytest.raises(ValidationError):
            ShowJob.checked(form)
    with pytest.raises(ValueError):
        ways(Status).read({"states": ["asleep"]})


def test_what_comes_from_outside_is_checked() -> None:
    for kind, form in (
        (PageOfLog, {"job": "job-001", "count": 0}),
        (PageOfLog, {"job": "job-001", "count": 1001}),
        (Follow, {"job": "job-001", "position": {"../x.log": 0}}),
        (Follow, {"job": "job-001", "position": {"rank-0.log": -1}}),
        (ErrorDocument, {"code": 1, "message": "m", "hint": ""}),
        (Gpu, {"index": 0, "uuid": "GPU-1", "name": "RTX", "power_w": float("nan")}),
    ):
        with pytest.raises(ValidationError):
            kind.checked(form)


def test_a_secret_is_in_no_printed_request_and_in_no_error() -> None:
    asked = SetSecret(name="HF", value=SecretStr("hf_0123456789"))
    assert "hf_0123456789" not in repr(asked)
    assert ways(SetSecret).read(over_a_wire(to_json(asked))) == asked
    with pytest.raises(ValidationError) as raised:
        SetSecret.checked({"name": 1, "value": "hf_0123456789", "more": "hf_0123456789"})
    assert "hf_0123456789" not in without_values(raised.value.errors())
