"""Does a running job hang, do its ranks meet, do its GPUs idle: decided from what ticks saw."""
