"""A network cable is pulled: packets vanish and nothing is reset. How soon a job on that node is `unknown`.

The nodes are the three hosts of ugro/testing/testbed, which needs root for its network namespaces.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.report import Row, Unavailable, timed
from ugro.control_plane.metadata_store import MetadataStore
from ugro.testing.testbed import Testbed, TestbedError
from ugro.testing.testbed.bed import missing_packages

CUTS = 3
PATIENCE = 120.0
LOOK_SECONDS = 0.01
SCRIPT = "sleep.py"
GROUP = "a node's cable is pulled"
RESIDENT = "until its job is `unknown`, `ugro serve`"
HEALED = "cable back in, until the job is `running`, `ugro serve`"
SWEEP = "until its job is `unknown`, a new `ugro sweep`"


def measure() -> Iterator[Row]:
    """The rows of this benchmark.

    Raises:
        Unavailable: this machine cannot make the hosts whose cables are pulled.
    """
    with _testbed() as bed:
        seconds = _under_serve(bed)
        yield timed(GROUP, RESIDENT, seconds["unknown"])
        yield timed(GROUP, HEALED, seconds["running"])
        yield timed(GROUP, SWEEP, _before_sweep(bed))


@contextmanager
def _testbed() -> Iterator[Testbed]:
    if missing := missing_packages():
        raise Unavailable(f"needs {missing}")  # the tests would install them; a benchmark does not
    if os.geteuid():
        raise Unavailable("needs root, for network namespaces")
    try:
        bed = Testbed()
    except (TestbedError, OSError) as error:
        raise Unavailable(f"no network namespaces here: {error}") from None
    with bed:
        bed.master.write(f"project/{SCRIPT}", "import time; time.sleep(3600)\n")
        yield bed


def _settings(bed: Testbed) -> dict[str, Any]:
    inventory = {"UGRO_INVENTORY": f"{bed.master.home}/inventory.yaml"}
    return {"cwd": f"{bed.master.home}/project", "env": inventory}


def _store(bed: Testbed) -> MetadataStore:
    return MetadataStore(bed.master.path(".ugro"))


def _launch(bed: Testbed) -> str:
    done = bed.ugro("launch", SCRIPT, "--gpus-per-node", "0", "--json", **_settings(bed))
    made = json.loads(done.stdout or "{}")
    if made.get("state") != "running":
        raise RuntimeError(f"ugro launch: {done.stderr.strip() or made}")
    return str(made["id"])


def _under_serve(bed: Testbed) -> dict[str, list[float]]:
    """Seconds from a pulled cable to the event `unknown`, and from the cable put back to the event `running`."""
    seconds = defaultdict(list)
    job = _launch(bed)
    argv = [sys.executable, "-m", "ugro", "serve"]
    with bed.popen(argv, **_settings(bed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serve:
        try:
            for _ in range(CUTS):
                for act, kind in ((bed.gpu2.cut, "unknown"), (bed.gpu2.heal, "running")):
                    begin = time.time()
                    act()
                    seconds[kind].append(event_after(_store(bed), job, kind, begin) - begin)
        finally:
            bed.gpu2.heal()
            serve.terminate()
    bed.ugro("cancel", job, **_settings(bed))
    return seconds


def _before_sweep(bed: Testbed) -> list[float]:
    """Seconds from the start of a sweep that cannot connect to the event `unknown`."""
    seconds = []
    for _ in range(CUTS):
        job = _launch(bed)
        bed.gpu2.cut()
        begin = time.time()
        bed.ugro("sweep", **_settings(bed))
        bed.gpu2.heal()
        seconds.append(event_after(_store(bed), job, "unknown", begin) - begin)
        bed.ugro("cancel", job, **_settings(bed))
    return seconds


def event_after(store: MetadataStore, job: str, kind: str, begin: float) -> float:
    """When something happened to a job after `begin`, as soon as it has; both in seconds since the epoch."""
    while not (found := [event.at for event in store.timeline.of_job(job) if event.kind == kind and event.at > begin]):
        if time.time() > begin + PATIENCE:
            raise RuntimeError(f"{job} is not {kind} within {PATIENCE:.0f} s")
        time.sleep(LOOK_SECONDS)
    return found[0]
