"""Delivering a job's code: on this machine's own shell, and over a real sshd on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from code_folders import ODD_NAMES, plant, snapshot, tree

from ugro.common.config import NodeConfig
from ugro.common.errors import LinkLost, NodeRefused, StateError
from ugro.nodes.code_sync import push_code, rsync
from ugro.nodes.remote.code.on_node import receive_code
from ugro.nodes.transport import LocalTransport
from ugro.nodes.transport.ssh import SshTransport
from ugro.testing import builders
from ugro.testing.cluster import write_forking_python
from ugro.testing.testbed.etc import User, write_etc
from ugro.testing.testbed.mounts import show_etc
from ugro.testing.transport import Counting, Meddling

SSHD = "/usr/sbin/sshd"


# Through the transport's own channel


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's home."""
    folder = tmp_path / "home of o'b"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def node(home: Path) -> LocalTransport:
    """This machine as a node."""
    return LocalTransport(builders.this_machine(python=str(write_forking_python(home / "python"))))


JOB = "~/.ugro/jobs/job-{:03d}"


def job(home: Path, number: int) -> Path:
    """A job's folder on the node."""
    return home / f".ugro/jobs/job-{number:03d}"


def mixed(work: Path) -> Path:
    """A snapshot with everything that may be hard to deliver."""
    plant(work, {"run.sh": "#!/bin/sh", "pkg/deep/a.py": "x = 1\n", "empty": "", "blob": os.urandom(700_000)})
    plant(work, {os.fsdecode(name): name for name in ODD_NAMES})
    plant(work, {os.fsdecode(b"f\xe4 $(x)/" + name): name for name in ODD_NAMES})
    (work / "run.sh").chmod(0o755)
    (work / "pkg/deep/a.py").chmod(0o444)
    (work / "pkg/link").symlink_to("deep/a.py")
    (work / "pkg/folder").symlink_to("deep")
    os.utime(work / "run.sh", ns=(1, 1_234_567_890_123_456_789))
    return snapshot(work)


async def test_the_code_arrives_as_it_was(work: Path, home: Path, node: LocalTransport) -> None:
    source = mixed(work)
    seen: list[tuple[int, int]] = []
    report = await push_code(node, source, JOB.format(1), lambda sent, total: seen.append((sent, total)))
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    files = sum(path.is_file() and not path.is_symlink() for path in source.rglob("*"))
    assert tree(job(home, 1) / "code") == tree(source)
    assert (report.method, report.files_sent, report.bytes_sent, report.note) == ("tar", files, size, "")
    assert seen[-1] == (size, size) and len(seen) > 1 and seen == sorted(seen)
    assert sorted(os.listdir(job(home, 1))) == ["code", "code.json", "code.sha256"]

    again = await push_code(node, source, JOB.format(1), lambda sent, total: seen.append((-1, -1)))
    assert (again.method, again.files_sent, again.bytes_sent) == ("present", 0, 0)
    assert seen[-1] == (size, size)


async def test_the_next_job_gets_only_what_changed(work: Path, home: Path, node: LocalTransport) -> None:
    first = mixed(work)
    await push_code(node, first, JOB.format(1))
    # As a job does that writes into its own code: one file in place, its time set back, and one of its own.
    code = job(home, 1) / "code"
    with (code / "blob").open("r+b") as file:
        file.write(b"written by the job")
    os.utime(code / "blob", ns=(1, (first / "blob").stat().st_mtime_ns))
    (code / "results.csv").write_text("1,2")
    (code / "pkg/deep/a.py").chmod(0o600)

    (work / "run.sh").write_text("#!/bin/zz")
    second = snapshot(work, "second")
    report = await push_code(node, second, JOB.format(2))
    assert tree(job(home, 2) / "code") == tree(second)
    assert (report.method, report.files_sent, report.bytes_sent) == ("tar", 2, 9 + 700_000)

    with (job(home, 2) / "code/run.sh").open("r+") as file:
        file.write("changed in place")
    report = await push_code(node, first, JOB.format(3))
    assert tree(job(home, 3) / "code") == tree(first)
    assert (report.files_sent, report.bytes_sent) == (0, 0), "blob comes from job 2, run.sh from job 1"
    assert (job(home, 1) / "code/blob").read_bytes().startswith(b"written by the job")


