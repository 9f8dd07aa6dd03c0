"""Lines of logs of any size, found by an index that is never trusted blindly."""

from __future__ import annotations

import math
import os
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugro.common.errors import StateError
from ugro.control_plane.metadata_store import log_index
from ugro.control_plane.metadata_store.log_index import (
    BLOCK,
    FOLDER,
    KEPT_AT,
    LINE_BYTES,
    PAGE_BYTES,
    SLAB,
    IndexedLog,
    KeptLine,
    extend_indexes,
    on_log,
)
from ugro.control_plane.metadata_store.log_regex import matches


def written(folder: Path, data: bytes) -> Path:
    (log := folder / "rank-0.log").write_bytes(data)
    return log


def index_of(log: Path) -> Path:
    return log.parent / FOLDER / log.name


def numbers(lines: list[KeptLine]) -> list[int]:
    return [line.number for line in lines]


STEPS = b"".join(b"step %07d loss 0.12345\n" % number for number in range(1, 100_001))
STEP = len(STEPS) // 100_000


def test_lines_are_found_by_their_number(tmp_path: Path) -> None:
    log = written(tmp_path, STEPS + b"unfinished")
    with IndexedLog(log) as opened:
        assert (opened.count, opened.unfinished, opened.size) == (100_001, True, len(STEPS) + 10)
        for first in (1, 2, 999, 1_000, 2_623, 50_000, 99_999):
            assert [line.text for line in opened.lines(first, 2)] == [
                f"step {n:07} loss 0.12345" for n in (first, first + 1)
            ]
            assert opened.lines(first, 1)[0].offset == (first - 1) * STEP
        assert [line.text for line in opened.tail(2)] == ["step 0100000 loss 0.12345", "unfinished"]
        assert numbers(opened.tail(3, 50)) == [48, 49, 50] and numbers(opened.tail(5, 2)) == [1, 2]
        assert numbers(opened.lines(100_001, 9)) == [100_001] and opened.lines(100_002, 9) == []
        assert opened.tail(0) == opened.lines(1, 0) == []


def test_no_more_is_read_than_is_shown(tmp_path: Path) -> None:
    log = written(tmp_path, STEPS)
    with IndexedLog(log) as opened:
        assert opened.read <= len(STEPS) + BLOCK, "the first look counts"
    for first in (1, 50_000, 99_900):
        with IndexedLog(log) as opened:
            assert opened.read <= 3 * BLOCK, "what the index knows is checked at both ends alone"
            opened.lines(first, 100)
            assert opened.read <= 3 * BLOCK + 2 * BLOCK + 100 * STEP
    with IndexedLog(log) as opened:
        opened.tail(100)
        opened.grep(b"step 0099990", len(STEPS) - 20 * STEP, 10, math.inf)
        assert opened.read <= 7 * BLOCK


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    with log.open("wb") as file:
        for _ in range(12):
            file.write(STEPS)
        file.write(b"x" * 5_000_000)
    tracemalloc.start()
    try:
        on_log(log, lambda opened: opened.tail(100))
        on_log(log, lambda opened: opened.lines(600_000, 100))
        on_log(log, lambda opened: opened.grep(b"no such text", 0, 1000, math.inf))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000 < log.stat().st_size / 8


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([b"", b"\r", b"a", b"ab\r", b"\xff\x00", b"x" * 40, b"\x1b[31m"]), max_size=60),
    st.booleans(),
    st.integers(1, 70),
    st.integers(0, 9),
)
def test_any_log_is_what_its_bytes_are(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], ended: bool, first: int, count: int
) -> None:
    data = b"\n".join(parts) + b"\n" * ended
    log = written(tmp_path_factory.mktemp("log"), data)
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_index, "BLOCK", 16)
        for _ in range(2):  # by a new index, and by the one that was kept
            with IndexedLog(log) as opened:
                assert opened.count == len(lines)
                assert [line.data for line in opened.lines(first, count)] == lines[first - 1 : first - 1 + count]
                assert [line.data for line in opened.tail(count)] == lines[max(0, len(lines) - count) :]
                hits = opened.grep(b"a", 0, 1000, math.inf)
                assert numbers(list(hits.lines)) == [n for n, line in enumerate(lines, 1) if b"a" in line]


