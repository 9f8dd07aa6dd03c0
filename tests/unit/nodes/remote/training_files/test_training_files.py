"""Tests of what is read from the files that a training writes: real writers, and files that are made to do harm."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorboardX
from hypothesis import given, settings
from hypothesis import strategies as st

from ugro.common.models.metrics import Reading, SeriesSource
from ugro.common.paths import RunPaths
from ugro.nodes.remote.on_node.processes import identity
from ugro.nodes.remote.training_files.on_node import training_files as on_node
from ugro.nodes.remote.training_files.on_node.event_files import (
    LONGEST_SCALARS,
    Damaged,
    masked_crc,
    read_events,
    scalars,
)
from ugro.nodes.remote.training_files.training_files import FileReadings, training_files
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders

DAMAGED = "it is no event file"


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """An attempt whose code is there, and whose ranks are not."""
    found = RunPaths(str(tmp_path / "base"), "job-001", 1, 0)
    Path(found.run_dir, "claim").mkdir(parents=True)
    Path(found.job_dir, "code").mkdir()
    return found


@pytest.fixture
async def node() -> Any:
    transport = LocalTransport(builders.this_machine(python=sys.executable))
    yield transport
    await transport.close()


@pytest.fixture
def rank(paths: RunPaths, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A rank that runs, in a folder that other jobs share."""
    (shared := tmp_path / "shared").mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=shared) as process:
        Path(paths.run_dir, "rank-0.pid").write_text(identity(process.pid))
        yield process
        process.kill()


def values(found: FileReadings) -> dict[tuple[str, int | None], float]:
    return {(one.name, one.step): one.value for one in found.readings}


def again(found: FileReadings) -> str:
    """Return a cursor with which the files are searched for at once."""
    return json.dumps(json.loads(found.cursor) | {"searched_at": 0.0})


def write(folder: Path, scalars: dict[str, list[float]]) -> Path:
    with tensorboardX.SummaryWriter(str(folder)) as writer:
        for name, numbers in scalars.items():
            for step, number in enumerate(numbers):
                writer.add_scalar(name, number, step, walltime=1000.0 + step)
    return next(folder.glob("events.out.tfevents.*"))


async def test_finds_folders_that_the_log_names(paths: RunPaths, node: LocalTransport, tmp_path: Path) -> None:
    code = Path(paths.job_dir, "code")
    write(code / "data/runs/detect/train", {"a": [1.0]})
    write(code / "a/b/c/d/e/f/g/h", {"b": [2.0]})
    write(code / "data/other", {"c": [3.0]})
    write(tmp_path / "elsewhere", {"d": [4.0]})
    os.symlink(tmp_path / "elsewhere", code / "data/link")
    Path(paths.run_dir, "rank-0.log").write_text(
        "hello\n\x1b[1mLogging results to data/runs/detect/train\x1b[0m\n"
        f"Experiment logs directory: {code}/a/b/c/d/e/f/g/h.\n"
        f"saved in ../../elsewhere/\nlogs: {tmp_path}/elsewhere\nlogs: data/link/x\n"
        "logs: data/link/\nresult in no/where\n"
    )
    assert {name for name, _ in values(await training_files(node, paths))} == {"a", "b"}


async def test_reads_what_tensorboard_x_writes(paths: RunPaths, node: LocalTransport) -> None:
    write(Path(paths.job_dir, "code/runs/a"), {"train/loss": [2.5, math.nan, math.inf], "lr": [0.5]})
    found = await training_files(node, paths)
    assert found.readings[0] == Reading("train/loss", 2.5, 0, 1000.0, SeriesSource.EVENT_FILE)
    assert values(found) == pytest.approx(
        {("train/loss", 0): 2.5, ("train/loss", 1): math.nan, ("train/loss", 2): math.inf, ("lr", 0): 0.5}, nan_ok=True
    )
    assert not found.problems and not found.more
    assert (await training_files(node, paths, found.cursor)).readings == []


