"""Tests that texts avoid words that make readers stop: calques, old English, nameless subjects.

Texts are pages, helps, messages, docstrings and comments.

`pytest tests/unit/test_words.py` lists each finding with its place and the word to use instead.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from places import ROOT

from ugro.cli.main import COMMANDS, cli
from ugro.common.models.job import Wish
from ugro.control_plane.diagnosis.causes import CAUSES

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")),
]

STORED = {Wish.ABANDON.value}
"""Values in records of jobs: they stay readable, so they do not change."""

QUOTES_OTHERS = {"catalogue.py", "codes.py", "conjecture.py", "course.py", "parting.py", "reading.py", "ends.py"}
"""Modules of `ugro/control_plane/diagnosis/` whose texts are patterns of other tools' messages."""

AVOID = {
    r"anew": "again, new, rebuilt",
    r"shall|shan't": "will, must",
    r"heed(s|ed)?": "use, follow",
    r"torn": "incomplete, damaged",
    r"pretended|pretends?": "simulated",
    r"mend(s|ed|ing)?": "correct, repair",
    r"lest": "so that … not",
    r"besides": "also, and",
    r"wholly": "entirely",
    r"whole (checkpoints?|ones?)|(is|are|all) whole": "complete",
    r"hopeless|as things are": "unschedulable",
    r"obstacles?": "pending reason",
    r"go(es)? by": "follow, use",
    r"(go(es)?|going|went|gone) on": "resume, continue",
    r"(its|your|their|without a) words?": "confirmation, answer, message",
    r"told": "reported",
    r"tells? (of|whether|whose)": "report, show",
    r"some(body|one)|no(body| one)|any(body|one)|whoever|a person|persons": "the user, the controller, the node",
    r"nobody looks|looks? after": "no scheduler is running, run, maintain",
    r"(a|one|each|the|this) look": "observation, scheduling pass",
    r"stays? and acts?": "run the resident controller",
    r"(node|machine)s? (that )?(is|are|was) silent|silent nodes?": "unreachable",
    r"wish(es)?": "requested action",
    r"running yet|there yet": "still running, there",
    r"knows? nothing of": "does not know",
    r"took down|takes down": "follow-on error",
    r"of itself": "by itself",
    r"the like": "other events",
}
"""Patterns of whole words, and what to write instead."""

ANY = re.compile(r"\b(" + "|".join(AVOID) + r")\b", re.IGNORECASE)
PATTERNS = [(re.compile(rf"\b({words})\b", re.IGNORECASE), instead) for words, instead in AVOID.items()]


def findings(place: str, text: str) -> Iterator[str]:
    """Yield each word to avoid with its place and surroundings."""
    line = " ".join(text.split())
    for pattern, instead in PATTERNS if ANY.search(line) else ():
        for match in pattern.finditer(line):
            around = line[max(0, match.start() - 30) : match.end() + 30]
            yield f"{place}: …{around}…: not `{match[0]}`, but: {instead}"


def prose(page: str) -> Iterator[tuple[str, str]]:
    """Yield a page without what it quotes: code, and the words for causes of failure."""
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for cause in CAUSES.values():
        text = text.replace(f"| {cause.words} |", "|")
    yield page, text


def helps() -> Iterator[tuple[str, str]]:
    """Yield the help of every command and option."""

    def of(found: click.Command, path: str) -> Iterator[tuple[str, str]]:
        yield path, f"{found.help or ''} {found.epilog or ''}"
        yield from ((path, param.help) for param in found.params if isinstance(param, click.Option) and param.help)
        if isinstance(found, click.Group):
            context = click.Context(found)
            for name in found.list_commands(context):
                if path in ("ugro job", "ugro node") and name in COMMANDS:
                    continue  # the same command
                if command := found.get_command(context, name):
                    yield from of(command, f"{path} {name}")

    yield from of(cli, "ugro")


@functools.cache
def sources() -> list[tuple[Path, str, list[ast.AST]]]:
    """Return the Python files of `ugro/`, each with its text and the nodes of its tree."""
    texts = ((path, path.read_text(encoding="utf-8")) for path in sorted((ROOT / "ugro").rglob("*.py")))
    return [(path, text, list(ast.walk(ast.parse(text)))) for path, text in texts]


def messages() -> Iterator[tuple[str, str]]:
    """Yield every text constant of `ugro/` that has more than one word and is no docstring."""
    for path, _, nodes in sources():
        if path.parent.name == "diagnosis" and path.name in QUOTES_OTHERS:
            continue
        inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        inside |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
                text = "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            if id(node) not in inside and " " in text.strip() and text not in STORED:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def explanations() -> Iterator[tuple[str, str]]:
    """Yield every docstring, also that of a constant or field, and the comments of `ugro/`.

    Comments are those of files where a line with a `#` has a word to avoid: to tell comments from texts takes long.
    """
    for path, source, nodes in sources():
        place = path.relative_to(ROOT)
        for node in nodes:
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield f"{place}:{node.lineno}", node.value.value
        if any("#" in line and ANY.search(line) for line in source.splitlines()):
            for token in tokenize.generate_tokens(io.StringIO(source).readline):
                if token.type == tokenize.COMMENT:
                    yield f"{place}:{token.start[0]}", token.string


SOURCES: list[tuple[str, Callable[[], Iterator[tuple[str, str]]]]] = [
    *((page, lambda page=page: prose(page)) for page in PAGES),  # type: ignore[misc]
    ("help", helps),
    ("messages", messages),
    ("docstrings and comments", explanations),
]


@pytest.mark.parametrize("texts", [source[1] for source in SOURCES], ids=[source[0] for source in SOURCES])
def test_avoids_words_that_make_readers_stop(texts: Callable[[], Iterator[tuple[str, str]]]) -> None:
    found = [finding for place, text in texts() for finding in findings(place, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text", ["made anew", "it goes\non there", "what is torn", "Nobody looks", "ends it without a word"]
)
def test_finds_words_to_avoid(text: str) -> None:
    assert list(findings("here", text))


@pytest.mark.parametrize(
    "text", ["recommend", "in other words", "as a whole", "a password", "unfold", "the shallow copy"]
)
def test_passes_words_that_only_look_alike(text: str) -> None:
    assert not list(findings("here", text))
