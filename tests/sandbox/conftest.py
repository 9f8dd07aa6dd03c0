"""A sandbox for the tests of a file, which takes half a second, and `ugro` in the `project` that the file defines.

Every command looks at every node of the inventory: a file that needs two names them in `CLUSTER`.
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
from ugro.testing.cluster import write_python
from ugro.testing.commands import Ugro

SPARING = """\
#!/bin/sh
# The nodes' python. Not every job waits until torchrun has imported torch on each node: modules, programs and scripts
# that mention torchrun have the real one.
if [ "$1" = -m ]; then
    for word; do case $word in
        */rank.py) ;;
        *.py) grep -q torchrun "$word" || exec {without_torch} "$@"; break ;;
    esac; done
fi
PYTHONPATH={quick}${{PYTHONPATH:+:$PYTHONPATH}} exec {python} "$@"
"""


@pytest.fixture(scope="module")
def sandbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("python")
    python = folder / "python"
    without_torch = write_python(folder / "without-torch")
    python.write_text(SPARING.format(without_torch=without_torch, python=sys.executable, quick=QUICK))
    python.chmod(0o755)
    cluster = Sandbox(tmp_path_factory.mktemp("sandbox"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # each rank would have a thread for every processor
        cluster.up()
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
