"""The code a job runs: frozen when the job is submitted, and brought to each node whole or not at all."""

from ugro.nodes.code_sync.push import Progress, PushReport, push_code
from ugro.nodes.code_sync.snapshot import LARGE_BYTES, Selection, select_files, take_snapshot

__all__ = ["LARGE_BYTES", "Progress", "PushReport", "Selection", "push_code", "select_files", "take_snapshot"]
