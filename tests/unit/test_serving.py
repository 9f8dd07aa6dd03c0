"""The resident controller's beginning and end."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from ugro.service.serving import Serving


async def test_ends_at_a_stop_that_came_before_it_began_to_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UGRO_HOME", str(tmp_path / "state"))
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(f"nodes:\n  here: {{address: 127.0.0.1, local: true, base_dir: {tmp_path}/node}}\n")
    serving = Serving(str(inventory), 3600.0)
    with serving.alone():
        with caplog.at_level(logging.INFO, "ugro"):
            serving.stop("SIGTERM")
        assert "SIGTERM: ends once the tick under way is finished" in caplog.text
        async with asyncio.timeout(20):
            await serving.stay()
