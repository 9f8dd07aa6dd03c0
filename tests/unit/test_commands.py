"""The process that `ugro` commands are forked from (`ugro/testing/commands.py`)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SAYS = "import sys; from ugro.testing import commands; commands.serve(lambda: {'modules': list(sys.modules)})"


@pytest.mark.long
def test_imports_what_commands_need_and_no_script_for_nodes() -> None:
    done = subprocess.run([sys.executable, "-c", SAYS], input="[1, {}]\n", capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout)[1]["modules"]
    assert "ugro.cli.commands.launch" in modules and "ugro.service.serving" in modules
    assert "torch" not in modules, "a second for each process, and each fork of it"
