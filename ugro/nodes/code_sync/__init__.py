"""The code a job runs: frozen when the job is submitted (or resumed with other code), brought whole to each node."""

from ugro.nodes.code_sync.frozen import freed_bytes
from ugro.nodes.code_sync.manifest import Differences, differences, list_beside, read_manifest, walk
from ugro.nodes.code_sync.push import CONFLICT_HINT, Progress, PushReport, conflict_in_words, conflicts, push_code
from ugro.nodes.code_sync.snapshot import LARGE_BYTES, Bulk, CodeSelection, Copy, select_files, take_snapshot

__all__ = [
    "CONFLICT_HINT",
    "LARGE_BYTES",
    "Bulk",
    "CodeSelection",
    "Copy",
    "Differences",
    "Progress",
    "PushReport",
    "conflict_in_words",
    "conflicts",
    "differences",
    "freed_bytes",
    "list_beside",
    "push_code",
    "read_manifest",
    "select_files",
    "take_snapshot",
    "walk",
]
