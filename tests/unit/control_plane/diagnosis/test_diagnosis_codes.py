"""Every name and number of the closed sets means its cause, in whatever sentence a tool wraps it."""

from __future__ import annotations

import pytest

from ugro.control_plane.diagnosis import EvidenceReader, explain
from ugro.control_plane.diagnosis.codes import SIGNALS
from ugro.control_plane.diagnosis.parting import complains
from ugro.control_plane.diagnosis.wording import SIGNAL_CAUSES

TRACEBACK = 'Traceback (most recent call last):\n  File "/w/t.py", line 7, in <module>\n'

CODES = {
    "cuda_oom": """
        cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED
        CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED|CUFFT_STATUS_ALLOC_FAILED|hipErrorOutOfMemory
        UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY|RESOURCE_EXHAUSTED: 2.00G
    """,
    "cuda_mismatch": """
        cudaErrorInsufficientDriver|cudaErrorNoKernelImageForDevice|cudaErrorUnsupportedPtxVersion
        cudaErrorSystemDriverMismatch|cudaErrorCompatNotSupportedOnDevice|CUDA_ERROR_NO_BINARY_FOR_GPU
        CUDA_ERROR_UNSUPPORTED_PTX_VERSION|CUDNN_STATUS_ARCH_MISMATCH|CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH
        hipErrorNoBinaryForGpu|NVML_ERROR_LIB_RM_VERSION_MISMATCH
    """,
    "gpu_lost": """
        cudaErrorECCUncorrectable|cudaErrorNvlinkUncorrectable|cudaErrorHardwareStackError|cudaErrorContained
        CUDA_ERROR_ECC_UNCORRECTABLE|CUDA_ERROR_CONTAINED|NVML_ERROR_GPU_IS_LOST|UR_RESULT_ERROR_DEVICE_LOST
        NVRM: Xid (PCI:0000:3b:00): 79, pid=7|NVRM: Xid (PCI:0000:3b:00): 160, pid=7
    """,
    "cuda_error": """
        cudaErrorLaunchFailure|cudaErrorIllegalAddress|cudaErrorLaunchTimeout|CUDA_ERROR_LAUNCH_FAILED
        CUDA_ERROR_NOT_INITIALIZED|CUBLAS_STATUS_EXECUTION_FAILED|CUDNN_STATUS_NOT_INITIALIZED|hipErrorLaunchFailure
        HSA_STATUS_ERROR_EXCEPTION|UR_RESULT_ERROR_UNKNOWN|invalid resource handle
        NVRM: Xid (PCI:0000:3b:00): 13, pid=7|NPU error, error code is 507015
    """,
    "file_not_found": "[Errno 2] x|(os error 2)|Os { code: 2, kind: NotFound }|errno=2 of open",
    "permission_denied": "[Errno 13] x|(os error 13)|errno: 13|PERMISSION_DENIED: no|StatusCode.UNAUTHENTICATED",
    "disk_full": "[Errno 28] x|[Errno 122] x|(os error 28)|Os { code: 28, kind: StorageFull }|errno = 28",
    "too_many_files": "[Errno 24] x|[Errno 23] x|(os error 24)",
    "host_oom": "[Errno 12] x|(os error 12)|ray.exceptions.ObjectStoreFullError: full",
    "port_in_use": "[Errno 98] x|(os error 98)|errno: 98",
    "peer_lost": "[Errno 104] x|StatusCode.UNAVAILABLE|UnavailableError: gone|UNAVAILABLE: gone|ABORTED: gone",
    "rendezvous_timeout": "[Errno 113] x|[Errno 110] x|(os error 111)",
    "node_lost": "ray.exceptions.NodeDiedError: gone",
    "launch_failed": "ray.exceptions.RuntimeEnvSetupError: pip",
    "cancelled": "ray.exceptions.TaskCancelledError: x",
}


def cause(log: str) -> str | None:
    reader = EvidenceReader()
    reader.read([log.encode()])
    found = explain(reader.evidence)
    return found.cause if found else None


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        (code.strip(), meant)
        for meant, codes in CODES.items()
        for line in codes.strip().splitlines()
        for code in line.split("|")
    ],
)
def test_a_code_means_its_cause_whatever_is_said_around_it(code: str, meant: str) -> None:
    assert cause(f"{TRACEBACK}RuntimeError: the engine of nobody says: {code}\n") == meant


@pytest.mark.parametrize(
    ("end", "meant"),
    [
        ("TERM_RUNLIMIT: job killed after reaching LSF run time limit.", "time_limit"),
        ("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit.", "host_oom"),
        ("TERM_PREEMPT: job killed after preemption.", "cancelled"),
        ("JobState=TIMEOUT Reason=TimeLimit Dependency=(null)", "time_limit"),
        ("JobState=NODE_FAIL Reason=None Dependency=(null)", "node_lost"),
        ("State: OUT_OF_MEMORY (exit code 0)", "host_oom"),
        ("State: CANCELLED", "cancelled"),
        ("MOAB_INFO:  job exceeded wallclock limit", "time_limit"),
        ("Reason: DeadlineExceeded", "time_limit"),
        ("Warning  FailedMount  volume is not there", "launch_failed"),
        ("EC2 spot instance interruption notice", "cancelled"),
    ],
)
def test_how_schedulers_say_that_they_ended_it(end: str, meant: str) -> None:
    assert cause(f"epoch 1 loss 2.0\n{end}\nExited with exit code 1.\n") == meant


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_known_by_its_number_its_name_and_its_words(number: int) -> None:
    name, words = SIGNALS[number]
    causes = {
        cause(f"training\nrun.sh: line 3:  4711 {words}                 python train.py\n"),
        cause(f"training\nrank 0: died with <Signals.SIG{name}: {number}>.\n"),
        cause(f"training\nprocess 4711 exited with code {128 + number}\n"),
    }
    assert len(causes) == 1
    assert None not in causes
    assert name not in SIGNAL_CAUSES or causes == {SIGNAL_CAUSES[name]}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("train job failed! train_ret: 1", True), ("sbatch: fatal: no configuration", True), ("任务失败", True),
        ("MOAB_INFO:  job exceeded wallclock limit", True), ("launcher: cannot reach the node", True),
        ("val error: 0.31", False), ("mean absolute error 0.2", False), ("0 errors, 3 warnings", False),
        ("failed: 0 of 12", False), ("I cannot answer that", False), ('{"text": "the attempt failed"}', False),
        ("Job terminated of its own accord", False), ("early stopping: no better error", False),
    ],
)  # fmt: skip
def test_what_a_tool_says_that_gives_up(line: str, complaint: bool) -> None:
    assert complains(line) is complaint
