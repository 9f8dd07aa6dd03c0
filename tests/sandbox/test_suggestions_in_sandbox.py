"""Whatever a failure suggests to type works as it is printed: every path to an end, in the sandbox."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from code_folders import plant

from ugro.testing.commands import Ugro, document

CLUSTER = ("gpu1", "gpu2")

SCRIPTS = {
    "raises.py": "raise ValueError('a mistake')\n",
    "exits.py": "raise SystemExit(3)\n",
    "killed.py": "import os\nos.kill(os.getpid(), 9)\n",
    "imports.py": "import nowhere_to_be_found\n",
    "arguments.py": "import argparse\nargparse.ArgumentParser().parse_args(['--nonsense'])\n",
    "memory.py": "import argparse\n"
    "parser = argparse.ArgumentParser()\n"
    "parser.add_argument('--batch-size', type=int, default=4)\n"
    "if parser.parse_args().batch_size > 2:\n"
    "    raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB.')\n",
    "limited.py": "import time\ntime.sleep(600)\n",
    "cancelled.py": "import time\ntime.sleep(600)\n",
    "waiting.py": "",
}
OPTIONS = {"limited.py": ["--time", "1s"], "waiting.py": ["--hold"]}
READS = ("explain", "status", "logs", "why", "events", "proposals", "checkpoints")
"""Commands that change nothing."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("project"), SCRIPTS)


def suggested(text: str) -> list[list[str]]:
    """The commands that a text says to type, as words."""
    return [shlex.split(found) for found in re.findall(r"\bugro ([a-z][^;`\n]*?)(?=[;`\n]|   |$)", text)]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_every_suggestion_after_a_failure_works_as_printed(ugro: Ugro) -> None:
    jobs = {}
    for number, script in enumerate(SCRIPTS):
        node = f"gpu{1 + number % 2}"
        done = ugro("launch", script, "--nodes", node, *OPTIONS.get(script, []), "--json")
        jobs[script] = str(json.JSONDecoder().raw_decode(done.stdout)[0]["id"])  # also where it failed at once
    for script in ("cancelled.py", "waiting.py"):
        assert ugro("cancel", jobs[script]).returncode == 0
    for script, job in jobs.items():
        ended = ugro("wait", job)
        assert ended.returncode == 1, (script, ended.stderr)
        explained = ugro("explain", job)
        said = suggested(f"{ended.stderr}\n{explained.stdout}")
        assert explained.returncode == 0 and ["explain", job] in said, (script, said)
        assert any(words[:2] == ["resume", job] for words in said), (script, said)
        for words in said:
            if words[0] in READS and words != ["explain", job]:
                assert ugro(*words).returncode == 0, (script, words)
        resumes = [words for words in said if words[0] == "resume"]
        if ["approve", job] in said:
            assert explained.stdout.count("retry:  will not help") == (script == "memory.py"), "as the proposal says"
            resumes = suggested(ugro("deny", job).stdout)
        else:
            assert "retry:  may help" not in explained.stdout or script in ("cancelled.py", "waiting.py"), script
        for number, resume in enumerate(resumes):
            again = ugro(*resume, "--yes")
            assert again.returncode == 0, (script, resume, again.stderr)
            assert document(ugro("status", job, "--json"))["attempt"] == 2 + number
            assert ugro("cancel", job).returncode == 0
