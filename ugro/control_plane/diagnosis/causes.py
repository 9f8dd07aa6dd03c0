"""The causes of failure that UGRO knows, in words, and what helps against each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """A cause in words, what to do about it, and whether the same job may go well when it is simply run again."""

    words: str
    suggestion: str
    retry_helps: bool


CAUSES = {
    "cuda_oom": Advice(
        "a GPU ran out of memory",
        "use a smaller batch (with gradient accumulation), shorter sequences, gradient checkpointing or sharding; "
        "see with nvidia-smi whether other processes use memory there",
        False,
    ),
    "host_oom": Advice(
        "the machine (or the job's memory limit) ran out of main memory",
        "use fewer DataLoader workers, load or cache less, offload less to the CPU, or raise the job's memory limit",
        False,
    ),
    "killed": Advice(
        "a process was ended from outside",
        "look for who did it: the kernel's log (dmesg) for an OOM kill, the scheduler, a user",
        True,
    ),
    "collective_timeout": Advice(
        "the ranks waited for each other in a collective operation until its time was over",
        "look at the rank that did not take part (slow data loading, saving or evaluating on one rank only, a branch "
        "that not all ranks take); raise the process group's timeout if a step is slow by nature",
        True,
    ),
    "peer_lost": Advice(
        "the connection to another rank broke",
        "the reason is in the log of the rank that went away; if none failed, look at the network and at that node",
        True,
    ),
    "nccl_error": Advice(
        "NCCL could not communicate",
        "run it once with NCCL_DEBUG=INFO; check NCCL_SOCKET_IFNAME, the firewall, /dev/shm and equal NCCL versions",
        True,
    ),
    "rendezvous_timeout": Advice(
        "not all processes found each other in time",
        "check that every node was started, that MASTER_ADDR and MASTER_PORT are reachable from all of them, and the "
        "firewall",
        True,
    ),
    "port_in_use": Advice(
        "the port was taken by another process",
        "end what is left of an earlier run there (ugro footprint shows it), or let it use another port",
        True,
    ),
    "python_exception": Advice(
        "the script raised an exception", "read the traceback at the place named here; the script needs a change", False
    ),
    "import_error": Advice(
        "a module could not be imported",
        "install it (in the version that the script expects) into the environment that runs on every node",
        False,
    ),
    "bad_arguments": Advice(
        "the script did not accept its arguments", "compare the arguments with the script's --help", False
    ),
    "file_not_found": Advice(
        "a file was not there",
        "check the path on the node that failed: relative paths begin in the job's folder, data must be on every node",
        False,
    ),
    "cuda_mismatch": Advice(
        "driver, CUDA, GPU and PyTorch do not fit together",
        "install a PyTorch build for this driver and GPU, or update the driver; `ugro check` compares the nodes",
        False,
    ),
    "cuda_error": Advice(
        "the GPU reported an error",
        "run it once with CUDA_LAUNCH_BLOCKING=1 to see where; if it moves around, suspect the GPU or its driver",
        True,
    ),
    "gpu_lost": Advice(
        "a GPU fell off the bus or failed",
        "leave that GPU or node out, look at dmesg for Xid, check power and temperature, reboot the node",
        True,
    ),
    "shm_full": Advice(
        "shared memory (/dev/shm) was full",
        "give the container more (--shm-size or --ipc=host), or use fewer DataLoader workers",
        False,
    ),
    "disk_full": Advice("a disk or quota was full", "free space, or write to another disk", False),
    "too_many_files": Advice(
        "too many files were open",
        "raise the limit (ulimit -n), or set torch.multiprocessing.set_sharing_strategy('file_system')",
        False,
    ),
    "permission_denied": Advice(
        "something may not be read, written or used", "check owner and mode of what is named, or log in first", False
    ),
    "nan_loss": Advice(
        "the loss became NaN or infinite",
        "resume from an earlier checkpoint with a lower learning rate, gradient clipping or bf16 instead of fp16; "
        "check the data at that step",
        False,
    ),
    "dataloader_worker_died": Advice(
        "a DataLoader worker process died",
        "try num_workers=0 to see its real error; often memory or /dev/shm is short",
        False,
    ),
    "checkpoint_mismatch": Advice(
        "a checkpoint could not be loaded: incomplete, or of another model",
        "resume from the checkpoint before it, or load it into the model and with the versions that wrote it",
        False,
    ),
    "download_failed": Advice(
        "a download failed",
        "check the network, proxy, name and access token; or fetch it before and use HF_HUB_OFFLINE=1",
        True,
    ),
    "segfault": Advice(
        "a process crashed inside native code",
        "run it with `python -X faulthandler`; suspect a compiled extension that does not fit, then the hardware",
        False,
    ),
    "node_lost": Advice(
        "a node was lost", "look at that node: power, network, kernel log; leave it out meanwhile", True
    ),
    "node_rebooted": Advice("a node was rebooted", "resume from the last checkpoint", True),
    "launch_failed": Advice(
        "the job could not be started", "see what is missing on the node: the command, the image, the resources", False
    ),
    "setup_failed": Advice(
        "the setup command failed",
        "read its output, correct the command or the files that it reads, and run the job again",
        False,
    ),
    "time_limit": Advice(
        "the time limit was reached", "resume from the last checkpoint with more time: add --time 4h, say", False
    ),
    "cancelled": Advice("it was cancelled", "nothing is wrong; resume it when you like", True),
    "hang": Advice(
        "it made no progress any more",
        "show each rank's stack trace (py-spy dump); look for a deadlock, a stuck GPU or file system",
        True,
    ),
    "unknown": Advice("it ended badly and does not say why", "read the last lines of every rank", False),
}
