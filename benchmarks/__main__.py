"""`python -m benchmarks [PART …]`, by default all `PARTS`: measures, prints a table, keeps it in results/.

Exit code 1: a target was missed, or a part broke off; 2: there is no such part. A part that this machine cannot measure
says what it lacks.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping

from benchmarks import curves, cuts, hangs, jobs, log_pages, logs, metrics, report, store, sweep, tabs, tick, web
from benchmarks.report import Row, Unavailable

BROKE_OFF = "broke off"

Parts = Mapping[str, Callable[[], Iterator[Row]]]

PARTS: Parts = {
    "sweep": sweep.measure, "tick": tick.measure, "store": store.measure, "jobs": jobs.measure, "cuts": cuts.measure,
    "hangs": hangs.measure, "logs": logs.measure, "log_pages": log_pages.measure,
    "curves": curves.measure, "metrics": metrics.measure, "web": web.measure,
    "tabs": tabs.measure,
}  # fmt: skip


def measured(parts: Parts, wanted: Iterable[str]) -> Iterator[Row]:
    """The rows of parts. One that cannot be measured here, or breaks off, keeps none of the others from it."""
    for name in wanted:
        try:
            yield from parts[name]()
        except Unavailable as reason:
            yield Row(name, "not measured", None, note=str(reason))
        except Exception:
            traceback.print_exc()
            yield Row(name, BROKE_OFF, None, note="see the traceback on stderr")


def main(words: list[str], parts: Parts = PARTS) -> int:
    """Measure the parts that are named, or all of them. Returns the exit code."""
    wanted = words or list(parts)
    if unknown := [name for name in wanted if name not in parts]:
        print(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(parts)}", file=sys.stderr)
        return 2
    rows = []
    for row in measured(parts, wanted):
        rows.append(row)
        print(f"{row.group}: {row.what}", file=sys.stderr)
    report.show(rows)
    print(f"kept in {report.keep(rows)}")
    missed = [f"{row.group}: {row.what}" for row in rows if row.verdict == "MISSED"]
    if missed:
        print(f"{len(missed)} {'target is' if len(missed) == 1 else 'targets are'} missed: {'; '.join(missed)}")
    return 1 if missed or any(row.what == BROKE_OFF for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
