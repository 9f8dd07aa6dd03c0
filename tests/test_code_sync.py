"""Selecting, freezing and delivering a job's code: on this machine's own shell, and over a real sshd on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ugro.common.config import NodeConfig
from ugro.common.errors import InputError, LinkLost, NodeRefused, StateError
from ugro.nodes.code_sync import LARGE_BYTES, push_code, rsync, select_files, take_snapshot
from ugro.nodes.transport import LocalTransport, Outcome, Transport
from ugro.nodes.transport.ssh import SshTransport

SSHD = "/usr/sbin/sshd"
ODD_NAMES = (
    b"with space",
    b" leading and trailing ",
    b"-rf",
    b"#hash",
    b";semicolon",
    b"new\nline",
    b"$(touch x)",
    b"`touch x`; touch x",
    b"'single' \"double\"",
    b"back\\slash",
    b"star*?[a]",
    b"100%",
    b"umlaut-\xc3\xa4",
    b"latin-\xe4",
    b"~tilde",
    b"x" * 200,
)


def plant(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files under a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def git(root: Path, *args: str) -> str:
    """Run git as somebody."""
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", "-C", root, *who, *args], check=True, capture_output=True, text=True).stdout.strip()


def selected(root: Path) -> set[str]:
    """The selected paths but the ignore files themselves."""
    return {path for path in select_files(root).files if not path.endswith("ignore")}


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """Every file of a folder, with what must arrive with it."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in [*files, *(one for one in folders if os.path.islink(os.path.join(folder, one)))]:
            path = Path(folder, name)
            status = path.lstat()
            key = str(path.relative_to(root))
            if path.is_symlink():
                found[key] = (os.readlink(path),)
            else:
                found[key] = (path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    return found


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory; no git settings of the person who runs the tests count."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "no-gitconfig"))
    monkeypatch.setenv("UGRO_HOME", str(tmp_path / "ugro-home"))
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def snapshot(work: Path, name: str = "snapshot") -> Path:
    """A snapshot of the working directory as it is now."""
    target = work.parent / name
    take_snapshot(work, select_files(work), target)
    return target


# What is sent


IDIOMS = {
    ".gitignore": "*.log\n!keep.log\n/data/*\n!/data/ok/\ndocs/**/*.html\nout/\n# comment\n\\#x\ntrailing  \n\\!y\r\n",
    "train.py": "",
    "a.log": "",
    "keep.log": "",
    "data/raw.bin": "",
    "data/ok/x": "",
    "data/ok/deep/y": "",
    "docs/a/b.html": "",
    "docs/b.md": "",
    "out/never": "",
    "sub/out/never": "",
    "#x": "",
    "!y": "",
    "trailing": "",
    "sub/.gitignore": "!a.log\nsecret.txt\n/only-here\n!out/\n",
    "sub/a.log": "",
    "sub/secret.txt": "",
    "sub/only-here": "",
    "sub/deep/only-here": "",
    "sub/deep/secret.txt": "",
    "white/.gitignore": "*\n!*/\n!*.py\n!.gitignore\n",
    "white/a.py": "",
    "white/b.txt": "",
    "white/deep/c.py": "",
    "white/deep/d.txt": "",
    "all/.gitignore": "**\n",
    "all/x": "",
    "star/.gitignore": "foo/**\n!foo/keep\n",
    "star/foo/keep": "",
    "star/foo/lose": "",
    "star/foo/deep/keep": "",
}


def test_ignore_files_are_read_as_git_reads_them(work: Path) -> None:
    plant(work, IDIOMS)
    without_git = selected(work)
    assert without_git == {
        *("train.py", "keep.log", "data/ok/x", "data/ok/deep/y", "docs/b.md", "sub/a.log", "sub/deep/only-here"),
        *("sub/out/never", "white/a.py", "white/deep/c.py", "star/foo/keep"),
    }
    git(work, "init")
    assert selected(work) == without_git


def test_git_decides_in_its_work_tree(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, {".gitignore": "*.bin\n", "gone.py": "", "kept.py": "", "forced.bin": "", "private": "", "e.swp": ""})
    (tmp_path / "excludes").write_text("*.swp\n")
    git(work, "init")
    git(work, "config", "core.excludesFile", str(tmp_path / "excludes"))
    (work / ".git/info/exclude").write_text("private\n")
    git(work, "add", "gone.py", "kept.py")
    git(work, "add", "--force", "forced.bin")
    (work / "gone.py").unlink()
    plant(work, {"untracked.py": "", "other.bin": ""})
    assert selected(work) == {"kept.py", "untracked.py", "forced.bin"}
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert selected(work) == {"kept.py", "untracked.py", "e.swp"}, "without git, its own settings are unknown"


def test_a_subfolder_of_a_repository(work: Path) -> None:
    plant(work, {".gitignore": "*.bin\nignored/\n", "sub/a.py": "", "sub/b.bin": "", "top.py": "", "ignored/c.py": ""})
    git(work, "init")
    assert selected(work / "sub") == {"a.py"}
    assert selected(work / "ignored") == {"c.py"}, "the outer repository has nothing to say of a folder it ignores"


def test_submodules_and_nested_repositories_are_sent(work: Path, tmp_path: Path) -> None:
    library = plant(tmp_path / "library", {"lib.py": "", ".gitignore": "*.o\n"})
    git(library, "init")
    git(library, "add", ".")
    git(library, "commit", "-m", "x")
    plant(work, {"main.py": "", "nested/n.py": ""})
    git(work, "init")
    git(work, "-c", "protocol.file.allow=always", "submodule", "add", str(library), "third/library")
    git(work / "nested", "init")
    plant(work, {"third/library/built.o": ""})
    assert selected(work) == {".gitmodules", "main.py", "nested/n.py", "third/library/lib.py"}
    git(work, "submodule", "deinit", "-f", "third/library")
    assert "third/library" in select_files(work).refused


SECRETS = (
    *(".env", ".env.local", "keys/id_rsa", "id_ed25519.pub", "cert.pem", "wandb/run/x", "checkpoints/step-1.pt"),
    *(".venv/bin/python", "venv/x", "node_modules/x/y.js", "pkg/__pycache__/m.pyc", "m.pyc", ".ugro/jobs/x"),
    *("we\nird/.env", "sub/checkpoints/x"),
)


@pytest.mark.parametrize("in_git", [True, False])
def test_secrets_and_bulk_stay_here(work: Path, in_git: bool) -> None:
    plant(work, {name: "" for name in (*SECRETS, "main.py", "environment.py", "pkg/venv.py")})
    if in_git:
        git(work, "init")
        git(work, "add", "--force", ".")
    assert selected(work) == {"main.py", "environment.py", "pkg/venv.py"}
    plant(work, {".ugroignore": "!.env.local\n/main.py\n", "sub/.ugroignore": "!checkpoints/\n"})
    assert selected(work) == {".env.local", "environment.py", "pkg/venv.py", "sub/checkpoints/x"}


def test_ugroignore_brings_back_nothing_that_git_ignores(work: Path) -> None:
    plant(work, {".gitignore": "*.bin\n", ".ugroignore": "!a.bin\n!.git\n", "a.bin": "", "b": ""})
    assert selected(work) == {"b"}
    git(work, "init")
    assert selected(work) == {"b"}


def test_the_state_directory_is_not_part_of_the_code(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, {"a.py": "", "my [state]/jobs/job-001/snapshot/a.py": ""})
    monkeypatch.setenv("UGRO_HOME", str(work / "my [state]"))
    assert selected(work) == {"a.py"}


def test_what_cannot_be_sent_is_named(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, {"a.py": "", "sub/b.py": "", "locked": ""})
    links = {"in": "sub/b.py", "sub/up": "../a.py", "dangling": "not-yet", "folder": "sub", "out": "../secret"}
    links |= {"absolute": str(work / "a.py"), "there-and-back": "../work/a.py", "via": "folder/../../secret"}
    for name, target in links.items():
        (work / name).symlink_to(target)
    os.mkfifo(work / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(work / "socket"))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    selection = select_files(work)
    assert set(selection.files) == {"a.py", "sub/b.py", "in", "sub/up", "dangling", "folder"}
    assert set(selection.refused) == {"out", "absolute", "there-and-back", "via", "pipe", "socket", "locked"}
    assert "leads out" in selection.refused["out"] and "cannot be read" in selection.refused["locked"]
    git(work, "init")
    assert select_files(work).files == selection.files


def test_sizes(work: Path) -> None:
    plant(work, {"small": "x", "large": "x" * 3000, "medium": "x" * 20})
    selection = select_files(work)
    assert selection.size_bytes == 3021 < LARGE_BYTES
    assert selection.largest(2) == [("large", 3000), ("medium", 20)]


def test_no_directory(work: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        select_files(work / "nowhere")


# Freezing it


def test_a_snapshot_is_the_code_as_it_was(work: Path) -> None:
    plant(work, {"run.sh": "v1", "pkg/a.py": "v1"})
    (work / "run.sh").chmod(0o750)
    (work / "pkg/link").symlink_to("a.py")
    for name in ODD_NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(work), name))).write_bytes(name)
    before = tree(work)
    target = snapshot(work)
    with (work / "run.sh").open("r+") as file:
        file.write("v2")
    (work / "pkg/a.py").write_text("v2")
    assert tree(target) == before
    assert sorted(os.listdir(work.parent)) == ["snapshot", "work"]


