"""`ugro alerts`: shows, tests and sets up the alerts that UGRO sends."""

from __future__ import annotations

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import console, print_json, table
from ugro.common.errors import EXIT_NODES, EXIT_OK
from ugro.common.text import duration, printable
from ugro.service.schemas.alerts import InitAlerts, SendTestAlerts, ShowAlerts


@click.group()
def alerts() -> None:
    """Send alerts: set up channels and rules, send a test message.

    UGRO reports failures, unreachable nodes, hot GPUs and more by e-mail, Slack, ntfy and a hundred other services.
    """


@command()
@json_option
def show(app: App, as_json: bool) -> None:
    """Show the channels and rules of alerts.yaml. Addresses of channels are secrets and are not shown."""
    found = app.call(ShowAlerts())
    if as_json:
        print_json(found.as_json())
        return
    made = table("CHANNEL", "KIND", "ADDRESS")
    for channel in found.channels:
        where = f"in ${channel.url_env}" if channel.url_env else "in the file, hidden"
        made.add_row(channel.name, channel.kind or "?", where)
    console().print(made)
    for rule in found.rules:
        jobs = f" of jobs like {printable(rule.jobs)}" if rule.jobs is not None else ""
        again = f"the same again after {duration(rule.quiet)}"
        click.echo(f"{', '.join(rule.when)}{jobs} → {', '.join(rule.to)} ({again})")
    if not found.rules:
        click.echo("no rules: no alerts are sent", err=True)


@command()
@click.argument("channels", nargs=-1, metavar="[CHANNEL]...")
@json_option
def test(app: App, channels: tuple[str, ...], as_json: bool) -> int:
    """Send a test message through each CHANNEL (default: all). Exit code 3 if one fails."""
    done = app.call(SendTestAlerts(channels=channels))
    if as_json:
        print_json(done.as_json()["outcomes"])
    else:
        for one in done.outcomes:
            outcome = click.style("ok", fg="green") if one.ok else click.style(f"failed: {one.reason}", fg="red")
            click.echo(f"{one.channel}: {outcome}")
    return EXIT_OK if all(one.ok for one in done.outcomes) else EXIT_NODES


@command()
@json_option
def init(app: App, as_json: bool) -> None:
    """Write an alerts.yaml with commented examples to fill in."""
    written = app.call(InitAlerts())
    if as_json:
        print_json(written.as_json())
    else:
        click.echo(f"wrote {written.path}\n  add a channel and a rule, then: ugro alerts test")


for each in (show, test, init):
    alerts.add_command(each)
