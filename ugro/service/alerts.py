"""Shows, tests and begins alerts.yaml."""

from __future__ import annotations

import os

from ugro.common.errors import InputError
from ugro.common.text import printable
from ugro.control_plane.failure_handler.alerts import FILE
from ugro.control_plane.failure_handler.alerts.settings import EXAMPLE, AlertsError, AlertSettings, load_settings
from ugro.service.context import Context
from ugro.service.schemas.alerts import (
    AlertsDocument,
    ChannelDocument,
    InitAlerts,
    OutcomeDocument,
    RuleDocument,
    SendTestAlerts,
    ShowAlerts,
    TestedAlerts,
    WrittenDocument,
)


async def show(context: Context, request: ShowAlerts) -> AlertsDocument:
    """Return the channels and rules.

    Raises:
        AlertsError: there is no alerts.yaml, or it has a mistake.
    """
    settings = _settings(context)
    return AlertsDocument(
        channels=tuple(
            ChannelDocument(name=name, kind=channel.kind, url_env=channel.url_env)
            for name, channel in settings.channels.items()
        ),
        rules=tuple(RuleDocument.checked(rule.model_dump()) for rule in settings.rules),
    )


async def send_test(context: Context, request: SendTestAlerts) -> TestedAlerts:
    """Send a test message through channels.

    Raises:
        AlertsError: as `show`. InputError: there is no such channel, or none at all.
    """
    from ugro.control_plane.failure_handler.alerts.rules import Notification
    from ugro.control_plane.failure_handler.alerts.sender import Sender

    settings, path = _settings(context), context.store.home / FILE
    if unknown := [name for name in request.channels if name not in settings.channels]:
        hint = f"the channels are: {', '.join(settings.channels)}"
        raise InputError(f"no channel is called {printable(unknown[0])!r} in {path}", hint)
    names = dict.fromkeys(request.channels or settings.channels)
    if not names:
        raise InputError(f"there is no channel in {path}", "add one below `channels:`")
    message = Notification("UGRO: test", "This is a test: alerts of UGRO come this way.", bad=False)
    outcomes = await Sender().send(settings.channels, dict.fromkeys(names, message))
    return TestedAlerts(
        outcomes=tuple(OutcomeDocument(channel=name, ok=not why, reason=why) for name, why in outcomes.items())
    )


async def init(context: Context, request: InitAlerts) -> WrittenDocument:
    """Write an alerts.yaml in which everything is a comment.

    Raises:
        InputError: there is one.
    """
    path = context.store.home / FILE
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(EXAMPLE)
    except FileExistsError:
        raise InputError(f"{path} is there already", "edit it, then: ugro alerts test") from None
    return WrittenDocument(path=str(path))


def _settings(context: Context) -> AlertSettings:
    path = context.store.home / FILE
    if not path.exists():
        raise AlertsError(f"there is no {path}", "write one: ugro alerts init")
    return load_settings(path)
