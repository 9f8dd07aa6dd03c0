"""A sandbox for the tests of a file, which takes half a second, and `ugro` in the `project` that the file defines.

Every command looks at every node of the inventory: a file that needs two names them in `CLUSTER`. What an observation
starts on a node, nvidia-smi and short scripts, is forked from one process: most of its cost would be to start Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from places import QUICK

from ugro.sandbox.cluster import Sandbox
from ugro.testing.cluster import RANKS, fork_nvidia_smi, write_python
from ugro.testing.commands import Ask, Ugro
from ugro.testing.forking_python import client
from ugro.testing.testbed.machine import Begun, ForkedProcess

SPARING = """\
#!/bin/sh
# The nodes' python. Not every job waits until torchrun has imported torch on each node: modules, programs, and scripts
# with a line that begins with `# torchrun`, have the real one.
{forked}export PYTHONPATH={quick}${{PYTHONPATH:+:$PYTHONPATH}}
if [ "$1" = -m ]; then
    for word; do case $word in
        */rank.py) ;;
        *.py) grep -q '^# torchrun' "$word" || exec {without_torch} "$@"; break ;;
    esac; done
fi
exec {python} "$@"
"""


@pytest.fixture(scope="module")
def rank_python() -> str:
    """The Python of ranks that no torchrun starts."""
    return RANKS


@pytest.fixture(scope="module")
def sandbox(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rank_python: str
) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("python")
    python = folder / "python"
    without_torch = write_python(folder / "without-torch", ranks=rank_python)
    places = {"without_torch": without_torch, "python": sys.executable, "quick": QUICK}
    python.write_text(SPARING.format(forked=client(), **places))
    python.chmod(0o755)
    cluster = Sandbox(tmp_path_factory.mktemp("sandbox"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # each rank would have a thread for every processor
        cluster.up()
    fork_nvidia_smi(cluster, python)
    inventory = yaml.safe_load(cluster.inventory.read_text())
    inventory["defaults"]["python"] = str(python)
    inventory["nodes"] = {
        name: inventory["nodes"][name] for name in getattr(request.module, "CLUSTER", inventory["nodes"])
    }
    cluster.inventory.write_text(yaml.safe_dump(inventory))
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def ugro(forked: Ugro, sandbox: Sandbox, project: Path) -> Ugro:
    return partial(forked, cwd=project, env=os.environ | sandbox.environment())


@pytest.fixture(scope="module")
def begun(forks: Ask, sandbox: Sandbox, project: Path) -> Begun:
    env = os.environ | sandbox.environment()
    return lambda *words: ForkedProcess(forks, words, cwd=str(project), env=env)
