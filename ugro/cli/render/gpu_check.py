"""Prints the checks of UGRO on GPUs as they are made."""

from __future__ import annotations

import sys
from types import TracebackType

import click

from ugro.cli.output import console, print_hanging
from ugro.common.text import count, printable, some
from ugro.service.schemas.gpu_check import GpuCheckBegins, GpuCheckDocument, GpuCheckLine

SIGNS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "skipped": ("·", "cyan")}
WIDTH = 10
"""Cells of a check's name."""


class GpuCheckPrinter:
    """Prints a line for each check, and on a terminal what is being checked."""

    def __init__(self, silent: bool) -> None:
        self._silent = silent
        self._status = console(stderr=True).status("")

    def __enter__(self) -> GpuCheckPrinter:
        if sys.stderr.isatty():
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def tell(self, item: GpuCheckBegins | GpuCheckLine) -> None:
        """Print what a check found, or show that one begins."""
        if isinstance(item, GpuCheckBegins):
            self._status.update(f"{item.name}: {item.title}")
        elif not self._silent:
            sign, colour = SIGNS[item.state]
            before = f"{sign} {item.name.ljust(WIDTH)} {item.seconds:5.1f} s  "
            skipped = "skipped: " if item.state == "skipped" else ""
            print_hanging(before, skipped + item.text, fg=colour if item.state == "failed" else None)
            if item.state == "failed":
                print_hanging("    next: ", item.hint)
                for line in item.log:
                    click.secho(f"    | {printable(line)}", dim=True)

    def sum_up(self, found: GpuCheckDocument, captured: str | None) -> None:
        """Print how many checks passed, on what."""
        states = [one.state for one in found.checks]
        parts = [f"{states.count(state)} {state}" for state in SIGNS if state in states]
        gpus = f"{count(len(found.gpus), 'GPU')} ({printable(some(sorted(set(found.gpus))))})"
        words = f"{gpus}, {printable(found.python)}: {', '.join(parts)} in {found.seconds:.0f} s"
        print_hanging("", words, fg="red" if "failed" in states else "green")
        if captured:
            print_hanging("", f"outputs of nvidia-smi, with other UUIDs: {captured}")
