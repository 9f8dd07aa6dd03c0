"""One round of alerts: reads what happened, asks the rules, sends, and remembers in `$UGRO_HOME/alerts.json`.

The memory is written after the sending: a process killed in between sends again, rather than never. `alerts.lock` lets
one process send at a time; the lock of the tick is not needed, so a slow mail server delays no job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from ugro.common.errors import InputError, RecordNewer, RecordUnreadable, StateLocked, UgroError
from ugro.common.files import file_skew, write_atomic
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.control_plane.failure_handler.alerts import FILE, rules
from ugro.control_plane.failure_handler.alerts.rules import AlertMemory, AlertSources
from ugro.control_plane.failure_handler.alerts.sender import Outcome, Sender
from ugro.control_plane.failure_handler.alerts.settings import AlertSettings, load_settings
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.records import put_aside, read_record, state_errors
from ugro.control_plane.metadata_store.timeline import Mark

log = logging.getLogger(__name__)


async def send_due(store: MetadataStore, sender: Sender) -> None:
    """Send what is new since the last round, and what failed then and is due again.

    Raises:
        StateError: the memory or the timeline cannot be read or written.
    """
    with contextlib.suppress(StateLocked), store.exclusive("alerts.lock", patience=0):
        memory = _recall(store)
        try:
            settings = load_settings(store.home / FILE)
        except UgroError as error:
            if error.message != memory.complaint:
                store.timeline.note("", EventKind.ALERT, f"no alerts are sent: {error.message}")
                _keep(store.home, memory, memory.model_copy(update={"complaint": error.message}))
            return
        after = await _round(store, sender, settings, memory.model_copy(update={"complaint": ""}))
        await asyncio.to_thread(_keep, store.home, memory, after)


async def _round(store: MetadataStore, sender: Sender, settings: AlertSettings, memory: AlertMemory) -> AlertMemory:
    now = store.clock.now()
    seen, mark = await asyncio.to_thread(_look, store, memory.mark, now)
    decided = rules.decide(settings, memory, seen, now).model_copy(update={"mark": mark})
    notifications = rules.due(decided, now)
    if not notifications:
        return decided
    outcomes = await sender.send(settings.channels, notifications)
    log.info("alerts: %s", "; ".join(f"{name} {why or 'sent'}" for name, why in outcomes.items()))
    for channel, outcome in outcomes.items():
        if news := _news_of(channel, outcome, decided.waiting[channel].failures):
            store.timeline.note("", EventKind.ALERT, news)
        if not outcome:
            for message in decided.waiting[channel].messages:
                store.counts.alerts.add(message.kind.value)
        decided = rules.failed(decided, channel, store.clock.now()) if outcome else rules.sent(decided, channel)
    return decided


def _news_of(channel: str, outcome: Outcome, failures: int) -> str:
    """Return the timeline's text about a channel: when it begins to fail, and when it works again."""
    if outcome and not failures:
        return f"channel {channel} failed: {outcome}; it is tried again. See: ugro alerts test {channel}"
    return f"channel {channel} works again" if failures and not outcome else ""


def _look(store: MetadataStore, mark: Mark, now: float) -> tuple[AlertSources, Mark]:
    events, mark = store.timeline.since(mark, now)
    jobs: dict[str, Job] = {}
    for job in {event.job for event in events if event.job}:
        with contextlib.suppress(UgroError):
            jobs[job] = store.jobs.job(job)
    seen = AlertSources(
        events, jobs, store.config.remembered_nodes(), store.config.remembered_configs(), store.config.silences()
    )
    return seen, mark


def _recall(store: MetadataStore) -> AlertMemory:
    """Return the memory. A damaged one is put aside, and all events before it was last written count as reported."""
    path = store.home / "alerts.json"
    with state_errors(path):
        try:
            return read_record(AlertMemory, path)
        except InputError:
            return AlertMemory(mark=Mark(at=_written_at(store.home / FILE)))
        except RecordNewer:  # the newer UGRO sends its alerts
            raise
        except RecordUnreadable as error:
            memory = AlertMemory(mark=Mark(at=_written_at(path)))
            hint = (
                f"the list of waiting alerts is lost; to restore it, correct the file and put it back: mv {{}} {path}"
            )
            store.timeline.note("", EventKind.DAMAGED, f"{error.message}; {hint.format(put_aside(path))}")
            return memory


def _written_at(path: Path) -> float:
    """Return when a file was written, by this machine's clock, as the events are."""
    return path.stat().st_mtime - file_skew(path.parent)


def _keep(home: Path, before: AlertMemory, after: AlertMemory) -> None:
    if after != before:
        with state_errors(path := home / "alerts.json"):
            write_atomic(path, after.model_dump_json())
