"""Environments that are made on a node: the script under /bin/sh, with a package index on loopback."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ugro.common.errors import NodeRefused
from ugro.nodes.remote.interpreters import environment
from ugro.nodes.remote.interpreters.environment import Recipe, Tools, make, tools, uv_to_send
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders

UV = """\
#!/bin/sh
# Stands for uv: says what it was asked, and makes a folder.
if [ "$1" = --version ]; then echo "uv 0.13.9"; exit; fi
echo "$*" >> "$HOME/asked"
if [ "$1" = venv ]; then mkdir -p "$5/bin" && echo '#!/bin/sh' > "$5/bin/python"; exit; fi
[ ! -e "$HOME/offline" ] || { echo "error: Failed to fetch: no route to host" >&2; exit 2; }
echo "Downloading torch" >&2
"""


def recipe(index_url: str = "https://index/cpu", name: str = "torch-2.13-cpu") -> Recipe:
    packages = ("torch==2.13.*",)
    return Recipe(name=name, python="3.12", oldest=(3, 9), newest=(3, 99), index_url=index_url, packages=packages)


@pytest.fixture
def node(home: Path) -> LocalTransport:
    (home / "bin").mkdir()
    (home / "bin/python3").symlink_to(sys.executable)
    path = f"{home}/bin:/usr/bin:/bin"
    return LocalTransport(builders.this_machine(env={"PATH": path, "PIP_CONFIG_FILE": os.devnull}))


@pytest.fixture
def uv(home: Path) -> Path:
    file = home / "uv"
    file.write_text(UV)
    file.chmod(0o755)
    return file


def write_wheel(folder: Path) -> None:
    """A package called torch, in an index as pip reads it."""
    folder.mkdir(parents=True)
    name, info = "torch-2.13.0-py3-none-any.whl", "torch-2.13.0.dist-info"
    files = {
        "torch/__init__.py": "__version__ = '2.13.0'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text)}\n")
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": "".join([*lines, f"{info}/RECORD,,\n"])}.items():
            wheel.writestr(path, text)
    (folder / "index.html").write_text(f'<a href="{name}">{name}</a>')


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    write_wheel(tmp_path / "index/cpu/torch")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "index")))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/cpu"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.long
async def test_makes_one_with_venv_and_pip_where_there_is_no_uv(node: LocalTransport, index: str, home: Path) -> None:
    lines: list[str] = []
    path = await make(node, recipe(index), None, lines.append)
    assert path == f"{home}/.ugro/envs/torch-2.13-cpu/bin/python"
    said = subprocess.run([path, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    assert said.stdout == "2.13.0\n"
    assert any("-m venv" in line for line in lines) and any("Successfully installed torch" in line for line in lines)
    assert sorted(one.name for one in (home / ".ugro/envs").iterdir()) == ["torch-2.13-cpu"], "no archives are left"


async def test_sends_uv_and_removes_it_again(node: LocalTransport, uv: Path, home: Path) -> None:
    lines: list[str] = []
    path = await make(node, recipe(), uv, lines.append)
    envs = home / ".ugro/envs"
    assert lines[-1] == "Downloading torch" and "with uv 0.13.9" in lines[0]
    assert (home / "asked").read_text().splitlines() == [
        f"venv --quiet --python 3.12 {envs}/torch-2.13-cpu",
        f"pip install --python {path} --index-url https://index/cpu torch==2.13.*",
    ]
    assert [one.name for one in envs.iterdir()] == ["torch-2.13-cpu"]
    assert (envs / "torch-2.13-cpu/.ugro-env").read_text() == "torch==2.13.*\n"


async def test_continues_after_a_break(node: LocalTransport, uv: Path, home: Path) -> None:
    (home / "offline").touch()
    with pytest.raises(NodeRefused, match="could not be made: error: Failed to fetch: no route to host") as refused:
        await make(node, recipe(), uv, lambda _: None)
    assert "repeat it, which continues: ugro node python here --make" in refused.value.hint
    (home / "offline").unlink()
    lines: list[str] = []
    assert await make(node, recipe(), uv, lines.append)
    assert lines[0] == f"removing what is in {home}/.ugro/envs/torch-2.13-cpu"


async def test_makes_a_complete_one_again(node: LocalTransport, uv: Path, home: Path) -> None:
    for _ in range(2):
        await make(node, recipe(), uv, lambda _: None)
    assert len((home / "asked").read_text().splitlines()) == 4


async def test_leaves_what_is_not_ugros(node: LocalTransport, uv: Path, home: Path) -> None:
    mine = home / ".ugro/envs/torch-2.13-cpu"
    mine.mkdir(parents=True)
    (mine / "file").touch()
    with pytest.raises(NodeRefused, match="is there and was not made by UGRO"):
        await make(node, recipe(), uv, lambda _: None)
    assert (mine / "file").exists() and not (home / "asked").exists()


async def test_refuses_while_another_process_makes_it(node: LocalTransport, uv: Path, home: Path) -> None:
    (home / ".ugro/envs").mkdir(parents=True)
    since = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]
    (home / ".ugro/envs/.torch-2.13-cpu.making").write_text(f"{os.getpid()} {since}\n")
    with pytest.raises(NodeRefused, match=rf"another process makes the environment .* now \(pid {os.getpid()}\)"):
        await make(node, recipe(), uv, lambda _: None)


async def test_leaves_one_that_a_process_runs_with(node: LocalTransport, uv: Path, home: Path) -> None:
    python = Path(await make(node, recipe(), uv, lambda _: None))
    python.write_text("#!/bin/sh\necho up; read line\n")
    python.chmod(0o755)
    with subprocess.Popen([python], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout and job.stdout.readline() == "up\n"
        with pytest.raises(NodeRefused, match=rf"a process runs with the environment .* \(pid {job.pid}\)"):
            await make(node, recipe(), uv, lambda _: None)
        assert python.exists()
        job.communicate("\n")


async def test_says_what_to_install_where_there_is_no_tool(node: LocalTransport, home: Path) -> None:
    bare = recipe().model_copy(update={"oldest": (3, 98)})
    with pytest.raises(NodeRefused, match="neither uv nor a Python with venv and pip") as refused:
        await make(node, bare, None, lambda _: None)
    assert "apt install python3-venv" in refused.value.hint and "ugro[envs]" in refused.value.hint
    assert list((home / ".ugro/envs").iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../x"}, {"name": "-x"}, {"name": ".cache"}, {"name": ""}, {"python": "--help"},
        {"packages": ("torch; rm -rf /",)}, {"packages": ("--pre",)}, {"packages": ("a b",)},
        {"index_url": "ftp://x"}, {"index_url": "--help"}, {"index_url": "https://me:secret@index"},
        {"index_url": "https://x y"},
    ],
)  # fmt: skip
async def test_refuses_a_recipe_with_options_or_paths(node: LocalTransport, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        await make(node, recipe().model_copy(update=changes), None, lambda _: None)


async def test_sends_uv_only_where_it_is_missing_and_runs(
    node: LocalTransport, uv: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "own_uv", lambda: uv)
    here = await tools(node)
    assert here == Tools(machine=os.uname().machine, uv=False) and uv_to_send(here) == uv
    assert uv_to_send(Tools(machine="riscv64", uv=False)) is None
    (home / "bin/uv").symlink_to(uv)
    assert (await tools(node)).uv and uv_to_send(await tools(node)) is None
