"""rank.py by itself: it keeps the time limit of its script and hands it its share of the batch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.run.on_node import rank

TELL = """
import os, signal, sys, time
def tell(number, _):
    print(signal.Signals(number).name, open("rank-3.limit").read().split()[0], flush=True)
    if number == signal.SIGTERM:
        sys.exit(7)
"""


def run(folder: Path, script: str, patience: str = "10.0", **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script as rank 3 in a folder, with so much patience after SIGTERM."""
    (folder / "rank.py").write_text(load("run/rank.py").replace("PATIENCE = 10.0", f"PATIENCE = {patience}"))
    (folder / "script.py").write_text(script)
    command = [sys.executable, "rank.py", ".", "script.py"]
    return subprocess.run(command, cwd=folder, env=os.environ | {"RANK": "3"} | env, text=True, timeout=60)


def left(folder: Path, kind: str) -> list[str]:
    return (folder / f"rank-3.{kind}").read_text().split()


def test_a_script_that_ends_in_time_knows_nothing_of_the_limit(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = run(tmp_path, "print('done')", UGRO_TIME_LIMIT="40", UGRO_TIME_WARNING="20")
    assert done.returncode == 0 and time.monotonic() - begin < 15
    assert not (tmp_path / "rank-3.limit").exists()
    assert left(tmp_path, "exit")[:2] == ["code", "0"]


def test_a_script_that_ends_after_the_warning_keeps_the_warning(tmp_path: Path) -> None:
    script = TELL + "signal.signal(signal.SIGUSR2, tell)\nsignal.pause()\n"
    assert run(tmp_path, script, UGRO_TIME_LIMIT="40", UGRO_TIME_WARNING="38").returncode == 0
    assert left(tmp_path, "log") == ["SIGUSR2", "warned"]
    assert left(tmp_path, "limit")[0] == "warned"


def test_records_warning_and_end_before_the_script_gets_the_signals(tmp_path: Path) -> None:
    script = TELL + "for name in ('SIGUSR2', 'SIGTERM'): signal.signal(getattr(signal, name), tell)\ntime.sleep(60)\n"
    begin, now = time.monotonic(), time.time()
    assert run(tmp_path, script, UGRO_TIME_LIMIT="3", UGRO_TIME_WARNING="1.5").returncode == 7
    assert 3 <= time.monotonic() - begin < 10
    assert left(tmp_path, "log") == ["SIGUSR2", "warned", "SIGTERM", "ended"]
    what, at = left(tmp_path, "limit")
    assert what == "ended" and 2.9 < float(at) - now < 10
    assert left(tmp_path, "exit")[:2] == ["code", "7"]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("warning", ["1", "99"])  # with the second one it comes at once
def test_a_script_without_a_handler_is_not_killed_by_the_warning(tmp_path: Path, warning: str) -> None:
    script = TELL + (
        "while not os.path.exists('rank-3.limit'): time.sleep(0.01)\n"
        "print(open('rank-3.limit').read().split()[0], flush=True)\n"
        "time.sleep(60)\n"
    )
    done = run(tmp_path, script, UGRO_TIME_LIMIT="2", UGRO_TIME_WARNING=warning)
    assert done.returncode == -15
    assert left(tmp_path, "log") == ["unheard"]
    assert left(tmp_path, "limit")[0] == "ended"
    assert left(tmp_path, "exit")[:2] == ["signal", "TERM"]


def test_a_script_that_does_not_end_is_killed(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    assert run(tmp_path, script, patience="0.3", UGRO_TIME_LIMIT="1").returncode == -9
    assert left(tmp_path, "limit")[0] == "ended"
    assert left(tmp_path, "exit")[:2] == ["signal", "KILL"]


def test_a_limit_that_was_extended_counts_and_is_warned_of_again(tmp_path: Path) -> None:
    """At its first limit the script is not ended: the rank reads the limit once more first, however rarely it looks."""
    script = TELL + (
        "def extend(number, _):\n"
        "    tell(number, _)\n"
        "    open('fresh', 'w').write('4 1.5'); os.rename('fresh', 'time-limit')\n"
        "signal.signal(signal.SIGUSR2, lambda *_: (extend if not os.path.exists('time-limit') else tell)(*_))\n"
        "signal.signal(signal.SIGTERM, tell)\n"
        "while True: time.sleep(60)\n"
    )
    begin = time.monotonic()
    assert run(tmp_path, script, UGRO_TIME_LIMIT="2", UGRO_TIME_WARNING="1").returncode == 7
    assert 4 <= time.monotonic() - begin < 12
    assert left(tmp_path, "log") == ["SIGUSR2", "warned", "SIGUSR2", "warned", "SIGTERM", "ended"]
    assert left(tmp_path, "limit")[0] == "ended"


def test_forgets_the_last_step_of_an_earlier_limit(tmp_path: Path) -> None:
    (tmp_path / "time-limit").write_text("0.5 0.2")
    script = (
        "import os, time\n"
        "while not os.path.exists('rank-3.limit'): time.sleep(0.01)\n"
        "open('fresh', 'w').write('600 1'); os.rename('fresh', 'time-limit')\n"
        "while os.path.exists('rank-3.limit'): time.sleep(0.01)\n"
    )
    assert run(tmp_path, script, UGRO_TIME_LIMIT="40", UGRO_TIME_WARNING="1").returncode == 0
    assert not (tmp_path / "rank-3.limit").exists()


def test_an_extension_that_comes_with_the_limit_itself_counts(tmp_path: Path) -> None:
    """The extension writes first and then looks for the note; the rank notes first and then reads."""

    class Late(rank.TimeLimit):
        def note(self, what: str) -> None:
            super().note(what)
            assert left(tmp_path, "limit")[0] == what == "ended"
            (tmp_path / "time-limit").write_text("600 1")

    with subprocess.Popen(["sleep", "2"]) as process:
        limit = Late(process, str(tmp_path / "rank-3"), 0.5, None)
        assert limit.wait() == 0, "it was not ended"
    assert limit.limit == 600 and not (tmp_path / "rank-3.limit").exists()


@pytest.mark.parametrize("text", ["", "soon", "600", "-1 0", "nan nan", "inf 1", "1 2 3", "\0" * 9])
def test_an_extension_that_makes_no_sense_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "time-limit").write_text(text)
    begin = time.monotonic()
    assert run(tmp_path, "import time; time.sleep(60)", UGRO_TIME_LIMIT="1").returncode == -15
    assert time.monotonic() - begin < 10


def test_a_limit_that_is_no_number_starts_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "", UGRO_TIME_LIMIT="soon").returncode == 1
    assert not (tmp_path / "rank-3.pid").exists()


def test_each_rank_finds_its_own_share(tmp_path: Path) -> None:
    script = "import os; print(*(os.environ.get('UGRO_' + name) for name in ('BATCH_SHARE', 'GRADIENT_WEIGHT')))"
    ranks = {"LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    run(tmp_path, script, UGRO_BATCH_SHARES="0.5,0.125", **ranks)
    run(tmp_path, script, **ranks)
    assert left(tmp_path, "log") == ["0.125", "0.5", "None", "None"]
