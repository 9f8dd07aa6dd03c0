"""Alerts: what is sent to whom and how often; through real apprise to servers on loopback; and no secret gets out."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ugro.cli.main import cli
from ugro.common.config import NodeConfig
from ugro.common.models.event import Event
from ugro.common.models.job import Job
from ugro.common.models.node import NodeView, Silence
from ugro.control_plane.failure_handler.alerts import rules, sender
from ugro.control_plane.failure_handler.alerts.courier import Courier
from ugro.control_plane.failure_handler.alerts.rounds import send_due
from ugro.control_plane.failure_handler.alerts.rules import (
    AlertMemory,
    AlertSources,
    Message,
    Notification,
    decide,
    due,
    failed,
    notification,
    sent,
)
from ugro.control_plane.failure_handler.alerts.sender import Sender
from ugro.control_plane.failure_handler.alerts.settings import (
    EXAMPLE,
    AlertChannel,
    AlertKind,
    AlertsError,
    AlertSettings,
    load_settings,
)
from ugro.control_plane.metadata_store import MetadataStore, timeline
from ugro.control_plane.metadata_store.timeline import Mark, Timeline
from ugro.testing import builders

SECRET = "s3cr3t-token"
ALL = {"when": [str(kind) for kind in AlertKind], "to": ["a"]}


# --- alerts.yaml -----------------------------------------------------------------------------------------------------


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "alerts.yaml"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "channels: {a: {url: 'json://x'}}\nrules: [{when: [failure], to: [b]}]",
            ":2: rules: .*no channel is called 'b'",
        ),
        (
            "channels:\n  a: {url: 'json://x'}\nrules:\n  - {when: [oops], to: [a]}",
            ":4: rules.0.when: .*failure, recovery",
        ),
        ("channels:\n  a: {urll: 'json://s3cr3t-token'}", ":2: channels.a.urll: unknown key; did you mean 'url'"),
        ("channels:\n  a: {url: 'json://s3cr3t-token', url_env: X}", ":2: channels.a: .*either 'url' or 'url_env'"),
        ("channels:\n  a: 'json://s3cr3t-token'", ":2: channels.a: found .hidden."),
        ("channels:\n  a: s3cr3t-token", ":2: channels.a: found .hidden."),
        ("channels:\n  - 'json://s3cr3t-token'", ":1: channels: found .*hidden"),
        ("channels:\n  json://s3cr3t-token: {}", ":2: channels: a short name is expected"),
        ("channels:\n  a: {json://s3cr3t-token}", ":2: channels.a"),
        ("channels:\n  a: {url: [s3cr3t-token]}", ":2: channels.a.url: found .*hidden"),
        ("channels:\n  a: {url_env: 's3cr3t-token here'}", "name of an environment variable"),
        ("channels:\n  a: {url: 'json://s3cr3t-token}", "not valid YAML"),
        ("rules:\n  - {when: [failure], to: [a], quiet: soon}", ":2: rules.0.quiet"),
        ("channel: {}", ":1: channel: unknown key; did you mean 'channels'"),
    ],
)
def test_a_mistake_names_line_and_field_and_no_secret(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(AlertsError, match=said) as caught:
        load_settings(path)
    assert str(path) in caught.value.message
    assert SECRET not in json.dumps(caught.value.as_dict())


def test_addresses_in_the_file_are_for_its_owner_alone(tmp_path: Path) -> None:
    text = "channels: {a: {url: 'json://x'}}"
    with pytest.raises(AlertsError, match="others may read it") as caught:
        load_settings(written(tmp_path, text, 0o640))
    assert caught.value.hint == f"chmod 600 {tmp_path}/alerts.yaml"
    assert load_settings(written(tmp_path, text)).channels["a"].kind == "json"
    assert load_settings(written(tmp_path, "channels: {a: {url_env: SOME}}", 0o644)).channels["a"].url is None


def test_the_example_is_valid_also_with_its_comments_taken_away(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, EXAMPLE)) == AlertSettings()
    full = load_settings(written(tmp_path, EXAMPLE.replace("\n  # ", "\n  ")))
    assert list(full.channels) == ["phone", "team", "mail"] and len(full.rules) == 3
    assert all(str(kind) in EXAMPLE for kind in AlertKind)


def test_a_secret_is_not_in_what_a_channel_says_of_itself() -> None:
    channel = AlertChannel.model_validate({"url": f"json://{SECRET}@x"})
    assert SECRET not in repr(channel) + str(channel.model_dump(mode="json")) + str(channel.kind)
    assert channel.address() == f"json://{SECRET}@x"


# --- the rules -------------------------------------------------------------------------------------------------------


def settings(*given: dict[str, Any], channels: str = "a") -> AlertSettings:
    named = {name: {"url": f"json://{name}"} for name in channels}
    return AlertSettings.model_validate({"channels": named, "rules": [dict(rule) for rule in given or (ALL,)]})


def job(job_id: str = "job-001", **changed: Any) -> Job:
    return builders.job(**{"id": job_id, "name": "demo", **changed})


def view(at: float = 50.0, heat: int | None = 50, free: int | None = 9000, node: str = "n") -> NodeView:
    gpu = builders.gpu(name="R", uuid="GPU-1", temperature_c=heat)
    return builders.node_view(node, gpu, seen_at=at, disk_free_mib=free)


def node(shown: NodeView | None, silent: bool = False) -> AlertSources:
    config = NodeConfig(name="n", address="x", max_temperature=80, min_disk=1000)
    silences = {"n": Silence(since=1.0, seen_at=1.0)} if silent else {}
    return AlertSources(views={"n": shown} if shown else {}, configs={"n": config}, silences=silences)


class Told:
    """What channels get over a story of observations, with a memory that goes through its file's form."""

    def __init__(self, *given: dict[str, Any], channels: str = "a") -> None:
        self.settings = settings(*given, channels=channels)
        self.memory = AlertMemory(mark=Mark(at=0.0))

    def look(self, seen: AlertSources, now: float, channel: str = "a") -> list[str]:
        memory = decide(self.settings, self.memory, seen, now)
        lines = [
            f"{m.kind}: {m.about}: {m.text}" for m in memory.waiting.get(channel, rules.PendingMessages()).messages
        ]
        for name in self.settings.channels:
            memory = sent(memory, name)
        self.memory = AlertMemory.model_validate_json(memory.model_dump_json())
        return lines


