"""causes.md: the causes of failure, from the table that diagnosis uses."""

from __future__ import annotations

from reference.markdown import Incomplete, code, page, prose, table
from ugro.common.causes import CAUSES as NAMES
from ugro.control_plane.diagnosis.causes import CAUSES


def causes_page() -> str:
    """Return the page of all causes, in the order of the code."""
    if missing := set(NAMES) ^ set(CAUSES):
        raise Incomplete(f"ugro/common/causes.py and diagnosis/causes.py differ about {', '.join(sorted(missing))}")
    rows = (
        (code(name), prose(one.words), prose(one.suggestion), "yes" if one.retry_helps else "no")
        for name, one in CAUSES.items()
    )
    return page(
        "Causes of failure",
        "Names of `cause` in `ugro explain`, in a job's `first_failure`, and in `on_failure` of a [job](job.md). What "
        "shows each of them in a log is in [diagnosis.md](../diagnosis.md#causes).",
        table(("cause", "in words", "what to do", "retry helps"), rows),
        "*Retry helps* says whether the same run may go well when it is simply started again. A message that says more "
        "may differ from its row.",
    )
