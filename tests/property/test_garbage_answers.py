"""Whatever a node prints where an answer is expected is a reported error, or is passed over: never a traceback."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ugro.common.errors import NodeError, UgroError
from ugro.common.paths import RunPaths
from ugro.nodes.code_sync import push, snapshot
from ugro.nodes.remote.account import account
from ugro.nodes.remote.checkpoints import checkpoints, save_request
from ugro.nodes.remote.checkup import checkup
from ugro.nodes.remote.checkup.machine import ask_machine
from ugro.nodes.remote.files import deliver, fetch, listing
from ugro.nodes.remote.footprint import footprint
from ugro.nodes.remote.footprint.old_environments import old_environments, remove_environments
from ugro.nodes.remote.gpus import gpu_monitor, outputs
from ugro.nodes.remote.interpreters import environment, interpreters
from ugro.nodes.remote.logs import log_streamer
from ugro.nodes.remote.network import reach
from ugro.nodes.remote.owner import owner
from ugro.nodes.remote.run import process_manager, run_files
from ugro.nodes.remote.speed import speed
from ugro.nodes.remote.stacks import stacks
from ugro.nodes.transport import Transport
from ugro.testing.transport import Parrot

PATHS = RunPaths("~/.ugro", "job-001", 1, 0)
DIGITS = "9" * 5000

KINDS = (
    "checkpoints",
    "checkup",
    "interpreter",
    "list_files",
    "matmul",
    "prepare",
    "reach",
    "receive_code",
    "receive_files",
    "replace_code",
    "save_request",
    "speed",
    "stacks",
)

GARBAGE: list[bytes] = [
    b"",
    b"\n\n\n",
    b"Welcome to gpu1!\nLast login: never\n",
    b"\xff\xfe\x00\x80" * 50,
    bytes(range(256)) * 4,
    b"\x1b]0;title\x07\x1b[2J",
    *(
        text.encode()
        for text in ("null", "true", "5", "-1", '"text"', "[]", "{}", "[null]", "[[]]", "NaN", "Infinity", "{")
    ),
    b"[" * 100_000,
    b'{"a":' * 100_000,
    DIGITS.encode(),
    f"[{DIGITS}]".encode(),
    b"1e999",
    b"\x00".join([b"base", b"/x", b"yes", b"job", b"j", b"u", b"many", b"1 2", b"end", b""]),
    b"\x00".join([b"base", b"/x", b"yes", b"job", b"j", b"u", b"1", b"1 2", b"end", b""]),
    b"\x00".join([b"base", b"/x", b"yes", b"process", b"pid", b"run", b"here", b"x", b"end", b""]),
    b"\x00".join([b"base", b"/x", b"yes", b"other", b"x", b"", b"end", b""]),
    b"\x00".join([b"end", b""]),
    b"\x00".join([b"what", b"end", b""]),
    f"left {DIGITS}\nleft ²\n".encode(),
    json.dumps({"python": 3, "torch": "2", "address": None, "interface": [], "port": "x"}).encode(),
    json.dumps({"torch": "2.1", "python": "3"}).encode(),
    json.dumps({"torch": "2.1", "python": "3", "port": 1, "route_error": 5}).encode(),
    json.dumps({"torch": "2.1", "python": "3", "port": 1, "address": "a b\n", "interface": "\u001b[2J"}).encode(),
    json.dumps({"present": False, "missing": [99, "x"], "staged": 1, "rsync": True, "tree": 5, "sources": 6}).encode(),
    json.dumps({"present": False, "missing": 5, "staged": 1, "rsync": True, "tree": "", "sources": []}).encode(),
    json.dumps({"present": True}).encode(),
    json.dumps({"holds": 5, "conflicts": 7}).encode(),
    json.dumps({"unfinished": True}).encode(),
    json.dumps({"found": [{"path": 5}], "passed": []}).encode(),
    json.dumps({"found": 5, "passed": [None]}).encode(),
    json.dumps({"exists": True, "entries": [["../x", "file", 1, 1, 1], ["/x", "file", -1, 1, 1]]}).encode(),
    json.dumps({"exists": True, "entries": [["../x", "file", 1, 1, 1], ["\0", "link", 1, 1, 1]]}).encode(),
    json.dumps({"folder": "\x1b[2J", "storage": "", "free": 1, "held": [[1, "x", True], [2, "y", 5]]}).encode(),
    json.dumps({"taken": "x", "at": "y", "ranks": [{"rank": "x"}]}).encode(),
    json.dumps({"machine": "x", "py_spy": False, "ptrace_scope": "", "ranks": [{"rank": 0, "more": 1}]}).encode(),
    json.dumps([{"index": 0, "uuid": None, "name": "x", "steps_per_second": -1}]).encode(),
]


def enveloped(field: str, text: bytes) -> bytes:
    """Garbage inside of an envelope of every kind."""
    return b"\n".join(b'{"ugro": 1, "kind": "%s", "%s": %s}' % (kind.encode(), field.encode(), text) for kind in KINDS)


GARBAGE += [enveloped("payload", text) for text in GARBAGE]
GARBAGE += [enveloped("error", json.dumps(text).encode()) for text in ("", "\x1b[2J\n\0\ud800", "x" * 100_000)]
GARBAGE += [enveloped("payload", b"{}")[:-1], enveloped("payload", b"{}").replace(b'"ugro": 1', b'"ugro": 2')]


RECIPE = environment.Recipe(
    name="e", python="3.12", oldest=(3, 10), newest=(3, 14), index_url="https://index", packages=("torch",)
)

QUESTIONS: dict[str, Callable[[Transport, Path], Awaitable[object]]] = {
    "make_folder": lambda node, here: process_manager.make_folder(node, "~/.ugro", "job-001", "u"),
    "prepare": lambda node, here: process_manager.prepare(node, ["10.0.0.1"], ports=(1, 2)),
    "stop": lambda node, here: process_manager.stop(node, PATHS, "u", 1),
    "look": lambda node, here: run_files.look(node, [PATHS]),
    "gpus": lambda node, here: gpu_monitor.look(node),
    "gpus one by one": lambda node, here: outputs.look_one_by_one(node),
    "captured outputs": lambda node, here: outputs.capture(node),
    "machine": lambda node, here: ask_machine(node, with_gpus=True),
    "python": lambda node, here: checkup.ask_python(node, with_cuda=True),
    "detached": lambda node, here: process_manager.detached(node, PATHS, "u"),
    "obstacle": lambda node, here: reach.obstacle(node, "10.0.0.1", 29500),
    "ends": lambda node, here: log_streamer.ends(node, PATHS, 2, 100),
    "clock": lambda node, here: checkup.sample_clock(node),
    "examine": lambda node, here: checkup.examine(node),
    "stacks": lambda node, here: stacks.stacks(node, PATHS),
    "save": lambda node, here: save_request.ask(node, PATHS, "now"),
    "withdraw": lambda node, here: save_request.withdraw(node, PATHS, "now"),
    "speed": lambda node, here: speed.measure(node),
    "interpreters": lambda node, here: interpreters.try_all(node, "cpu", lambda path: None),
    "interpreter": lambda node, here: interpreters.try_one(node, "cpu", "/x"),
    "tools": lambda node, here: environment.tools(node),
    "environment": lambda node, here: environment.make(node, RECIPE, None, lambda line: None),
    "footprint": lambda node, here: footprint.footprint(node),
    "clean": lambda node, here: footprint.clean(node),
    "old_environments": lambda node, here: old_environments(node, 60),
    "remove_environments": lambda node, here: remove_environments(node, ["setups/" + "a" * 32], 60),
    "owner": lambda node, here: owner.claim(node, "me", False),
    "checkpoints": lambda node, here: checkpoints.find(node, "/j", ["/x"], "*", 0.0),
    "fetch": lambda node, here: checkpoints.fetch(node, "/x", here / "checkpoint"),
    "list_files": lambda node, here: listing.list_folder(node, "/j/code", "~/.ugro", "out", 2),
    "find_files": lambda node, here: listing.find_files(node, "/j/code", "~/.ugro", ["out/**"]),
    "push_files": lambda node, here: deliver.prepare(node, "/data", [deliver.Source(here, "x", 1, 0, False)]),
    "account": lambda node, here: account.look(node),
    "install_key": lambda node, here: account.install_key(node, "AAAA", "ssh-ed25519 AAAA me"),
    "remove_key": lambda node, here: account.remove_key(node, "AAAA"),
    "logs": lambda node, here: log_streamer.fetch(node, PATHS, here / "logs", 0.0),
}


def _snapshot(here: Path) -> Path:
    work, target = here / "work", here / "snapshot"
    work.mkdir()
    (work / "train.py").write_text("pass\n")
    snapshot.take_snapshot(work, snapshot.select_files(work), target)
    return target


async def _push(node: Transport, here: Path) -> None:
    await push.push_code(node, _snapshot(here), "~/.ugro/jobs/job-001")


async def _conflicts(node: Transport, here: Path) -> None:
    await push.conflicts(node, _snapshot(here), "~/.ugro/jobs/job-001", [])


async def _pull(node: Transport, here: Path) -> None:
    came = await fetch.fetch(node, "/j/code", [fetch.Wanted("x", 1, here / "x")])
    assert came.error and not came.done
    raise came.error


QUESTIONS |= {"push": _push, "conflicts": _conflicts, "pull": _pull}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_garbled_answer_is_told_or_passed_over(question: str, tmp_path: Path) -> None:
    broken: list[str] = []
    for number, answer in enumerate(GARBAGE):
        for status in (0, 1):
            folder = tmp_path / f"{number}-{status}"
            folder.mkdir()
            try:
                await QUESTIONS[question](Parrot(answer, status), folder)
            except UgroError as error:
                assert error.message.isprintable() and len(error.message) < 2000, error.message[:3000]
                assert isinstance(error, NodeError) and error.node == "gpu1"
            except Exception as error:
                broken.append(f"{answer[:60]!r}: {type(error).__name__}: {error}"[:200])
    assert not broken, "\n".join(broken)
