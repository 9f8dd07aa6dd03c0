"""Choose the alerts of each channel by events, observations, the rules, and the messages sent before. Pure.

Events of jobs are sent once. A state that lasts – an unreachable node, a hot GPU, a full disk – is sent when it begins
and when it is over, with a margin between both, so that a value at its limit does not alert again and again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from ugro.common.config import NodeConfig
from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.node import NodeView, Silence
from ugro.common.models.record import Record
from ugro.common.text import clock, count, duration, printable, size
from ugro.control_plane.failure_handler.alerts.settings import AlertKind, AlertSettings, Rule
from ugro.control_plane.metadata_store.timeline import Mark

KEEP_SECONDS = 86400.0
"""Seconds for which a message waits for a channel that fails, and for which a sent one is remembered."""

KEEP_MESSAGES = 100
"""Number of messages, the newest, that wait for a channel that fails."""

SHOWN = 10
"""Number of messages in one notification, the newest; of the others it has their number."""

TEXT_LENGTH = 180
RETRY_SECONDS = (60.0, 3600.0)
"""The wait after a channel's first failure, doubled with each one more, and the longest."""

COOLER = 5
"""°C under its limit at which a hot GPU counts as cooled down."""

ROOMIER = 1.1
"""Times its limit of free disk at which a node counts as having room again."""

OF_JOBS: Mapping[str, AlertKind] = {
    EventKind.FAILED: AlertKind.FAILURE,
    EventKind.SUCCEEDED: AlertKind.DONE,
    EventKind.HANG: AlertKind.HANG,
    EventKind.PROPOSAL: AlertKind.PROPOSAL,
    EventKind.IDLE: AlertKind.GPU_IDLE,
    EventKind.OVER_SHARE: AlertKind.GPU_SHARE,
}
OF_NODES: Mapping[str, AlertKind] = {
    EventKind.GPU_GONE: AlertKind.GPU_LOST,
    EventKind.GPU_PROBLEM: AlertKind.GPU_LOST,
    EventKind.GPU_WELL: AlertKind.RECOVERY,
    EventKind.PROPOSAL: AlertKind.PROPOSAL,
}
WORDS: Mapping[str, str] = {
    EventKind.FAILED: "failed",
    EventKind.SUCCEEDED: "succeeded",
    EventKind.HANG: "hangs",
    EventKind.PROPOSAL: "asks",
    EventKind.IDLE: "leaves GPUs idle",
    EventKind.OVER_SHARE: "exceeds its share",
    EventKind.RUNNING: "runs again",
}
TROUBLE = (EventKind.FAILING, EventKind.HANG)
"""Events of a job after which its running again is a recovery."""

OVER = (EventKind.RUNNING, EventKind.SUCCEEDED, EventKind.CANCELLED)
"""Events of a job with which its trouble is over."""

GOOD = (AlertKind.RECOVERY, AlertKind.DONE)

_MENTION = re.compile(r"@(?=(?:everyone|here|channel|all)\b)|<(?=[!@#&])")


class Message(Record):
    """One message. `about` is its subject, with which it begins."""

    at: float
    kind: AlertKind
    about: str
    text: str


class PendingMessages(Record):
    """The messages for one channel that are not sent yet, how often it failed with them, and when it is tried again."""

    messages: tuple[Message, ...] = ()
    failures: int = 0
    retry_at: float = 0.0


class AlertMemory(Record):
    """Memory of earlier rounds, `alerts.json`.

    `troubled` are jobs that failed or hung and have not run again. `standing` has since when a state stands, by
    subject, `believed` the standing states that each channel knows. The field after it has when each channel was sent
    which message.
    """

    mark: Mark
    troubled: tuple[str, ...] = ()
    standing: dict[str, float] = Field(default_factory=dict)
    believed: dict[str, frozenset[str]] = Field(default_factory=dict)
    told: dict[str, dict[str, float]] = Field(default_factory=dict)
    waiting: dict[str, PendingMessages] = Field(default_factory=dict)
    complaint: str = ""


@dataclass(frozen=True)
class AlertSources:
    """The new events, the records of their jobs, and what was last known of the nodes."""

    events: Sequence[Event] = ()
    jobs: Mapping[str, Job] = field(default_factory=dict)
    views: Mapping[str, NodeView] = field(default_factory=dict)
    configs: Mapping[str, NodeConfig] = field(default_factory=dict)
    silences: Mapping[str, Silence] = field(default_factory=dict)


@dataclass(frozen=True)
class _News:
    """A message, what it is known by when it comes again, and the job that it is about."""

    message: Message
    key: str
    job: str = ""
    name: str = ""


