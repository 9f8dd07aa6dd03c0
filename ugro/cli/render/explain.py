"""Prints why a run failed, on one screen: what, where, the lines that show it, what was lost, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

import click
from rich.cells import cell_len
from rich.text import Text

from ugro.cli.output import console, hanging, print_hanging, print_marked, terminal_width
from ugro.common.models.job_state import JobState
from ugro.common.text import duration, printable, size, some, visible
from ugro.service.schemas.explain import DiagnosisDocument, FailureDocument, LastCheckpointDocument

QUOTE, QUOTE_WIDTH = "  │ ", 300
"""What stands before a line of a log, and as much of it as is shown."""


def print_finding(found: DiagnosisDocument, words: str | None) -> None:
    """Print a finding; `words` are those for its cause."""
    job = found if isinstance(found, FailureDocument) else None
    head = _head(job) if job else ""
    if found.cause is None and not found.message:
        well = job and job.state == JobState.SUCCEEDED
        print_hanging("", head + ("it ended well" if well else "nothing shows that it ended badly"))
        return
    if found.cause is None:
        print_hanging("", head + (found.message or ""))
    else:
        console().print(Text.assemble(head, (words or "", "bold red"), f" ({found.cause})"))
    for name, fact in _facts(found):
        print_hanging(f"  {name:<5} ", fact)
    for line in found.evidence:
        _print_quoted(printable(line)[:QUOTE_WIDTH])
    if found.consequences:
        click.echo(f"  and {found.consequences} more that only followed from it")
    for name, fact in _lost(job).items() if job else ():
        if fact:
            print_hanging(f"  {name:<5} ", fact)
    print_marked(Text.assemble(("next:", "cyan"), "   "), found.suggestion or "")
    _print_next(found)


def _print_quoted(line: str) -> None:
    """Print a line of a log, with its indent, as one that is quoted wherever it is broken."""
    width, words = terminal_width(), line.lstrip(" ")
    for part in hanging(" " * (len(line) - len(words)), words, width and width - cell_len(QUOTE)):
        click.echo(QUOTE + part)


def _head(job: FailureDocument) -> str:
    which = f", attempt {job.attempt}" if job.next_attempt else ""
    return f"{job.job}{which} ({job.state.value}): "


def _facts(found: DiagnosisDocument) -> Iterator[tuple[str, str]]:
    """Yield the rank, how it ended if the cause is unknown, and the place in the script."""
    job = found if isinstance(found, FailureDocument) else None
    node = job.node if job else None
    if found.cause is not None and found.rank is not None:
        yield "rank", str(found.rank) + (f" on {printable(node)}" if node else "")
    elif found.cause is not None and node:
        yield "node", printable(node)
    if found.cause == "unknown" and job:
        if job.signal:
            yield "ended", f"by SIG{printable(job.signal)}"
        elif job.exit_code is not None:
            yield "ended", f"with exit code {job.exit_code}"
        elif job.message:
            yield "ended", printable(job.message)
    if found.where:
        yield "at", printable(found.where)


def _lost(job: FailureDocument) -> dict[str, str]:
    """How far it was, the last checkpoint, and the time lost; without words where there is nothing to say."""
    of = f" of {job.steps}" if job.steps else ""
    within = f", epoch {job.epoch}" if job.epoch is not None else ""
    last, lost = job.last_checkpoint, job.lost_seconds
    silent = f"; could not ask {printable(some(job.not_asked))}" if job.not_asked else ""
    if job.not_searched and not last:
        silent += f"; did not search {printable(some(job.not_searched))}"
    saved = _saved(last) if last else "none was found"
    return {
        "step": "" if job.step is None else f"{job.step}{of}{within}",
        "last checkpoint": f"{saved}{silent}" if lost is not None or last or silent else "",
        "lost": "" if lost is None else f"{duration(lost)} of work" + ("" if last else ", all of this attempt"),
    }


def _saved(last: LastCheckpointDocument) -> str:
    places = [*last.nodes, *(["this machine"] if last.on_master else [])]
    facts = f"saved {duration(last.age_seconds)} ago, {size(last.bytes / 2**20)}, on {some(places)}"
    at = f"epoch {last.epoch}" if last.step is None else last.step
    return f"{at} ({visible(last.name)}, {facts})"


def _print_next(found: DiagnosisDocument) -> None:
    """Print what followed, or whether to retry and how to resume."""
    job = found if isinstance(found, FailureDocument) else None
    if job and (after := job.next_attempt):
        print_hanging("then:   ", f"attempt {after.attempt} from {after.from_}: {after.state.value}")
    elif found.cause is not None:
        print_hanging("retry:  ", _retry(found))
    if job and job.resume:
        changes = f"   ({'; '.join(job.changes)})" if job.changes else ""
        print_hanging("resume: ", f"{job.resume}{changes}")


def _retry(found: DiagnosisDocument) -> str:
    if isinstance(found, FailureDocument) and (times := found.earlier_failures_here):
        step = "" if found.step is None else f" (step {found.step})"
        return f"will not help by itself: this is the {_ordinal(times + 1)} time here{step}"
    return "may help" if found.retry_helps else "will not help as it is"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
