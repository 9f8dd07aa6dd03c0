"""The files of a client's working directory that go with a job, and how the functions get them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ugro.common.job_spec import JobSpec
from ugro.common.text import size, visible
from ugro.control_plane.scheduler.launch_line import START
from ugro.control_plane.scheduler.submission import choose_code, choose_new_code
from ugro.nodes.code_sync import LARGE_BYTES, CodeSelection
from ugro.service.plan import Question, digest
from ugro.service.schemas.code import SEND, CodeDocument, LargeFile, LeftOut, NotSent

if TYPE_CHECKING:
    from ugro.service.schemas.resume import CodeSourceDocument

NAMED = 3
"""Files that are named where much is to be sent."""


@dataclass(frozen=True)
class WorkingCode:
    """Files of a directory, as the client chose them."""

    directory: Path
    selection: CodeSelection

    @cached_property
    def document(self) -> CodeDocument:
        """The same without the files."""
        chosen = self.selection
        return CodeDocument(
            directory=str(self.directory),
            digest=digest(dict(chosen.files)),
            size_bytes=chosen.size_bytes,
            largest=tuple(LargeFile(path=path, bytes=count) for path, count in chosen.largest(NAMED)),
            left_out=tuple(LeftOut(path=path, **dataclasses.asdict(bulk)) for path, bulk in chosen.left_out.items()),
            not_sent=tuple(NotSent(path=path, reason=reason) for path, reason in chosen.refused.items()),
            lfs_pointers=chosen.pointers,
        )


def question_of_size(code: CodeDocument) -> Question | None:
    """Return the question whether much code is sent to every node; None for code that is not large."""
    if code.size_bytes <= LARGE_BYTES:
        return None
    total = size(code.size_bytes / 2**20)
    largest = ", ".join(f"{visible(one.path)} ({size(one.bytes / 2**20)})" for one in code.largest)
    return Question(
        id=SEND,
        text="Send all of it to every node?",
        facts=(f"The working directory has {total}; the largest: {largest}.",),
        refusal=f"the working directory has {total} to send to every node",
        hint="exclude data with .ugroignore, or use --yes",
        untouched="nothing was sent",
    )


def read_code(spec: JobSpec, start: Sequence[str] = START) -> WorkingCode:
    """Choose the files of the working directory on this machine that go with a job.

    A command that would do begins with `start`.

    Raises:
        InputError: the directory or the script is not there, or the script is among what is ignored.
    """
    selection = choose_code(spec, start=start)
    return WorkingCode(Path(spec.workdir).absolute(), selection)


def read_new_code(source: CodeSourceDocument) -> WorkingCode:
    """Choose the files that a job's next attempt gets, of the directory on this machine that its code came from.

    Raises:
        InputError: the directory or the script is not there, or the script is among what is ignored.
    """
    return WorkingCode(Path(source.directory), choose_new_code(source.directory, source.spec))
