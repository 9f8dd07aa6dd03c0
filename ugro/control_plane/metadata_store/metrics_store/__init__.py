"""Measurements: series of trainings, GPU samples, speeds and links."""

from ugro.control_plane.metadata_store.metrics_store.store import MetricsStore

__all__ = ["MetricsStore"]