def events(*kinds: str, at: float = 10.0, **about: str) -> list[Event]:
    about = about or {"job": "job-001"}
    return [Event(at=at, kind=kind, message="words", **about) for kind in kinds]


def test_jobs_are_told_of_with_what_a_person_needs() -> None:
    ended = job(reason="rank 1 on n failed first (cuda_oom): no memory", started_at=10.0, ended_at=130.0)
    seen = AlertSources(events("submitted", "running", "failing", "failed"), {"job-001": ended})
    assert Told().look(seen, 20.0) == [
        "failure: job-001 (demo) failed: rank 1 on n failed first (cuda_oom): no memory – see: ugro explain job-001"
    ]
    [told] = Told().look(AlertSources(events("failed"), {"job-001": job(reason="x" * 1000)}), 20.0)
    assert told.endswith("x… – see: ugro explain job-001"), "what to do next is never cut off"
    assert Told().look(AlertSources(events("succeeded"), {"job-001": ended}), 20.0) == [
        "done: job-001 (demo) succeeded: after 2m 00s"
    ]
    assert Told().look(AlertSources(events("hang", "idle", "proposal")), 20.0) == [
        "hang: job-001 hangs: words",
        "gpu_idle: job-001 leaves GPUs idle: words",
        "proposal: job-001 asks: words",
    ]
    gone = events("gpu_gone", "gpu_gone", "gpu_well", "proposal", "drained", node="n")
    gone.append(gone[0].model_copy(update={"message": "another GPU"}))
    assert [line.split(":")[0] for line in Told().look(AlertSources(gone), 20.0)] == [
        "gpu_lost",
        "recovery",
        "proposal",
        "gpu_lost",
    ], "the same words are told once, others are not the same"