@dataclass(frozen=True)
class _State:
    """Something that stands or is over: `stands` is None where nothing says which."""

    subject: str
    kind: AlertKind
    stands: bool | None
    begun: tuple[str, str]
    over: tuple[str, str]


def decide(settings: AlertSettings, memory: AlertMemory, seen: AlertSources, now: float) -> AlertMemory:
    """The memory with the messages that are due now waiting for their channels, and without what is past."""
    memory = _forget(settings, memory, now)
    news, troubled = _news(memory, seen)
    states = list(_states(memory, seen))
    for channel in settings.channels:
        rules = [rule for rule in settings.rules if channel in rule.to]
        told = memory.told.setdefault(channel, {})
        due = [each.message for each in news if _tell(rules, told, each)]
        changed, memory.believed[channel] = _changed(
            rules, told, memory.believed.get(channel, frozenset()), states, now
        )
        if due or changed:
            before = memory.waiting.get(channel, PendingMessages())
            messages = (*before.messages, *due, *changed)[-KEEP_MESSAGES:]
            memory.waiting[channel] = before.model_copy(update={"messages": messages})
    since = {state.subject: memory.standing.get(state.subject, now) for state in states if _stands(memory, state)}
    return memory.model_copy(update={"troubled": troubled, "standing": since})


def _stands(memory: AlertMemory, state: _State) -> bool:
    return state.subject in memory.standing if state.stands is None else state.stands


def _news(memory: AlertMemory, seen: AlertSources) -> tuple[list[_News], tuple[str, ...]]:
    """Return the messages about the events, and the jobs that are in trouble after them."""
    news: list[_News] = []
    troubled = list(memory.troubled)
    for event in seen.events:
        news += _of_event(event, seen.jobs.get(event.job), event.job in troubled)
        if event.job and event.kind in TROUBLE and event.job not in troubled:
            troubled.append(event.job)
        if event.job in troubled and event.kind in OVER:
            troubled.remove(event.job)
    return news, tuple(troubled[-KEEP_MESSAGES:])


def _changed(
    rules: Sequence[Rule], told: dict[str, float], believed: frozenset[str], states: Sequence[_State], now: float
) -> tuple[list[Message], frozenset[str]]:
    """Return the messages to a channel about states that are not as it believes, and its beliefs after them.

    A message that was sent not long ago waits: if the state still stands after the quiet time, it is sent then.
    """
    messages = []
    believed = believed & {state.subject for state in states}
    for state in states:
        if state.stands is None or state.stands == (state.subject in believed):
            continue
        kind = state.kind if state.stands else AlertKind.RECOVERY
        about, text = state.begun if state.stands else state.over
        news = _News(Message(at=now, kind=kind, about=about, text=text), about)
        wanted = any(rule.wants(kind, "", "") for rule in rules)
        tell = _tell(rules, told, news)
        messages += [news.message] if tell else []
        if tell or not wanted:
            believed = believed ^ {state.subject}
    return messages, believed


def _forget(settings: AlertSettings, memory: AlertMemory, now: float) -> AlertMemory:
    """Without channels that are gone and without what is too old to matter; clocks that were set back count too."""
    longest = max((KEEP_SECONDS, *(rule.quiet for rule in settings.rules)))
    told = {
        channel: {key: at for key, at in memory.told[channel].items() if abs(now - at) < longest}
        for channel in settings.channels.keys() & memory.told.keys()
    }
    waiting = {}
    for channel in settings.channels.keys() & memory.waiting.keys():
        left = memory.waiting[channel]
        young = tuple(message for message in left.messages if now - message.at < KEEP_SECONDS)
        waiting[channel] = left.model_copy(update={"messages": young})
    believed = {channel: memory.believed[channel] for channel in settings.channels.keys() & memory.believed.keys()}
    return memory.model_copy(update={"told": told, "waiting": waiting, "believed": believed})


def _tell(rules: Sequence[Rule], told: dict[str, float], news: _News) -> bool:
    """Whether a channel with these rules gets a message now; the first rule that wants it says how often."""
    rule = next((rule for rule in rules if rule.wants(news.message.kind, news.job, news.name)), None)
    if rule is None or 0 <= news.message.at - told.get(news.key, -rule.quiet) < rule.quiet:
        return False
    told[news.key] = news.message.at
    return True


def _of_event(event: Event, job: Job | None, troubled: bool) -> Iterator[_News]:
    kind = OF_JOBS.get(event.kind) if event.job else OF_NODES.get(event.kind)
    if event.kind == EventKind.RUNNING and troubled:
        kind = AlertKind.RECOVERY
    if kind is None:
        return
    name, about, text, see = "", event.node, event.message, ""
    if event.job:
        name = job.name if job else event.job
        title = event.job if name == event.job else f"{event.job} ({name})"
        about = f"{title} {WORDS[event.kind]}"
    if kind == AlertKind.FAILURE:  # the reason is in the record: the timeline has it at another event
        text, see = job.reason if job and job.reason else event.message, f" – see: ugro explain {event.job}"
    if kind == AlertKind.DONE and job and job.started_at and job.ended_at:
        text = f"after {duration(job.ended_at - job.started_at)}"
    message = Message(at=event.at, kind=kind, about=about, text=_text(text, see))
    yield _News(message, f"{kind} {about}: {message.text}", event.job, name)


