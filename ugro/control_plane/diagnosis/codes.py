"""Closed sets of names and numbers that machines give to errors, complete, with the meaning of each.

A tool may wrap them in any sentence: these are known by the code itself.
"""

from __future__ import annotations

_CUDA = {
    "cuda_mismatch": (
        "cudaError(?:InsufficientDriver|CallRequiresNewerDriver|InvalidDeviceFunction|NoKernelImageForDevice|"
        "InvalidKernelImage|InvalidPtx|UnsupportedPtxVersion|JitCompil\\w+|SystemDriverMismatch|"
        "CompatNotSupportedOnDevice|StubLibrary|SharedObject\\w+|SymbolNotFound|SoftwareValidityNotEstablished)",
        "CUDA_ERROR_(?:NO_BINARY_FOR_GPU|INVALID_PTX|UNSUPPORTED_PTX_VERSION|JIT_COMPIL\\w+|SYSTEM_DRIVER_MISMATCH|"
        "COMPAT_NOT_SUPPORTED_ON_DEVICE|STUB_LIBRARY|SHARED_OBJECT_\\w+|INVALID_IMAGE)",
        "hipError(?:InsufficientDriver|NoBinaryForGpu|InvalidDeviceFunction|InvalidKernelFile|SharedObject\\w+)",
        "CU(?:BLAS|DNN|SPARSE|SOLVER)_STATUS_(?:ARCH|VERSION|SUBLIBRARY_VERSION)_MISMATCH",
        "CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED|CUDNN_STATUS_RUNTIME_PREREQUISITE_MISSING",
        "NVML_ERROR_LIB_RM_VERSION_MISMATCH|NVMLError_LibRmVersionMismatch|unsupported display driver / cuda driver",
        "not supported in the installed CUDA driver|invalid device function|PTX JIT compil\\w+ (?:failed|library not)",
        "CUDA driver is a stub library|shared object (?:symbol not found|initialization failed)",
    ),
    "gpu_lost": (
        "cudaError(?:ECCUncorrectable|NvlinkUncorrectable|HardwareStackError|Contained)\\b",
        "CUDA_ERROR_(?:ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE|HARDWARE_STACK_ERROR|CONTAINED)\\b",
        "NVML_ERROR_(?:GPU_IS_LOST|RESET_REQUIRED|IRQ_ISSUE)|NVMLError_(?:GpuIsLost|ResetRequired|IrqIssue)",
        "hardware stack error|peer GPU memory over nvlink or a hardware error",
    ),
    "cuda_oom": (
        "cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|hipErrorOutOfMemory|HSA_STATUS_ERROR_OUT_OF_RESOURCES",
        "CU(?:BLAS|DNN|SPARSE|FFT|RAND|SOLVER)_STATUS_(?:INTERNAL_ERROR_DEVICE_)?ALLOC(?:ATION)?_FAILED",
    ),
    "cuda_error": (
        "cudaError\\w+|CUDA_ERROR_\\w+|hipError\\w+|HSA_STATUS_ERROR\\w*|NVML_ERROR_\\w+",
        "invalid resource handle|too many resources requested for launch|invalid configuration argument",
        "launch timed out and was terminated|invalid program counter|CUDA-capable device\\S* (?:is|are) busy",
        "invalid device context|context is destroyed|operation not supported on (?:global|shared)",
        "out of range shared or local address|an exception occurred on the device",
    ),
}

# Names and numbers of other accelerators: AMD, Intel, Ascend, Neuron, TPU. Cause by cause, the telling ones first.
_ACCELERATORS = {
    "cuda_oom": ("UR_RESULT_ERROR_OUT_OF_(?:DEVICE_MEMORY|RESOURCES)|PI_ERROR_OUT_OF_RESOURCES|NRT_RESOURCE\\b",),
    "gpu_lost": (
        "UR_RESULT_ERROR_DEVICE_LOST|NRT_(?:EXEC_)?HW_\\w+",
        "SLICE_FAILURE_(?:CHIP|ICI|HARDWARE|HW)\\w*|TPU session error",
        "(?i:error ?code\\W{1,3}(?:is )?)5070(?:5[3-7])\\b",
    ),
    "cuda_error": (
        "Memory access fault by GPU|UR_RESULT_ERROR_\\w+|PI_ERROR_\\w+|ZE_RESULT_ERROR_\\w+",
        "NRT_(?:FAILURE|INVALID|TIMEOUT)\\w*",
        "(?i:error ?code\\W{1,3}(?:is )?)(?:1070|507)\\d{2,3}\\b|TPU is already in use by",
    ),
    "collective_timeout": ("\\bEI0002\\b",),
    "rendezvous_timeout": ("\\bEI000[46]\\b|\\bEI0015\\b",),
}

