"""Pages of logs and searches in them, through the service layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from door import Door

from tests.unit.control_plane.controller.test_tick import STAY
from ugro.common.errors import InputError, Unreachable
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.nodes.remote.logs import log_streamer
from ugro.nodes.remote.logs.log_streamer import CHUNK, TOTAL
from ugro.service import log_pages
from ugro.service.schemas.logs import LogPage, PageOfLog, ReadLogs, SearchLog
from ugro.testing.commands import until

COUNTS = "for n in range(1, 3001): print(f'line {n}')\nprint('\\x1b[31mred\\x1b[0m <b>\\u202e', end='')\n"


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_pages, "FRESH", 0.0)
    monkeypatch.setattr(log_pages, "SEARCH_SECONDS", 1.0)
    monkeypatch.setattr(log_pages, "_brought", {})  # other tests have their logs in the same place


def numbers(page: LogPage) -> list[int | None]:
    return [line.number for line in page.shown]


def log_on_node(door: Door, job: Job) -> Path:
    return door.project.parent / "node/jobs" / job.id / "1/node-0/rank-0.log"


def copy_of(door: Door, job: Job) -> Path:
    return door.store.jobs.files(job.id).logs(1) / "rank-0.log"


def test_pages_of_a_log(door: Door) -> None:
    job = door.succeeded(COUNTS)
    last = door.call(PageOfLog(job=job.id, count=3, direction="backward"))
    assert (last.job, last.attempt, last.rank, last.lines, last.unfinished) == (job.id, 1, 0, 3001, True)
    assert numbers(last) == [2999, 3000, 3001] and (last.behind, last.unreadable) == (0, None)
    assert last.size == log_on_node(door, job).stat().st_size
    [red] = last.shown[2:]
    assert red.text == "red <b>�" and red.offset == last.size - len("\x1b[31mred\x1b[0m <b>\u202e".encode())
    assert [(span.text, span.class_) for span in red.spans] == [("red", "fg-red"), (" <b>�", "")]
    assert red.as_json()["spans"][0] == {"text": "red", "class": "fg-red"}
    middle = door.call(PageOfLog(job=job.id, from_line=1500, count=2))
    assert [(line.number, line.text, line.spans) for line in middle.shown] == [
        (1500, "line 1500", ()),
        (1501, "line 1501", ()),
    ]
    assert middle.behind is None, "no node was asked for what is on the master"
    assert numbers(door.call(PageOfLog(job=job.id, from_line=1500, count=2, direction="backward"))) == [1499, 1500]
    assert numbers(door.call(PageOfLog(job=job.id, count=2))) == [1, 2]
    beyond = door.call(PageOfLog(job=job.id, from_line=4000))
    assert (beyond.shown, beyond.lines, beyond.behind) == ((), 3001, 0)
    with pytest.raises(InputError, match="has no rank 1"):
        door.call(PageOfLog(job=job.id, rank=1))


def test_searches_a_log(door: Door) -> None:
    job = door.succeeded(COUNTS)
    first = door.call(SearchLog(job=job.id, query="line 29", limit=100))
    assert [hit.number for hit in first.hits] == [29, *range(290, 300), *range(2900, 2989)]
    assert first.next_offset is not None
    rest = door.call(SearchLog(job=job.id, query="line 29", from_offset=first.next_offset))
    assert [hit.number for hit in rest.hits] == [*range(2989, 3000)] and rest.next_offset is None
    found = door.call(SearchLog(job=job.id, query=r"line (7|29)$", regex=True))
    assert [(hit.number, hit.text) for hit in found.hits] == [(7, "line 7"), (29, "line 29")]
    assert door.call(SearchLog(job=job.id, query="line (7|29)$")).hits == (), "a text is a text"
    for query in ("", "a\nb", "\0", "\x1b"):
        with pytest.raises(InputError, match="a search needs a text"):
            door.call(SearchLog(job=job.id, query=query))
    with pytest.raises(InputError, match="is no regular expression: missing"):
        door.call(SearchLog(job=job.id, query="(", regex=True))


def test_an_expression_that_takes_forever_is_stopped(door: Door) -> None:
    job = door.succeeded("print('a' * 64 + 'b')\n")
    with pytest.raises(InputError, match="took longer than 1 s and was stopped"):
        door.call(SearchLog(job=job.id, query="(a+)+$", regex=True))
    assert len(door.call(SearchLog(job=job.id, query="aab")).hits) == 1


def test_a_log_that_grows(door: Door) -> None:
    job = door.until(door.submit("print('begun', end='', flush=True)\n" + STAY), JobState.RUNNING)

    def last() -> LogPage:
        return door.call(PageOfLog(job=job.id, direction="backward", count=1))

    until(lambda: last().lines == 1)
    assert last().unfinished and last().shown[0].text == "begun"
    with log_on_node(door, job).open("a") as log:
        log.write(" and done\nnext\n")
    assert (last().lines, last().unfinished, last().shown[0].text) == (2, False, "next")
    assert door.call(SearchLog(job=job.id, query="and done")).hits[0].text == "begun and done"


@pytest.mark.long
@pytest.mark.parametrize("door", ["socket"], indirect=True)  # it writes and reads tens of megabytes
def test_the_end_of_a_log_that_is_far_behind_comes_first(door: Door) -> None:
    job = door.succeeded("print('begin')\n")
    lines = (TOTAL + CHUNK) // 10
    with log_on_node(door, job).open("a") as log:
        log.writelines(f"{number:9}\n" for number in range(2, lines + 1))
    size = log_on_node(door, job).stat().st_size
    end = door.call(PageOfLog(job=job.id, direction="backward", count=2))
    assert [(line.number, line.text.strip()) for line in end.shown] == [(None, str(lines - 1)), (None, str(lines))]
    assert end.shown[1].offset == size - 10 and end.behind and end.behind > TOTAL > end.size
    found, at = list[int | None](), 0
    for _ in range(100):
        said = door.call(SearchLog(job=job.id, query=f" {lines}", from_offset=at))
        found += [hit.number for hit in said.hits]
        if said.next_offset is None:
            break
        at = said.next_offset
    assert found == [lines]
    assert numbers(door.call(PageOfLog(job=job.id, direction="backward", count=1))) == [lines]


def test_a_full_disk_shows_what_is_here(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    job = door.succeeded(COUNTS)
    before = door.call(PageOfLog(job=job.id, direction="backward", count=1))
    with log_on_node(door, job).open("a") as log:
        log.write("\nmore\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log_streamer, "_append", full)
        page = door.call(PageOfLog(job=job.id, direction="backward", count=1))
        assert (page.shown, page.behind) == (before.shown, None)
        assert len(door.call(SearchLog(job=job.id, query="line 3000")).hits) == 1
    assert door.call(PageOfLog(job=job.id, direction="backward", count=1)).shown[0].text == "more", "nothing is lost"


def test_reports_an_unreachable_node_and_asks_it_once_for_all_tabs(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    job = door.succeeded(COUNTS)
    door.call(PageOfLog(job=job.id, direction="backward"))
    asked = []

    async def silent(*_: object, **__: object) -> None:
        asked.append(1)
        raise Unreachable("here", "no route to host", "see whether it is on")

    monkeypatch.setattr(log_streamer, "fetch", silent)
    for _ in range(3):
        page = door.call(PageOfLog(job=job.id, direction="backward", count=1))
        assert numbers(page) == [3001] and page.behind is None
        assert page.unreadable and "no route to host" in page.unreadable.message
    assert len(asked) == 1


def test_a_log_that_is_deleted(door: Door) -> None:
    job = door.succeeded(COUNTS)
    list(door.stream(ReadLogs(job=job.id)))
    log_on_node(door, job).unlink()
    assert numbers(door.call(PageOfLog(job=job.id, count=1, direction="backward"))) == [3001], "the copy is kept"
    copy_of(door, job).unlink()
    gone = door.call(PageOfLog(job=job.id))
    assert (gone.shown, gone.lines, gone.size) == ((), 0, 0)
    assert door.call(SearchLog(job=job.id, query="line")).hits == ()
