"""`ugro alerts`: what tells you when something happens while nobody looks."""

from __future__ import annotations

import asyncio
import os

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import console, print_json, table
from ugro.common.errors import EXIT_NODES, EXIT_OK, InputError
from ugro.common.text import duration, printable
from ugro.control_plane.failure_handler.alerts import FILE
from ugro.control_plane.failure_handler.alerts.settings import EXAMPLE, AlertsError, Channel, Settings, load_settings


@click.group()
def alerts() -> None:
    """Be told of failures, silent nodes, hot GPUs … by e-mail, Slack, ntfy and a hundred others."""


@command()
@json_option
def show(app: App, as_json: bool) -> None:
    """The channels and rules of alerts.yaml. Addresses of channels are secrets and not shown."""
    settings = _settings(app)
    if as_json:
        channels = [{"name": name, **_channel_document(channel)} for name, channel in settings.channels.items()]
        print_json({"channels": channels, "rules": [rule.model_dump(mode="json") for rule in settings.rules]})
        return
    made = table("CHANNEL", "KIND", "ADDRESS")
    for name, channel in settings.channels.items():
        made.add_row(name, channel.kind or "?", f"in ${channel.url_env}" if channel.url_env else "in the file, hidden")
    console().print(made)
    for rule in settings.rules:
        jobs = f" of jobs like {printable(rule.jobs)}" if rule.jobs is not None else ""
        again = f"the same again after {duration(rule.quiet)}"
        click.echo(f"{', '.join(rule.when)}{jobs} → {', '.join(rule.to)} ({again})")
    if not settings.rules:
        click.echo("no rule: nothing is told", err=True)


def _channel_document(channel: Channel) -> dict[str, str | None]:
    return {"kind": channel.kind, "url_env": channel.url_env}


@command()
@click.argument("channels", nargs=-1, metavar="[CHANNEL]...")
@json_option
def test(app: App, channels: tuple[str, ...], as_json: bool) -> int:
    """Send a test message through each CHANNEL (default: all). Exit code 3 when one fails."""
    from ugro.control_plane.failure_handler.alerts.rules import Notification
    from ugro.control_plane.failure_handler.alerts.sender import Sender

    settings = _settings(app)
    if unknown := [name for name in channels if name not in settings.channels]:
        hint = f"the channels are: {', '.join(settings.channels)}"
        raise InputError(f"no channel is called {printable(unknown[0])!r} in {app.store.home / FILE}", hint)
    names = dict.fromkeys(channels or settings.channels)
    if not names:
        raise InputError(f"there is no channel in {app.store.home / FILE}", "add one below `channels:`")
    message = Notification("UGRO: test", "This is a test: alerts of UGRO come this way.", bad=False)
    outcomes = asyncio.run(Sender().send(settings.channels, dict.fromkeys(names, message)))
    if as_json:
        print_json([{"channel": name, "ok": not why, "reason": why} for name, why in outcomes.items()])
    else:
        for name, why in outcomes.items():
            click.echo(
                f"{name}: " + (click.style(f"failed: {why}", fg="red") if why else click.style("ok", fg="green"))
            )
    return EXIT_NODES if any(outcomes.values()) else EXIT_OK


@command()
@json_option
def init(app: App, as_json: bool) -> None:
    """Write an alerts.yaml in which everything is a comment, for you to fill in."""
    path = app.store.home / FILE
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(EXAMPLE)
    except FileExistsError:
        raise InputError(f"{path} is there already", "edit it, then: ugro alerts test") from None
    if as_json:
        print_json({"path": str(path)})
    else:
        click.echo(f"wrote {path}\n  add a channel and a rule, then: ugro alerts test")


def _settings(app: App) -> Settings:
    path = app.store.home / FILE
    if not path.exists():
        raise AlertsError(f"there is no {path}", "write one: ugro alerts init")
    return load_settings(path)


for each in (show, test, init):
    alerts.add_command(each)