async def test_reads_what_torch_writes(paths: RunPaths, node: LocalTransport) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(Path(paths.job_dir, "code/runs"))) as writer:
        writer.add_scalar("loss", 2.5, 7)
        writer.add_scalar("new", 1.5, 8, new_style=True)
        writer.add_text("text", "hello", 9)
    assert values(await training_files(node, paths)) == {("loss", 7): 2.5, ("new", 8): 1.5}


async def test_takes_only_files_of_its_own_ranks_from_a_shared_folder(
    paths: RunPaths, node: LocalTransport, rank: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    own, other = (write(tmp_path / f"shared/{name}", {name: [1.0]}) for name in ("own", "other"))
    seconds, host = own.name.split(".")[3:5]
    own.rename(own.with_name(f"events.out.tfevents.{seconds}.{host}.{rank.pid}.0"))
    other.rename(other.with_name(f"events.out.tfevents.{seconds}.{host}.{rank.pid + 1}.0"))
    found = await training_files(node, paths)
    assert values(found) == {("own", 0): 1.0}
    rank.kill()
    rank.wait()
    write(tmp_path / "shared/late", {"late": [1.0]})  # tensorboardX: no pid in its name
    assert values(await training_files(node, paths, again(found))) == {("late", 0): 1.0}


async def test_reads_the_history_of_the_newest_checkpoint(paths: RunPaths, node: LocalTransport) -> None:
    out = Path(paths.job_dir, "code/out")

    def save(step: int) -> None:
        history: list[dict[str, object]] = [
            {"step": one, "loss": one / 10, "epoch": one / 100} for one in range(10, step + 1, 10)
        ]
        (out / f"checkpoint-{step}").mkdir(parents=True)
        (out / f"checkpoint-{step}/trainer_state.json").write_text(
            json.dumps({"log_history": [*history, {"step": step, "eval_loss": math.nan}]})
        )

    save(20)
    found = await training_files(node, paths)
    assert values(found) == pytest.approx(
        {("loss", 10): 1.0, ("loss", 20): 2.0, ("eval_loss", 20): math.nan}, nan_ok=True
    )
    assert {one.source for one in found.readings} == {SeriesSource.TRAINER_STATE}
    (out / "checkpoint-20/trainer_state.json").unlink()
    state = {"log_history": [{"step": 1, "loss": 1.0}] * 3 + [{"step": 30, "loss": 3.0}]}
    (out / "checkpoint-30").mkdir()
    (out / "checkpoint-30/trainer_state.json").write_text(json.dumps(state))
    assert values(await training_files(node, paths, again(found))) == {("loss", 30): 3.0}


async def test_reads_a_csv_whose_header_grows(paths: RunPaths, node: LocalTransport) -> None:
    table = Path(paths.job_dir, "code/lightning_logs/version_0/metrics.csv")
    table.parent.mkdir(parents=True)
    table.write_text("epoch,loss,step\n0,2.5,10\n0,,20\n0,1.")
    found = await training_files(node, paths)
    assert found.readings == [Reading("loss", 2.5, 10, found.readings[0].at, SeriesSource.CSV)]
    table.write_text("epoch,loss,step\n0,2.5,10\n0,,20\n0,1.5,30\n")
    found = await training_files(node, paths, found.cursor)
    assert values(found) == {("loss", 30): 1.5}
    (table.parent / "new").write_text("epoch,loss,step,val_loss\n0,2.5,10,\n0,,20,\n0,1.5,30,\n1,,40,nan\n")
    os.replace(table.parent / "new", table)
    assert values(await training_files(node, paths, found.cursor)) == pytest.approx(
        {("val_loss", 40): math.nan}, nan_ok=True
    )


async def test_reads_the_results_of_ultralytics(paths: RunPaths, node: LocalTransport) -> None:
    table = Path(paths.job_dir, "code/runs/detect/train/results.csv")
    table.parent.mkdir(parents=True)
    table.write_text("                  epoch,      train/box_loss\n                      1,             1.018\n")
    assert values(await training_files(node, paths)) == {("train/box_loss", 1): 1.018}


async def test_reports_a_file_of_another_format_once(paths: RunPaths, node: LocalTransport) -> None:
    folder = Path(paths.job_dir, "code/\x1b[31mruns")
    good = write(folder, {"loss": [1.0]})
    (folder / good.name.replace("tfevents.", "tfevents.9")).write_bytes(b"no such format, but long enough")
    (folder / "metrics.csv").write_text("name,value\nx,1\n")
    found = await training_files(node, paths)
    assert values(found) == {("loss", 0): 1.0}
    assert len(found.problems) == 2 and "\x1b" not in "".join(found.problems)
    assert any(DAMAGED in problem for problem in found.problems)
    assert (await training_files(node, paths, again(found))).problems == ()


async def test_hostile_files_do_no_harm(paths: RunPaths, node: LocalTransport, tmp_path: Path) -> None:
    code = Path(paths.job_dir, "code")
    (code / "loop").symlink_to(code)
    (code / "etc").symlink_to("/etc")
    os.mkfifo(code / "metrics.csv")
    os.mkfifo(code / "events.out.tfevents.9999999999.host")
    (tmp_path / "secret.csv").write_text("step,secret\n1,1\n")
    (code / "results.csv").symlink_to(tmp_path / "secret.csv")
    (code / "checkpoint-1").mkdir()
    with (code / "checkpoint-1/trainer_state.json").open("wb") as file:
        file.truncate(10 << 30)
    (code / "checkpoint-2").mkdir()
    (code / "checkpoint-2" / "x").mkdir()
    (code / "checkpoint-2/x/checkpoint-3").mkdir()
    (code / "checkpoint-2/x/checkpoint-3/trainer_state.json").write_text("[" * 100_000)
    deep = code.joinpath(*"abcdefghij")
    deep.mkdir(parents=True)
    (deep / "metrics.csv").write_text("step,loss\n1,1\n")
    (code / "data").mkdir()
    (code / "data/metrics.csv").write_text("step,loss\n1,1\n")
    (code / "old").mkdir()
    (code / "old/metrics.csv").write_text("step,loss\n1,1\n")
    os.utime(code / "old/metrics.csv", (1.0, 1.0))
    found = await training_files(node, paths)
    assert found.readings == []
    assert any("larger than" in problem for problem in found.problems)


async def test_reads_what_can_be_read_beside_nonsense(paths: RunPaths, node: LocalTransport) -> None:
    code = os.fsencode(Path(paths.job_dir, "code"))
    os.makedirs(code + b"/\xff\xfe/checkpoint-3")
    history = '[{"step": 3, "\\ud800": 1, "big": 1%s, "loss": 2.5, "flag": true}, 7, {"step": 1e400}]' % ("0" * 400)
    with open(code + b"/\xff\xfe/checkpoint-3/trainer_state.json", "w") as file:
        file.write('{"log_history": ' + history + "}")
    with open(code + b"/\xff\xfe/metrics.csv", "wb") as file:
        file.write(b"\xff\n1\n")
    data = b"\x09" + struct.pack("<d", math.nan) + event("a", 1.5, 1)[9:]
    with open(code + b"/events.out.tfevents.9999999999.h", "wb") as file:
        file.write(record(data) + record(b"\xff" * 20))
    found = await training_files(node, paths)
    assert values(found) == {("?", 3): 1.0, ("loss", 3): 2.5, ("a", 1): 1.5}
    assert all(math.isfinite(one.at) for one in found.readings) and len(found.problems) == 1
    assert (await training_files(node, paths, found.cursor)).readings == []


async def test_reads_much_in_several_calls(
    paths: RunPaths, node: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path(paths.job_dir, "code/runs/a"), {f"layer_{name}": [float(n) for n in range(1500)] for name in "abcd"})
    table = Path(paths.job_dir, "code/metrics.csv")
    table.write_text("step,loss\n" + "".join(f"{step},1.{step:06}\n" for step in range(30_000)))
    readings: list[Reading] = []
    cursor, calls, more = "", 0, True
    while more:
        found = await training_files(node, paths, cursor)
        readings += found.readings
        cursor, more, calls = found.cursor, found.more, calls + 1
    assert len({(one.name, one.step) for one in readings}) == len(readings) == 36_000
    assert 2 <= calls < 12


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + b"crc?"


def event(name: str, value: float, step: int) -> bytes:
    text = name.encode()
    item = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes([len(item)]) + item
    return b"\x09" + struct.pack("<d", 5.0) + b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary


def test_skips_an_image_and_keeps_the_offset_of_a_record_in_progress() -> None:
    image = record(b"\xff" * (LONGEST_SCALARS + 10))
    data = record(event("a", 1.5, 1)) + image + record(event("b", 2.5, 2))
    for cut in (3, 14, 30):
        rows, offset = read_events(io.BytesIO(data[:-cut]), 0, len(data) - cut, 300_000)
        assert rows == [["a", 1.5, 1, 5.0]]
        assert read_events(io.BytesIO(data), offset, len(data), 300_000) == ([["b", 2.5, 2, 5.0]], len(data))
    rows, offset = read_events(io.BytesIO(data), 0, len(data), 1000)  # the image reaches behind what is read
    assert read_events(io.BytesIO(data), offset, len(data), 1000)[0] == [["b", 2.5, 2, 5.0]]


def test_knows_the_checksum_of_the_format() -> None:
    crc = 0xE3069283  # of CRC-32C's check value
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(st.binary(max_size=200), st.integers(0, 50))
def test_no_bytes_raise_anything_else(data: bytes, cut: int) -> None:
    stream = record(event("a", 1.0, 1)) + data
    with contextlib.suppress(Damaged):
        read_events(io.BytesIO(stream), 0, len(stream), 1000)
        read_events(io.BytesIO(record(data)[cut:]), 0, len(data), 1000)
    with contextlib.suppress(ValueError, IndexError, struct.error):
        scalars(data)


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=30),
        st.lists(st.floats(width=32), min_size=1, max_size=20),
        min_size=1,
        max_size=5,
    ),
    st.integers(60, 5000),
)
def test_reads_each_value_once_however_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, series: dict[str, list[float]], most: int
) -> None:
    path = write(tmp_path_factory.mktemp("runs"), series)
    found: list[list[Any]] = []
    offset, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while offset < size:
            rows, after = read_events(file, offset, size, max(most, 300))
            assert after > offset
            found, offset = found + rows, after
    expected = {(name, step): value for name, numbers in series.items() for step, value in enumerate(numbers)}
    assert {(name, step): value for name, value, step, _ in found} == pytest.approx(expected, nan_ok=True, abs=0, rel=0)
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        (b"\x08\x01\x2a\x04" + struct.pack("<f", 1.5), 1.5),  # float_val, packed
        (b"\x08\x01\x2d" + struct.pack("<f", 1.5), 1.5),  # float_val
        (b"\x08\x01\x12\x00\x22\x04" + struct.pack("<f", math.inf), math.inf),  # tensor_content, with a shape
        (b"\x08\x02\x32\x08" + struct.pack("<d", 2.5), 2.5),  # double_val
        (b"\x08\x01\x2a\x08" + struct.pack("<ff", 1.5, 2.5), None),  # more than one
        (b"\x08\x07\x42\x04text", None),
        (b"\x08\x01", None),
    ],
)
def test_reads_a_tensor_of_one_number(tensor: bytes, value: float | None) -> None:
    item = b"\x0a\x01a" + b"\x42" + bytes([len(tensor)]) + tensor
    data = b"\x09" + struct.pack("<d", 5.0) + b"\x10\x07" + b"\x2a" + bytes([len(item) + 2, 0x0A, len(item)]) + item
    assert scalars(data) == ([] if value is None else [["a", value, 7, 5.0]])


def test_names_of_event_files() -> None:
    match = on_node.EVENTS.match("events.out.tfevents.1700000000.my.host-1.4242.0")
    assert match and match.group(1, 2, 3) == ("1700000000", "my.host-1", "4242")
    plain = on_node.EVENTS.match("events.out.tfevents.1700000000.my.host-1")
    assert plain and plain[3] is None
