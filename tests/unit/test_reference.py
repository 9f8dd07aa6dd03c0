"""Tests of what `docs/reference/` is built from, and that the pages name what the code has."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Literal

import click
import pytest
from places import ROOT

from reference import documents, settings
from reference.__main__ import FOLDER, PAGES, main
from reference.documents import COMMANDS, Printed
from reference.events import described, events_page
from reference.markdown import Incomplete, help_text, table
from ugro.cli.main import cli
from ugro.common.config import Inventory, NodeConfig
from ugro.common.job_spec import CheckpointRules, FailurePolicy, HangAfter, JobSpec, MetricsRules
from ugro.common.models.event_kind import EventKind
from ugro.common.models.gpu import Gpu
from ugro.common.models.job import Attempt, Job
from ugro.common.models.job_state import JobState
from ugro.service.documents import job_document, node_documents
from ugro.service.schemas.base import Document
from ugro.service.schemas.checkpoints import ListedCheckpoint
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import JobDocument, RankDocument, UnreadableDocument
from ugro.service.schemas.logs import LogLine, LogLines
from ugro.service.schemas.maintenance import CommandDocument, NotRunDocument, RunCommand
from ugro.service.schemas.queue import Hold, Release
from ugro.testing import builders


@pytest.mark.long
def test_the_pages_are_those_of_the_code_in_any_surroundings(tmp_path: Path) -> None:
    """Width of the terminal, home, state directory and language of the machine that builds them leave no trace."""
    strange = {"COLUMNS": "40", "HOME": str(tmp_path), "UGRO_HOME": str(tmp_path), "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    environment = os.environ | strange | {"PYTHONPATH": str(ROOT / "scripts"), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-m", "reference", "--check"], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in PAGES:
        assert not re.search(r"/root/|/home/(?!ob/)|/tmp/|0x[0-9a-f]{6}", (FOLDER / name).read_text()), name


def test_names_the_page_that_differs_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PAGES.keys() - {"job.md", "events.md"}:  # the test above builds all
        monkeypatch.delitem(PAGES, name)
    assert main(tmp_path, []) == 0 and main(tmp_path, ["--check"]) == 0
    (tmp_path / "job.md").write_text("an older one")
    (tmp_path / "gone.md").write_text("of a page that is built no longer")
    capsys.readouterr()
    assert main(tmp_path, ["--check"]) == 1
    assert capsys.readouterr().err == "error: docs/reference differs from the code: gone.md, job.md\nnext:  make docs\n"
    assert main(tmp_path, []) == 0 and main(tmp_path, ["--check"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(PAGES)


class DescribedKind(StrEnum):
    ONE = "one"
    """The first."""
    TWO = "two"
    """The second; it has `code`."""


class Undescribed(StrEnum):
    ONE = "one"
    """The first."""
    TWO = "two"


def test_reads_what_stands_below_each_kind() -> None:
    assert described(DescribedKind) == {"ONE": "The first.", "TWO": "The second; it has `code`."}


def test_refuses_a_kind_without_a_description() -> None:
    with pytest.raises(Incomplete, match=r"Undescribed\.TWO has no description: write one below it"):
        described(Undescribed)


def test_every_kind_of_event_is_on_the_page_once_and_used_in_the_code() -> None:
    """No kind is recorded that is not in the enum: mypy sees to that."""
    named = re.findall(r"^\| `(\w+)` \|", events_page(), re.MULTILINE)
    assert sorted(named) == sorted(EventKind)
    texts = [path.read_text() for path in (ROOT / "ugro").rglob("*.py") if path.name != "event.py"]
    used = set(re.findall(r"EventKind\.(\w+)", "".join(texts))) | {state.name for state in JobState if state.ended}
    assert {kind.name for kind in EventKind} == used


@pytest.mark.parametrize("model", [NodeConfig, JobSpec, CheckpointRules, FailurePolicy, HangAfter, MetricsRules])
def test_defaults_are_shown_as_a_file_may_have_them(model: type[settings.Config]) -> None:
    required = {"name": "gpu1", "address": "10.0.0.1"} if model is NodeConfig else {}
    required |= {"script": "train.py"} if model is JobSpec else {}
    shown = {key.strip("`"): default.strip("`") for key, _, default, _ in settings._rows(model)}
    written = {key: default for key, default in shown.items() if default not in ("", "required")}
    assert {key for key, default in shown.items() if default == "required"} == set(required)
    assert model.model_validate(required | written) == model.model_validate(required)


def test_a_field_without_a_description_or_of_an_unknown_type_is_refused() -> None:
    class Bare(settings.Config):
        key: str

    with pytest.raises(Incomplete, match=r"Bare\.key has no description"):
        settings._rows(Bare)
    with pytest.raises(Incomplete, match="add it to KINDS"):
        settings.kind(bytes)


def test_markdown_of_helps_keeps_blocks_and_escapes_what_tables_and_markup_would_take() -> None:
    assert help_text("One\nparagraph, 'test-*'.\n\n\b\nExample:\n  ugro run") == (
        "One paragraph, 'test-\\*'.\n\n```text\nExample:\n  ugro run\n```"
    )
    assert table(("a",), [("x|y",)]).endswith("| x\\|y |")


def test_each_command_prints_what_the_page_says() -> None:
    """The page says which request's answer a command prints: the command's module has that request."""
    for name, forms in COMMANDS.items():
        command: click.Command = cli
        for word in name.split():
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(cli), word) or command
        assert command.callback is not None
        text = inspect.getsource(inspect.getmodule(inspect.unwrap(command.callback)) or command.callback)
        assert any(re.search(rf"\b{form.source.__name__}\b", text) for form in forms), name


def test_resolves_an_answer_and_its_field() -> None:
    assert Printed(Hold).hint is JobDocument
    assert Printed(Release, "job").hint is JobDocument
    assert Printed(LogLines, "lines").hint == tuple[LogLine, ...]
    assert Printed(RunCommand, "answer").hint == CommandDocument | NotRunDocument
    with pytest.raises(Incomplete, match="what Release gives has no field answer"):
        Printed(Release, "answer").hint  # noqa: B018


def test_shows_types_as_json_has_them() -> None:
    assert documents.kind(Moment | None) == "time or `null`"
    assert documents.kind(dict[str, tuple[int, ...]]) == "map of text to list of whole number"
    assert documents.kind(Literal["up", "down"]) == "`up`, `down`"
    assert documents.kind(JobDocument) == "[JobDocument](#jobdocument)"
    with pytest.raises(Incomplete, match="add it to PLAIN"):
        documents.kind(complex)


class Described(Document):
    """A document."""

    size_mib: int | None
    """Its size."""
    node: str
    other: str


def test_fields_have_their_text_or_that_of_their_name_and_a_unit() -> None:
    rows = documents._rows(Described, None)
    assert next(rows) == ("`size_mib`", "whole number or `null` (MiB)", "Its size.")
    assert next(rows) == ("`node`", "text", "Name of the node.")
    with pytest.raises(Incomplete, match=r"Described\.other has no description: write one below it"):
        next(rows)


def test_the_page_has_every_field_that_is_printed() -> None:
    """What a job, a node and a check look like in JSON is what the page shows."""
    sections = dict(part.split("\n", 1) for part in documents.documents_page().split("\n## ")[1:])

    def named(document: str) -> set[str]:
        found = set(re.findall(r"^\| `(\w+)` \|", sections[document], re.MULTILINE))
        base = re.search(r"^The fields of \[(\w+)\]", sections[document], re.MULTILINE)
        return found | (named(base[1]) if base else set())

    job = job_document(Job.model_validate(JOB), None).as_json()
    inventory = Inventory.model_validate({"nodes": {"gpu1": {"name": "gpu1", "address": "10.0.0.1"}}})
    seen = builders.node_view("gpu1")
    node = node_documents(inventory, {"gpu1": seen}, {"gpu1": None}, {})[0].as_json()
    assert named("JobDocument") == set(job)
    assert named("AttemptSummary") == set(job["attempts"][0])
    assert named("AttemptDocument") == set(Attempt.model_fields)
    assert named("RankDocument") == {field.name for field in fields(RankDocument)}
    assert named("NodeDocument") == set(node)
    assert named("Gpu") == {field.name for field in fields(Gpu)}
    assert named("UnreadableDocument") == {field.name for field in fields(UnreadableDocument)}
    assert named("NextAttemptDocument") == {"attempt", "state", "step", "epoch", "from"}
    assert named("ListedCheckpoint") == {field.name for field in fields(ListedCheckpoint)}


JOB = {"id": "job-001", "uid": "u", "name": "x", "state": "queued", "submitted_at": 0.0, "command": ["train.py"],
       "code": {"directory": "/x", "files": 1, "size_bytes": 1}}  # fmt: skip