def test_a_job_that_runs_again_after_trouble_has_recovered() -> None:
    story = Told()
    assert story.look(AlertSources(events("starting", "running")), 1.0) == []
    assert story.look(AlertSources(events("unknown", "running")), 2.0) == [], "its node tells of that"
    story.look(AlertSources(events("hang")), 3.0)
    assert story.look(AlertSources(events("running")), 4.0) == ["recovery: job-001 runs again: words"]
    assert story.look(AlertSources(events("running")), 5.0) == []
    story.look(AlertSources(events("failing", "failed")), 6.0)
    assert len(story.look(AlertSources(events("starting", "running", at=9000.0)), 9000.0)) == 1, "resumed later"


def test_who_is_told_what() -> None:
    story = Told(
        {"when": ["failure"], "to": ["a"], "jobs": "llama-*"},
        {"when": "done", "to": "b"},
        {"when": ["disk_low"], "to": ["b"], "jobs": "*"},
        channels="ab",
    )
    llama, other = job("job-001", name="llama-7b"), job("job-002", name="bert")
    failures = [*events("failed"), *events("failed", job="job-002"), *events("succeeded", job="job-002")]
    seen = AlertSources(failures, {"job-001": llama, "job-002": other})
    memory = decide(story.settings, story.memory, seen, 20.0)
    assert [m.about for m in memory.waiting["a"].messages] == ["job-001 (llama-7b) failed"]
    assert [m.about for m in memory.waiting["b"].messages] == ["job-002 (bert) succeeded"]
    assert story.look(node(view(free=1)), 30.0, "b") == [], "a rule about jobs is about no node"
    by_id = Told({"when": ["failure"], "to": ["a"], "jobs": "job-002"})
    assert len(by_id.look(seen, 20.0)) == 1


def test_two_rules_tell_a_channel_once() -> None:
    assert len(Told(ALL, ALL).look(AlertSources(events("failed")), 20.0)) == 1


def test_the_same_thing_is_not_told_again_within_its_quiet_time() -> None:
    story = Told(ALL | {"quiet": "5m"})
    assert len(story.look(AlertSources(events("hang", at=0.0)), 0.0)) == 1
    assert story.look(AlertSources(events("hang", at=299.0)), 299.0) == []
    assert len(story.look(AlertSources(events("hang", at=300.0)), 300.0)) == 1
    assert len(story.look(AlertSources(events("hang", at=301.0, job="job-002")), 301.0)) == 1, (
        "another job is another thing"
    )


def test_a_silent_node_is_told_once_and_that_it_is_back() -> None:
    story = Told()
    down, back = node(view(50.0), silent=True), node(view(200.0))
    assert [line.split(": ")[1] for line in story.look(down, 100.0)] == ["n is unreachable"]
    assert story.look(down, 5000.0) == []
    assert story.look(node(view(50.0)), 5001.0) == [], "it left the inventory, which is no answer"
    assert story.look(back, 5002.0) == ["recovery: n answers: "]
    assert story.look(back, 5003.0) == []


def test_a_node_that_flaps_is_told_after_the_quiet_time_if_it_is_still_so() -> None:
    story = Told(ALL | {"quiet": 600})
    down = node(view(50.0), silent=True)
    assert len(story.look(down, 100.0)) == 1
    assert len(story.look(node(view(110.0)), 111.0)) == 1, "the first return is told at once"
    for now in (120.0, 130.0, 699.0):
        assert story.look(down, now) == []
    assert len(story.look(down, 700.0)) == 1, "the person believed that it is up"
    assert Told().look(node(view()), 100.0) == []


