"""Measures the training speed of GPUs."""
