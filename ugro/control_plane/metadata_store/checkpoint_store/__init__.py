"""Checkpoints of jobs: which there are on the nodes, which are whole, and copies of them on the master."""

from ugro.control_plane.metadata_store.checkpoint_store.gathering import newest_since, newest_whole
from ugro.control_plane.metadata_store.checkpoint_store.store import (
    CheckpointStore,
    Listing,
    copies,
    ran_at,
    with_copies,
)

__all__ = ["CheckpointStore", "Listing", "copies", "newest_since", "newest_whole", "ran_at", "with_copies"]
