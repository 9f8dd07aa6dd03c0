"""Causes of failure, as job records, retry policies and JSON documents name them."""

CAUSES = (
    "cuda_oom", "host_oom", "killed", "collective_timeout", "peer_lost", "nccl_error", "rendezvous_timeout",
    "port_in_use", "python_exception", "import_error", "bad_arguments", "file_not_found", "cuda_mismatch", "cuda_error",
    "gpu_lost", "shm_full", "disk_full", "too_many_files", "permission_denied", "nan_loss", "dataloader_worker_died",
    "checkpoint_mismatch", "download_failed", "segfault", "node_lost", "node_rebooted", "launch_failed", "time_limit",
    "cancelled", "hang", "setup_failed", "unknown",
)  # fmt: skip
