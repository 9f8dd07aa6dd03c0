"""The GPUs of a node and what else changes of the machine."""
