"""Events of the timeline."""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from ugro.common.models.drain import DrainOrigin
from ugro.common.models.event_kind import EventKind
from ugro.common.models.record import Record


class Event(Record):
    """One line of `events.jsonl`. About a job or a node (the other is empty), a job on a node, or neither (`alert`).

    One that is `noted` is no change of the job's record. `origin` says of a drain where it came from. A newer UGRO may
    know more kinds and origins: they stay text. An earlier one wrote no origins.
    """

    at: float
    job: str = ""
    node: str = ""
    kind: Annotated[EventKind | str, Field(union_mode="left_to_right")]
    message: str
    noted: bool = False
    origin: Annotated[DrainOrigin | str | None, Field(union_mode="left_to_right")] = None

    @model_serializer(mode="wrap")
    def _without_empty_origin(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A job's record holds its last event, and an earlier UGRO refuses a record with keys that it does not know."""
        return {key: value for key, value in written(self).items() if key != "origin" or value is not None}
