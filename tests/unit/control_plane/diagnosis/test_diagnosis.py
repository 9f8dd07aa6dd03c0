"""What the end of a log says, in the words that the tools really use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ugro.control_plane.diagnosis import diagnose
from ugro.control_plane.metadata_store.log_ends import TAIL_BYTES, node_log, rank_log

TRACEBACK = 'Traceback (most recent call last):\n  File "t.py", line 3, in <module>\n    main()\n'


@pytest.mark.parametrize(
    ("log", "cause", "consequence"),
    [
        ("ValueError: boom", "python_exception", False),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.09 GiB. GPU 0 has a total",
            "cuda_oom",
            False,
        ),
        ("RuntimeError: CUDA error: out of memory", "cuda_oom", False),
        ("ModuleNotFoundError: No module named 'transformers'", "import_error", False),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'data.bin'", "file_not_found", False),
        ("PermissionError: [Errno 13] Permission denied: '/data'", "permission_denied", False),
        ("OSError: [Errno 28] No space left on device", "disk_full", False),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", "cuda_mismatch", False),
        ("RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed.", "dataloader_worker_died", False),
        ("RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]:34506.", "peer_lost", True),
        ("ConnectionResetError: [Errno 104] Connection reset by peer", "peer_lost", True),
        ("torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1691", "nccl_error", False),
        (
            "DistStoreError: Timed out after 9 seconds waiting for clients. 1/2 clients joined.",
            "rendezvous_timeout",
            True,
        ),
    ],
)
def test_the_last_exception_decides(log: str, cause: str, consequence: bool) -> None:
    for text in (TRACEBACK + log, TRACEBACK + "KeyError: caught\n\n" + TRACEBACK + log + "\n"):
        found = diagnose(text, 1, None)
        assert (found.cause, found.consequence) == (cause, consequence)
        assert found.message == log
    prefixed = "".join(f"[rank1]: {line}\n" for line in (TRACEBACK + log).splitlines())
    assert diagnose(prefixed, 1, None).cause == cause


def test_a_log_without_a_traceback() -> None:
    watchdog = "[rank3]:[E810] [Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=78)\n"
    assert diagnose(watchdog, None, "ABRT").cause == "collective_timeout"
    assert diagnose("train.py: error: unrecognized arguments: --x\n", 2, None).cause == "bad_arguments"
    found = diagnose("loss 2.1\nbye\n", 3, None)
    assert (found.cause, found.message) == ("unknown", "exit code 3, last words: bye")
    assert diagnose("", 7, None).message == "exit code 7"


@pytest.mark.parametrize(
    ("signal", "cause", "consequence"),
    [("KILL", "killed", False), ("SEGV", "segfault", False), ("TERM", "killed", True), ("ABRT", "unknown", False)],
)
def test_signals(signal: str, cause: str, consequence: bool) -> None:
    found = diagnose("loss 2.1\n", None, signal)
    assert (found.cause, found.consequence) == (cause, consequence) and f"SIG{signal}" in found.message


def test_terminal_escapes_of_a_log_do_not_reach_the_message() -> None:
    found = diagnose(TRACEBACK + "ValueError: \x1b[31mred\x1b[0m \x07bell\n", 1, None)
    assert found.message == "ValueError: red �bell"


def test_the_ends_of_logs_and_torchs_error_file(tmp_path: Path) -> None:
    assert rank_log(tmp_path, 0) == "" and node_log(tmp_path, 0) == ""
    (tmp_path / "node-1.log").write_bytes(b"\xff" * 10)
    assert node_log(tmp_path, 1) == "�" * 10
    (tmp_path / "rank-0.log").write_text("x" * TAIL_BYTES + "end")
    assert len(rank_log(tmp_path, 0)) == TAIL_BYTES and rank_log(tmp_path, 0).endswith("end")
    message = {
        "message": "ValueError: boom",
        "extraInfo": {"py_callstack": TRACEBACK + "ValueError: boom", "timestamp": "1"},
    }
    (tmp_path / "rank-0.error").write_text(json.dumps({"message": message, "errorCode": 1}))
    assert diagnose(rank_log(tmp_path, 0), 1, None).message == "ValueError: boom"
    for broken in ("", "{", "[]", '{"message": {"message": 1}}', '{"message": "plain"}'):
        (tmp_path / "rank-0.error").write_text(broken)
        assert rank_log(tmp_path, 0).startswith("x")
