"""Whole logs in the formats of the real tools. A file in `logs/` is called `<cause>.<what it shows>[.rank<N>].log`."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DOCS, TESTS

from ugro.cli.main import cli
from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Attempt, Rank
from ugro.common.models.job_state import JobState, RankState
from ugro.control_plane.diagnosis import Diagnosis, EvidenceReader, diagnose, explain
from ugro.control_plane.diagnosis.catalogue import CATALOGUE
from ugro.control_plane.diagnosis.causes import CAUSES
from ugro.control_plane.diagnosis.conjecture import HEADING, stated
from ugro.control_plane.diagnosis.course import LEFT, RESTARTED, SUCCESS, Banner, got_to_its_end
from ugro.control_plane.diagnosis.ends import ENDS
from ugro.control_plane.diagnosis.lines import read as read_line
from ugro.control_plane.diagnosis.prefilter import Prefilter, required
from ugro.control_plane.diagnosis.searching import TELLING
from ugro.control_plane.metadata_store import MetadataStore
from ugro.testing import builders

LOGS = sorted((TESTS / "logs").glob("*.log"))
MIB = 1024 * 1024
TRACEBACK = b'Traceback (most recent call last):\n  File "/w/[bold]t.py", line 7, in <module>\n'


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the project's folder, whose inventory names other people's machines."""
    monkeypatch.chdir(tmp_path)


def read(*logs: bytes) -> Diagnosis | None:
    reader = EvidenceReader()
    for log in logs:
        reader.read([log])
    return explain(reader.evidence)


def expected(path: Path) -> tuple[str | None, int | None]:
    cause, *rest = path.stem.split(".")
    rank = re.fullmatch(r"rank(\d+)", rest[-1])
    return None if cause == "null" else cause, int(rank[1]) if rank else None


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_the_cause_and_the_rank(path: Path) -> None:
    cause, rank = expected(path)
    log = path.read_bytes()
    found = read(log)
    assert (found and found.cause) == cause
    if found is None:
        return
    if rank is not None:
        assert found.rank == rank
    plain = re.sub(r"\x1b\[\d+m", "", log.decode())
    assert found.evidence and all(line in plain for line in found.evidence), "what is quoted stands in the log"


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_in_pieces_with_other_line_ends_and_in_colour_it_is_the_same(path: Path) -> None:
    log = path.read_bytes()
    whole = read(log)
    reader = EvidenceReader()
    reader.read(log[at : at + 7] for at in range(0, len(log), 7))
    assert explain(reader.evidence) == whole
    assert read(log.replace(b"\n", b"\r\n")) == whole
    reader = EvidenceReader()
    reader.read(byte for line in log.splitlines() for byte in (line, b"\r", b"\n"))
    assert explain(reader.evidence) == whole
    coloured = read(b"".join(b"\x1b[31m" + line + b"\x1b[0m\n" for line in log.splitlines()))
    assert (coloured and coloured.cause) == (whole and whole.cause)


def test_every_cause_that_a_log_can_show_has_a_log() -> None:
    seen_otherwise = {"setup_failed"}  # it has no ranks, and so no log of one
    assert {expected(path)[0] for path in LOGS} == {*CAUSES, None} - seen_otherwise
    assert {entry.cause for entry in CATALOGUE} <= CAUSES.keys()


