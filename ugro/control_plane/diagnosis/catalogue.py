"""Messages of training tools when something goes wrong, as data. docs/diagnosis.md shows how to add to it.

Wordings span torch 1.13 to 2.13, NCCL 2.14 and later, and the launchers and schedulers around them.
"""

from __future__ import annotations

import ugro.control_plane.diagnosis.codes as codes
from ugro.control_plane.diagnosis.entry import confirmation, consequence, hint, root

# Searched in single lines, and in the words that end a traceback. The first entry that matches wins, so what is more
# telling stands first.
CATALOGUE = (
    root("collective_timeout", r"""
        Watchdog caught collective operation timeout|Timeout at NCCL work
        Timed out waiting \d+ms for (?:recv|send) operation|Application timeout caused pair closure
        [Cc]ollective operation (?:has )?timed? ?out|Work ran time out after|[Mm]onitoredBarrier.*timed out
        Rank \d+ (?:timed out|failed to pass) .{0,20}monitoredBarrier
        NCCL (?:operation )?time(?:d )?out|dump debug info, due to collective timeout
        error code\W{1,3}(?:is )?1070(?:19|20)\b
    """ + codes.accelerator("collective_timeout")),
    root("cancelled", r"""
        \^C\[\d|\^CTraceback|\^CException|\^CWARNING|\^CW\d|\^CE\d|\^CProcess|\^Csrun
        [Cc]losing signal SIG(?:INT|HUP|QUIT)|[Rr]eceived SIGINT
        Received (?:[123]|Signals\.SIG(?:HUP|INT|QUIT)) death signal
    """),
    # --- what only follows from another failure ---------------------------------------------------------------------
    consequence("unknown", r"""
        ^(?:\w+\.)*\w+: Caught \w+ in (?:replica|DataLoader worker|pin memory)
        \bChildFailedError\b|^(?:torch\.multiprocessing\.spawn\.)?Process(?:Raised|Exited)Exception\b
        ^(?:subprocess\.)?CalledProcessError: Command[ ]
        ^(?:ray\.train\.\S+\.)?TrainingFailedError|^(?:ray\.tune\.error\.)?TuneError
        [Ss]ending process \d+ closing signal SIG\w+|Killing subprocess \d+
        ^Exception: process \d+ terminated with|ExecuteUserScriptError|'kill_cmd' referenced before assignment
        srun: Terminating|Terminating process \d+|Forcefully terminating all other processes|forcefully exiting via
        [Tt]raining has failed even after \d+ attempts|exited with non-zero (?:exit )?(?:status|code)
        \bEngineDeadError\b|died unexpectedly, shutting down
        Primary job +terminated normally, but \d+ process
        BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES|Fatal Python error: Aborted
        has failed because \d+ .{1,40} replica\(s\) failed|\bReason:? .*(?:JobFailed|BackoffLimitExceeded)\b
        reached the specified backoff limit
        A worker died or was killed while executing a task|[Tt]he actor is dead because its worker process has died
        Set the environment variable HYDRA_FULL_ERROR=1
        torchelastic\.worker\.status\.FAILED|[Ww]orker group finished \(FAILED\)|Trial task failed for trial
        Error executing job with overrides:|(?:Termination|abort) signal.{0,3} is detected by the operating system
        driver shutting down|cudaErrorCudartUnloading|DUE TO TASK FAILURE|^\w+\.pl: .*failed, log is in
        Job step aborted: |\bCancelledError\b|CrashLoopBackOff|Back-off restarting failed
    """ + codes.ray("unknown")),
    consequence("rendezvous_timeout", r"client socket has (?:timed out|failed to connect)"),
    root("download_failed", r"""
        RepositoryNotFoundError|RevisionNotFoundError|(?<!Local)EntryNotFoundError|GatedRepoError|OfflineModeIsEnabled
        \b40[134] Client Error|HTTP Error 40[134]|Access to model .* is restricted|access a gated repo
        is not a local folder and is not a valid model identifier|Incorrect path_or_model_id|DatasetNotFoundError
    """, "check the name, and with `huggingface-cli whoami` who asks for it: a gated or private repository needs its "
         "terms accepted and HF_TOKEN on every node", retry_helps=False),
    root("download_failed", r"""
        ^(?:requests|urllib3|httpx|httpcore|aiohttp|botocore|huggingface_hub|urllib)\.\S*(?:Error|Timeout|Exception)\b
        Max retries exceeded with url
        ^(?:google\.(?:api_core|auth|cloud|resumable_media)|azure|gcsfs|s3fs|minio|oss2|gdown|modelscope)\.\S*[Ee](?:rror|xcept)
        ^fatal: unable to access 'http|^curl: \(\d+\) |^wget: unable to|^RPC failed; 
    """),
    consequence("peer_lost", r"""
        ncclRemoteError|remote process exited or there was a network error|socketProgress.*Connection closed
        [Cc]onnection closed by (?:remote )?peer|Connection reset by (?:remote )?peer|ConnectionResetError
        BrokenPipeError|(?i:tcpstore|c10d|nccl|gloo|sendbytes|recvbytes|socket|rank \d).*Broken pipe
        Failed to recv, got 0 bytes|failed to (?:recv|send), got -?\d+
        Socket closed\b.*TCPStore|(?:recv|send)Value(?:WithTimeout)? failed
        Some NCCL operations have failed or timed out|Failed to execute operation \w+ from rank \d+, retcode 6
        To avoid data inconsistency, we are taking the entire process down|NCCL communicator was aborted
        [Dd]ist(?:Backend|Network|Store)?Error: .*aborted|connectFullMesh failed
        gloo.*Connection refused
        Barrier failed|barrier .* timed out|Received signal from Global Rank
        received errors while waiting for send/recv from rank
        Horovod has been shut down|HorovodInternalError|MPI communication peer process has unexpectedly disconnected
        tasks? (?:are|is) unhealthy|stopped sending heartbeats|\btask:\d+ heartbeat timeout
        JAX distributed service detected fatal errors|Polled an error from coordination service
        Failed to send RPC to coordination service|set to ERROR in coordination service
        Collective ops is aborted by
        Observed exception from another rank|remote rank\W.*(?:failed|exited)|failed to shutdown the rendezvous
    """),
    consequence("peer_lost", codes.ray("peer_lost")),
    consequence("rendezvous_timeout", r"(?i:unavailable: failed to connect to all addresses)"),
    consequence("rendezvous_timeout", rf"(?:{codes.status('DEADLINE_EXCEEDED')}).*(?i:regist|barrier|connect|initial)"),
    consequence("peer_lost", "\n".join(map(codes.status, ("UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED")))),
    consequence("cancelled", r"killed by signal: Interrupt"),
    consequence("killed", r"killed by signal: (?:Terminated|Hangup)"),
    # --- memory, disk, handles, machines ----------------------------------------------------------------------------
    root("host_oom", r"OOM when allocating tensor.* by allocator \w*cpu"),
    root("cuda_oom", r"""
        (?:CUDA|HIP|XPU|NPU|MPS backend) out of memory
        CUDA (?:runtime |driver )?error(?: ?\(\d+\))?: (?:2, )?out of memory
        [Cc]uda failure (?:\d+ )?'out of memory'
        \b(?:torch|cuda|triton)\S*\.OutOfMemoryError
        (?i:resource[_ ]exhausted: .*(?:out of memory|allocat))|OOM when allocating tensor|cuda runtime error \(2\)
        \bResourceExhaustedError\b(?!.*(?i:quota|space|disk))|[Oo]ut of memory\b.{0,40}\b(?:GPU|CUDA|cuda|NPU|XPU|HBM)\b
        No executable batch size found, reached zero|No available memory for the cache blocks
        Free memory on device .* is less than|GPU(?: \d+)? (?:is|ran) out of memory|cudaMalloc.{0,40}out of memory
        (?:cu(?:mem|Mem)\S*|CUDA|cupy|cuda).{0,60}[Oo]ut[ _]?[Oo]f[ _]?[Mm]emory
        (?i:cuda_?success).*\(2 vs\. 0\)|Check failed: CUDA_SUCCESS.*\(0 vs\. 2\)
        bytes of device memory \(out of memory\)
        RESOURCE_EXHAUSTED: (?!.*(?:message larger|quota|rate limit|inotify|Too many requests))
    """ + f"{codes.cuda('cuda_oom')}\n{codes.accelerator('cuda_oom')}"),
    root("shm_full", r"""
        insufficient shared memory|Unexpected bus error encountered in worker
        killed by signal: Bus error|out of shared memory\. Please
        unable to (?:open|mmap|write|allocate) .*shared memory (?:object|file).*(?:No space|Cannot allocate|Invalid)
        unable to allocate shared memory\(shm\)|unable to mmap \d+ bytes from file </torch_
        [Ee]rror while (?:creating|attaching to|mapping) shared memory segment
        (?i:failed|unable|error) .{0,40}/dev/shm/|shared memory segment.*No space left
        shm\.(?:h|cc):.*No space left|posix_fallocate failed
        /dev/shm.*(?:No space left|full|size (?:is )?(?:too small|insufficient|only))
        No space left on device.*/dev/shm|unable to (?:write to|resize) file </torch_\S*>
    """),
    root("too_many_files", r"""
        Too many open files|received 0 items of ancdata|unable to open shared memory object <\S+ in read-write mode$
        OS file watch limit reached|inotify watch limit
    """ + codes.errno("too_many_files")),
    root("disk_full", r"""
        (?i:no space left on device|disk quota exceeded)|PytorchStreamWriter failed writing
        [Nn]ot enough (?:free )?(?:disk )?space|There is not enough space on the disk|\bENOSPC\b|disk (?:is )?full
        inline_container\.cc:\d+\] ?\.? unexpected pos \d+ vs \d+|was low on resource: ephemeral-storage
        unable to write file:? .*space|DiskPressure
    """ + f"{codes.errno('disk_full')}\n{codes.ray('disk_full')}"),
    hint("disk_full", r"is over 9\d(?:\.\d+)?% full, available space"),
    root("host_oom", r"""
        DefaultCPUAllocator: (?:can't allocate memory|not enough memory)|[Cc]annot allocate memory
        ^(?:numpy\.\S*|pyarrow\.\S*)?_?(?:Array|Arrow)?MemoryError\b|std::bad_alloc
        Unable to allocate [\d.]+ [KMGTP]iB for an array
        Task was killed due to the node running low on memory|[Kk]illed due to memory pressure \(OOM\)(?!, 0)
        realloc of size \d+ failed|exceeds the memory usage threshold|Ray killed this worker
    """ + f"{codes.errno('host_oom')}\n{codes.ray('host_oom')}"),
    confirmation("host_oom", r"""
        Out of memory: Kill(?:ed)? process|oom[-_]kill(?::| event|\(s\)| 1\b)|invoked oom-killer
        Memory cgroup out of memory|oom_reaper: reaped process|\bOOMKilled\b|OOM [Kk]illed
        killed by the cgroup out-of-memory handler|step tasks have been OOM Killed
        srun: error: \S+: tasks? [\d,-]+: Out Of Memory|[Ee]xceeded (?:job |step )?memory limit|oom-killer
        was low on resource: memory|MemoryPressure
        crashed after using all available RAM|ran out[- ]of[- ]memory and exited
    """ + codes.scheduler("host_oom")),
    root("gpu_lost", r"""
        [Gg][Pp][Uu] (?:has fallen|is) off the bus|GPU is lost|fallen off the bus
        Unable to determine the device handle for
        NVML: .*GPU is lost
        uncorrectable (?:ECC|NVLink) error|Uncorrectable ECC|double.bit ECC
        nvmlDeviceGetHandle\w+\(\) failed(?!: (?:Not Found|Not Supported|Invalid|Insufficient))
        Unable to get device handle|ROCm.*GPU reset|GPU reset begin
    """ + f"{codes.xid_of_hardware()}\n{codes.cuda('gpu_lost')}\n{codes.accelerator('gpu_lost')}"),
    root("node_rebooted", r"""
        reboot: Restarting system|The system (?:is going down for|will) reboot|System is rebooting
        [Nn]ode .{0,60}(?:was|has been|unexpectedly) rebooted|Reason=.*reboot|-- (?:Boot [0-9a-f]{32}|Reboot) --
        systemd-shutdown\[|System is powering down|Power key pressed|Linux version \d+\.\d+\.\d+\S* \(
    """),
    root("time_limit", r"""
        DUE TO TIME LIMIT|walltime \S+ exceeded limit
        [Jj]ob (?:was )?(?:killed|cancelled|terminated).{0,40}(?:time ?limit|wall ?time)
        exceeded (?:its |the )?wall ?time|Job was active longer than specified deadline
        reached LSF run time limit
    """ + codes.scheduler("time_limit")),
    root("node_lost", r"""
        DUE TO NODE FAILURE|\bNodeNotReady\b|NodeLost\b|Node (?:is not ready|unreachable)
        [Nn]ode \S+ .*(?:has been marked dead|marked as dead|is not responding)|s\w+: error: Node failure on
        ssh: connect to host \S+ port \d+:[ ]|[Hh]ost is (?:down|unreachable)
    """ + f"{codes.scheduler('node_lost')}\n{codes.ray('node_lost')}"),
    consequence("node_lost", r"""
        Connection to \S+ closed by remote host|has lost communication with (?:a|its) (?:remote )?daemon
        Lost (?:connection|contact) (?:to|with) (?:node|host|worker)|client_loop: send disconnect: Broken pipe
    """),
    # --- what a run can never get past ------------------------------------------------------------------------------
    root("launch_failed", r"""
        (?:torchrun|accelerate|deepspeed|python3?|srun|mpirun)\S*: (?:command )?not found|ErrImagePull
        ImagePullBackOff|CreateContainer(?:Config)?Error|RunContainerError|InvalidImageName
        Batch job submission failed|Unable to create step for job
        Requested node configuration is not available|Unable to allocate resources
        [Ee]xec format error|docker: Error response from daemon|OCI runtime (?:create|exec) failed
        could not select device driver|execve\(\):[ ]|FailedScheduling|Insufficient nvidia\.com/gpu
        srun: error: .*(?:launch failed|Task launch for)|could not open image |container creation failed
        nvidia-container-cli: (?:initialization|mount|device) error|not reachable via ssh
        Host key verification failed|executable file not found in|unable to find the specified executable file
        not enough slots available in the system|failing to pull image|unable to (?:reliably )?start one or more daemons
        (?:torchrun|accelerate|deepspeed|python3?|srun|mpirun)[:：] ?(?:""" + codes.COMMAND_NOT_FOUND + r""")
        ^(?:sbatch|salloc): (?:fatal|error): |^srun: fatal: |^[qb]sub: [ ]*(?:\w+ )?error
        [Ss]hell has not been properly configured to use|slurm_script: No such file|: bad interpreter: 
        ssh: Could not resolve hostname|[Pp]rolog (?:error|failed|hung)|\d+/\d+ nodes are available:
        EnvironmentNameNotFound|EnvironmentLocationNotFound|mpirun was unable to (?:launch|find)
        syntax error near unexpected token|unexpected EOF while looking for matching
    """ + f"{codes.scheduler('launch_failed')}\n{codes.ray('launch_failed')}"),
    hint("launch_failed", r"""
        (?:sh|line \d+|行 ?\d+)[:：] ?\S+[:：] ?(?:(?:command )?not found|""" + codes.COMMAND_NOT_FOUND + r""")
        (?:sh|line \d+): \S+: cannot execute
        Unable to locate a modulefile|module\(s\) are unknown
    """),
    root("port_in_use", r"""
        EADDRINUSE|[Aa]ddress already in use|[Pp]ort \d+ is (?:already )?(?:in use|occupied)
        server socket has failed to (?:listen|bind)|port is already allocated
        Tried to launch distributed communication on port `?\d+`?|Only one usage of each socket address
    """ + codes.errno("port_in_use")),
    root("nccl_error", r"""
        (?:NCCL|nccl|include/socket\.h:\d+) .*[Cc]onnect\S* .*(?:failed|refused|timed out|No route)
        (?:NCCL|nccl|include/socket\.h:\d+) .*[Ss]ocket\w* .*failed
        [Cc]all to (?:connect|bind|ibv_\w+) (?:returned|failed)|NCCL failure \S+:\d+
    """),
    root("cuda_mismatch", r"""
        driver on your system is too old|no kernel image is available|Error 80[34]:[ ]
        CUDA driver version is insufficient|forward compatibility was attempted|Driver/library version mismatch
        not compatible with the current PyTorch|(?:[Tt]orch|PyTorch) (?:was )?not compiled with CUDA
        detected CUDA version .* mismatches|[Mm]ismatched (?:CUDA|NCCL) versions?
        compiled with different CUDA (?:major )?versions|Found no NVIDIA driver|CUDA (?:is|was) not available
        CUDA Setup failed|version incompatibility: PyTorch|CUDAMismatchException
        Installed CUDA version \S+ does not match|unsupported toolchain|device kernel image is invalid
        PTX was compiled with|named symbol not found|FlashAttention only supports
        requires (?:a )?(?:GPU|device)s? with (?:compute )?capability
        Attempting to deserialize object on a CUDA device but torch\.cuda\.is_available\(\) is False
        Your setup doesn't support bf16/gpu|bf16 (?:mixed precision )?requires .*(?:PyTorch|GPU)
        ptxas fatal.*sm_|Internal Triton PTX codegen error|nvcc fatal\s*: Unsupported gpu architecture
    """ + codes.cuda("cuda_mismatch")),
    root("checkpoint_mismatch", r"""
        Error\(s\) in loading state_dict|PytorchStreamReader failed|[Ss]ize mismatch for \S+
        [Mm]issing key(?:\(s\)|s|) in (?:checkpoint )?state_dict|loaded state dict do not match
        [Uu]nexpected key(?:\(s\)|s) in state_dict|invalid header or archive is corrupted
        Error while deserializing header|SafetensorError|HeaderTooLarge|InvalidHeaderDeserialization
        MetadataIncompleteBuffer|loaded state dict (?:contains a parameter group|has a different number)
        not a ZIP archive|failed finding central directory|UnpicklingError|[Ww]eights only load failed
        pickle data was truncated|EOFError.*raised in .*(?:serialization|pickle)\.py
        unexpected EOF, expected \d+ more bytes|[Cc]orrupt(?:ed)? (?:checkpoint|file)
        [Cc]heckpoint (?:is|file is|may be) corrupt|CheckpointException|[Ii]nvalid magic number; corrupt file
        [Cc]annot load (?:the )?checkpoint|Unable to load (?:weights|checkpoint)
        Trying to (?:load|set) a tensor of shape .* (?:in|this look)
        (?:doesn't|does not|didn't) match .*checkpoint|checkpoint .* (?:doesn't|does not) match
        checkpoint was (?:saved|created|trained) (?:with|on) .*(?:differ|but)
        KeyError: '(?:state_dict|model_state_dict|optimizer_states?|pytorch-lightning_version)'
        The expanded size of the tensor .* checkpoint|[Ll]oading a checkpoint for .* different
        DP world size .* differ|ZeRO.*checkpoint.*world size
        value from checkpoint \(.*\) is not equal to|[Kk]ey \S+ not found in checkpoint|not an sstable
        Tensor name "\S+" not found in checkpoint|Restoring from checkpoint failed|not compatible with the stored shape
        tree structures do not match|Layer count mismatch when loading weights|[Tt]runcated file: eof
        file signature not found|\[deepspeed\] failed to resume
        (?:[Ff]ailed|[Ff]ailure|[Uu]nable) to (?:load|resum|restor)\w*\b.{0,40}(?:checkpoint|ckpt)\b(?!.*\b[Nn]ot? )
        (?:[Cc]ould ?n[o']t|[Cc]annot|[Ee]rror) (?:load|resum|restor)\w*\b.{0,40}(?:checkpoint|ckpt)\b(?!.*\b[Nn]ot? )
    """),
    root("permission_denied", r"""
        ^PermissionError\b|[Pp]ermission denied|[Rr]ead-only file system|(?:['"’]|/[\w.-]+): Operation not permitted
    """ + codes.errno("permission_denied")),
    root("permission_denied", "\n".join(map(codes.status, ("PERMISSION_DENIED", "UNAUTHENTICATED")))),
    root("download_failed", r"""
        Max retries exceeded with url|couldn't connect to 'http\S*'|LocalEntryNotFoundError
        HfHubHTTPError|HFHubHTTPError|HTTP(?:S?ConnectionPool|Error)\b
        [Cc]onnection error, and we cannot find the requested files|URLError|<urlopen error|[Nn]ame resolution
        [Nn]ame or service not known|getaddrinfo failed|Could not resolve host
        \b(?:429|50[0234]) (?:Client|Server) Error|Couldn't reach
        Couldn't find .* on the Hugging Face Hub|requests\.exceptions\.\w+|urllib3\.exceptions\.\w+
        aiohttp\.client_exceptions\.\w+|httpx\.\w*(?:Error|Timeout)|httpcore\.\w+
        [Cc]heckpoint or download failed|[Ff]ailed to download|[Dd]ownload(?:ing)? .{0,60}failed
        Can't load (?:the )?(?:tokenizer|config\w*|model|feature extractor|image processor) for
        NonMatchingChecksumError|NonMatchingSplitsSizesError
        [Cc]ould not (?:download|connect to http)|botocore\.exceptions\.\w+|SSL: CERTIFICATE_VERIFY_FAILED
        SSLError|Read timed out|FSTimeoutError|CAS service error|IncompleteRead|ContentTooShortError
        Consistency check failed
    """),
    root("import_error", r"""
        ^(?:\w+\.)*(?:ModuleNotFoundError|ImportError)\b|No module named[ ]|cannot import name '?\w+
        DLL load failed|Failed to import \S+|undefined symbol:[ ]|PackageNotFoundError|DistributionNotFound
        VersionConflict|requires the .{1,60} (?:library|package) but it was not found
        [Pp]lease (?:pip )?install (?:it|the|\S+) (?:via|with|using|package|library|first|to use)
        cannot open shared object file|Ninja is required to load|Unable to (?:JIT )?load the \S+ op
        Error building extension
        Error while finding module specification for[ ]
        GLIBC(?:XX)?_\S+' not found|is required (?:for|to|but).{0,60}(?:not installed|pip install)
        (?:is|are) not installed\b
    """),
    root("bad_arguments", r"""
        ^\S+\.py(?: \w+)?: error:[ ]|^usage: .*error:[ ]
        \berror: (?:the following arguments are required|argument \S+|ambiguous option|unknown option|No such option)
        [Uu]nrecogni[sz]ed (?:arguments?|options?|flags?):|^In '\S{1,80}': Could not find '|^(?:click\.\S*)?UsageError
        Some specified arguments are not used by the HfArgumentParser|[Nn]o such option:?[ ]
        ^(?:argparse|simple_parsing)\.\S+Error|Could not override '
        omegaconf\.errors\.Config(?:Key|Attribute)Error|hydra\.errors\.\w+|ConfigCompositionException
        ^Error: (?:Missing|Invalid value for|Got unexpected extra)|Could not consume arg:[ ]
        [Mm]issing required (?:argument|option)|invalid choice:[ ]|FLAGS? ERROR|absl\.flags\._exceptions
        Unknown command line flag|Flags parsing error
    """),
    hint("bad_arguments", r"^[Uu]sage: \S+"),
    root("file_not_found", r"""
        ^(?:FileNotFound|NotADirectory)Error\b|DataFilesNotFoundError
        can't open file .*No such file|No such file or directory
        [Ff]ile \S{1,200} not found\b|[Ff]ile .{1,200} does(?:n't| not) exist
        [Cc]ould not find (?:a )?(?:file|checkpoint|directory)
        Unable to find '|[Nn]o (?:checkpoint|file)s? found (?:in|at|under)|no file named .* found in directory
        does not appear to have a file named|Can't find a valid checkpoint at
        (?:directory|folder|path) .{1,200} (?:does not exist|is not found|not found)
    """ + codes.errno("file_not_found")),
    # --- while it runs ----------------------------------------------------------------------------------------------
    root("nan_loss", r"""
        [Ll]oss (?:is|became|was|has become|went) (?:nan|NaN|inf|infinite|NAN)
        [Ff]unction '\w+' returned nan values
        (?:NaN|nan|inf)\w* (?:\S+ ){0,4}(?:loss|grad)\w*.*(?:[Ss]topping|exit|abort|[Tt]erminat)
        Current loss scale already at minimum|Minimum loss scale reached
        found (?:NaN|Inf|nan|inf) in (?:local )?(?:forward )?(?:loss|grad)
        (?:NaN|Nan|nan) (?:or [Ii]nf )?(?:loss|losses) (?:detected|encountered|found)
        [Dd]etected (?:nan|NaN|inf)[\w/ ]{0,20} (?:in|loss|values)|FloatingPointError: .*(?:[Nn]a[Nn]|[Ii]nf)
        Loss became infinite or NaN|The loss returned in `training_step` is (?:nan|inf)
        [Nn]an(?:s|) in (?:the )?(?:loss|gradients?|model)
        NaN (?:gradient|parameter|weight|value)s? (?:detected|found|encountered|in)
        tensor\(\[+ *nan\b|Unexpected result (?:nan|inf)|loss (?:diverged|exploded)|[Tt]raining diverged
        (?:non-?finite|not finite) (?:loss|grad\w*)
        (?:[Ll]oss|[Gg]rad\w*).{0,30}(?:non-?finite|is not finite|contains (?:nan|NaN))
        total norm .* is non-finite|[Nn]an loss|NaN [Ll]oss|tensor\(nan.*\) (?:loss|encountered)
        (?:nan|inf|NaN)\b.{0,20}overflow.*(?:exit|abort|stop)
    """),
    root("dataloader_worker_died", r"""
        DataLoader worker \(pid(?:\(s\))? ?[\d, ]+\)? ?(?:is killed by signal|exited unexpectedly|died)
        DataLoader worker .*(?:killed by signal|exited unexpectedly)|BrokenProcessPool
        One of the subprocesses has abruptly died during map operation
        [Bb]ackground workers are no longer alive
        worker process .*(?:died|exited) unexpectedly|[Pp]in memory thread exited unexpectedly
    """),
    consequence("rendezvous_timeout", r"""
        waiting for clients\. \d+/\d+|Rendezvous(?:Timeout|Connection)Error|No route to host
        [Ss]ocket [Tt]imeout
        [Tt]imed? ?out.{0,60}(?:initializ|rendezvous|store-based barrier|TCPStore)
        [Tt]imed out initializing process group|RendezvousClosedError
        DEADLINE_EXCEEDED: .*(?:RegisterTask|ClusterRegister|Barrier timed out)|failed to connect to all addresses
        wait timeout after \d+ms, keys:|store based barrier|store->get.*timed? ?out
        [Tt]imeout.{0,40}(?:waiting for (?:all )?(?:ranks|workers|nodes)|placement group)|DistStoreError
        DistNetworkError|connect\(\) timed out|failed to connect to \S*:\d+|unable to complete a TCP connection
    """),
    root("nccl_error", r"""
        Duplicate GPU detected|NCCL.*(?:invalid (?:usage|argument)|[Ii]nternal error)|ncclInvalid\w+
        ncclInternalError
    """, "run it once with NCCL_DEBUG=WARN; each rank needs a GPU of its own (set_device(LOCAL_RANK)), and every node "
         "the same NCCL", retry_helps=False),
    root("nccl_error", r"""
        NCCL (?:error|failure|Error)\b|ncclSystemError|ncclInternalError|ncclUnhandledCudaError|ncclInvalidUsage
        ncclInvalidArgument|NCCL.*(?:unhandled (?:system|cuda) error|internal error|invalid usage)
        NCCL WARN .*(?:[Ff]ailed|[Ee]rror|no usable|[Cc]all to \w+ returned|[Mm]issing)
        HCCL.{0,40}(?i:error|fail|timed? ?out)|RCCL error|\bERR02\d{3}\b|Check failed: .*nccl\w*Success
        NCCL WARN .*(?:no socket interface|[Gg]ot completion)|Cuda failure (?:\d+ )?'
    """),
    root("hang", r"""
        watchdog got stuck for \d+ seconds|[Ww]atchdog (?:was |has )?(?:triggered|fired|expired)
        has not (?:\w+ ){1,3}(?:in|for|since) (?:the )?(?:last |over |more than )*\d+(?:\.\d+)? ?(?:s|m|h)
        [Hh]eartbeat monitor timed out|watchdog hang|dump debug info|WorkerHang
        soft lockup|hung_task|blocked for more than \d+ seconds|[Hh]ang detected
        (?:job|training|run|process|rank)s? (?:appears?|seems?|is|are) (?:to be )?(?:hung|stuck|hanging|frozen)
        [Nn]o (?:progress|output|log\w*|new \w+) (?:for|in|since)(?: the last)? \d+|possible deadlock
        ^Timeout \(\d+:\d\d:\d\d(?:\.\d+)?\)!|timed out with traceback|not made (?:any )?progress
        ^Thread (?:0x)?[0-9A-Fa-f]+ \((?:idle|active)[^)]*\)|waiting for remainder of ranks|Stalled (?:ranks?|ops?):
        This thread has been waiting for .* and may be stuck|\d+ threads to join the rendezvous, but
        Termination timeout for .* exceeded\. Exiting
    """),
    # where a program that can do without a GPU looks for one
    hint("cuda_error", r"failed call to cuInit: (?:CUDA_ERROR_NO_DEVICE|UNKNOWN ERROR \(303\)|UNKNOWN ERROR \(100\))"),
    hint("gpu_lost", r"Failed to initialize NVML: (?!Driver)|Can't initialize NVML|nvmlInit\w* failed|NVMLError\w*"),
    root("cuda_error", r"invalid device ordinal", "start no more processes on a node than it has GPUs that they may "
          "see (CUDA_VISIBLE_DEVICES)", retry_helps=False),
    root("cuda_error", r"""
        device-side assert|\bblock: \[\d+,\d+,\d+\], thread: \[\d+,\d+,\d+\],? Assertion
    """, "an index is out of range (labels, token ids, vocabulary): run it once with CUDA_LAUNCH_BLOCKING=1, or on the "
         "CPU, to see which", retry_helps=False),
    root("cuda_error", r"""
        CUDA (?:runtime |driver |unknown )?error\b(?: ?\(\d+\))?:?[ ]|cuda runtime error \(\d+\)
        CU(?:BLAS|DNN|SPARSE|FFT|RAND|SOLVER)_STATUS_\w+|HIP error:[ ]
        an illegal memory access was encountered|misaligned address|unspecified launch failure
        illegal instruction was|Xid \(PCI:\S+\): \d+|AcceleratorError|cudaSuccess \(\d+ vs\. 0\)
        cuDNN error|cuBLAS error|Unexpected error from cudaGetDeviceCount|No CUDA GPUs are available
        no CUDA-capable device|(?i:you requested gpus?: .* but your machine only has)|Invalid CUDA 'device=
        No supported gpu backend found|(?:CUDA|GPUs?) (?:is |are )?(?:unavailable|not (?:found|detected))
        Check failed: .*(?i:(?:cuda|cudnn|cublas|miopen|hip)\w*success)|could not synchronize on CUDA context
        failed to record completion event|call aclnn\w+ failed|\bE[A-Z]9999: |\bERR(?:0[013]|99)\d{3}\b
        ^\w*(?:Error|Exception): .*\b[Nn]o (?:CUDA |NVIDIA )?GPUs? (?:was |were |is |are )?(?:found|detected|available)
        ^\w*(?:Error|Exception): .*\b[Nn]o (?:visible|available|usable) (?:\w+ ){0,2}(?:GPU|device)s?\b
        ^\w*(?:Error|Exception): .*(?:can only be used|only works?|only runs|only supported) on (?:a )?(?:CUDA|GPU)
        DeferredCudaCallError|[Cc]ore halted unexpectedly|NPU function error
        wait for compute device to finish failed|Failed to create session|cudaError_t \d+
    """ + f"{codes.cuda('cuda_error')}\n{codes.accelerator('cuda_error')}"),
    root("segfault", r"""
        Fatal Python error: (?!Aborted|Bus error)|Segfault encountered|[Ss]egmentation fault|段错误|0xC0000005
        -1073741819|Caught signal 11|SIGSEGV|segfault at [0-9a-f]+|free\(\): invalid|double free or corruption
        corrupted (?:size vs|double-linked|unsorted)|malloc\(\):[ ]|munmap_chunk|stack smashing detected
        sysmalloc: Assertion
    """),
    root("cancelled", r"""
        ^KeyboardInterrupt\b|\bgot signal: [12]\b|Detected KeyboardInterrupt
        (?:scancel|cancelled by user|canceled by user|Job was cancel)|DUE TO (?:PREEMPTION|JOB REQUEUE)|\b[Pp]reempted\b
    """ + f"{codes.scheduler('cancelled')}\n{codes.ray('cancelled')}"),
    consequence("peer_lost", rf"{codes.errno('peer_lost')}|SLICE_FAILURE_\w+"),
    consequence("peer_lost", r"[Dd]estination is unreachable|resolve UCX endpoint|UCX +ERROR .*(?:timed out|reset)"),
    consequence("rendezvous_timeout", f"{codes.errno('rendezvous_timeout')}|{codes.accelerator('rendezvous_timeout')}"),
    consequence("cancelled", r"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT(?!.*DUE TO TASK FAILURE)"),
    consequence("killed", r"""
        SignalException: Process \d+ got signal: \d+|[Rr]eceived (?:signal )?(?:15|SIGTERM|death signal)
        SIGTERM received|got SIGTERM
    """),
    consequence("unknown", r"""
        terminate called after throwing an instance of|: Assertion [`'].{1,400}' failed|INTERNAL ASSERT FAILED
        ^(?![\w.]+(?:Error|Exception)\b).*\bCheck failed: |^thread '.*' panicked at|^panic: |^fatal error: 
        ^Exception in thread "main"|MPI_ERRORS_ARE_FATAL|Fatal error in (?:P?MPI_|internal_)\w+
        (?:[Ss]topping|[Aa]borting|[Tt]erminating) (?:the )?(?:training|run|job) (?:due to|because of) (?!early|max)
    """),
)  # fmt: skip
