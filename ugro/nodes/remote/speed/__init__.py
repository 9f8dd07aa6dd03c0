"""The training speed of GPUs."""
