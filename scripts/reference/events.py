"""events.md: every kind of event, with what it means."""

from __future__ import annotations

from enum import Enum

from reference.markdown import Incomplete, code, page, prose, table
from reference.source import texts_below
from ugro.common.models.event_kind import EventKind

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
    texts = texts_below(kinds)
    if missing := [name for name, text in texts.items() if not text]:
        raise Incomplete(f"{kinds.__name__}.{missing[0]} has no description: write one below it")
    return texts