def test_without_a_rule_for_recovery_the_next_fall_is_told_all_the_same() -> None:
    story = Told({"when": ["node_down"], "to": ["a"], "quiet": 1})
    down = node(view(50.0), silent=True)
    assert len(story.look(down, 100.0)) == 1
    assert story.look(node(view(150.0)), 151.0) == []
    assert len(story.look(node(view(150.0), silent=True), 200.0)) == 1


@pytest.mark.parametrize(
    ("kind", "field", "story"),
    [
        ("gpu_hot", "heat", [(80, 0), (81, 1), (79, 0), (None, 0), (76, 0), (75, 2), (80, 0), (81, 1)]),
        ("disk_low", "free", [(1000, 0), (999, 1), (1050, 0), (None, 0), (1099, 0), (1100, 2), (1000, 0), (999, 1)]),
    ],
)
def test_limits_have_a_margin(kind: str, field: str, story: list[tuple[int | None, int]]) -> None:
    told = Told(ALL | {"quiet": 1})
    for number, (value, expected) in enumerate(story):
        lines = told.look(node(view(**{field: value})), 100.0 * number)
        assert [line.split(":")[0] for line in lines] == [[], [kind], ["recovery"]][expected], (number, value)


def test_a_hot_gpu_and_a_full_disk_in_words() -> None:
    assert Told().look(node(view(heat=91, free=512)), 1.0) == [
        "disk_low: n has little disk space: 512 MiB free, its min_disk is 1000 MiB",
        "gpu_hot: GPU 0 (R) on n is too hot: 91 °C, its max_temperature is 80 °C",
    ]


def test_foreign_words_are_short_harmless_and_call_nobody() -> None:
    hostile = Event(at=1.0, job="job-001", kind="hang", message="\x1b[31m@everyone <!here>\nme@host.org " + "x" * 5000)
    [line] = Told().look(AlertSources([hostile]), 1.0)
    assert "\x1b" not in line and "\n" not in line and len(line) < 250
    assert "@everyone" not in line and "<!here" not in line and "me@host.org" in line


def test_what_waits_for_a_channel_is_one_notification_and_bounded() -> None:
    story = Told()
    many = [Event(at=float(n), job=f"job-{n:03d}", kind="failed", message=f"reason {n}") for n in range(500)]
    memory = decide(story.settings, story.memory, AlertSources(many), 500.0)
    assert len(memory.waiting["a"].messages) == rules.KEEP_MESSAGES
    note = due(memory, 500.0)["a"]
    assert note.title == "UGRO: 100 alerts" and note.bad
    assert "job-499 failed: reason 499" in note.body and "… and 90 earlier ones: ugro events" in note.body
    assert len(note.body.splitlines()) == rules.SHOWN + 1
    good = notification([Message(at=0.0, kind=AlertKind.DONE, about="job-001 succeeded", text="")])
    assert good == Notification("UGRO: job-001 succeeded", "job-001 succeeded", bad=False)


def test_a_channel_that_fails_is_tried_less_and_less_often_and_for_a_day() -> None:
    story = Told()
    memory, now, tries = decide(story.settings, story.memory, AlertSources(events("failed")), 10.0), 10.0, []
    while memory.waiting["a"].messages:
        if due(memory, now):
            tries.append(now)
            memory = failed(memory, "a", now)
        now += 10.0
        memory = decide(story.settings, memory, AlertSources(), now)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps[:3] == [60.0, 120.0, 240.0] and max(gaps) == 3600.0 and 20 < len(tries) < 40
    assert now == pytest.approx(86400 + 10, abs=11)
    set_back = failed(decide(story.settings, story.memory, AlertSources(events("failed")), 9e9), "a", 9e9)
    assert due(set_back, 10.0), "a clock that was set back does not stop a channel"


