"""Notebooks and TensorBoard over real SSH. Jupyter and TensorBoard themselves are stand-ins: small modules that take
the same options, write the same runtime file and serve over HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ugro.sandbox.cluster import Sandbox
from ugro.sandbox.files import Files
from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.machine import Begun

CLUSTER = ("gpu1", "gpu2")

JUPYTER = """\
import http.server, json, os, sys
options = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
assert options["ip"] == "127.0.0.1" and "no-browser" in options, sys.argv
token = os.environ["JUPYTER_TOKEN"]
class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path.endswith("?token=" + token) else 403)
        self.end_headers()
        self.wfile.write(os.environ["CUDA_VISIBLE_DEVICES"].encode())
server = http.server.HTTPServer((options["ip"], int(options["port"])), Pages)
told = os.path.join(os.environ["JUPYTER_RUNTIME_DIR"], f"jpserver-{os.getpid()}.json")
print("the token is", token, flush=True)
with open(told, "w") as file:
    json.dump({"port": server.server_port, "base_url": "/", "token": token, "pid": os.getpid()}, file)
open("made.ipynb", "w").write("{}")
server.serve_forever()
"""

TENSORBOARD = """\
import functools, http.server, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=options["--logdir"])
http.server.ThreadingHTTPServer((options["--host"], int(options["--port"])), handler).serve_forever()
"""

WRITES = """\
import os, time
os.makedirs("runs/a")
with open("runs/a/events.out.tfevents.1.here", "w") as file:
    file.write("first")
    file.flush()
    while not os.path.exists(os.path.expanduser("~/more")): time.sleep(0.1)
    file.write(" second")
    file.flush()
    while not os.path.exists(os.path.expanduser("~/end")): time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "writes.py").write_text(WRITES)
    (folder / "notebook.py").write_text("raise SystemExit('this is not Jupyter')")
    (folder / "jupyter").mkdir()
    return folder


@contextlib.contextmanager
def until_interrupted(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A `ugro` until Ctrl-C, which ends it with 0."""
    with process as running:
        try:
            yield running
        finally:
            running.send_signal(signal.SIGINT)
            _, problems = running.communicate(timeout=60)
    assert running.returncode == 0, problems


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.long
def test_serves_a_notebook_with_a_token_of_its_own(ugro: Ugro, sandbox: Sandbox, begun: Begun, tmp_path: Path) -> None:
    done = ugro("notebook", "--node", "gpu1", "--name", "without", "--no-browser")
    assert done.returncode == 1 and "it serves no notebook" in done.stderr
    assert "ugro run --on gpu1 -- " in done.stderr and "-m pip install jupyterlab" in done.stderr
    assert document(ugro("explain", "without", "--json"))["cause"] == "import_error"

    (tmp_path / "jupyter_server.py").write_text(JUPYTER)
    words = ("--node", "gpu1", "--name", "mine", "--env", f"PYTHONPATH={tmp_path}")
    with until_interrupted(begun("notebook", *words, "--no-browser")) as running:
        assert running.stdout
        url = running.stdout.readline().strip()
        token = url.partition("?token=")[2]
        gpu = document(ugro("status", "mine", "--json"))["ranks"][0]["gpu"]
        assert len(token) == 64 and page(url) == gpu
        with pytest.raises(urllib.error.HTTPError, match="403"):
            page(url.partition("?")[0])
    job = document(ugro("status", "mine", "--json"))
    assert job["state"] == "running" and job["id"] == "job-002"
    with until_interrupted(begun("notebook", "mine", "--json")) as running:
        assert running.stdout
        link = json.loads(running.stdout.readline())
        assert link["node"] == "gpu1" and token not in str(link) and page(f"{link['url']}?token={token}") == gpu

    shown = [ugro(*one).stdout for one in (("logs", "mine"), ("status", "mine", "--json"), ("secret", "list"))]
    assert "the token is ****" in shown[0] and not any(token in text for text in shown)
    state = Path(sandbox.environment()["UGRO_HOME"])
    record = state / "jobs/job-002"
    assert not any(token in path.read_text("utf-8", "replace") for path in record.glob("*.json*"))
    assert [path.name for path in (state / "secrets").iterdir() if path.read_text() == token]
    ugro("pull", "mine", "--to", str(tmp_path / "here"))
    assert (tmp_path / "here/made.ipynb").read_text() == "{}"
    assert ugro("cancel", "mine").returncode == 0
    assert not [*(state / "secrets").iterdir()]
    again = ugro("notebook", "mine")
    assert again.returncode == 2 and "next:  run it again: ugro rerun job-002" in again.stderr


@pytest.mark.long
def test_shows_event_files_in_tensorboard_and_what_comes_later(
    ugro: Ugro, sandbox: Sandbox, project: Path, tmp_path: Path
) -> None:
    none = ugro("tensorboard", "without")
    assert none.returncode == 2 and "pip install tensorboard" in none.stderr and "ugro metrics" in none.stderr
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard/__init__.py").touch()
    (tmp_path / "tensorboard/main.py").write_text(TENSORBOARD)
    ugro("launch", "writes.py", "--launcher", "python", "--nodes", "gpu2", "--name", "writes")
    home = Files(sandbox.root).home("gpu2")
    job = document(ugro("status", "writes", "--json"))["id"]
    until((home / f".ugro/jobs/{job}/code/runs/a/events.out.tfevents.1.here").exists)
    env = os.environ | sandbox.environment() | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-P", "-m", "ugro", "tensorboard"]
    showing = subprocess.Popen(
        [*command, "writes", "--no-browser"], cwd=project, env=env, stdout=-1, stderr=-1, text=True
    )
    with until_interrupted(showing) as running:
        assert running.stdout
        url = running.stdout.readline().strip()
        file = f"{url}writes/runs/a/events.out.tfevents.1.here"
        assert page(file) == "first"
        (home / "more").touch()
        assert until(lambda: page(file) == "first second")
    with pytest.raises(urllib.error.URLError):
        page(url)
    (home / "end").touch()
    ugro("wait", "writes")
    nothing = subprocess.run(
        [*command, "without"], cwd=project, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert nothing.returncode == 2 and "no files named events.out.tfevents.*" in nothing.stderr
    copies = Path(sandbox.environment()["UGRO_HOME"]) / "jobs" / job / "tensorboard"
    assert [path.name for path in copies.rglob("events*")] == ["events.out.tfevents.1.here"]
    ugro("rm", "writes", "--yes")
    assert not copies.exists()
