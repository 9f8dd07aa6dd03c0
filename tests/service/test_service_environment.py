"""The Python and the setup command of a job, through the service layer and on the command line."""

from __future__ import annotations

from door import Door

from ugro.service.schemas.explain import Explain
from ugro.service.schemas.logs import LogLines, ReadLogs


def test_shows_the_output_of_a_setup_and_explains_its_failure(door: Door) -> None:
    words = "for n in 1 2 3 4 5 6 7 8 9 10 11; do echo line $n; done; exit 7"
    job = door.failed("print('fine')\n", setup=words)
    assert door.context.document(job).setup == words
    lines = [
        (line.setup, line.node_rank, line.text)
        for part in door.stream(ReadLogs(job=job.id, setup=True))
        if isinstance(part, LogLines)
        for line in part.lines
    ]
    assert lines == [(True, 0, f"line {n}") for n in range(1, 12)]
    found = door.call(Explain(job=job.id)).answer
    assert (found.cause, found.node, found.retry_helps) == ("setup_failed", "here", False)
    assert found.evidence[0].endswith("ended with exit code 7: line 11") and found.evidence[-1] == "line 11"
    assert found.suggestion and found.suggestion.startswith(f"read all of its output: ugro logs {job.id} --setup; ")
    assert found.resume is None


def test_shows_the_setup_before_the_ranks(door: Door) -> None:
    job = door.succeeded("print('trained')\n", setup="echo ready")
    items = [part for part in door.stream(ReadLogs(job=job.id)) if isinstance(part, LogLines)]
    assert [line.text for part in items for line in part.lines] == ["ready", "trained"]
