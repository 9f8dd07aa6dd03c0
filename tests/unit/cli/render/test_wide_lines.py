"""What `ugro check` and `ugro explain` print is no wider than the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len

from ugro.cli.render.check import print_block, print_network
from ugro.cli.render.explain import print_finding
from ugro.common.models.job_state import JobState
from ugro.service.schemas.check import FindingDocument, LinkDocument, NetworkDocument
from ugro.service.schemas.explain import DiagnosisDocument, FailureDocument

WORDS = "each query of the GPU may take seconds, as long as nothing else has it open, and that is all; "


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ugro.cli.output.terminal_width", lambda err=False: 80)
    monkeypatch.setattr("ugro.cli.render.explain.terminal_width", lambda err=False: 80)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    assert all(cell_len(line) <= 80 for line in lines), lines
    return lines


def test_findings_are_broken_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_block("gpu1", [FindingDocument(level="info", node="gpu1", subject="gpu", text=WORDS, hint=f"{WORDS}\nx")])
    head, first, second, *hint, last, end = printed(capsys)
    assert (head, last, end) == ("gpu1", "      x", "")
    assert first.startswith("  · each query") and second.startswith("    ") and len(hint) == 2
    assert " ".join(f"{first[4:]} {second}".split()) == WORDS.strip()


def test_the_title_of_the_network_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    link = LinkDocument(source="a", target="b", latency_ms=0.2, gbit_per_s=1.0)
    made = NetworkDocument(
        nodes=("a", "b"), backend="nccl", meets_at="192.168.1.100:29909", interfaces={}, links=(link,), all_reduce=None
    )
    print_network(made)
    title, head, *_ = printed(capsys)
    assert title == "network (NCCL, one GPU on each node; ranks met at 192.168.1.100:29909)"
    assert head.startswith("FROM")


def test_a_quoted_line_stays_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    found = DiagnosisDocument(
        cause="cuda_oom", rank=2, message=None, where=f"/home/ob/{'deep/' * 6}train.py:284", evidence=(f"    {WORDS}",),
        consequences=0, suggestion=WORDS * 2, retry_helps=False,
    )  # fmt: skip
    print_finding(found, "a GPU ran out of memory")
    lines = printed(capsys)
    quoted = [line for line in lines if line.startswith("  │     ")]
    assert len(quoted) == 2 and " ".join(line[4:].strip() for line in quoted) == WORDS.strip()
    assert lines[0] == "a GPU ran out of memory (cuda_oom)" and any(line.startswith("next:   each") for line in lines)


def test_a_failure_without_a_rank_names_its_node(capsys: pytest.CaptureFixture[str]) -> None:
    found = DiagnosisDocument(cause="setup_failed", message="gpu1: the setup command failed")
    of_job = FailureDocument(
        **vars(found), job="job-001", state=JobState.FAILED, attempt=1, node="gpu1", exit_code=None, signal=None
    )
    for each, facts in (
        (found, []),
        (of_job, ["  node  gpu1"]),
        (replace(of_job, rank=2), ["  rank  2 on gpu1"]),
    ):
        print_finding(each, "the setup command failed")
        lines = printed(capsys)
        assert [line for line in lines if line.startswith(("  rank", "  node"))] == facts
