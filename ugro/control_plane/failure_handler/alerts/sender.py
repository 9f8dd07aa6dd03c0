"""Send notifications through apprise. Each channel has a thread and a time limit of its own: none waits for another.

apprise and the libraries that it uses name addresses in their logs and errors, and addresses are secrets. So their
loggers reach only `_Reason`, which makes one of a few fixed phrases of each message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import warnings
from collections.abc import Callable, Mapping

from ugro.control_plane.failure_handler.alerts.rules import Notification
from ugro.control_plane.failure_handler.alerts.settings import AlertChannel

CHANNEL_SECONDS = 8.0
"""Seconds that a channel may take. apprise gives a server 4 s to accept a connection and 4 s to answer."""

LOGGERS = ("apprise", "urllib3", "requests", "asyncio.apprise", "paho", "slixmpp", "gntp")

_NOWHERE = logging.NullHandler()
"""Stays with the loggers, also for what a thread says after its time: a logger without handlers writes to stderr."""

Outcome = str | None
"""The reason why a channel failed, in words without secrets; None: it took the notification."""


class Sender:
    """Sends to channels by name. A channel whose last sending never came back is busy until it does."""

    def __init__(self) -> None:
        self._busy: dict[str, threading.Thread] = {}

    async def send(
        self,
        channels: Mapping[str, AlertChannel],
        notifications: Mapping[str, Notification],
        within: float = CHANNEL_SECONDS,
    ) -> dict[str, Outcome]:
        """Send each channel its notification; what it says of each is known at the latest after `within` seconds."""
        await asyncio.to_thread(_load)  # a second or two on a busy machine, which are no channel's fault
        sendings = (self._send_one(name, channels[name], each, within) for name, each in notifications.items())
        return dict(zip(notifications, await asyncio.gather(*sendings), strict=True))

    async def _send_one(self, name: str, channel: AlertChannel, notification: Notification, within: float) -> Outcome:
        if name in self._busy and self._busy[name].is_alive():
            return "it is still busy with an earlier message"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()

        def take(outcome: Outcome) -> None:
            if not answer.done():
                answer.set_result(outcome)

        def work() -> None:
            outcome = _deliver(channel, notification)
            with contextlib.suppress(RuntimeError):  # no caller waits: the loop is closed
                loop.call_soon_threadsafe(take, outcome)

        # A daemon, not a pool's thread: a server that never answers must not keep a command from ending.
        sending = threading.Thread(target=work, name=f"alert {name}", daemon=True)
        try:
            sending.start()
            self._busy[name] = sending
            return await asyncio.wait_for(answer, within)
        except TimeoutError:
            return f"no answer within {within:g} s"
        except RuntimeError:  # no thread can be started: the limit of processes
            return "this machine has no process left for it"


def _load() -> None:
    """Import apprise and its plugins, which it does at the first address. Their deprecation warnings are dropped."""
    with _Reason(), warnings.catch_warnings(action="ignore"):
        import apprise

        apprise.Apprise.instantiate("json://localhost")


def _deliver(channel: AlertChannel, notification: Notification) -> Outcome:
    try:
        with _Reason() as reason:
            return _notify(channel, notification, lambda: reason.words)
    except Exception as error:  # a plugin may raise anything, and its message may have the address
        return f"apprise failed ({type(error).__name__})"


def _notify(channel: AlertChannel, notification: Notification, reason: Callable[[], str]) -> Outcome:
    import apprise  # here: it takes its time, and few commands have something to send

    address = channel.address()
    if address is None:
        return f"the environment variable {channel.url_env} is not set here"
    # In this thread, which is a daemon; apprise's own would keep the process from ending. And no files in the home.
    asset = apprise.AppriseAsset(
        app_id="UGRO", app_desc="UGRO alerts", app_url="", async_mode=False, service_timeout=0, storage_mode="memory"
    )
    service = apprise.Apprise.instantiate(address, asset=asset)
    if service is None:
        return f"apprise does not take its address as it is{reason()}"
    kind = apprise.NotifyType.WARNING if notification.bad else apprise.NotifyType.SUCCESS
    sender = apprise.Apprise(asset=asset)
    sender.add(service)
    took = sender.notify(
        body=notification.body, title=notification.title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT
    )
    return None if took else f"it did not take the message{reason()}"


class _Reason(logging.Handler):
    """Keep the loggers' messages of this thread as a fixed phrase; their records go nowhere else."""

    PHRASES = (
        (re.compile(r"unsupported URL|unparse?able|invalid URL|schema", re.I), ": no kind of address that it knows"),
        (re.compile(r"is disabled|has become disabled", re.I), ": its kind needs something that is not installed here"),
        (re.compile(r"connection error|socket", re.I), ": no connection, or no answer"),
        (re.compile(r"authenticat|unauthori[sz]ed|\b401\b", re.I), ": it does not accept the user or token"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.words = ""
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self._thread or self.words:
            return
        said = record.getMessage()
        code = re.search(r"error=(\d{3})\b", said)
        self.words = f": HTTP status {code[1]}" if code else ""
        self.words = self.words or next((words for pattern, words in self.PHRASES if pattern.search(said)), "")

    def __enter__(self) -> _Reason:
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.propagate = False
            logger.setLevel(logging.WARNING)
            logger.addHandler(_NOWHERE)
            logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
