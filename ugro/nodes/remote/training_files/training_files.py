"""What a training writes to files of its own, read from where it was last read. The node does the reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AllowInfNan, Field, TypeAdapter

from ugro.common.models.metrics import Reading, SeriesSource
from ugro.common.models.record import Record
from ugro.common.paths import RunPaths
from ugro.common.text import printable
from ugro.nodes.remote.python import ask_script
from ugro.nodes.transport import Transport

TIMEOUT = 60.0
PROBLEM = "the metrics in its files cannot be read"
NAME_LENGTH = 80
"""Characters of a series' name that are kept."""

_NO_SERIES = {"epoch", "train/epoch", "train/global_step", "step", "global_step", "hp_metric"}
_Value = Annotated[float, AllowInfNan(True)]
_Row = tuple[Literal["event_file", "trainer_state", "csv"], str, _Value, int, float]


class _Answer(Record):
    readings: tuple[_Row, ...]
    cursor: Annotated[str, Field(max_length=200_000)]
    problems: tuple[tuple[str, str], ...]
    more: bool


_ANSWER = TypeAdapter(_Answer)


@dataclass(frozen=True)
class FileReadings:
    """New values of a job on one node, and the cursor that the next call takes.

    `problems` are files that cannot be read, each reported once. `more`: there is more to read at once.
    """

    readings: list[Reading]
    cursor: str
    problems: tuple[str, ...] = ()
    more: bool = False


async def training_files(transport: Transport, paths: RunPaths, cursor: str = "", search: bool = False) -> FileReadings:
    """Return the values that the script of an attempt wrote on a node since the cursor; all of them without one.

    New files are searched for every 20 s, or at once to `search`: for the last look at an attempt.

    Raises:
        NodeRefused: the node's answer cannot be understood. NodeError: as `Transport.run` does.
    """
    args = (paths.run_dir, cursor, *(["search"] if search else []))
    answer = await ask_script(transport, "training_files/training_files.py", args, _ANSWER, PROBLEM, timeout=TIMEOUT)
    readings = [
        Reading(name, value, step, at, SeriesSource(source))
        for source, told, value, step, at in answer.readings
        if (name := printable(told).strip()[:NAME_LENGTH]) and name not in _NO_SERIES
    ]
    problems = tuple(f"{printable(path)}: {printable(text)}" for path, text in answer.problems)
    return FileReadings(readings, answer.cursor, problems, answer.more)