@pytest.mark.parametrize("harm", ["missing", "behind", "torn", "ahead", "zeros", "another", "other middle", "folder"])
def test_an_index_that_is_wrong_is_rebuilt(tmp_path: Path, harm: str) -> None:
    log = written(tmp_path, STEPS)
    IndexedLog(log).close()
    index, sound = index_of(log), index_of(log).read_bytes()
    assert len(sound) == 8 + 8 * (len(STEPS) // BLOCK)
    match harm:
        case "missing":
            index.unlink()
        case "behind":
            index.write_bytes(sound[:80])
        case "torn":
            index.write_bytes(sound[:-3])
        case "ahead":
            index.write_bytes(sound + sound[-8:] * 2)
        case "zeros":
            index.write_bytes(sound[:16] + bytes(len(sound) - 16))
        case "another":
            index.write_bytes(os.urandom(len(sound)))
        case "other middle":
            middle = int.from_bytes(sound[80:88], "little") + 1
            index.write_bytes(sound[:80] + middle.to_bytes(8, "little") + sound[88:])
        case "folder":
            index.unlink()
            index.mkdir()
            with IndexedLog(log) as opened:  # cannot be kept: it is counted each time
                assert opened.lines(50_000, 1)[0].text == "step 0050000 loss 0.12345"
            return

    def look(opened: IndexedLog) -> list[str]:
        return [opened.lines(number, 1)[0].text for number in (1, 24_000, 50_000, 100_000)]

    assert on_log(log, look) == [f"step {n:07} loss 0.12345" for n in (1, 24_000, 50_000, 100_000)]
    assert index.read_bytes() == sound


def test_an_index_grows_with_its_log(tmp_path: Path) -> None:
    log = written(tmp_path, STEPS[: 10 * BLOCK])
    extend_indexes(tmp_path)
    assert not index_of(log).exists(), "little is counted when it is looked at"
    log.write_bytes(STEPS * 2)
    extend_indexes(tmp_path)
    assert len(index_of(log).read_bytes()) == 8 + 8 * (2 * len(STEPS) // BLOCK)
    log.write_bytes(STEPS * 40)
    extend_indexes(tmp_path)
    size = len(index_of(log).read_bytes())
    assert size == 8 + 8 * (2 * len(STEPS) // BLOCK + KEPT_AT), "an old log is counted little by little"
    log.write_bytes(STEPS * 3)
    IndexedLog(log).close()
    with log.open("ab") as file:
        file.write(STEPS)
    with IndexedLog(log) as opened:
        assert opened.read <= len(STEPS) + 4 * BLOCK, "what was counted is not counted again"
        assert opened.count == 400_000 and opened.lines(250_001, 1)[0].text == "step 0050001 loss 0.12345"


def test_two_who_index_at_once_write_the_same(tmp_path: Path) -> None:
    log = written(tmp_path, STEPS[: 20 * BLOCK])
    early = IndexedLog(log)
    with log.open("ab") as file:
        file.write(STEPS[20 * BLOCK :])
    IndexedLog(log).close()
    sound = index_of(log).read_bytes()
    early._keep(1)  # as a process would that was slower
    early.close()
    with IndexedLog(log) as opened:
        assert opened.count == 100_000
    assert index_of(log).read_bytes() == sound


def test_a_full_disk_costs_the_index_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(tmp_path, STEPS)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    assert on_log(log, lambda opened: opened.count) == 100_000
    assert not index_of(log).exists()
    monkeypatch.undo()
    assert on_log(log, lambda opened: opened.count) == 100_000 and index_of(log).exists()


def test_a_log_that_changes_under_its_reader(tmp_path: Path) -> None:
    log = written(tmp_path, STEPS)
    with IndexedLog(log) as opened:
        log.unlink()
        assert opened.lines(100_000, 1)[0].text == "step 0100000 loss 0.12345", "an open file stays"
    with pytest.raises(FileNotFoundError):
        on_log(log, lambda opened: opened.count)
    written(tmp_path, STEPS)
    looks = []

    def cut(opened: IndexedLog) -> int:
        looks.append(opened.size)
        if len(looks) == 1:
            os.truncate(log, 10 * STEP)
        return opened.tail(1)[0].number

    assert on_log(log, cut) == 10 and looks == [len(STEPS), 10 * STEP]

    def overwrite(opened: IndexedLog) -> int:
        written(tmp_path, b"\n" * len(STEPS) if opened.tail(1) and opened.count == 100_000 else STEPS)
        return len(opened.lines(50_000, 1))

    written(tmp_path, STEPS)
    with pytest.raises(StateError, match="was overwritten while it was read"):
        on_log(log, overwrite)


def test_a_line_of_50_mb(tmp_path: Path) -> None:
    long = 50_000_000
    log = written(tmp_path, b"before\n" + b"x" * (long - 6) + b"needle" + b"\nafter\n")
    IndexedLog(log).close()
    with IndexedLog(log) as opened:
        before, line, after = opened.lines(1, 9)
        assert (before.text, after.text, after.number, opened.count) == ("before", "after", 3, 3)
        assert (line.text, line.before, line.after) == ("x" * LINE_BYTES, 0, long - LINE_BYTES)
        assert opened.read <= 8 * BLOCK
        [hit] = opened.grep(b"needle", 0, 9, math.inf).lines
        assert (hit.number, hit.offset, hit.after) == (2, 7, 0) and hit.text.endswith("xneedle")
        assert hit.before + len(hit.data) == long


def test_no_line_end_at_all(tmp_path: Path) -> None:
    log = written(tmp_path, b"y" * 1_000_000)
    with IndexedLog(log) as opened:
        [line] = opened.tail(5)
        assert (opened.count, opened.unfinished, line.number, line.after) == (1, True, 1, 1_000_000 - LINE_BYTES)
        assert len(opened.grep(b"y", 0, 5, math.inf).lines) == 1


def test_a_progress_bar_is_shown_as_it_was_last_or_where_it_matches(tmp_path: Path) -> None:
    bar = b"\r".join(b"%3d%%|" % percent + b"#" * 500 for percent in range(101))
    log = written(tmp_path, b"begin\n" + bar + b"\r\nend\r\n")
    with IndexedLog(log) as opened:
        _, line, end = opened.lines(1, 9)
        assert line.text.split("\r")[-2].startswith("100%|") and line.before + len(line.data) == len(bar) + 1
        assert (end.text, end.before, end.after) == ("end\r", 0, 0)
        [hit] = opened.grep(b" 42%", 0, 9, math.inf).lines
        assert hit.text.startswith(" 42%|###") and "\r" not in hit.text and hit.number == 2
        assert hit.before + len(hit.data) + hit.after == len(bar) + 1
        assert opened.grep(b"end", 0, 9, math.inf).lines[0].after == 0, "a line end of Windows is no progress bar"


def test_half_characters_at_a_cut_are_left_out(tmp_path: Path) -> None:
    log = written(tmp_path, "é".encode() * LINE_BYTES + b"x\n" + b"y" + "é".encode() * LINE_BYTES)
    with IndexedLog(log) as opened:
        assert [line.text for line in opened.lines(1, 2)] == [
            "é" * (LINE_BYTES // 2),
            "y" + "é" * (LINE_BYTES // 2 - 1),
        ]
    assert KeptLine(1, 0, b"\xff\xfe").text == "��"


def test_a_page_is_bounded_by_its_bytes(tmp_path: Path) -> None:
    log = written(tmp_path, (b"z" * 100_000 + b"\n") * 300)
    with IndexedLog(log) as opened:
        page = opened.lines(1, 1000)
        assert numbers(page) == list(range(1, PAGE_BYTES // LINE_BYTES + 1))
        assert numbers(opened.tail(1000))[-1] == 300 and len(opened.tail(1000)) == len(page)


def test_a_search_continues_where_it_was_cut(tmp_path: Path) -> None:
    log = written(tmp_path, STEPS)
    found, at, searches = list[int](), 0, 0
    with IndexedLog(log) as opened:
        while at is not None:
            said = opened.grep(b"7 loss", at, 1000, math.inf)
            found, at, searches = found + numbers(list(said.lines)), said.next, searches + 1
        assert found == list(range(7, 100_001, 10)) and searches == 11
        assert opened.grep(b"loss", 0, 9, time.monotonic()).next == 0, "its time is up"


def test_a_match_over_the_edge_of_what_is_read_at_once(tmp_path: Path) -> None:
    for shift in range(7):
        log = written(tmp_path, b"." * (SLAB - shift) + b"needle" + b"." * 9 + b"\n")
        with IndexedLog(log) as opened:
            assert len(opened.grep(b"needle", 0, 9, math.inf).lines) == 1


def test_regular_expressions(tmp_path: Path) -> None:
    log = written(tmp_path, STEPS + "naïve \udcff café".encode("utf-8", "surrogateescape"))
    found = matches(log, r"step 00(42|99)000 ", 0, 9, 60)
    assert [place[0] for place in found.places] == [41_999 * STEP, 98_999 * STEP] and found.next is None
    first = matches(log, "loss", 0, 2, 60)
    assert len(first.places) == 2 and first.next == 2 * STEP
    assert matches(log, "loss", first.next or 0, 1, 60).places == ((2 * STEP + 13, 4),)
    [(offset, length)] = matches(log, "caf.$", 0, 9, 60).places
    assert log.read_bytes()[offset : offset + length].decode() == "café"
    assert matches(log, "(", 0, 9, 60).error.startswith("missing ), unterminated subpattern")
    assert matches(log, "a{99999999999999}", 0, 9, 60).error


def test_a_catastrophic_expression_is_killed(tmp_path: Path) -> None:
    log = written(tmp_path, b"ab\n" * 100_000 + b"a" * 64 + b"b\n" + b"ab\n" * 9)
    begin = time.monotonic()
    said = matches(log, "^(a+)+$", 0, 9, 3)
    assert said.places == () and said.next is not None and time.monotonic() - begin < 30
    assert said.next <= 300_000 and not said.error
