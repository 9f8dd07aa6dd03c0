"""Tests of what `docs/reference/` is built from, and that the page about scripts names what commands print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from reference import settings
from reference.__main__ import FOLDER, PAGES, main
from reference.events import check
from reference.markdown import Incomplete, help_text, table
from reference.recorders import kinds
from ugro.cli import output
from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import RecordUnreadable
from ugro.common.job_spec import CheckpointRules, FailurePolicy, HangAfter, JobSpec
from ugro.common.models.job import Attempt, Job, Rank
from ugro.common.models.node import Gpu, NodeView


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


def test_names_the_page_that_differs_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tmp_path, []) == 0 and main(tmp_path, ["--check"]) == 0
    (tmp_path / "job.md").write_text("an older one")
    (tmp_path / "gone.md").write_text("of a page that is built no longer")
    capsys.readouterr()
    assert main(tmp_path, ["--check"]) == 1
    assert capsys.readouterr().err == "error: docs/reference differs from the code: gone.md, job.md\nnext:  make docs\n"
    assert main(tmp_path, []) == 0 and main(tmp_path, ["--check"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(PAGES)


RECORDERS = """
class Store:
    def save(self, job, kind, message):
        self._save(job, kind, message)
    def _save(self, job, kind, message):
        self.add(Event(at=0.0, kind=kind, message=message))
    def note(self, node, kind):
        self.add(Event(kind=kind))

def change(store, kind):
    store.save(1, kind, "")

def news():
    yield "joined", "words"
    yield from (("gone", gpu) for gpu in ())

def act(store, state: JobState, early):
    change(store, "held")
    store.save(1, state.value, "")
    store.note("gpu1", "early" if early else "late")
    store.note("gpu1", kind="named")
    for kind, message in news():
        store.note("gpu1", kind)
    digest.save("one argument")
"""


def test_finds_kinds_of_events_through_every_function_that_passes_them_on() -> None:
    ends = {"succeeded", "failed", "cancelled"}
    assert set(kinds({"a.py": RECORDERS})) == {"held", "early", "late", "named", "joined", "gone"} | ends


@pytest.mark.parametrize("kind", ["words[0]", "f'gpu_{1}'", "kind.value", "unknown_name"])
def test_refuses_a_kind_that_cannot_be_read(kind: str) -> None:
    with pytest.raises(Incomplete, match=r"b\.py:2: the kind of this event cannot be read"):
        kinds({"a.py": RECORDERS, "b.py": f"def act(store, kind: EventKind):\n    store.note('gpu1', {kind})\n"})


def test_an_event_without_a_description_and_a_stale_one_are_refused() -> None:
    with pytest.raises(Incomplete, match=r"event `new` \(ugro/a\.py\) has no description: add it to scripts/reference"):
        check({"old": "…"}, {"new": {"ugro/a.py"}, "old": {"ugro/a.py"}})
    with pytest.raises(Incomplete, match="no code records old"):
        check({"old": "…"}, {})


def test_finds_events_outside_of_functions() -> None:
    text = "Event(kind='top')\nclass A:\n    one = Event(kind='inside')\n"
    assert set(kinds({"a.py": text})) == {"top", "inside"}


@pytest.mark.parametrize("model", [NodeConfig, JobSpec, CheckpointRules, FailurePolicy, HangAfter])
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


def test_the_page_about_scripts_names_every_key_of_the_documents() -> None:
    paragraphs = (ROOT / "docs/scripting.md").read_text().split("\n\n")

    def named(beginning: str) -> set[str]:
        text = next(text for text in paragraphs if text.startswith(beginning))
        return set(re.findall(r"[a-z_0-9]+", text))

    job = output.job_document(Job.model_validate(JOB), None)
    inventory = Inventory.model_validate({"nodes": {"gpu1": {"name": "gpu1", "address": "10.0.0.1"}}})
    seen = NodeView(node="gpu1", seen_at=0.0, boot_id="b", clock_offset=0.0, cpu_count=1)
    node = output.node_documents(inventory, {"gpu1": seen}, {"gpu1": None}, {})[0]
    attempt = {key: None for key in Attempt.model_fields}
    documents = {
        "job": (job, "A **job** has"),
        "an entry of attempts": (job["attempts"][0], "A **job** has"),
        "an entry of past": (attempt, "A **job** has"),
        "rank": (output.rank_document(Rank(rank=0, local_rank=0, node="gpu1")), "A **job** has"),
        "node": (node, "A **node** has"),
        "gpu": (Gpu.model_fields, "A **node** has"),
        "unreadable": (output.unreadable_document(RecordUnreadable(Path("job.json"), "torn")), "`unreadable` names"),
    }
    missing = {name: sorted(set(keys) - named(where)) for name, (keys, where) in documents.items()}
    assert {name: keys for name, keys in missing.items() if keys} == {}


JOB = {"id": "job-001", "uid": "u", "name": "x", "state": "queued", "submitted_at": 0.0, "command": ["train.py"],
       "code": {"directory": "/x", "files": 1, "size_bytes": 1}}  # fmt: skip