# What Ray raises for a task or an actor, by the name of the exception.
_RAY = {
    "unknown": "RayTaskError|RayActorError|ActorDiedError|ActorUnavailableError|WorkerCrashedError|RaySystemError",
    "node_lost": "NodeDiedError|LocalRayletDiedError",
    "host_oom": "OutOfMemoryError|ObjectStoreFullError",
    "disk_full": "OutOfDiskError",
    "peer_lost": "Object(?:Lost|FreedByOwner|Reconstruction\\w*|FetchTimedOut)Error|OwnerDiedError",
    "launch_failed": "RuntimeEnvSetupError|(?:Actor|Task)(?:Unschedulable|PlacementGroupRemoved)\\w*",
    "cancelled": "TaskCancelledError",
}

# Xids after which a GPU can do nothing more, or not be trusted. The others are of the program.
_XIDS_OF_HARDWARE = (
    "46|48|54|61|62|63|64|74|78|79|81|92|94|95|110|119|120|121|122|123|140|143|14[5-9]|15[0-8]|16[0-9]|17[0-3]"
)

# Numbers and words of the operating system's errors, by what they mean for a run.
_ERRNO = {
    "file_not_found": (
        ("2", "20"),
        "没有那个文件或目录|Aucun fichier ou dossier|Datei oder Verzeichnis nicht gefunden",
    ),
    "permission_denied": (("1", "13", "30"), "权限不够|Permission non accordée|Keine Berechtigung"),
    "disk_full": (("28", "122"), "设备上没有空间|Auf dem Gerät ist kein Speicherplatz|超出磁盘限额"),
    "too_many_files": (("23", "24"), "打开的文件过多|Zu viele offene Dateien"),
    "host_oom": (("12",), "WinError 1455\\b|无法分配内存|Nicht genügend Hauptspeicher"),
    "port_in_use": (("98",), "地址已在使用|Adresse wird bereits verwendet"),
    "peer_lost": (("32", "103", "104"), "Software caused connection abort"),
    "rendezvous_timeout": (
        ("99", "101", "110", "111", "113"),
        "Cannot assign requested address|Connection refused|Connection timed out|Network is unreachable",
    ),
}

# Why a scheduler ended a job, or says that it is over.
_SCHEDULERS = {
    "time_limit": (
        "TERM_(?:RUN|CPU)LIMIT|TERM_(?:DEADLINE|WINDOW)\\b|job killed: (?:walltime|cput)\\b|DeadlineExceeded",
        "exceed(?:s|ed) (?:the |its )?(?:hard |soft )?(?:wall|run|CPU )[ -]?(?:clock )?time",
        "exceeded [hs]_(?:rt|cpu)\\b",
        "(?:State|STATE|state|Reason)[=: ]{1,2}(?:TIMEOUT|TimeLimit|DEADLINE|InactiveLimit)\\b",
        "CPU time limit exceeded|PREEMPTED_BY_TIMEOUT",
        "(?i:exceed\\w* (?:\\w+ ){0,3}(?:wall.?clock|wall.?time|run.?time|cpu.?time|time) ?limit)",
    ),
    "cancelled": (
        "TERM_(?:FORCE_|REQUEUE_)?(?:OWNER|ADMIN)\\b|TERM_(?:PREEMPT|BUCKET_KILL|REQUEUE_RC)\\b",
        "(?:State|STATE|state)[=: ]{1,2}(?:CANCELLED|PREEMPTED|REVOKED)\\b|DUE TO PREEMPTION|PreemptionByScheduler",
        "[Jj]ob (?:was )?evicted|DeletionByTaintManager|TaintManagerEviction|has been deleted by user",
        "(?i:termination is imminent|instance (?:is |was |has been )?(?:being )?preempted)",
        "(?i:spot (?:instance )?(?:interruption|termination|reclaim))",
    ),
    "node_lost": (
        "TERM_ZOMBIE|(?:State|STATE|state|Reason)[=: ]{1,2}(?:NODE_FAIL|BOOT_FAIL|NodeDown|NodeFailure)\\b",
        "node \\d+ requested job terminate|ContainerStatusUnknown|NodeShutdown\\b",
    ),
    "launch_failed": (
        "TERM_CWD_NOTEXIST|(?:State|STATE|state|Reason)[=: ]{1,2}(?:LAUNCH_FAILED|RECONFIG_FAIL|JobLaunchFailure)\\b",
        "FailedMount\\b|FailedCreatePodSandBox|UnexpectedAdmissionError|ContainerCannotRun|CreateContainerError",
    ),
    "host_oom": (
        "TERM_(?:MEMLIMIT|SWAP)\\b|(?:State|STATE|state|Reason)[=: ]{1,2}OutOfMemory\\b|OUT_OF_ME(?:MORY|\\+)",
        "exceeded (?:h|s)_vmem\\b|(?:memory|Memory) usage exceeded request_memory|job killed: v?mem\\b",
    ),
}