def _states(memory: AlertMemory, seen: AlertSources) -> Iterator[_State]:
    """Yield the states that may stand at each node. A state of an unreachable node stays as it was last seen."""
    for name, config in seen.configs.items():
        view, silence = seen.views.get(name), seen.silences.get(name)
        since = memory.standing.get(f"down {name}")
        # A node that left the inventory is no longer unreachable, and has not answered either.
        back = since is None or (view is not None and view.seen_at > since)
        stands = True if silence else False if back else None
        last = f"seen last at {clock(view.seen_at)}" if view else "it was never seen"
        yield _State(
            f"down {name}", AlertKind.NODE_DOWN, stands, (f"{name} is unreachable", last), (f"{name} answers", "")
        )
        if view:
            yield _disk(memory, config, view)
            yield from _heat(memory, config, view)


def _disk(memory: AlertMemory, config: NodeConfig, view: NodeView) -> _State:
    subject, free, least = f"disk {config.name}", view.disk_free_mib, config.min_disk
    enough = least * ROOMIER if subject in memory.standing else least
    words = "" if free is None else f"{size(free)} free, its min_disk is {size(least)}"
    begun, over = f"{config.name} has little disk space", f"{config.name} has disk space again"
    return _State(subject, AlertKind.DISK_LOW, None if free is None else free < enough, (begun, words), (over, words))


def _heat(memory: AlertMemory, config: NodeConfig, view: NodeView) -> Iterator[_State]:
    for gpu in view.gpus:
        if gpu.uuid:
            subject, heat, most = f"hot {config.name} {gpu.uuid}", gpu.temperature_c, config.max_temperature
            bound = most - COOLER if subject in memory.standing else most
            title = f"GPU {gpu.index if gpu.index is not None else gpu.uuid} ({printable(gpu.name)}) on {config.name}"
            words = f"{heat} °C, its max_temperature is {most} °C"
            begun, over = f"{title} is too hot", f"{title} has cooled down"
            yield _State(
                subject, AlertKind.GPU_HOT, None if heat is None else heat > bound, (begun, words), (over, words)
            )


def _text(words: str, see: str = "") -> str:
    """Return foreign text as one short line without mentions of chat users; `see`, our own text, follows uncut."""
    words, room = printable(words.replace("\n", " ")), TEXT_LENGTH - len(see)
    words = words if len(words) <= room else words[: room - 1] + "…"
    return _MENTION.sub(lambda found: found[0] + "\u200b", words) + see


# --- sending ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Notification:
    """A notification to one channel. `bad`: it has a message that is no good news."""

    title: str
    body: str
    bad: bool


def due(memory: AlertMemory, now: float) -> dict[str, Notification]:
    """Return the notifications to send now: all messages that wait for a channel in one."""
    return {
        channel: notification(waiting.messages)
        for channel, waiting in memory.waiting.items()
        if waiting.messages and not 0 < waiting.retry_at - now <= RETRY_SECONDS[1]
    }


def notification(messages: Sequence[Message]) -> Notification:
    """Return messages as one notification, with the newest of them if they are many."""
    lines = [f"{message.about}: {message.text}" if message.text else message.about for message in messages]
    bad = any(message.kind not in GOOD for message in messages)
    if len(messages) == 1:
        return Notification(f"UGRO: {messages[0].about}", lines[0], bad)
    left = len(lines) - SHOWN
    more = [f"… and {count(left, 'earlier one')}: ugro events"] if left > 0 else []
    return Notification(f"UGRO: {len(lines)} alerts", "\n".join(lines[-SHOWN:] + more), bad)


def sent(memory: AlertMemory, channel: str) -> AlertMemory:
    """The memory once a channel has taken what waited for it."""
    return memory.model_copy(update={"waiting": {k: v for k, v in memory.waiting.items() if k != channel}})


def failed(memory: AlertMemory, channel: str, now: float) -> AlertMemory:
    """The memory once a channel has failed."""
    left = memory.waiting[channel]
    first, longest = RETRY_SECONDS
    wait = min(longest, first * 2 ** min(left.failures, 10))
    left = left.model_copy(update={"failures": left.failures + 1, "retry_at": now + wait})
    return memory.model_copy(update={"waiting": memory.waiting | {channel: left}})
