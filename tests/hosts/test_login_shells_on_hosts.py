"""Whatever a login shell and its start-up files do: scripts run, or the node is refused, and both ways agree."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ugro.testing.testbed import Testbed

BOTH = """
import asyncio, json, sys, time
from pathlib import Path
from ugro.common.inventory_file import load_inventory
from ugro.common.errors import NodeError
from ugro.nodes.pool import Pool

async def told(act):
    began = time.monotonic()
    try:
        outcome = await act
        said = dict(status=outcome.status, text=outcome.text)
    except NodeError as error:
        said = error.as_dict()
    return said | dict(seconds=time.monotonic() - began)

async def main():
    async with Pool(load_inventory(Path("inventory.yaml"))) as pool:
        node = pool["gpu1"]
        script = 'echo "$#:$1"; cat; echo ran >> "$HOME/ran"'
        run = await told(node.run(script, ["a b"], data=b"data"))
        print(json.dumps([run, await told(node.ask(script, ["a b"]))]), flush=True)

for asked in sys.stdin:
    asyncio.run(main())
"""

Both = Callable[[], tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture(scope="module")
def both(testbed: Testbed) -> Iterator[Both]:
    """Tells what `Transport.run` and `Transport.ask` get from gpu1, over a new connection each time."""
    testbed.reset()
    with testbed.popen([sys.executable, "-W", "error", "-c", BOTH], stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        asked, answered = process.stdin, process.stdout

        def both() -> tuple[dict[str, Any], dict[str, Any]]:
            asked.write("\n")
            asked.flush()
            run, ask = json.loads(answered.readline())
            return run, ask

        yield both
        _, complaint = process.communicate(timeout=20)
        assert process.returncode == 0, complaint


@pytest.fixture
def bed(testbed: Testbed, both: Both) -> Testbed:
    """Who asks stays, on the master."""
    testbed.reset(testbed.gpu1)
    return testbed


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "fish", "tcsh", "busybox sh", "python3", "python3 -i", "cat"])
def test_another_shell_in_the_place_of_ours_is_named_and_runs_nothing(bed: Testbed, both: Both, shell: str) -> None:
    if not shutil.which(shell.split()[0]):
        pytest.skip(f"no {shell} is installed here")
    bed.gpu1.write(".bashrc", f'PATH="$PATH:{sys.exec_prefix}/bin"; exec {shell}\n')
    for answer in both():
        assert answer["code"] == "node_refused" and answer["seconds"] < 8, answer
        if shell in ("sh", "bash", "zsh", "tcsh"):
            assert f"put {shell} in its place" in answer["message"] and f"exec {shell}" in answer["hint"]
        else:
            assert "did not run our script" in answer["message"] and "~/.bashrc" in answer["hint"]
    assert not bed.gpu1.path("ran").exists()


FOREIGN_INPUT = {
    "reads a line": "read line",
    "reads two lines": "read line; read line",
    "reads all": "cat > /dev/null",
    "ends": "exit 0",
    "breaks": "if then fi",
    "has no programs": "PATH=",
    "is no account": "echo This account is currently not available.; exit 1",
    "has an old password": "echo Password change required but no TTY available. >&2; exit 1",
}


@pytest.mark.parametrize("rc", FOREIGN_INPUT.values(), ids=FOREIGN_INPUT)
def test_a_start_up_file_in_the_way_is_a_refusal_in_both_ways(bed: Testbed, both: Both, rc: str) -> None:
    bed.gpu1.write(".bashrc", f"{rc}\n")
    run, ask = both()
    if rc == "if then fi":  # bash complains of it and continues
        assert run["text"] == "1:a b\ndata" and ask["text"] == "1:a b\n"
        return
    for answer in (run, ask):
        assert answer.get("code") == "node_refused", (run, ask)
        if "Password" in rc:
            assert "passwd" in answer["hint"]
        if "account" in rc:
            assert "usermod" in answer["hint"]


HARMLESS = {
    "talks before each command": "trap 'echo noise; echo more >&2' DEBUG",
    "traces": "set -xv; export PS4='+ trace '",
    "is strict for all shells": "set -e; set -u; export SHELLOPTS",
    "has aliases": "alias cat=false ls=false echo=false exec=false; shopt -s expand_aliases",
    "has files for other shells": "export ENV=$HOME/noise BASH_ENV=$HOME/noise",
    "prints garbage": "head -c 100000 /dev/urandom; printf '\\nUGRO-\\nUGRO-0123456789abcdef01234567 -\\n'",
    "is for terminals": "[ -t 0 ] && exec python3",
}


@pytest.mark.parametrize("rc", HARMLESS.values(), ids=HARMLESS)
def test_a_noisy_start_up_file_does_no_harm(bed: Testbed, both: Both, rc: str) -> None:
    bed.gpu1.write("noise", "echo noise; set -x; set -e\n")
    bed.gpu1.write(".bashrc", f"{rc}\n")
    run, ask = both()
    if "alias" in rc:
        bed.gpu1.path("ran").unlink(missing_ok=True)
        assert run.get("code") == ask.get("code")
        return
    assert (run.get("text"), ask.get("text")) == ("1:a b\ndata", "1:a b\n"), (run, ask)


@pytest.mark.parametrize("command", ["/bin/echo no", "internal-sftp", "/bin/false", "/bin/cat"])
def test_a_forced_command_is_a_refusal_in_both_ways(bed: Testbed, both: Both, command: str) -> None:
    key = bed.gpu1.path(".ssh/authorized_keys").read_text()
    bed.gpu1.write(".ssh/authorized_keys", f'command="{command}" {key}', 0o600)
    for answer in both():
        assert answer.get("code") == "node_refused", answer
