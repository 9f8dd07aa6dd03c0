"""events.md: every kind of event, with what it means."""

from __future__ import annotations

import ast
import inspect
from enum import Enum

from reference.markdown import Incomplete, code, page, prose, table
from ugro.common.models.event import EventKind

PARTS = {"Of jobs": EventKind.SUBMITTED, "Of nodes": EventKind.JOINED, "Of UGRO itself": EventKind.ALERT}
"""The parts of the page, each with the kind that it begins with."""


def events_page() -> str:
    """Return the page of all kinds of events."""
    meanings, kinds = described(EventKind), list(EventKind)
    begins = [kinds.index(first) for first in PARTS.values()]
    ends = [*begins[1:], len(kinds)]
    rows = [(code(kind.value), prose(meanings[kind.name])) for kind in kinds]
    heads = ("kind", "meaning")
    return page(
        "Events",
        "The timeline that `ugro events` shows: `$UGRO_HOME/events.jsonl`, and `events.jsonl` in each job's folder. A "
        "line has `at`, `job`, `node`, `kind` and `message`. Scripts may match `kind`; messages may change.",
        *(
            f"## {title}\n\n{table(heads, rows[begin:end])}"
            for title, begin, end in zip(PARTS, begins, ends, strict=True)
        ),
    )


def described(kinds: type[Enum]) -> dict[str, str]:
    """Return the text below each member of an enum, by the member's name.

    Raises:
        Incomplete: a member has none.
    """
    (found,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kinds))).body
    assert isinstance(found, ast.ClassDef)
    texts = {}
    for member, below in zip(found.body, [*found.body[1:], None], strict=True):
        if isinstance(member, ast.Assign) and isinstance(member.targets[0], ast.Name):
            name = member.targets[0].id
            if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
                raise Incomplete(f"{kinds.__name__}.{name} has no description: write one below it")
            texts[name] = str(below.value.value)
    return texts
