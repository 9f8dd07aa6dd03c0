"""UGRO, the Unified GPU Resource Orchestrator: a few GPU machines with SSH feel like one."""

__version__ = "0.1.0"
