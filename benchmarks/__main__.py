"""`python -m benchmarks [sweep|tick|store|jobs|hangs|logs …]`: measures, prints a table, keeps it in results/."""

from __future__ import annotations

import sys

from benchmarks import hangs, jobs, logs, report, store, sweep, tick

PARTS = {
    "sweep": sweep.measure, "tick": tick.measure, "store": store.measure, "jobs": jobs.measure, "hangs": hangs.measure,
    "logs": logs.measure,
}  # fmt: skip


def main() -> None:
    """Measure the parts that are named, or all of them."""
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    rows = []
    for name in wanted:
        for row in PARTS[name]():
            rows.append(row)
            print(f"{row.group}: {row.what}", file=sys.stderr)
    report.show(rows)
    print(f"kept in {report.keep(rows)}")
    if missed := [row.what for row in rows if row.verdict == "MISSED"]:
        print(f"{len(missed)} targets are missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
