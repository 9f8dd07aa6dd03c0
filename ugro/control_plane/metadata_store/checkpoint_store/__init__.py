"""Checkpoints of jobs: those on the nodes, which of them are complete, and copies of them on the master."""

from ugro.control_plane.metadata_store.checkpoint_store.gathering import newest_since, newest_whole
from ugro.control_plane.metadata_store.checkpoint_store.store import (
    CheckpointListing,
    CheckpointStore,
    copies,
    ran_at,
    with_copies,
)

__all__ = ["CheckpointListing", "CheckpointStore", "copies", "newest_since", "newest_whole", "ran_at", "with_copies"]