def test_a_channel_that_is_gone_is_forgotten() -> None:
    memory = decide(settings(), AlertMemory(mark=Mark(at=0.0)), node(view(heat=99)), 1.0)
    assert memory.waiting and memory.told and memory.believed
    memory = decide(AlertSettings(), memory, node(view(heat=99)), 2.0)
    assert not memory.waiting and not memory.told and not memory.believed


# --- the timeline since a mark ---------------------------------------------------------------------------------------


def test_the_timeline_is_read_on_from_a_mark_also_over_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "EVENTS_LIMIT", 2000)
    line, mark, seen = Timeline(tmp_path), Mark(at=0.0), []
    assert line.since(mark, 1.0) == ([], mark)
    for number in range(200):
        line.add(Event(at=number + 1.0, node="n", kind="k", message=str(number)))
        if number % 7 == 0:
            new, mark = line.since(mark, number + 1.5)
            seen += new
    new, mark = line.since(mark, 999.0)
    assert [int(event.message) for event in [*seen, *new]] == list(range(200))
    assert line.since(mark, 1000.0) == ([], mark)


def test_a_torn_line_is_left_until_it_is_whole(tmp_path: Path) -> None:
    line = Timeline(tmp_path)
    line.add(Event(at=1.0, node="n", kind="k", message="1"))
    _, mark = line.since(Mark(at=0.0), 2.0)
    text = Event(at=3.0, node="n", kind="k", message="2").model_dump_json()
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write(text[:20])
        file.flush()
        assert line.since(mark, 4.0) == ([], mark)
        file.write(text[20:] + "\n")
    new, mark = line.since(mark, 5.0)
    assert [event.message for event in new] == ["2"]


def test_a_mark_whose_file_is_gone_goes_on_by_its_time(tmp_path: Path) -> None:
    line = Timeline(tmp_path)
    for at in (1.0, 2.0, 3.0):
        line.add(Event(at=at, node="n", kind="k", message=str(at)))
    assert [event.at for event in line.since(Mark(at=1.5, inode=1, offset=77), 9.0)[0]] == [2.0, 3.0]


# --- sending for real ------------------------------------------------------------------------------------------------


class Inbox:
    """A server on loopback that takes what apprise's json:// sends; `answer` is its HTTP status."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.answer = 200
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.got.append(json.loads(body) | {"path": self.path})
                self.send_response(inbox.answer)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"json://user:{SECRET}@127.0.0.1:{self._server.server_port}/{SECRET}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    yield made
    made.close()


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"json://user:{SECRET}@127.0.0.1:{listening.getsockname()[1]}/{SECRET}"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"json://user:{SECRET}@127.0.0.1:{listening.getsockname()[1]}/{SECRET}"


def channel(url: str) -> AlertChannel:
    return AlertChannel.model_validate({"url": url})


NOTE = Notification("UGRO: title", "body", bad=True)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that reaches the handlers of this process; pytest's own listens at loggers that do not propagate."""
    text, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(text), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)


