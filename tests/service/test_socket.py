"""What is sent to the socket of a resident controller is hostile until it is read; what it keeps it lets go of."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from door import Door, opened

from ugro.common.errors import InputError, StateError, UgroError
from ugro.service import logs, queries
from ugro.service.context import Context
from ugro.service.resident_socket import NoResident, ResidentSocket
from ugro.service.schemas.logs import LogLine, LogLines, ReadLogs
from ugro.service.schemas.queries import Attended
from ugro.service.session import find_resident
from ugro.service.upload import INCOMING, receive
from ugro.service.wire import SOCKET
from ugro.testing.commands import until

DOCUMENT = {"directory": "/w", "digest": "d", "size_bytes": 1, "largest": [], "left_out": [], "not_sent": [],
            "lfs_pointers": []}  # fmt: skip


def member(name: str, target: str = "", kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = (tarfile.SYMTYPE, target) if target else (kind, "")
    return info


def stream(*members: tarfile.TarInfo, **header: object) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w|") as archive:
        for one in members:
            archive.addfile(one)
    known = {"document": DOCUMENT, "files": [[one.name, 0] for one in members], "git": [None, None]}
    return io.BytesIO(json.dumps(known | header).encode() + b"\n" + packed.getvalue())


def test_keeps_what_was_sent_and_nothing_that_only_the_header_names(tmp_path: Path) -> None:
    files = [["a/b.py", 0], ["link", 0], ["../../etc/hostname", 10]]
    code = receive(tmp_path, stream(member("a/b.py"), member("link", "a/b.py"), files=files))
    assert set(code.selection.files) == {"a/b.py", "link"} and code.selection.copy
    assert os.readlink(code.selection.copy.at / "link") == "a/b.py"


@pytest.mark.parametrize(
    "sent",
    [
        stream(member("../evil")),
        stream(member("/abs")),
        stream(member("pipe", kind=tarfile.FIFOTYPE)),
        stream(member("a", "/tmp"), member("a/evil", "/etc/passwd")),
        stream(member("a"), git=[]),
        stream(member("a"), files=[["a"]]),
        stream(member("a"), files=[["a", "z"]]),
        stream(member("a"), document={}),
        io.BytesIO(b"[" * 100_000 + b"\n"),
        io.BytesIO(stream(member("a")).getvalue()[: -10240 + 300]),
        io.BytesIO(b""),
    ],
    ids=range(11),
)  # fmt: skip
def test_refuses_what_leads_outside_or_makes_no_sense_and_keeps_nothing(tmp_path: Path, sent: io.BytesIO) -> None:
    with pytest.raises(InputError):
        receive(tmp_path, sent)
    assert list(tmp_path.glob(f"{INCOMING}/*")) == []


@pytest.fixture
def door(home: Path) -> Iterator[Door]:
    with opened(home, by_socket=True) as door:
        yield door


def ask(door: Door, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(door.store.home / SOCKET))
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        asking.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: asking.recv(65536), b""))
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/call/queue.nosuch", b"{}", 404),
        ("/call/crontab.show", b"{}", 404),
        ("/call/queue.hold", b"{", 422),
        ("/call/queue.hold", b"{}", 422),
        ("/call/queue.hold", b'{"job": "a", "more": 1}', 422),
        ("/call/queue.hold", b"[" * 100_000, 422),
        ("/nosuch", b"", 404),
    ],
)
def test_answers_what_it_does_not_understand_and_lives(door: Door, path: str, body: bytes, status: int) -> None:
    assert ask(door, "POST", path, body)[0] == status
    assert ask(door, "GET", "/hello")[0] == 200


@pytest.mark.parametrize("path", ["/call/queue.hold", "/code"])
def test_a_client_that_leaves_while_it_asks_is_no_bug(door: Door, path: str, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(door.store.home / SOCKET))
        asking.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{".encode())
        asking.shutdown(socket.SHUT_WR)
        asking.recv(100)  # until the other side is done with it
    assert ask(door, "GET", "/hello")[0] == 200
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_tells_the_caller_of_a_bug_and_lives(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(queries, "attended", broken)
        with pytest.raises(UgroError, match="the request Attended: unexpected ZeroDivisionError") as caught:
            door.call(Attended())
    assert caught.value.code == "internal" and not door.call(Attended()).attended


def test_only_its_owner_can_open_it_and_no_other_file_is_replaced(door: Door, tmp_path: Path) -> None:
    assert (door.store.home / SOCKET).stat().st_mode & 0o777 == 0o600
    from ugro.api_server.server import _bind

    place = tmp_path / "ugro.sock"
    place.write_text("mine")
    with pytest.raises(StateError, match="is no socket"):
        _bind(place)
    assert place.read_text() == "mine"


@pytest.fixture
def says(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """A socket that gives the same answer to every request."""
    ears = list[socket.socket]()

    def make(answer: bytes) -> Path:
        path = tmp_path / "fake.sock"
        ear = socket.socket(socket.AF_UNIX)
        ear.bind(str(path))
        ear.listen()
        ears.append(ear)

        def serve() -> None:
            asking, _ = ear.accept()
            with asking:
                asking.recv(65536)
                asking.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return path

    yield make
    for ear in ears:
        ear.close()


@pytest.mark.parametrize("body", [b"[]", b"null", b"{", b'{"version": "0"}', b""])
def test_a_client_takes_no_nonsense_for_a_resident(says: Callable[[bytes], Path], body: bytes) -> None:
    path = says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    with pytest.raises(NoResident):
        ResidentSocket(path, None)


def test_says_that_no_resident_listens_at_the_named_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("UGRO_HOME", str(tmp_path))
    assert find_resident(None, said.append) is None and said == []  # no resident runs: nothing to tell
    monkeypatch.setenv("UGRO_SOCKET", str(tmp_path / "other.sock"))
    assert find_resident(None, said.append) is None
    [note] = said
    assert note.startswith(f"no resident controller listens at {tmp_path}/other.sock, which $UGRO_SOCKET names; ")


def test_a_slow_reader_of_a_long_log_costs_the_resident_no_memory(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its reader has not taken is not made."""
    made = list[int]()

    async def endless(context: Context, request: ReadLogs) -> AsyncIterator[LogLines]:
        while True:
            made.append(1)
            yield LogLines(lines=(LogLine(rank=0, node_rank=None, text="x" * 100_000),), nodes=())

    monkeypatch.setattr(logs, "read", endless)
    with closing(door.stream(ReadLogs(job="job-001"))) as items:
        next(items)
        until(lambda: len(made) > 1)
        threading.Event().wait(0.5)  # time in which thousands could be made
        assert len(made) < 200, "more than the buffers of a socket hold"
