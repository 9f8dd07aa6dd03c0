"""From a submission to running ranks: queue, allocator, launcher, and the tracker of what became of them."""
