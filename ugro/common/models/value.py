"""Base of values: plain immutable data, of which documents and parts of records are made."""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Any, ClassVar, Self, dataclass_transform


def json_name(name: str) -> str:
    """Return the name of a field in JSON: `from_` is `from` there, which Python keeps for itself."""
    return name.removesuffix("_")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
@dataclass(frozen=True, kw_only=True)
class Value:
    """Base of values: each subclass is a frozen dataclass, whose fields are given by name.

    What is made in this process is not checked: types are mypy's to check. `checked` is for what comes from outside.
    This needs no pydantic, which takes longer to import than the rest of a short command together.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "frozen": True,
        "alias_generator": json_name,
        "populate_by_name": True,
    }
    """What pydantic follows where it checks one."""
    left_out_where_empty: ClassVar[frozenset[str]] = frozenset()
    """Fields that JSON has only where there is something in them."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def checked(cls, data: Any) -> Self:
        """Return the value that such data says: a mapping of its fields, from JSON or of this process.

        Raises:
            pydantic.ValidationError: it says none.
        """
        from ugro.common.models.checking import adapter  # here, since it imports pydantic

        kind: Any = cls
        value: Self = adapter(kind).validate_python(data)
        return value