@pytest.mark.parametrize("spoil", [None, "code.json", "code.sha256", "code/blob"])
async def test_an_unchanged_folder_is_not_sent_again_nor_its_list(
    work: Path, home: Path, node: LocalTransport, monkeypatch: pytest.MonkeyPatch, spoil: str | None
) -> None:
    monkeypatch.setattr("ugro.nodes.code_sync.push.SHORT_LIST", 0)
    source = mixed(work)
    counting = Counting(node.node)
    assert (await push_code(counting, source, JOB.format(1))).method == "tar"
    assert counting.sent[0] == 0 and counting.sent[1] > 1000 and counting.sent[2] == -1
    if spoil:
        with (job(home, 1) / spoil).open("r+", encoding="latin-1") as file:
            file.write("spoilt")
    counting.sent.clear()
    report = await push_code(counting, source, JOB.format(2))
    expected = {None: [0], "code/blob": [0, -1]}.get(spoil)
    assert counting.sent == expected if expected else counting.sent[1] > 1000
    assert (report.files_sent, report.method) == ((1, "tar") if spoil == "code/blob" else (0, "present"))
    assert tree(job(home, 2) / "code") == tree(source)


async def test_an_interrupted_push_leaves_no_code(work: Path, home: Path, node: LocalTransport) -> None:
    source = snapshot(plant(work, {"big": os.urandom(8_000_000), "small": "x"}))
    plant(job(home, 1) / "code.tmp-0123abcd/code", {"left": "by a push whose node lost its power"})
    begun = asyncio.Event()
    push = asyncio.create_task(push_code(node, source, JOB.format(1), lambda sent, total: begun.set()))
    await begun.wait()
    push.cancel()
    with pytest.raises(asyncio.CancelledError):
        await push
    assert not (job(home, 1) / "code").exists()
    await push_code(node, source, JOB.format(1))
    assert tree(job(home, 1) / "code") == tree(source)
    assert sorted(os.listdir(job(home, 1))) == ["code", "code.json", "code.sha256"]


async def test_pushes_at_the_same_time_make_one_code(work: Path, home: Path, node: LocalTransport) -> None:
    source = mixed(work)
    reports = await asyncio.gather(*(push_code(node, source, JOB.format(1)) for _ in range(4)))
    assert "tar" in [report.method for report in reports]
    assert tree(job(home, 1) / "code") == tree(source)
    assert sorted(os.listdir(job(home, 1))) == ["code", "code.json", "code.sha256"]


def test_a_push_that_another_overtakes_while_it_prepares_finds_all_done(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.dumps([{"name": "a", "size": 1, "sha256": "", "mode": 0o644, "mtime": 0}]).encode()
    delivery = receive_code.Delivery(str(job(home, 1)), "own", hashlib.sha256(manifest).hexdigest())

    def overtaken(*_: object) -> list[int]:
        plant(job(home, 1), {"code/a": "x", "code.sha256": delivery.digest})
        receive_code.remove_leftovers(delivery, 0)
        return [0]

    monkeypatch.setattr(receive_code, "lacking", overtaken)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(manifest)))
    assert receive_code.begin(delivery) == {"present": True, "staged": False}
    assert sorted(os.listdir(job(home, 1))) == ["code", "code.sha256"]


async def test_an_old_leftover_goes_at_once(work: Path, home: Path, node: LocalTransport) -> None:
    source = snapshot(plant(work, {"a.py": "x"}))
    old, young = (plant(job(home, 1) / f"code.tmp-{name}", {"x": ""}) for name in ("old", "young"))
    os.utime(old, (0, time.time() - 7200))

    def cut() -> None:
        raise LinkLost("here", "the connection broke")

    with pytest.raises(LinkLost):
        await push_code(Meddling(node.node, "finish", cut), source, JOB.format(1))
    assert young.exists() and not old.exists()


@pytest.mark.parametrize("server", [-2 * 86400.0, 2 * 86400.0])
async def test_a_file_servers_clock_removes_no_push_that_is_under_way(home: Path, server: float) -> None:
    """All times are the server's; this node's clock is days from it."""
    delivery = receive_code.Delivery(str(job(home, 1)), "own", "digest")
    own, other, old = (plant(job(home, 1) / f"code.tmp-{name}", {"x": ""}) for name in ("own", "other", "old"))
    for folder, age in ((own, 0), (other, 60), (old, 7200)):
        os.utime(folder, (0, time.time() + server - age))
    receive_code.remove_leftovers(delivery, receive_code.STALE_SECONDS)
    assert own.exists() and other.exists() and not old.exists()


async def test_other_code_is_not_overwritten(work: Path, home: Path, node: LocalTransport) -> None:
    source = snapshot(plant(work, {"a.py": "x"}))
    plant(job(home, 1), {"code/results": "of somebody", "code.sha256": "other\n"})
    with pytest.raises(NodeRefused, match="holds other code"):
        await push_code(node, source, JOB.format(1))
    assert set(tree(job(home, 1))) == {"code/results", "code.sha256"}
    shutil.rmtree(job(home, 1) / "code")
    assert (await push_code(node, source, JOB.format(1))).method == "tar"


