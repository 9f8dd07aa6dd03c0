"""Links to servers on this machine: opened in a browser where there is one, and printed."""

from __future__ import annotations

import os
import webbrowser

import click

browser_option = click.option("--no-browser", is_flag=True, help="Print the link instead of opening it.")


def show_link(url: str, no_browser: bool) -> None:
    """Print a link, and open it in a browser unless that is not wanted or there is none."""
    click.echo(url)
    if not no_browser:
        opened(url)


def opened(url: str) -> bool:
    """Open a browser in a window of its own; one that runs in the terminal cannot show the page."""
    if (
        os.name == "posix"
        and os.uname().sysname == "Linux"
        and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    ):
        return False
    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False
