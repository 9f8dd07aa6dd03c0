"""Markdown as the reference pages use it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

NOTICE = "<!-- Generated from the code by `make docs`; do not edit. -->"


class Incomplete(Exception):
    """The code has something that the reference cannot describe; the message says what to add, and where."""


def page(title: str, *parts: str) -> str:
    """A whole page: notice, title and parts, apart by one empty line."""
    return "\n\n".join([NOTICE, f"# {title}", *(part for part in parts if part)]) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already. Without rows it is empty text."""
    body = ["| " + " | ".join(map(_in_cell, row)) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *body]) if body else ""


def _in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def code(text: str) -> str:
    """Text as code within a line."""
    return f"`{text}`"


def prose(text: str) -> str:
    """Plain text with what Markdown would read as markup escaped; code in backticks stays."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([*<])", r"\\\1", piece) for piece in pieces)


def block(text: str) -> str:
    """Lines that stay as they stand."""
    return f"```text\n{text.strip(chr(10))}\n```"


def help_text(text: str) -> str:
    r"""A click help: paragraphs are joined lines, and one that begins with `\b` keeps its lines."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        block(paragraph.strip("\b").strip("\n")) if paragraph.startswith("\b") else prose(" ".join(paragraph.split()))
        for paragraph in paragraphs
    )


def docstring(thing: object) -> str:
    """The docstring of a module, class or property, without its indentation.

    Raises:
        Incomplete: it has none.
    """
    if not (text := inspect.getdoc(thing)):
        raise Incomplete(f"{thing!r} has no docstring")
    return text


def first_paragraph(thing: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return prose(" ".join(docstring(thing).split("\n\n")[0].split()))