async def test_a_damaged_snapshot_is_not_published(work: Path, home: Path, node: LocalTransport) -> None:
    source = snapshot(plant(work, {"a.py": "x", "b.py": "yy"}))
    with pytest.raises(NodeRefused, match="arrived incomplete"):
        await push_code(
            Meddling(node.node, "finish", lambda: (source / "b.py").write_text("zz")), source, JOB.format(1)
        )
    with pytest.raises(StateError, match=r"b\.py"):
        await push_code(Meddling(node.node, "finish", (source / "b.py").unlink), source, JOB.format(1))
    assert os.listdir(job(home, 1)) == []
    with pytest.raises(StateError, match="cannot be read"):
        await push_code(node, source / "nowhere", JOB.format(1))


async def test_a_node_that_cannot_take_the_code_says_why(work: Path, home: Path, node: LocalTransport) -> None:
    source = snapshot(plant(work, {"a.py": "x", "big": bytes(2_000_000)}))
    plant(home, {".ugro/jobs": "a file"})
    with pytest.raises(NodeRefused, match=r"job-001: Not a directory: .*job-001"):
        await push_code(node, source, JOB.format(1))

    small = plant(home, {"small": f'#!/bin/sh\nulimit -f 1000\nexec {sys.executable} "$@"\n'}) / "small"
    small.chmod(0o755)
    limited = LocalTransport(node.node.model_copy(update={"python": "~/small"}))
    with pytest.raises(NodeRefused, match="File too large"):
        await push_code(limited, source, "~/elsewhere/jobs/job-001")
    assert os.listdir(home / "elsewhere/jobs/job-001") == []

    absent = LocalTransport(node.node.model_copy(update={"python": "~/no/python"}))
    with pytest.raises(NodeRefused, match="~/no/python cannot be run there"):
        await push_code(absent, source, JOB.format(1))


