"""The frame of `make bench`: targets are ratios within a run, what is missing is named, and the exit code tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.__main__ import main
from benchmarks.fleet import Fleet
from benchmarks.report import Row, Unavailable, in_turns, program, ratio


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def part(*rows: Row | Exception) -> Callable[[], Iterator[Row]]:
    def measure() -> Iterator[Row]:
        for row in rows:
            if isinstance(row, Exception):
                raise row
            yield row

    return measure


MET = Row("speed", "ours / theirs", 0.9, "×", 1.0)
MISSED = Row("speed", "ours / theirs", 1.1, "×", 1.0)


@pytest.mark.parametrize(
    ("rows", "code", "said"),
    [
        ([MET, Row("speed", "ours", 9e9)], 0, "kept in"),
        ([MET, MISSED], 1, "1 target is missed: speed: ours / theirs"),
        ([Unavailable("there is no sshd: install it")], 0, "there is no sshd: install it"),
        ([RuntimeError("an ssh of the loop failed")], 1, "broke off"),
    ],
)
def test_runs_the_rest_and_reports_by_the_exit_code(
    rows: list[Row | Exception], code: int, said: str, capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    other = Row("other", "the part that follows", 1.0)
    assert main([], {"one": part(*rows), "two": part(other)}) == code
    out = capsys.readouterr().out
    assert said in out and other.what in out
    assert len(list(results.glob("*.json"))) == 1


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["x"], {"one": part()}) == 2
    assert "no such benchmark: x; there are: one" in capsys.readouterr().err


def test_a_ratio_compares_what_met_the_same_load() -> None:
    load = [load for load in (4.0, 1.0, 9.0, 2.0, 7.0) for _ in range(2)]

    def taking(seconds: float) -> Callable[[], report.Times]:
        return lambda: (seconds * load.pop(), 0.0)

    times = in_turns({"peer": taking(1.0), "ours": taking(3.0)}, 4)
    assert [seconds for seconds, _ in times["peer"]] == [2.0, 9.0, 1.0, 4.0], "the first round is not counted"
    assert ratio(times["ours"], times["peer"]) == 3.0
    assert ratio(times["ours"], []) is None


def test_without_sshd_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match=r"there is no no-such-sshd: install it .*apt-get install openssh-server"):
        program("no-such-sshd", "openssh-server")
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(Unavailable, match="there is no sshd"), Fleet(tmp_path / "fleet", 1):
        pass


def test_an_sshd_without_its_folder_says_what_to_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sshd = tmp_path / "sshd"
    sshd.write_text("#!/bin/sh\necho 'Missing privilege separation directory: /run/sshd' >&2\nexit 255\n")
    sshd.chmod(0o755)
    monkeypatch.setattr("benchmarks.fleet.program", lambda *_: str(sshd))
    with pytest.raises(Unavailable, match="sudo mkdir -p /run/sshd"), Fleet(tmp_path / "fleet", 1):
        pass