def test_a_snapshot_knows_its_commit(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, {"a.py": "1", "b.py": "22"})
    outside = take_snapshot(work, select_files(work), work.parent / "outside")
    assert (outside.git_commit, outside.git_dirty, outside.files, outside.size_bytes) == (None, None, 2, 3)
    git(work, "init")
    unborn = take_snapshot(work, select_files(work), work.parent / "unborn")
    assert (unborn.git_commit, unborn.git_dirty) == (None, True)
    git(work, "add", ".")
    git(work, "commit", "-m", "x")
    clean = take_snapshot(work, select_files(work), work.parent / "clean")
    assert (clean.git_commit, clean.git_dirty) == (git(work, "rev-parse", "HEAD"), False)
    (work / "a.py").write_text("2")
    assert take_snapshot(work, select_files(work), work.parent / "dirty").git_dirty is True
    monkeypatch.setenv("PATH", "/nowhere")
    assert take_snapshot(work, select_files(work), work.parent / "no-git").git_commit is None


def test_files_that_vanish_are_skipped(work: Path) -> None:
    plant(work, {"a.py": "1", "b.py": "22", "c/d.py": "333"})
    selection = select_files(work)
    (work / "b.py").unlink()
    shutil.rmtree(work / "c")
    version = take_snapshot(work, selection, work.parent / "snapshot")
    assert (version.files, version.size_bytes) == (1, 1)
    assert set(tree(work.parent / "snapshot")) == {"a.py"}


