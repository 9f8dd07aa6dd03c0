"""`ugro dashboard`: opens the dashboard of the resident controller in the browser, logged in."""

from __future__ import annotations

import getpass
import os
import shlex

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.link import browser_option, opened
from ugro.cli.output import print_json
from ugro.service.schemas.web import Login, LoginLink, Role

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
"""Addresses that a server listens at for all of its machine's, and one that reaches it from there."""


@command()
@browser_option
@click.option("--view", is_flag=True, help="Make a link whose browser may look at everything and change nothing.")
@json_option
def dashboard(app: App, no_browser: bool, view: bool, as_json: bool) -> None:
    """Open the dashboard in the browser.

    The resident controller (`ugro serve`) serves it. The link is good for one login within a minute. In an ssh session
    the command for the tunnel is printed with it.
    """
    link = app.call(Login(role=Role.VIEW if view else Role.OPERATE))
    if as_json:
        print_json(link.as_json())
    elif connection := os.environ.get("SSH_CONNECTION"):
        click.echo("On the machine that you sit at, open a tunnel, and then this link (good once, for a minute):")
        click.echo(f"  {tunnel(link, connection, getpass.getuser())}")
        click.echo(f"  {_local(link)}")
    elif no_browser or not opened(link.url):
        click.echo(link.url)
    else:
        click.echo(f"opened {link.url.partition('#')[0]} in the browser", err=True)


def tunnel(link: LoginLink, connection: str, user: str) -> str:
    """Return the ssh command that reaches the dashboard; `connection` is SSH_CONNECTION of the session."""
    words = connection.split()
    server, port = (words[2], words[3]) if len(words) == 4 else ("HOST", "22")
    host = ANYWHERE.get(link.host, link.host)
    to = f"[{host}]" if ":" in host and not host.startswith("[") else host
    other_port = ["-p", port] if port != "22" else []
    return shlex.join(["ssh", "-N", *other_port, "-L", f"{link.port}:{to}:{link.port}", f"{user}@{server}"])


def _local(link: LoginLink) -> str:
    scheme, code = link.url.partition("://")[0], link.url.partition("#")[2]
    return f"{scheme}://127.0.0.1:{link.port}/#{code}"