# rsync, over a real sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A real sshd on a loopback port, and the settings of a node that reaches it."""
    if not os.path.exists(SSHD):
        pytest.skip("no sshd is installed here")
    if getpass.getuser() == str(os.getuid()):
        pytest.skip("who runs this has no name, and sshd lets in nobody without")
    folder = tmp_path_factory.mktemp("ssh d")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "ssh_config").write_text(f'UserKnownHostsFile "{folder}/known_hosts"\nGlobalKnownHostsFile none\n')
    (folder / "sshd_config").write_text(
        f'ListenAddress 127.0.0.1\nPort {port}\nHostKey "{folder}/host"\n'
        f'AuthorizedKeysFile "{folder}/authorized_keys"\nStrictModes no\nUsePAM no\nPidFile none\n'
    )
    with (folder / "log").open("w") as log:
        command = [*_apart(folder), SSHD, "-D", "-e", "-f", folder / "sshd_config"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
    try:
        assert _listens(port), f"sshd does not start: {(folder / 'log').read_text()}"
        yield {"port": port, "identity_file": f"{folder}/user", "ssh_config": f"{folder}/ssh_config"}
    finally:
        process.terminate()
        process.wait(10)


def _apart(folder: Path) -> list[str | Path]:
    """What root's sshd is started with: files of its own, because by this machine's root may be locked out of it.

    A container that may not mount has to do with its own.
    """
    if os.geteuid():
        return []
    write_etc(folder / "etc", "here", User("root", 0))
    own = [*show_etc(folder / "etc"), "mkdir -p /run/sshd", "mount -t tmpfs -o mode=755 tmpfs /run/sshd", 'exec "$@"']
    start = ["unshare", "--mount", "sh", "-euc", "\n".join(own), "sh"]
    if subprocess.run([*start, "true"], capture_output=True).returncode == 0:
        return start
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    return []


def _listens(port: int) -> bool:
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
async def remote(server: dict[str, Any], home: Path) -> AsyncIterator[SshTransport]:
    """A node behind the sshd. Its home is the real one, so jobs lie at an absolute path."""
    transport = SshTransport(
        NodeConfig(name="gpu1", address="127.0.0.1", user=getpass.getuser(), python=sys.executable, **server)
    )
    yield transport
    await transport.close()


needs_rsync = pytest.mark.skipif(not shutil.which("rsync"), reason="no rsync is installed here")


@needs_rsync
async def test_rsync_delivers_what_tar_delivers(work: Path, home: Path, remote: SshTransport) -> None:
    source = mixed(work)
    seen: list[tuple[int, int]] = []
    report = await push_code(remote, source, str(job(home, 1)), lambda sent, total: seen.append((sent, total)))
    assert (report.method, report.note) == ("rsync", "")
    assert tree(job(home, 1) / "code") == tree(source)
    assert seen[-1] == (report.bytes_sent, report.bytes_sent)
    assert not list(home.rglob("x")), "no file name was run as a command"
    assert (await push_code(remote, source, str(job(home, 1)))).method == "present"


@needs_rsync
async def test_rsyncs_at_the_same_time_make_one_code(work: Path, home: Path, remote: SshTransport) -> None:
    source = mixed(work)
    await asyncio.gather(*(push_code(remote, source, str(job(home, 1))) for _ in range(3)))
    assert tree(job(home, 1) / "code") == tree(source)
    assert sorted(os.listdir(job(home, 1))) == ["code", "code.json", "code.sha256"]


@needs_rsync
async def test_rsync_is_not_fooled_by_size_and_time(work: Path, home: Path, remote: SshTransport) -> None:
    plant(work, {"train.py": "lr = 0.1\n", "same.py": "x", "data": os.urandom(300_000)})
    await push_code(remote, snapshot(work), str(job(home, 1)))
    moment = (work / "train.py").stat().st_mtime_ns
    (work / "train.py").write_text("lr = 0.2\n")
    os.utime(work / "train.py", ns=(moment, moment))
    source = snapshot(work, "second")
    report = await push_code(remote, source, str(job(home, 2)))
    assert (report.method, report.files_sent, report.bytes_sent) == ("rsync", 1, 9)
    assert tree(job(home, 2) / "code") == tree(source)


@needs_rsync
async def test_rsync_delivers_what_replaces_earlier_code(work: Path, home: Path, remote: SshTransport) -> None:
    first = mixed(work)
    await push_code(remote, first, str(job(home, 1)))
    plant(job(home, 1) / "code", {"out/checkpoint-70.pt": "weights"})
    plant(work, {"run.sh": "#!/bin/zz", "new.py": "new"})
    (work / "empty").unlink()
    second = snapshot(work, "second")
    report = await push_code(remote, second, str(job(home, 1)), before=[first])
    assert (report.method, report.files_sent, report.note) == ("rsync", 2, ""), "the rest is there in the earlier code"
    now = tree(job(home, 1) / "code")
    assert now.pop("out/checkpoint-70.pt")[0] == b"weights" and now == tree(second)
    assert sorted(os.listdir(job(home, 1))) == ["code", "code.json", "code.sha256"]


async def test_tar_takes_over_when_rsync_fails(
    work: Path, home: Path, remote: SshTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = mixed(work)
    script = "#!/bin/sh\necho 'protocol version mismatch' >&2\necho more >&2\nexit 12\n"
    plant(tmp_path / "bin", {"rsync": script})
    (tmp_path / "bin/rsync").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    report = await push_code(remote, source, str(job(home, 1)))
    assert (report.method, report.note) == ("tar", "rsync failed (exit 12: protocol version mismatch)")
    assert tree(job(home, 1) / "code") == tree(source)


async def test_a_cancelled_rsync_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = plant(tmp_path, {"rsync": f'#!/bin/sh\nsleep 60 &\necho $! > "{pid}"\necho "7 1%"\nwait\n'}) / "rsync"
    script.chmod(0o755)
    under_way = asyncio.Event()
    sending = asyncio.create_task(rsync.send([str(script)], ["x"], lambda done: under_way.set(), 60))
    await under_way.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        child = Path("/proc", pid.read_text().strip(), "stat")
        while child.read_text().rpartition(")")[2].split()[0] != "Z":
            await asyncio.sleep(0.01)
    assert await rsync.send([str(script)], ["x"], lambda done: None, 0.05) == "it took longer than 0 s"


def test_the_rsync_command(tmp_path: Path) -> None:
    plain = NodeConfig(name="a", address="gpu1", ssh_config=str(tmp_path / "none"))
    full = NodeConfig(
        name="b", address="fe80::1", user="ob", port=2222, identity_file="~/k e'y", ssh_config="/dev/null"
    )
    command = rsync.rsync_command(full, tmp_path, "/jobs/x y/code", ["/jobs/other/code"])
    assert command[-1] == "[fe80::1]:/jobs/x y/code/" and command[-2] == f"{tmp_path}/"
    assert {"--copy-dest=/jobs/other/code", "--temp-dir=/jobs/x y", "--protect-args"} <= set(command)
    ssh = rsync.ssh_command(full)
    assert ssh[:3] == ["ssh", "-F", "/dev/null"] and ssh[-4:] == ["-o", "IdentitiesOnly=yes", "-l", "ob"]
    assert ssh[ssh.index("-p") + 1] == "2222" and ssh[ssh.index("-i") + 1] == os.path.expanduser("~/k e'y")
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=8"} <= set(ssh)
    assert not {"-F", "-p", "-i", "-l"} & set(rsync.ssh_command(plain))
