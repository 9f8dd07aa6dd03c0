"""What all requests and documents share."""

import base64
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

Answer = TypeVar("Answer", covariant=True)


def iso(at: float | None) -> str | None:
    """Return seconds since the epoch as ISO 8601 in UTC, with milliseconds; None for what no calendar has."""
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None


def _seconds(at: Any) -> Any:
    return datetime.fromisoformat(at).timestamp() if isinstance(at, str) else at


Moment = Annotated[float, BeforeValidator(_seconds), PlainSerializer(iso, return_type=str | None)]
"""A point in time: seconds since the epoch here, ISO 8601 in UTC in JSON."""


def _decoded(data: Any) -> Any:
    return base64.b64decode(data) if isinstance(data, str) else data


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


Bytes = Annotated[bytes, BeforeValidator(_decoded), PlainSerializer(_encoded, return_type=str, when_used="json")]
"""Any bytes: base64 in JSON."""


class Document(BaseModel):
    """Base of all documents: immutable; in JSON each field is there, `null` where nothing is known."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def as_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        return self.model_dump(mode="json", by_alias=True)


class _Answered(BaseModel, Generic[Answer]):
    """Base of what is answered by the type in a subclass's brackets, which `answer_to` returns."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    function: ClassVar[str]
    here: ClassVar[bool] = False

    @classmethod
    def __class_getitem__(cls, answer: Any) -> Any:
        """Only note the answer: pydantic would make one more model, which is slow, for a type that no field has."""
        return super(BaseModel, cls).__class_getitem__(answer)  # type: ignore[misc]


class Request(_Answered[Answer]):
    """Base of what can be asked for: `class Hold(Request[JobDocument])` is answered by one JobDocument.

    `function` names the service function that answers it, as `module.function` below `ugro.service`. What is about
    files or the environment of the client is answered `here`, in its own process, and nowhere else.
    """


class Stream(_Answered[Answer]):
    """Base of what is answered by many items, one after the other, until it is over or the asker has enough.

    `here`: as for a request.
    """

    resumable: ClassVar[bool] = False
    """Whether a client may ask for the rest where the resident controller ends in the middle."""

    def rest(self, item: Any) -> Self:
        """Return the request for what comes after an item of the answer."""
        return self


def answer_to(request: type[Request[Any] | Stream[Any]]) -> Any:
    """Return the type of the answer to such a request, or of an item of it.

    Raises:
        TypeError: the request does not say it.
    """
    for each in request.__mro__:
        for base in vars(each).get("__orig_bases__", ()):
            if get_origin(base) in (Request, Stream):
                return get_args(base)[0]
    raise TypeError(f"{request.__name__} says no answer")


class Notice(Document):
    """Base of what a function reports while it works. Subclasses say what: typed, without words."""


class ErrorDocument(Document):
    """An error as `--json` prints it."""

    code: str
    """Kind of the error ([list](commands.md#exit-codes))."""
    message: str
    """What happened, and where."""
    hint: str
    """What to do next."""
