"""Where the repository keeps what tests read, wherever a test itself stands."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
QUICK = TESTS / "quick"
"""For the PYTHONPATH of processes that import torch: see the file there."""
