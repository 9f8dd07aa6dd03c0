"""What all requests and documents share."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Self, TypeVar, get_args, get_origin

from ugro.common.models.value import Value
from ugro.service.schemas.codec import to_json

Answer = TypeVar("Answer", covariant=True)


class Document(Value):
    """Base of all documents: immutable; in JSON each field is there, `null` where nothing is known."""

    def as_json(self) -> dict[str, Any]:
        """Return the stable JSON form."""
        form: dict[str, Any] = to_json(self)
        return form


class _Answered(Value, Generic[Answer]):
    """Base of what is answered by the type in a subclass's brackets, which `answer_to` returns."""

    function: ClassVar[str]
    here: ClassVar[bool] = False


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
