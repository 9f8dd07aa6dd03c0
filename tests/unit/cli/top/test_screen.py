"""The screen of `ugro top`, driven by keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import RichLog, Static

from tests.unit.cli.top.test_rows import JOB, a_view
from ugro.cli.top.dialogs import Confirmation, Help
from ugro.cli.top.logs import Log
from ugro.cli.top.screen import RowTable, Top
from ugro.common.errors import StateError, UgroError
from ugro.service.schemas.ending import Cancel
from ugro.service.schemas.live import LiveView
from ugro.service.schemas.logs import FollowUpdate, LogLine, LogLines


class Answers:
    """Takes the place of the threads: the test hands over what they would."""

    def __init__(self) -> None:
        self.called: list[Any] = []
        self.followed: list[str] = []
        self.ended = False

    def watch(self, every: float, take: Callable[[LiveView], None], lost: Callable[[UgroError], None]) -> None:
        self.every = every

    def follow(
        self, job: str, take: Callable[[FollowUpdate], None], failed: Callable[[UgroError], None]
    ) -> Callable[[], None]:
        self.followed.append(job)
        return lambda: self.followed.append("end")

    def call(self, request: Any, done: Callable[[Any], None], failed: Callable[[UgroError], None]) -> None:
        self.called.append(request)

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def answers() -> Answers:
    return Answers()


def screen(answers: Any, **options: Any) -> Top:
    return Top(answers, **options)


def shown(app: Top, table: str) -> list[str]:
    listing = app.query_one(table, RowTable)
    return [str(listing.get_row_at(number)[0]) for number in range(listing.row_count)]


def command(app: Top) -> str:
    return str(app.query_one("#command", Static).render())


async def begin(app: Top, pilot: Pilot[None]) -> None:
    app.take(a_view())
    await pilot.pause()


async def test_shows_the_view_and_the_command_that_prints_the_same(answers: Answers) -> None:
    app = screen(answers)
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(app, pilot)
        assert shown(app, "#gpus") == ["gpu1:0", "gpu2:0", "cpu:-"]
        assert shown(app, "#jobs") == ["job-002", "job-004", "job-003", "job-001"]
        assert command(app).startswith("ugro status job-002 ")
        await pilot.press("j")
        assert command(app).startswith("ugro status job-004 ")
        await pilot.press("tab")
        assert command(app).startswith("ugro history gpu1 ")
        await pilot.press("q")
    assert answers.ended


async def test_a_new_view_moves_no_cursor_to_another_job(answers: Answers) -> None:
    app = screen(answers)
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(app, pilot)
        await pilot.press("j", "j")
        jobs = a_view().as_json()["jobs"]
        jobs["job-005"] = JOB | {"id": "job-005", "name": "job-005", "state": "running", "started_at": 1.0}
        app.take(a_view(jobs=jobs))
        await pilot.pause()
        assert shown(app, "#jobs")[3] == "job-003" and command(app).startswith("ugro status job-003 ")


async def test_sorts_and_filters(answers: Answers) -> None:
    app = screen(answers)
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(app, pilot)
        await pilot.press("slash", *"free", "enter")
        assert shown(app, "#jobs") == ["job-004"] and shown(app, "#gpus") == []
        await pilot.press("escape")
        assert len(shown(app, "#jobs")) == 4
        assert app.query_one("#jobs", RowTable).by == "STATE"
        await pilot.press("o")
        assert app.query_one("#jobs", RowTable).by == "PROGRESS"


async def test_cancels_only_after_a_yes(answers: Answers) -> None:
    app = screen(answers)
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(app, pilot)
        await pilot.press("c")
        assert isinstance(app.screen, Confirmation)
        text = "\n".join(str(each.render()) for each in app.screen.query(Static))
        assert "Cancel job-002 (lr)? Its ranks on gpu1 end" in text and "ugro cancel job-002" in text
        await pilot.press("enter")
        assert answers.called == [] and not isinstance(app.screen, Confirmation)
        await pilot.press("c", "y")
        assert answers.called == [Cancel(job="job-002")]


@pytest.mark.parametrize(("keys", "readonly"), [(("c",), True), (("j", "j", "j", "c"), False)])
async def test_asks_nothing_where_nothing_may_be_cancelled(
    answers: Answers, keys: tuple[str, ...], readonly: bool
) -> None:
    app = screen(answers, readonly=readonly)
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(app, pilot)
        await pilot.press(*keys)
        assert not isinstance(app.screen, Confirmation) and answers.called == []
        assert ("c cancel" in command(app)) is not readonly


async def test_follows_the_logs_of_a_job_and_comes_back(answers: Answers) -> None:
    app = screen(answers)
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(app, pilot)
        await pilot.press("enter")
        assert isinstance(app.screen, Log) and answers.followed == ["job-002"]
        lines = (LogLine(rank=1, node_rank=0, text="[bold]loss\x1b[2J 0.5"),)
        app.screen._take(LogLines(lines=lines, nodes=("gpu1",)))
        app.screen._take(StateError("the disk is gone", "see df"))
        await pilot.pause()
        log = app.screen.query_one(RichLog)
        assert [strip.text for strip in log.lines] == ["[rank 1] [bold]loss 0.5", "the disk is gone; see df"]
        await pilot.press("escape")
        assert not isinstance(app.screen, Log) and answers.followed == ["job-002", "end"]


async def test_over_the_logs_the_keys_of_the_tables_do_nothing(answers: Answers) -> None:
    app = screen(answers)
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(app, pilot)
        await pilot.press("l", "l", "enter", "c", "o", "slash")
        assert isinstance(app.screen, Log) and answers.followed == ["job-002"]
        assert not app.query_one("#filter").display
        await pilot.press("escape")
        assert not isinstance(app.screen, (Log, Confirmation)) and answers.followed == ["job-002", "end"]


async def test_says_that_there_is_no_contact_until_there_is_one_again(answers: Answers) -> None:
    app = screen(answers)
    async with app.run_test(size=(120, 40)) as pilot:
        await begin(app, pilot)
        app.lost(StateError("the resident controller ended before it answered", ""))
        band = app.query_one("#lost", Static)
        assert band.display and "the resident controller ended" in str(band.render())
        app.take(a_view())
        app._each_second()
        assert not band.display


async def test_shows_the_keys(answers: Answers) -> None:
    app = screen(answers)
    async with app.run_test(size=(80, 24)) as pilot:
        await begin(app, pilot)
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        await pilot.press("escape")
        assert not isinstance(app.screen, Help)