# Of gRPC and of Abseil, which TensorFlow, JAX and Ray print in several spellings.
_STATUS = {
    "UNAVAILABLE": 14,
    "ABORTED": 10,
    "DEADLINE_EXCEEDED": 4,
    "RESOURCE_EXHAUSTED": 8,
    "PERMISSION_DENIED": 7,
    "UNAUTHENTICATED": 16,
}


def cuda(cause: str) -> str:
    """Error names and texts of CUDA, HIP, their libraries and NVML that mean this."""
    return "\n".join(_CUDA[cause])


def accelerator(cause: str) -> str:
    """Error names and numbers of accelerators other than NVIDIA's that mean this."""
    return "\n".join(_ACCELERATORS[cause])


def ray(cause: str) -> str:
    """Exceptions of Ray that mean this."""
    return rf"\bray\.exceptions\.(?:{_RAY[cause]})\b"


def xid_of_hardware() -> str:
    """Return a pattern of the driver's messages in the kernel's log when a GPU fails."""
    return rf"Xid \(PCI:\S+\): (?:{_XIDS_OF_HARDWARE})\b"


def errno(cause: str) -> str:
    """Return a pattern of a system error: its numbers as Python, C, Rust and Go print them, or a translated text."""
    numbers, words = _ERRNO[cause]
    return rf"(?:\[Errno |\berrno:? ?=? ?|\(os error |\bOs \{{ code: )(?:{'|'.join(numbers)})\b|{words}"


def scheduler(cause: str) -> str:
    """Return a pattern of the names that Slurm, LSF, PBS, SGE, HTCondor and Kubernetes give a cause."""
    return "\n".join(_SCHEDULERS[cause])


def status(name: str) -> str:
    """A status code of gRPC or Abseil in all spellings that say how something ended."""
    camel = "".join(part.title() for part in name.split("_"))
    words = name.replace("_", " ").capitalize()
    return (
        rf"\b(?:{name}|{words}): |StatusCode\.{name}\b|\b{camel}Error\b|\brpc_code: {_STATUS[name]}\b|"
        rf"grpc_status\W{{1,4}}{_STATUS[name]}\b"
    )


# What the C library calls signals, as shells and srun print it.
SIGNALS = {
    1: ("HUP", "Hangup"),
    2: ("INT", "Interrupt"),
    3: ("QUIT", "Quit"),
    4: ("ILL", "Illegal instruction"),
    5: ("TRAP", "Trace/breakpoint trap"),
    6: ("ABRT", "Aborted"),
    7: ("BUS", "Bus error"),
    8: ("FPE", "Floating point exception"),
    9: ("KILL", "Killed"),
    10: ("USR1", "User defined signal 1"),
    11: ("SEGV", "Segmentation fault"),
    12: ("USR2", "User defined signal 2"),
    13: ("PIPE", "Broken pipe"),
    14: ("ALRM", "Alarm clock"),
    15: ("TERM", "Terminated"),
    24: ("XCPU", "CPU time limit exceeded"),
    25: ("XFSZ", "File size limit exceeded"),
    31: ("SYS", "Bad system call"),
}

# What shells say of a command that is not there.
COMMAND_NOT_FOUND = (
    "未找到命令|找不到命令|コマンドが見つかりません|команда не найдена|commande introuvable|Kommando nicht gefunden|"
    "Befehl nicht gefunden|orden no encontrada|comando não encontrado"
)