@pytest.mark.parametrize(
    "prefix",
    [
        b"2025-03-02T11:00:01.123456Z ", b"[2025-03-02 11:00:01,123] ", b"2025-03-02 11:00:01 | ", b"11:00:01 ",
        b"[rank3]: ", b"[default3]:", b"3: ", b"[3]: ", b"[1,3]<stderr>:", b"(RayTrainWorker pid=12, ip=10.0.0.1) ",
        b"[pod/train-worker-3/pytorch] ", b"node-3 | ", b"worker-3: ", b"2025-03-02 11:00:01 [rank3]: ",
        b"Mar  2 11:00:01 gpu1 kernel: ", b"| ",
    ],
)  # fmt: skip
def test_prefixes_of_launchers_do_not_hide_the_traceback(prefix: bytes) -> None:
    lines = [
        b"Traceback (most recent call last):", b'  File "/w/t.py", line 7, in <module>', b"    main()",
        b'  File "/x/site-packages/torch/nn/modules/module.py", line 1, in forward', b"    return f()",
        b"ValueError: boom",
    ]  # fmt: skip
    found = read(b"".join(prefix + line + b"\n" for line in lines))
    assert found and (found.cause, found.message, found.where) == ("python_exception", "ValueError: boom", "/w/t.py:7")
    assert found.rank == (3 if b"3" in re.sub(rb"[\d:.,-]+[T ][\d:.,]+", b"", prefix) else None)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("[INFO|trainer.py:760] 2025-01-02 03:04:05,123 >> no such file", "INFO"),
        ("[INFO|2025-01-02 03:04:05] a.b:157 >> no such file", "INFO"), ("g:1:2 [0] NCCL INFO no such file", "INFO"),
        ("2025-01-02 03:04:05,123\tWARNING worker.py:1 -- no such file", "WARNING"),
        ("[NeMo W 2025-01-02 03:04:05 nemo_logging:349] no such file", "WARNING"),
        ("(raylet) [2025-01-02 03:04:05,123 W 12 12] (raylet) file.cc:12: no such file", "WARNING"),
        ("[2025-01-02 03:04:05,123][train.py][INFO] - no such file", "INFO"),
        ("2025-01-02 03:04:05,123: rank0[12][MainThread]: INFO: a.b: no such file", "INFO"),
        ("[h] 2025-01-02 03:04:05,123 (train:12) WARNING: no such file", "WARNING"), ("[info] no such file", "INFO"),
        ('time="2025-01-02T03:04:05Z" level=warning msg="no such file"', "WARNING"),
        ('{"ts": 1, "level": "info", "msg": "no such file"}', "INFO"),
        ("ValueError: the level must be one of DEBUG, INFO, WARNING: got x", ""),
        ("RuntimeError: NCCL error (run with NCCL_DEBUG=INFO for details)", ""), ("the INFO table was not there", ""),
    ],
)  # fmt: skip
def test_the_level_is_read_wherever_a_logger_writes_it(line: str, level: str) -> None:
    assert read_line(line.encode()).level == level


COMPLAINTS = [
    "ls: cannot access 'out/*.pt': No such file or directory", "tee: /var/log/a.log: Permission denied",
    "apex is not installed", "size mismatch for head.weight: copying a param with shape [10] from checkpoint",
    "[W203 04:05:06.1 socket.cpp:697] [c10d] The client socket has failed to connect to [n1]:29500 (errno: 111).",
    "E0000 cuda_driver.cc:271] failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
]  # fmt: skip
ENDINGS = {
    "killed": "run.sh: line 7: 12345 Killed                  python t.py",
    "cancelled": "slurmstepd: error: *** JOB 12 ON gpu1 CANCELLED AT 2025-01-02T03:04:05 ***",
    "nan_loss": "step 3 loss nan\nstep 4 loss nan\nstep 5 loss nan",
    "host_oom": "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.batch.",
    "python_exception": TRACEBACK.decode() + "KeyError: 'labels'",
    "collective_timeout": "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12)",
}


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_what_a_run_complains_of_before_something_else_ends_it_is_no_reason(complaint: str) -> None:
    logs = {cause: f"{complaint}\nstep 1 loss 2\nstep 2 loss 2\n{end}\n".encode() for cause, end in ENDINGS.items()}
    found = {cause: read(log) for cause, log in logs.items()}
    assert {cause: diagnosis and diagnosis.cause for cause, diagnosis in found.items()} == {c: c for c in ENDINGS}