def test_a_snapshot_is_whole_or_absent(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, {"a.py": "1"})
    plant(work.parent / "snapshot.tmp", {"left-by-a-killed-one": ""})
    target = snapshot(work)
    assert set(tree(target)) == {"a.py"}
    with pytest.raises(StateError, match="could not be taken"):
        snapshot(work)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(StateError, match="No space left"):
        snapshot(work, "second")
    assert sorted(os.listdir(work.parent)) == ["snapshot", "work"]


# Bringing it to a node, through the transport's own channel


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
    return LocalTransport(NodeConfig(name="here", address="127.0.0.1", local=True, python=sys.executable))


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
    assert sorted(os.listdir(job(home, 1))) == ["code", "code.sha256"]

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
    assert sorted(os.listdir(job(home, 1))) == ["code", "code.sha256"]


async def test_pushes_at_the_same_time_make_one_code(work: Path, home: Path, node: LocalTransport) -> None:
    source = mixed(work)
    reports = await asyncio.gather(*(push_code(node, source, JOB.format(1)) for _ in range(4)))
    assert "tar" in [report.method for report in reports]
    assert tree(job(home, 1) / "code") == tree(source)
    assert sorted(os.listdir(job(home, 1))) == ["code", "code.sha256"]


async def test_an_old_leftover_goes_at_once(work: Path, home: Path, node: LocalTransport) -> None:
    source = snapshot(plant(work, {"a.py": "x"}))
    old, young = (plant(job(home, 1) / f"code.tmp-{name}", {"x": ""}) for name in ("old", "young"))
    os.utime(old, (0, time.time() - 7200))

    def cut() -> None:
        raise LinkLost("here", "the connection broke")

    with pytest.raises(LinkLost):
        await push_code(Meddling(node, cut), source, JOB.format(1))
    assert young.exists() and not old.exists()


async def test_other_code_is_not_overwritten(work: Path, home: Path, node: LocalTransport) -> None:
    source = snapshot(plant(work, {"a.py": "x"}))
    plant(job(home, 1), {"code/results": "of somebody", "code.sha256": "other\n"})
    with pytest.raises(NodeRefused, match="holds other code"):
        await push_code(node, source, JOB.format(1))
    assert set(tree(job(home, 1))) == {"code/results", "code.sha256"}
    shutil.rmtree(job(home, 1) / "code")
    assert (await push_code(node, source, JOB.format(1))).method == "tar"


class Meddling(LocalTransport):
    """A node where something happens between the two steps of a push."""

    def __init__(self, transport: Transport, meddle: Any) -> None:
        super().__init__(transport.node)
        self._meddle = meddle

    async def run(self, script: str, args: Sequence[str] = (), **options: Any) -> Outcome:
        if "finish" in args:
            self._meddle()
        return await super().run(script, args, **options)


async def test_a_damaged_snapshot_is_not_published(work: Path, home: Path, node: LocalTransport) -> None:
    source = snapshot(plant(work, {"a.py": "x", "b.py": "yy"}))
    with pytest.raises(NodeRefused, match="did not arrive whole"):
        await push_code(Meddling(node, lambda: (source / "b.py").write_text("zz")), source, JOB.format(1))
    with pytest.raises(StateError, match=r"b\.py"):
        await push_code(Meddling(node, (source / "b.py").unlink), source, JOB.format(1))
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
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
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
        command: list[str | Path] = [SSHD, "-D", "-e", "-f", folder / "sshd_config"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
    try:
        _wait_for(port)
        yield {"port": port, "identity_file": f"{folder}/user", "ssh_config": f"{folder}/ssh_config"}
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError("sshd did not start")


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
    assert sorted(os.listdir(job(home, 1))) == ["code", "code.sha256"]


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


def test_a_link_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.py").touch()
    (tmp_path / "link").symlink_to("t.py")

    def forbidden(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.readlink", forbidden)
    selection = select_files(tmp_path)
    assert list(selection.files) == ["t.py"] and selection.refused == {"link": "Permission denied"}
