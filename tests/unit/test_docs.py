"""Tests that the pages that people write agree with the code and with each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from monitoring import snapshot
from places import ROOT
from prometheus_client.parser import text_string_to_metric_families

from ugro.cli.main import cli
from ugro.control_plane.diagnosis.causes import CAUSES
from ugro.control_plane.failure_handler.alerts.settings import AlertKind
from ugro.service.exposition import text

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
OF_SCRIPTS = {"launch", "estimate", "run"}
"""Commands whose line may have options of a script."""


def page(name: str) -> str:
    return (ROOT / name).read_text()


def options(group: click.Group, path: str = "") -> Iterator[tuple[str, set[str]]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from options(found, f"{path}{name} ")
        elif found:
            yield path + name, {word for param in found.params for word in param.opts} | {"--help", "-h"}


def anchors(text: str) -> set[str]:
    """The anchors of headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text()), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_a_page_names_have_the_options_that_it_names(path: Path) -> None:
    known = dict(options(cli))
    groups = {name.split()[0] for name in known}
    for words, rest in re.findall(r"(?:`|^|\$ )ugro ((?:[a-z]+ )?[a-z]+)\b([^`\n]*)", path.read_text(), re.M):
        name = words if words in known else words.split()[0]
        assert name in known or name in groups, words
        if name in known and name not in OF_SCRIPTS:
            named = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest.partition("#")[0])
            assert set(named) <= known[name], f"ugro {words}{rest}"


def test_lists_every_command_on_one_page() -> None:
    overview = page("docs/commands.md")
    for name, _ in options(cli):
        assert f"`ugro {name.split()[0]}" in overview, name


def test_the_readme_fits_one_screen_and_the_index_links_every_page() -> None:
    assert len(page("README.md").splitlines()) <= 60
    index = page("docs/README.md")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, path.name


def test_the_picture_of_a_terminal_fetches_nothing() -> None:
    picture = page("docs/terminal.svg")
    assert "docs/terminal.svg" in page("README.md") and "ugro&#160;launch" in picture
    assert not re.search(r"url\((?!#)|href|@import|@font-face|<script|<image", picture)


def test_the_page_about_diagnosis_has_the_causes_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .* \| (yes|no) \|$", page("docs/diagnosis.md"), re.M)
    assert rows == [(name, one.words, "yes" if one.retry_helps else "no") for name, one in CAUSES.items()]


def test_the_page_about_alerts_has_every_kind() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", page("docs/alerts.md"), re.M)) == {kind.value for kind in AlertKind}


def test_the_page_about_monitoring_has_every_metric_and_its_labels() -> None:
    rows = re.findall(r"^\| (`ugro_.*?) \| ?(.*?) ?\|", page("docs/monitoring.md"), re.M)
    listed = {name: set(re.findall(r"\w+", labels)) for cell, labels in rows for name in re.findall(r"\w+", cell)}
    found = {
        f"{family.name}_total" if family.type == "counter" else family.name: {
            key for one in family.samples for key in one.labels
        }
        for family in text_string_to_metric_families(text(snapshot()).decode())
        if not family.name.startswith("DCGM")
    }
    assert listed == {name: labels - {"le"} for name, labels in found.items()}


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name)
def test_a_decision_is_short_whole_and_linked(path: Path) -> None:
    text, number = path.read_text(), int(path.name[:4])
    assert text.startswith(f"# {number}. ") and len(text.splitlines()) <= 40
    assert all(f"**{part}" in text for part in ("Context", "Decision", "Consequences"))
    assert f"({path.name})" in page("docs/adr/README.md")


BOXES = (
    *("queue", "allocator", "launcher", "tracker"),
    *("monitor", "predictor", "balancer", "governor"),
    *("job registry", "checkpoint store", "config store", "metrics"),
    *("watchdog", "retry", "recovery", "alert"),
)


def test_the_architecture_is_one_page_with_one_picture_and_the_picture_has_every_box() -> None:
    text = page("docs/architecture.md")
    assert len(text.splitlines()) <= 110
    (picture,) = re.findall(r"```\n(.*?)```", text, re.S)
    rows = dict(re.findall(r"│ ([A-Z]+(?: [A-Z]+)?) +([a-z_/.]+)", picture))
    assert {box.lower() for box in rows} == set(BOXES)
    assert tuple(re.findall(r"^\| ([a-z ]+) \|", text, re.M)[1:]) == BOXES
    rooms = [path for path in (ROOT / "ugro/control_plane").iterdir() if path.is_dir()]
    assert all(any((room / file).exists() for room in rooms) for file in rows.values()), rows


def test_every_file_that_the_architecture_names_exists() -> None:
    text = page("docs/architecture.md").replace("~/.ugro/", "")
    known = [str(path.relative_to(ROOT)) for path in (ROOT / "ugro").rglob("*") if "__pycache__" not in path.parts]
    for name in re.findall(r"(?<![\w<>./-])[a-z_]+(?:/[a-z_]+)*(?:\.py|/(?=[\s,:)]))", text):
        assert name in ("claim/", "code/", "jobs/") or any(
            f"/{one}".endswith(f"/{name.rstrip('/')}") for one in known
        ), name


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