async def test_channels_do_not_wait_for_each_other_and_no_secret_gets_out(
    inbox: Inbox, mute: str, logged: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    channels = {"mute": channel(mute), "closed": channel(closed_port()), "good": channel(inbox.url)}
    channels |= {"odd": channel(f"nonsense://{SECRET}"), "half": channel(f"slack://{SECRET}")}
    channels |= {"unset": AlertChannel(url_env="UGRO_TEST_NO_SUCH")}
    await Sender().send({"good": channel(inbox.url)}, {"good": NOTE})  # what it imports may take longer than a message
    inbox.got.clear()
    sending = asyncio.create_task(Sender().send(channels, dict.fromkeys(channels, NOTE), within=3.0))
    began = time.monotonic()
    while not inbox.got and time.monotonic() - began < 3.0:
        await asyncio.sleep(0.02)
    assert not sending.done(), "the good one has it while the mute one still hangs"
    outcomes = await sending
    assert time.monotonic() - began < 8.0
    assert [(got["title"], got["message"], got["type"]) for got in inbox.got] == [("UGRO: title", "body", "warning")]
    assert outcomes == {
        "mute": "no answer within 3 s",
        "closed": "it did not take the message: no connection, or no answer",
        "good": None,
        "odd": "apprise does not take its address as it is: no kind of address that it knows",
        "half": "apprise does not take its address as it is",
        "unset": "the environment variable UGRO_TEST_NO_SUCH is not set here",
    }
    out, err = capfd.readouterr()
    assert SECRET not in str(outcomes)
    assert out + err + logged.getvalue() == ""


async def test_what_a_server_answers_is_told_by_its_status(inbox: Inbox) -> None:
    inbox.answer = 403
    outcomes = await Sender().send({"a": channel(inbox.url)}, {"a": NOTE})
    assert outcomes == {"a": "it did not take the message: HTTP status 403"}


async def test_a_channel_that_hangs_gets_no_second_thread(mute: str) -> None:
    post = Sender()
    assert await post.send({"a": channel(mute)}, {"a": NOTE}, within=0.2) == {"a": "no answer within 0.2 s"}
    busy = {"a": "it is still busy with an earlier message"}
    assert await post.send({"a": channel(mute)}, {"a": NOTE}, within=0.2) == busy


def test_a_server_that_answers_for_ever_keeps_no_command_from_ending(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from ugro.control_plane.failure_handler.alerts.rules import Notification
from ugro.control_plane.failure_handler.alerts.sender import Sender
from ugro.control_plane.failure_handler.alerts.settings import AlertChannel
channels = {"a": AlertChannel(url=sys.argv[1])}
print(asyncio.run(Sender().send(channels, {"a": Notification("t", "b", True)}, within=0.5)))
"""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            server, _ = listening.accept()
            with server:
                server.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
                with contextlib.suppress(OSError):
                    while not over.wait(0.1):  # a header without end, so that no read of the client is ever late
                        server.sendall(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        address = f"json://127.0.0.1:{listening.getsockname()[1]}/{SECRET}"
        try:
            done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=30)
        finally:
            over.set()
            thread.join()
    assert (done.stdout, done.stderr) == ("{'a': 'no answer within 0.5 s'}\n", "")


async def test_who_interrupts_a_command_does_not_wait_for_its_alerts(home: Path, mute: str) -> None:
    store = at_home(home, {"a": mute}, ALL)
    store.timeline.note("n", "gpu_gone", "words")
    sender._load()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        async with Courier(store) as courier:
            courier.begin()
            raise KeyboardInterrupt
    assert time.monotonic() - began < 2.0


async def test_what_a_plugin_raises_is_told_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(sender, "_notify", explode)
    assert await Sender().send({"a": channel("json://x")}, {"a": NOTE}) == {"a": "apprise failed (ValueError)"}


async def test_a_channel_without_a_thread_keeps_no_other_from_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "alert a":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(sender, "_notify", lambda *_: None)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    channels = {name: channel("json://x") for name in ("a", "b")}
    outcomes = await Sender().send(channels, dict.fromkeys(channels, NOTE))
    assert outcomes == {"a": "this machine has no process left for it", "b": None}


# --- rounds ----------------------------------------------------------------------------------------------------------


def at_home(home: Path, channels: dict[str, str], *given: dict[str, Any]) -> MetadataStore:
    state = home / ".ugro"
    state.mkdir(exist_ok=True)
    document = {"channels": {k: {"url": v} for k, v in channels.items()}, "rules": list(given)}
    path = written(state, json.dumps(document))
    os.utime(path, (time.time() - 60,) * 2)
    return MetadataStore(state)


def everywhere(home: Path) -> str:
    """All that UGRO wrote down but the file that the user wrote."""
    return "".join(p.read_text() for p in home.rglob("*") if p.is_file() and p.name != "alerts.yaml")


async def test_a_failure_is_told_once_and_a_failed_channel_later(
    home: Path, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.answer = 500
    store = at_home(home, {"a": inbox.url}, ALL)
    store.timeline.note("n", "gpu_gone", "RTX has disappeared")
    await send_due(store, Sender())
    await send_due(store, Sender())
    assert len(inbox.got) == 1, "not again before its time"
    [told] = [event for event in store.timeline.of_cluster() if event.kind == "alert"]
    assert told.message.startswith("channel a failed: it did not take the message: HTTP status 500;")
    assert store.counts.alerts.all() == {}
    inbox.answer = 200
    monkeypatch.setattr(rules, "RETRY_SECONDS", (0.0, 0.0))
    await send_due(store, Sender())
    await send_due(store, Sender())
    assert store.counts.alerts.all() == {"gpu_lost": 1}
    assert [got["message"] for got in inbox.got] == ["n: RTX has disappeared"] * 2
    assert [event.message for event in store.timeline.of_cluster() if event.kind == "alert"][1:] == [
        "channel a works again"
    ]
    assert SECRET not in everywhere(home)


async def test_what_was_before_the_file_is_not_told(home: Path, inbox: Inbox) -> None:
    store = at_home(home, {"a": inbox.url}, ALL)
    store.timeline.note("n", "gpu_gone", "before")
    os.utime(home / ".ugro/alerts.yaml", (time.time() + 1,) * 2)
    await send_due(store, Sender())
    assert inbox.got == []


async def test_a_memory_that_cannot_be_read_repeats_nothing(home: Path, inbox: Inbox) -> None:
    store = at_home(home, {"a": inbox.url}, ALL)
    store.timeline.note("n", "gpu_gone", "first")
    await send_due(store, Sender())
    (home / ".ugro/alerts.json").write_text("{")
    store.timeline.note("n", "gpu_gone", "second")
    os.utime(home / ".ugro/alerts.json", (store.timeline.of_cluster()[0].at + 0.0001,) * 2)
    await send_due(store, Sender())
    assert [got["message"] for got in inbox.got] == ["n: first", "n: second"]


async def test_a_mistake_in_the_file_is_told_once(home: Path) -> None:
    store = at_home(home, {"a": f"json://{SECRET}"}, {"when": ["failure"], "to": ["b"]})
    for _ in range(3):
        await send_due(store, Sender())
    [told] = store.timeline.of_cluster()
    assert told.kind == "alert" and "no channel is called 'b'" in told.message
    assert SECRET not in everywhere(home)


async def test_who_is_killed_while_sending_sends_again(home: Path, inbox: Inbox) -> None:
    class Killed(Sender):
        async def send(self, *given: Any, **more: Any) -> Any:
            await super().send(*given, **more)
            raise asyncio.CancelledError

    store = at_home(home, {"a": inbox.url}, ALL)
    store.timeline.note("n", "gpu_gone", "words")
    with pytest.raises(asyncio.CancelledError):
        await send_due(store, Killed())
    for _ in range(2):
        await send_due(store, Sender())
    assert [got["message"] for got in inbox.got] == ["n: words"] * 2


async def test_nobody_who_acts_waits_for_a_channel_that_hangs(home: Path, mute: str) -> None:
    store = at_home(home, {"a": mute}, ALL)
    store.timeline.note("n", "gpu_gone", "words")
    async with Courier(store) as courier:
        courier.begin()
        while not (home / ".ugro/alerts.lock").exists():
            await asyncio.sleep(0.01)
        began = time.monotonic()
        with store.lock(patience=0):
            courier.begin()
        assert time.monotonic() - began < 1.0
    assert [event.kind for event in store.timeline.of_cluster()] == ["gpu_gone", "alert"]


def test_without_alerts_yaml_nothing_is_imported_or_written(home: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from ugro.control_plane.failure_handler.alerts.courier import Courier
from ugro.control_plane.metadata_store import MetadataStore
async def main():
    async with Courier(MetadataStore(Path(sys.argv[1]))) as courier:
        courier.begin()
asyncio.run(main())
print([name for name in sys.modules if name in ("apprise", "ugro.control_plane.failure_handler.alerts.rules")])
"""
    done = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and list(home.iterdir()) == []


# --- the commands ----------------------------------------------------------------------------------------------------


def sweep(home: Path) -> subprocess.CompletedProcess[str]:
    inventory = home / "inventory.yaml"
    inventory.write_text("nodes: {here: {address: 127.0.0.1, local: true, min_disk: 500T}}\n")
    code = "from ugro.cli.main import main; main()"
    command = [sys.executable, "-c", code, "--inventory", str(inventory), "sweep"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_sweeps_of_two_processes_tell_a_full_disk_once_and_a_broken_channel_hurts_nothing(
    home: Path, inbox: Inbox
) -> None:
    at_home(home, {"good": inbox.url, "bad": closed_port()}, ALL | {"to": ["good", "bad"]})
    first, second = sweep(home), sweep(home)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert [got["title"] for got in inbox.got] == ["UGRO: here has little disk space"]
    assert "alert: channel bad failed: " in first.stdout and "alert" not in second.stdout
    everything = first.stdout + first.stderr + second.stdout + second.stderr + everywhere(home)
    assert SECRET not in everything


def ugro(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["alerts", *words], standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.return_value or 0, done.output


def test_channels_are_shown_without_their_secrets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UGRO_TEST_MAIL", f"mailtos://u:{SECRET}@x.org")
    state = home / ".ugro"
    state.mkdir()
    text = (
        f"channels: {{a: {{url: 'json://{SECRET}'}}, m: {{url_env: UGRO_TEST_MAIL}}, n: {{url_env: UGRO_TEST_NO}}}}\n"
    )
    written(state, text + "rules: [{when: [failure, hang], to: [a], jobs: 'x*'}]\n")
    code, shown = ugro("show")
    assert code == 0 and SECRET not in shown
    assert "failure, hang of jobs like x* → a (the same again after 10m 00s)" in shown
    document = json.loads(ugro("show", "--json")[1])
    assert document == {
        "channels": [
            {"name": "a", "kind": "json", "url_env": None},
            {"name": "m", "kind": "mailtos", "url_env": "UGRO_TEST_MAIL"},
            {"name": "n", "kind": None, "url_env": "UGRO_TEST_NO"},
        ],
        "rules": [{"when": ["failure", "hang"], "to": ["a"], "jobs": "x*", "quiet": 600.0}],
    }


def test_a_test_message_goes_through_each_channel(home: Path, inbox: Inbox) -> None:
    at_home(home, {"good": inbox.url, "bad": closed_port()})
    code, said = ugro("test")
    assert code == 3 and SECRET not in said
    assert said == "good: ok\nbad: failed: it did not take the message: no connection, or no answer\n"
    code, said = ugro("test", "good", "--json")
    assert code == 0 and json.loads(said) == [{"channel": "good", "ok": True, "reason": None}]
    assert [got["title"] for got in inbox.got] == ["UGRO: test"] * 2
    with pytest.raises(Exception, match="no channel is called 'other'"):
        ugro("test", "other")


def test_the_first_file_is_written_for_its_owner_alone_and_never_twice(home: Path) -> None:
    with pytest.raises(AlertsError, match="there is no"):
        ugro("show")
    assert ugro("init")[0] == 0
    path = home / ".ugro/alerts.yaml"
    assert path.stat().st_mode & 0o777 == 0o600 and load_settings(path) == AlertSettings()
    with pytest.raises(Exception, match="is there already"):
        ugro("init", "--json")