def test_tracebacks_of_ranks_through_each_other_are_taken_apart() -> None:
    def raising(rank: int, error: str) -> list[str]:
        inside = ["Traceback (most recent call last):", f'  File "/w/{rank}.py", line {rank}, in <module>', error]
        return [f"[rank{rank}]: {line}" for line in inside]

    peers = [raising(rank, "RuntimeError: [pair.cc:534] Connection closed by peer [10.0.0.2]:1") for rank in (0, 1, 3)]
    mixed = itertools.chain.from_iterable(zip(*peers, raising(2, "KeyError: 'x'"), strict=True))
    found = read("\n".join(mixed).encode())
    assert found and (found.cause, found.rank, found.where) == ("python_exception", 2, "/w/2.py:2")
    assert found.consequences == 3


def test_files_of_ranks_are_one_run() -> None:
    reader = EvidenceReader()
    reader.read([TRACEBACK + b"ConnectionResetError: [Errno 104] Connection reset by peer\n"], 0)
    reader.read([TRACEBACK + b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1\n"], 1)
    found = explain(reader.evidence)
    assert found and (found.cause, found.rank, found.consequences) == ("cuda_oom", 1, 1)
    assert found.facts == {"asked": "2.00 GiB"}


def test_the_rank_that_kept_the_others_waiting() -> None:
    def waits(rank: int, seq: int) -> bytes:
        return (
            f"[rank{rank}]:[E1 03:04:11.0 ProcessGroupNCCL.cpp:683] [Rank {rank}] Watchdog caught collective operation "
            f"timeout: WorkNCCL(SeqNum={seq}, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for "
            "600096 milliseconds before timing out.\n"
        ).encode()

    absent = read(b"[rank2]: evaluating\n[rank2]: evaluating, signal\n", waits(0, 7), waits(1, 7), waits(3, 7))
    assert absent and (absent.cause, absent.rank) == ("collective_timeout", 2)
    assert absent.facts == {"seq": "7", "op": "ALLREDUCE", "limit_ms": "600000"}
    behind = read(waits(0, 9), waits(1, 4), waits(2, 9))
    assert behind and behind.rank == 1


def test_of_a_chain_the_reason_is_told_and_what_was_handled_is_not() -> None:
    caused = b"\nThe above exception was the direct cause of the following exception:\n\n"
    during = b"\nDuring handling of the above exception, another exception occurred:\n\n"
    last = TRACEBACK + b"RuntimeError: it did not work\n"
    first = {
        "import_error": TRACEBACK + b"ModuleNotFoundError: No module named 'apex'\n",
        "disk_full": TRACEBACK + b"OSError: [Errno 28] No space left on device\n",
    }
    killed = b"torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n"
    for end in (b"", killed):
        causes = [read(log + join + last + end) for log in first.values() for join in (caused, during)]
        told = [found and found.cause for found in causes]
        assert told == ["import_error", "python_exception", "disk_full", "disk_full"]


def test_source_lines_in_a_traceback_are_no_exceptions() -> None:
    found = read(TRACEBACK + b"    handlers = {\n    KeyError: None,\n    }\nValueError: boom\n")
    assert found and found.message == "ValueError: boom"


@pytest.mark.parametrize(
    ("line", "ended"),
    [
        ("Training completed. Do not forget to share your model", True), ("INFO Training has ended.", True),
        ("saving final checkpoint to out/step-9", True), ("300 epochs completed in 2.9 hours.", True), ("Done!", True),
        ("training has not finished", False), ("when training is done, it is evaluated", False),
        ("Training ended with an error", False), ("job 12 finished with exit code 1", False), ("step 3 done", False),
    ],
)  # fmt: skip
def test_the_words_of_a_run_that_got_to_its_end(line: str, ended: bool) -> None:
    match = SUCCESS.search(line)
    assert (match is not None and got_to_its_end(line, match)) is ended


def test_what_a_message_supposes_is_no_fact() -> None:
    assert stated("The worker died. This may be caused by CUDA out of memory.") == "The worker died. "
    assert stated("RuntimeError: CUDA out of memory. Tried to allocate 2 GiB") == (
        "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"
    )


def test_the_first_lines_again_are_a_new_start_unless_several_processes_say_them() -> None:
    lines = [b"reading the configuration", b"building the model, bert-base", b"reading the data of the set"]
    again = Banner()
    seen = [again.again(line, at, failed=at > 3) for at, line in enumerate([*lines, b"loss", *lines], 1)]
    assert seen == [False] * 6 + [True]
    ranks = Banner()
    assert not any(ranks.again(line, at, failed=at > 6) for at, line in enumerate(lines * 3, 1))


def test_a_rank_that_is_known_to_have_crashed_did_so_though_its_work_was_done() -> None:
    assert diagnose("step 9 loss 1\nTraining finished\n", None, "SEGV").cause == "segfault"
    assert read(b"step 9 loss 1\nTraining finished\nSegmentation fault (core dumped)\n") is None


def test_of_several_nodes_the_earliest_root_cause_counts() -> None:
    def summary(rank: int, code: int, minute: int) -> bytes:
        return (
            f"Root Cause (first observed failure):\n[0]:\n  time      : 2025-01-01_10:{minute:02}:00\n"
            f"  rank      : {rank} (local_rank: 0)\n  exitcode  : {code} (pid: 9)\n"
        ).encode()

    found = read(summary(1, -11, 7), summary(0, -9, 5))
    assert found and (found.cause, found.rank) == ("killed", 0)


def test_a_log_cut_short_in_a_traceback_is_of_a_run_that_failed() -> None:
    found = read(b"step 1 loss 2\n" + TRACEBACK + b"    main()\n")
    assert found and found.cause == "unknown"


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-66f4)", False),
        ("OSError: a/b is not a local folder and is not a valid model identifier listed on", False),
        ("requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='huggingface.co', port=443): Read timed out", True),
        ("huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file", True),
        ("RuntimeError: CUDA error: invalid device ordinal", False),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", True),
    ],
)
def test_a_retry_helps_against_what_may_be_over_by_then(error: str, helps: bool) -> None:
    found = read(TRACEBACK + error.encode() + b"\n")
    assert found and found.advice.retry_helps is helps


