"""Draws checkpoints, and says what became of a request to save one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from rich.text import Text

from ugro.cli.render.grid import Column, Grid, Names, Tail
from ugro.common.errors import NotSaved
from ugro.common.text import duration, printable, size, some, visible
from ugro.service.schemas.checkpoints import ListedCheckpoint, SaveAnswer
from ugro.service.schemas.jobs import CheckpointDocument
from ugro.service.words import state_in_words, title

HOW_TO_ANSWER = """\
A script answers by one of these at the end of a step (where ranks save together, rank 0 decides and tells the others):
  signal.signal(signal.SIGUSR2, lambda *_: asked.append(1))                # once, with asked = []
  if asked: asked.clear(); save()
or
  request = pathlib.Path(os.environ.get("UGRO_CHECKPOINT_REQUEST", "/-"))  # once
  if request.exists(): request.unlink(missing_ok=True); save()"""


def checkpoints_grid(found: Iterable[ListedCheckpoint]) -> Grid:
    """Return a table with one row per checkpoint."""
    made = Grid(
        Column("STEP"),
        Column("SAVED", leaves=2),
        Column("SIZE", leaves=3),
        Column("KIND", leaves=4),
        Column("NAME", 16),
        Column("ON", 10, leaves=1),
        Column("", 16),
    )
    for one in found:
        places = [*(place.node for place in one.places), *(["this machine"] if one.on_master else [])]
        state = Text(printable(one.problem), "bold red") if one.problem else Text("complete", "green")
        if one.other_branch:
            state.append(f", of another branch (attempt {one.attempt})", "yellow")
        made.add(
            "-" if one.position is None else one.where.removeprefix("step "),
            f"{duration(time.time() - one.saved_at)} ago",
            size(one.bytes / 2**20),
            one.kind,
            Tail(visible(one.name)),
            Names(places, " + " if one.split else ", "),
            state,
        )
    return made


def checkpoints_in_words(found: Iterable[CheckpointDocument]) -> str:
    """Return which checkpoints there are, with their sizes and places."""
    words = []
    for one in found:
        where = ", ".join(place.node for place in one.places) or "this machine"
        torn = f" ({one.name} {one.problem})" if one.problem else ""
        step = one.name if one.position is None else one.where
        words.append(f"{step}, {size(one.bytes / 2**20)} on {where}{torn}")
    return some(words, "; ")


def silence_in_words(saved: SaveAnswer) -> list[str]:
    """Return each rank's reaction to a request that no checkpoint answered, and how a script can react to one."""
    said = {"signalled": "got SIGUSR2", "not caught": "SIGUSR2 is not caught, and was not sent", "gone": "has ended"}
    lines = [f"rank {rank.rank} on {rank.node}: {said[rank.answer]}" for rank in saved.answer.ranks]
    lines.append(f"the request file (UGRO_CHECKPOINT_REQUEST) was {'' if saved.answer.request_taken else 'not '}taken")
    return lines if saved.ended or saved.answer.heard else [*lines, HOW_TO_ANSWER]


def not_saved(saved: SaveAnswer) -> NotSaved:
    """Return the error that a request without an answer ends in."""
    job = saved.job
    if saved.ended:
        ended = state_in_words(replace(job, state=saved.ended, cancel_requested=False))
        return NotSaved(f"{ended}, and left no new checkpoint", f"see: ugro status {job.id}")
    if saved.answer.heard:
        ago = duration(saved.answer.seconds)
        hint = f"it may still save: ugro checkpoints {job.id}; or it saves elsewhere: --checkpoints DIR"
        return NotSaved(f"{title(job)} was asked {ago} ago, and no new checkpoint is complete", hint)
    hint = "the script has to listen for one of the two"
    return NotSaved(f"{title(job)} does not react to the request; it keeps running and saves as usual", hint)