def test_a_long_line_is_quoted_from_the_beginning_of_a_word() -> None:
    command = ", ".join(f"'--option-{number}'" for number in range(60))
    found = read(f"subprocess.CalledProcessError: Command '[{command}]' died with <Signals.SIGSEGV: 11>.\n".encode())
    assert found and found.cause == "segfault"
    assert re.fullmatch(r"'--option-\d+', .* died with <Signals\.SIGSEGV: 11>\.", found.message)


def test_what_torch_appends_to_its_message_is_quoted() -> None:
    found = read((TESTS / "logs" / "cuda_oom.nccl-unhandled-cuda-error.rank1.log").read_bytes())
    assert found and found.evidence[-1] == "Cuda failure 2 'out of memory'"
    found = read((TESTS / "logs" / "nccl_error.system.rank2.log").read_bytes())
    assert found and "Call to ibv_modify_qp failed with error Connection timed out" in found.evidence


SEARCHED = [*(entry.pattern for entry in CATALOGUE), *ENDS, SUCCESS, RESTARTED, LEFT, HEADING]


@pytest.mark.parametrize("pattern", SEARCHED, ids=lambda pattern: pattern.pattern.strip()[:30])
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_line_that_the_catalogue_knows_is_looked_at(pattern: re.Pattern[str], data: st.DataObject) -> None:
    line = data.draw(st.from_regex(re.compile(pattern.pattern, re.ASCII), fullmatch=True))
    assert TELLING.any(line.lower()) and pattern in TELLING.possible(line.lower())


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("CUDA out", {"cuda out"}), ("[Tt]imeout|Xid", {"timeout", "xid"}), (r"err(?:or)? \d+", {"err"}),
        ("(?:no|bad) device", {" device"}), (r"(?i:NaN) \d{2,}", {"nan "}), ("(?:ab){2,}c*", {"abab"}),
        (r"Error: .*(?:zero|nine)", {"zero", "nine"}), ("a very long sentence", {"a very lon"}),
        (r"^(?!warn)abc(?=x)", {"abc"}),
    ],
)  # fmt: skip
def test_what_a_pattern_needs_is_read_from_it(pattern: str, parts: set[str]) -> None:
    assert required(re.compile(pattern)) == parts


@pytest.mark.parametrize("pattern", [r"\d+", "ab|cde", "a?b?c?", "(?:abc)?"])
def test_a_pattern_that_needs_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="has to be in what this matches"):
        required(re.compile(pattern))


def test_parts_that_begin_alike_or_overlap_are_all_found() -> None:
    patterns = [re.compile(text) for text in ("abc", "abcde", "cdef", "xyz")]
    found = Prefilter(patterns)
    assert found.possible("--abcdef--") == patterns[:3] and found.possible("abcd") == patterns[:1]
    assert found.any("..xyz") and not found.any("ab cd xy") and found.possible("ab cd xy") == []


def test_colours_within_words_do_not_hide_them() -> None:
    found = read(b"\x1b[1mRuntimeError\x1b[0m: CUDA out\x1b[31m of mem\x1b[0mory. Tried to allocate 2.00 GiB\n")
    assert found and found.cause == "cuda_oom"


def test_a_rank_that_only_said_harmless_things_is_known() -> None:
    reader = EvidenceReader()
    reader.read([b"[rank5]: good morning\n3: hello\n2025-03-02 11:00:01 [rank7]: hi there\nplain prose\n"])
    assert reader.evidence.ranks == {3, 5, 7}


@pytest.mark.timeout(60)
def test_a_log_in_which_no_line_is_like_another_is_read_quickly() -> None:
    """A line of prose is looked through once: searching it for each pattern in turn would take 30 s here."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [f"{a}{b}{c}{a}" for a in letters[:12] for b in letters for c in letters[:9]]
    lines = (" ".join(words[(n * 7 + k * k * 13 + n // 3) % len(words)] for k in range(14)) for n in range(200_000))
    log = "\n".join(lines).encode()
    started = time.process_time()
    assert read(log + b"\nRuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB\n")
    assert time.process_time() - started < 12


HOSTILE = [
    b"\x00" * 5000, b"\xff\xfe" * 5000, b"\x1b[31m" * 5000, b"x" * (1 * MIB), b"Error: " * (MIB // 7), b"\r" * 9000,
    b"Traceback (most recent call last):\n" * 5000, b'  File "' * 9000, b"[" * 100_000, b"1" * 100_000, b"(" * 100_000,
    b"Error " + b"a." * 50_000, b" " * 100_000 + b"Error", b"[rank99999999999999999999]: ValueError: x\n",
    b"exitcode : -99999999999999999999 (pid: 1)\n", "\u202eError: ‮\u2066".encode(), b"CUDA " * 20_000,
    b"file " + b"path " * 20_000 + b"not found",
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("log", HOSTILE, ids=lambda log: repr(log[:20]))
def test_hostile_logs_are_read_in_little_time(log: bytes) -> None:
    found = read(log)
    assert all(len(line) <= 400 and line.isprintable() for line in (found.evidence if found else ()))


WORDS = st.sampled_from(
    [line for path in LOGS for line in path.read_bytes().splitlines()]
    + [b"Traceback (most recent call last):", b"During handling of the above exception, another exception occurred:"]
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(st.binary(max_size=200), WORDS), max_size=60), st.sampled_from([b"\n", b"\r", b"\r\n", b""]))
def test_it_never_raises(lines: list[bytes], end: bytes) -> None:
    found = read(end.join(lines))
    assert found is None or found.cause in CAUSES


def test_a_long_log_is_read_in_bounded_memory() -> None:
    size = 8 * MIB

    def stream() -> Iterator[bytes]:
        dull = b"".join(b"step %d loss 2.%d lr 1e-3 12.5 it/s\n" % (n, n) for n in range(25_000))
        made = 0
        for turn in itertools.count():
            ranks = b"".join(b"[rank%d]: Traceback (most recent call last):\n" % (turn * 5 + n) for n in range(5))
            odd = b"".join(b"%sError: %s\n" % (b"X" * (n % 90), b"abc"[n % 3 :] * (turn % 50)) for n in range(10))
            made += len(dull) + len(ranks) + len(odd)
            yield from (dull, ranks, odd)
            if made > size:
                return

    reader = EvidenceReader()
    chunks = stream()
    reader.read([next(chunks)])
    tracemalloc.start()
    reader.read(chunks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MIB
    assert reader.evidence.lines > 200_000


# --- the command -----------------------------------------------------------------------------------------------------


def ugro(*args: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["explain", *args], input=stdin, catch_exceptions=False)


def test_explain_prints_one_document(tmp_path: Path) -> None:
    for rank, name in enumerate(["peer_lost.gloo.log", "file_not_found.data.rank0.log"]):
        text = (TESTS / "logs" / name).read_text().replace("[rank0]: ", "")
        (tmp_path / f"rank-{rank}.log").write_text(text)
    done = ugro("--log", str(tmp_path / "rank-0.log"), str(tmp_path / "rank-1.log"), "--json")
    document = json.loads(done.stdout)
    assert {"cause", "rank", "evidence", "suggestion", "retry_helps"} <= document.keys()
    assert (document["cause"], document["rank"], document["retry_helps"]) == ("file_not_found", 1, False)
    assert (document["where"], document["consequences"]) == ("/w/a.py:3", 1)


def test_explain_reads_stdin_and_says_when_nothing_is_wrong() -> None:
    done = ugro("--log", "-", "--json", stdin=b"step 1 loss 2\nTraining complete\n")
    assert done.exit_code == 0 and json.loads(done.stdout)["cause"] is None
    assert ugro("--log", "-", stdin=b"all well\n").stdout == "nothing shows that it ended badly\n"
    assert "stdin (-) can be given only once" in ugro("--log", "-", "-", stdin=b"x\n").stderr


def test_explain_without_stdin_says_so() -> None:
    command = ["sh", "-c", 'exec "$0" -m ugro explain --log - <&-', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "stdin is closed" in done.stderr


def test_explain_reads_what_logrotate_compressed(tmp_path: Path) -> None:
    path = tmp_path / "rank-1.log.gz"
    path.write_bytes(gzip.compress(b'Traceback (most recent call last):\n  File "t.py", line 1\nValueError: no\n'))
    found = json.loads(ugro("--log", str(path), "--json").stdout)
    assert (found["cause"], found["rank"]) == ("python_exception", 1)
    assert json.loads(ugro("--log", "-", "--json", stdin=path.read_bytes()).stdout)["cause"] == "python_exception"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"rank-1\.log\.gz: "):
        ugro("--log", str(path))


def test_explain_fits_one_screen_and_shows_foreign_text_as_it_is() -> None:
    log = TRACEBACK + b"ValueError: [red]\x1b[31m \x07\n"
    said = ugro("--log", "-", stdin=log).stdout
    assert "the script raised an exception (python_exception)" in said and "ValueError: [red]" in said
    assert "/w/[bold]t.py:7" in said and "\x1b" not in said and "\x07" not in said
    assert len(said.splitlines()) < 24


def failed_job(home: Path, cause: str, log: str, args: tuple[str, ...] = (), **fields: object) -> MetadataStore:
    store = MetadataStore(home)
    spec = JobSpec(script="t.py", args=args)
    job = store.jobs.submit(store.jobs.reserve(), spec, builders.CODE, 1.0)
    ranks = tuple(Rank(rank=n, local_rank=0, node=f"gpu{n}", state=RankState.FAILED, exit_code=1) for n in range(3))
    failure = FirstFailure(rank=2, node="gpu2", exit_code=1, cause=cause, message="what the record says")
    ended = {"state": JobState.FAILED, "ranks": ranks, "first_failure": failure, **fields}
    builders.change(store, job.id, "failed", "rank 2", **ended)
    folder = store.jobs.files(job.id).logs(job.attempt)
    folder.mkdir(parents=True)
    (folder / "rank-2.log").write_text(log)
    return store


def files_in(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_explain_a_job_from_its_record_and_the_copies_of_its_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UGRO_HOME", str(tmp_path))
    failed_job(tmp_path, "import_error", TRACEBACK.decode() + "ModuleNotFoundError: No module named 'apex'\n")
    before = files_in(tmp_path)
    document = json.loads(ugro("job-001", "--json").stdout)
    assert (document["job"], document["state"], document["node"], document["rank"]) == ("job-001", "failed", "gpu2", 2)
    assert (document["cause"], document["consequences"], document["facts"]) == ("import_error", 2, {"module": "apex"})
    assert document["evidence"] == ["ModuleNotFoundError: No module named 'apex'"]
    assert "job-001 (failed): a module could not be imported" in ugro("job-001").stdout
    assert files_in(tmp_path) == before, "it looks and changes nothing"


def explained(job: str = "job-001") -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ugro(job, "--json").stdout)
    return document


def test_an_end_without_a_reason_shows_the_code_the_last_words_and_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UGRO_HOME", str(tmp_path))
    failed_job(tmp_path, "unknown", "step 8/10\n\nabout to fail\n")
    said = ugro("job-001").stdout
    assert "with exit code 1" in said and "│ about to fail" in said
    assert "next:   read what came before: ugro logs job-001 --rank 2" in said
    assert (explained()["step"], explained()["steps"], explained()["exit_code"]) == (8, 10, 1)


def test_the_second_time_at_one_step_a_retry_alone_does_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UGRO_HOME", str(tmp_path))
    log = "step 5000 loss 2\nRuntimeError: CUDA error: an illegal memory access was encountered\n"
    first = Attempt(
        attempt=1,
        state=JobState.FAILED,
        started_at=1.0,
        ended_at=2.0,
        placement=None,
        code=builders.CODE,
        reason="",
        cause="cuda_error",
    )
    held = Checkpoint(step=100, kind="file", name="100.pt", bytes=1, saved_at=5.0, places=())
    second = {"attempt": 2, "past": (first,), "started_at": 10.0, "ended_at": 70.0, "resume_from": held}
    store = failed_job(tmp_path, "cuda_error", log, **second)
    before = store.jobs.files("job-001").logs(1)
    before.rename(store.jobs.files("job-001").logs(2))
    assert explained()["retry_helps"] is True and explained()["earlier_failures_here"] == 0
    before.mkdir(parents=True, exist_ok=True)
    (before / "rank-2.log").write_text(log)
    document = explained()
    assert (document["step"], document["earlier_failures_here"], document["retry_helps"]) == (5000, 1, False)
    assert (document["lost_seconds"], document["resume"]) == (60.0, "ugro resume job-001 --from 0")
    assert "will not help by itself: this is the second time here (step 5000)" in ugro("job-001").stdout
    (before / "rank-2.log").write_text(log.replace("5000", "4000"))
    assert explained()["earlier_failures_here"] == 0
    builders.change(store, "job-001", "ranks", resume_from=None)
    assert explained()["earlier_failures_here"] == 1, "no checkpoint between them: the same way again"
    mended = CodeVersion(directory="/w", files=1, size_bytes=1, attempt=2)
    builders.change(store, "job-001", "ranks", code=mended)
    assert explained()["earlier_failures_here"] == 0, "the code is another"


def test_after_an_oom_the_command_has_the_smaller_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UGRO_HOME", str(tmp_path))
    failed_job(tmp_path, "cuda_oom", "RuntimeError: CUDA out of memory.\n", args=("--batch-size", "8", "--accum=2"))
    document = explained()
    assert document["resume"] == "ugro resume job-001 --from 0 --set batch-size=4 --set accum=4"
    assert document["changes"] == ["--batch-size 8 → 4", "--accum 2 → 4"]


def test_without_nodes_the_copies_on_the_master_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UGRO_HOME", str(tmp_path))
    monkeypatch.setenv("UGRO_INVENTORY", str(tmp_path / "none.yaml"))
    store = failed_job(tmp_path, "unknown", "", started_at=1000.0, ended_at=2000.0)
    folder = store.jobs.files("job-001").checkpoints / "70"
    folder.mkdir(parents=True)
    (folder / "checkpoint-70.pt").write_bytes(b"x" * 10)
    os.utime(folder, (1600, 1600))
    last = explained()["last_checkpoint"]
    assert (last["step"], last["name"], last["bytes"], last["nodes"], last["on_master"]) == (
        70, "checkpoint-70.pt", 10, [], True,
    )  # fmt: skip
    assert explained()["lost_seconds"] == 400.0
    assert "last checkpoint 70 (checkpoint-70.pt, " in ugro("job-001").stdout


@pytest.mark.parametrize(
    ("fields", "cause", "said"),
    [
        ({"state": JobState.SUCCEEDED}, None, "job-001 (succeeded): it ended well\n"),
        ({"state": JobState.QUEUED}, None, "job-001 (queued): nothing shows that it ended badly\n"),
        ({"state": JobState.RUNNING, "alert": "hangs: no step for 9m"}, "hang", "ugro stacks job-001"),
        ({"state": JobState.UNKNOWN, "unknown_since": 5.0}, None, "is unreachable, since"),
    ],
)
def test_a_job_that_did_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], cause: str | None, said: str
) -> None:
    monkeypatch.setenv("UGRO_HOME", str(tmp_path))
    failed_job(tmp_path, "unknown", "step 3 loss 1\n", **{"first_failure": None, "started_at": 1.0} | fields)
    document = explained()
    assert document["cause"] == cause and document["resume"] is None
    shown = ugro("job-001").stdout
    assert said in shown
    if len(shown.splitlines()) > 1:
        assert document["step"] == 3 and re.search(r"next:   \S", shown)


def test_what_the_nodes_showed_goes_before_what_the_log_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UGRO_HOME", str(tmp_path))
    store = failed_job(tmp_path, "node_rebooted", "step 1 loss 2\n")
    document = json.loads(ugro("job-001", "--json").stdout)
    assert (document["cause"], document["message"]) == ("node_rebooted", "what the record says")
    assert document["retry_helps"] is True
    cancelled = {"state": JobState.CANCELLED, "first_failure": None}
    builders.change(store, "job-001", "cancelled", "asked for", **cancelled)
    assert json.loads(ugro("job-001", "--json").stdout)["cause"] == "cancelled"


@pytest.mark.parametrize("args", [["--log"], ["one", "two"]])
def test_explain_says_what_it_expects(args: list[str]) -> None:
    done = CliRunner().invoke(cli, ["explain", *args])
    assert done.exit_code == 2 and re.search("is expected|needs at least", done.output)


def test_explain_without_a_job_means_the_one_that_failed_last() -> None:
    assert "@last-failed names no job: none is failed" in str(CliRunner().invoke(cli, ["explain"]).exception)


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["explain", "--log", str(tmp_path / "none.log")])
    assert done.exit_code != 0 and "none.log" in str(done.exception)


def test_the_page_on_diagnosis_names_every_cause_in_its_words() -> None:
    page = (DOCS / "diagnosis.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("`"): (row[1], row[-1]) for row in rows if row[0].strip("`") in CAUSES}
    assert told == {name: (cause.words, "yes" if cause.retry_helps else "no") for name, cause in CAUSES.items()}
