"""What Prometheus gets: one snapshot as metrics, by rules that keep their number small. Pure.

No label is called `job` or `instance`, which are Prometheus's own. `ugro_job` is a label of gauges alone, of jobs that
have not ended and for ten minutes after. Nothing that a log names becomes a name or a label. What is not known has no
sample: no zero, no NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from ugro import __version__
from ugro.common.causes import CAUSES
from ugro.common.errors import InputError
from ugro.common.models.job_state import JobState
from ugro.control_plane.counts import SECONDS
from ugro.service.live import NOT_SEEN
from ugro.service.monitoring import LIVE_JOBS, Serve, Snapshot, is_told
from ugro.service.schemas.live import LiveGpu, LiveView

Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
Samples = Iterable[tuple[Sequence[str], float | None]]

MIB = 2**20

FILE = "ugro.prom"
"""What node_exporter reads in its folder."""

LABEL = 200
"""Characters of a label's value at most; the rest is cut."""


def text(snapshot: Snapshot) -> bytes:
    """Return a snapshot in Prometheus's text format."""
    return generate_latest(registry(snapshot))


def write_textfile(snapshot: Snapshot, folder: Path) -> None:
    """Write a snapshot to `ugro.prom` in a folder that node_exporter reads; it sees the old file or the new one.

    Raises:
        InputError: it cannot be written.
    """
    try:
        write_to_textfile(str(folder / FILE), registry(snapshot))
    except OSError as error:
        hint = f"the pass itself was made; see: ls -ld {folder}"
        raise InputError(f"{folder / FILE} cannot be written: {error.strerror}", hint) from None


def registry(snapshot: Snapshot) -> CollectorRegistry:
    """Return a registry that has a snapshot alone, and nothing of this process."""
    made = CollectorRegistry(auto_describe=False)
    made.register(_Snapshot(snapshot))
    return made


class _Snapshot(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Family]:
        return ()

    def collect(self) -> Iterator[Family]:
        yield from (family for family in _families(self._snapshot) if family.samples)


def _families(snapshot: Snapshot) -> Iterator[Family]:
    view = snapshot.view
    yield _gauge("ugro_build_info", "The version of UGRO that tells.", ("version",), [((__version__,), 1)])
    yield from _nodes(snapshot)
    yield from _gpus(snapshot)
    if snapshot.dcgm_names:
        yield from _dcgm(view)
    yield from _queue(snapshot)
    yield from _jobs(snapshot)
    if snapshot.serve:
        yield from _serve(snapshot.serve)
    if snapshot.swept_at is not None:
        text = "When the last pass of `ugro sweep` was complete."
        yield _gauge("ugro_last_sweep_timestamp_seconds", text, (), [((), snapshot.swept_at)])


# --- nodes and GPUs --------------------------------------------------------------------------------------------------


def _nodes(snapshot: Snapshot) -> Iterator[Family]:
    nodes, label = snapshot.view.nodes, ("node",)
    answers = (((name,), float(node.reachable)) for name, node in nodes.items() if node.error != NOT_SEEN)
    yield _gauge("ugro_node_up", "Whether the node answered at the last tick.", label, answers)
    seen = (((name,), snapshot.seen.get(name)) for name in nodes)
    yield _gauge("ugro_node_last_seen_timestamp_seconds", "When the node answered last.", label, seen)


GPU = ("node", "gpu", "uuid")

OF_GPU = (
    ("utilization_ratio", "Share of time in which the GPU computed.", "utilization_percent", 0.01),
    ("memory_used_bytes", "Memory of the GPU that is in use.", "memory_used_mib", MIB),
    ("memory_total_bytes", "Memory of the GPU.", "memory_total_mib", MIB),
    ("temperature_celsius", "Temperature of the GPU.", "temperature_c", 1),
    ("power_watts", "Power that the GPU draws.", "power_w", 1),
)
"""Name, meaning, field of `LiveGpu`, and what its values are multiplied by."""

DCGM = (
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", "utilization_percent"),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", "memory_used_mib"),
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", "memory_free_mib"),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", "temperature_c"),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", "power_w"),
)
"""Those names of dcgm-exporter that most boards and alerts use, and fields of `LiveGpu`."""


def _gpus(snapshot: Snapshot) -> Iterator[Family]:
    gpus, more = _answering(snapshot.view), snapshot.gpus
    drivers = {uuid: gpu.driver for uuid, gpu in more.items()}
    info = ((*where, gpu.name, drivers.get(gpu.uuid) or "") for where, gpu in gpus.items())
    yield _gauge("ugro_gpu_info", "A GPU of a node that answers.", (*GPU, "name", "driver"), ((one, 1) for one in info))
    for name, meaning, known, times in OF_GPU:
        samples = ((where, _times(getattr(gpu, known), times)) for where, gpu in gpus.items())
        yield _gauge(f"ugro_gpu_{name}", meaning, GPU, samples)
    reasons = {uuid: gpu.throttled or () for uuid, gpu in more.items()}
    throttled = ((*where, reason) for where, gpu in gpus.items() for reason in reasons.get(gpu.uuid, ()))
    meaning = "Why the clocks of the GPU are lower than they could be."
    yield _gauge("ugro_gpu_throttled", meaning, (*GPU, "reason"), ((one, 1) for one in throttled))
    if _are_told(snapshot.view):
        # One series for each GPU, also for a shared one: rules join others with it by GPU.
        held = ((*where, ",".join(gpu.holders)) for where, gpu in gpus.items() if gpu.holders)
        yield _gauge("ugro_gpu_job_info", "The job that holds the GPU.", (*GPU, "ugro_job"), ((one, 1) for one in held))


def _answering(view: LiveView) -> dict[tuple[str, str, str], LiveGpu]:
    """The GPUs of nodes that answer, by node, index and UUID."""
    return {
        (name, "" if gpu.index is None else str(gpu.index), gpu.uuid): gpu
        for name, node in view.nodes.items()
        if node.reachable
        for gpu in node.gpus
    }


def _dcgm(view: LiveView) -> Iterator[Family]:
    """The GPUs by NVIDIA's names. The node's name is there as either version of its exporter spells that label."""
    labels = ("gpu", "UUID", "device", "modelName", "Hostname", "hostname")
    gpus = {
        (gpu, uuid, f"nvidia{gpu}", one.name, node, node): one for (node, gpu, uuid), one in _answering(view).items()
    }
    for name, meaning, known in DCGM:
        yield _gauge(name, meaning, labels, ((where, _of_dcgm(gpu, known)) for where, gpu in gpus.items()))


def _of_dcgm(gpu: LiveGpu, known: str) -> float | None:
    if known != "memory_free_mib":
        found: float | None = getattr(gpu, known)
        return found
    total, used = gpu.memory_total_mib, gpu.memory_used_mib
    return None if total is None or used is None else total - used


def _times(value: float | None, times: float) -> float | None:
    return None if value is None else value * times


# --- jobs ------------------------------------------------------------------------------------------------------------

LIVE = tuple(state for state in JobState if not state.ended)

JOB = ("ugro_job",)

OF_TRAINING = (
    ("step", "Step that the job's training said last.", "step"),
    ("steps_expected", "Steps that the job's training will make.", "steps"),
    ("steps_per_second", "Speed of the job's training.", "rate"),
    ("loss", "Loss that the job's training said last.", "loss"),
    ("learning_rate", "Learning rate that the job's training said last.", "learning_rate"),
    ("last_progress_timestamp_seconds", "When the job's training said its step last.", "at"),
)
"""Name, meaning, and field of `TrainingNow`."""


def _queue(snapshot: Snapshot) -> Iterator[Family]:
    view, states = snapshot.view, [job.state for job in snapshot.view.jobs.values()]
    number = (((state.value,), float(states.count(state))) for state in LIVE)
    yield _gauge("ugro_jobs", "Jobs that have not ended, by state.", ("state",), number)
    since = [snapshot.waiting[job] for job in view.queue if job in snapshot.waiting]
    oldest = [((), max(0.0, view.at - min(since)))] if since else []
    yield _gauge("ugro_queue_oldest_seconds", "For how long the oldest queued job has waited.", (), oldest)
    waiting = [((), float(len(view.proposals)))]
    yield _gauge("ugro_proposals_waiting", "Proposals that wait for an answer.", (), waiting)


def _jobs(snapshot: Snapshot) -> Iterator[Family]:
    view = snapshot.view
    jobs = {key: job for key, job in view.jobs.items() if is_told(job, view.at)} if _are_told(view) else {}
    dropped = 0 if _are_told(view) else _live(view)
    meaning = f"Jobs without gauges of their own: all, where more than {LIVE_JOBS} have not ended."
    yield _gauge("ugro_metrics_dropped", meaning, (), [((), float(dropped))])
    info = (((key, job.name, job.user or ""), 1.0) for key, job in jobs.items())
    yield _gauge("ugro_job_info", "A job that has not ended, or ended just now.", (*JOB, "name", "user"), info)
    gpus = (((key,), float(job.gpus)) for key, job in jobs.items() if job.state.on_nodes)
    yield _gauge("ugro_job_gpus", "GPUs that the job holds.", JOB, gpus)
    training = {key: snapshot.training[key] for key in jobs if key in snapshot.training}
    for name, meaning, known in OF_TRAINING:
        yield _gauge(f"ugro_job_{name}", meaning, JOB, (((key,), getattr(one, known)) for key, one in training.items()))


def _live(view: LiveView) -> int:
    return sum(not job.state.ended for job in view.jobs.values())


def _are_told(view: LiveView) -> bool:
    return _live(view) <= LIVE_JOBS


# --- the resident controller -----------------------------------------------------------------------------------------


def _serve(serve: Serve) -> Iterator[Family]:
    counts = serve.counts
    none = {("succeeded", ""): 0, ("cancelled", ""): 0} | {("failed", cause): 0 for cause in CAUSES}
    meaning = "Attempts of jobs that ended, by result and cause of failure."
    yield _counter("ugro_jobs", meaning, ("result", "cause"), (none | counts.ended.all()).items())
    rules = (((kind,), number) for kind, number in counts.alerts.all().items())
    yield _counter("ugro_alerts", "Alerts that channels took, by what they are about.", ("rule",), rules)
    meaning = "Ticks in which a node gave no answer, by the code of the error."
    yield _counter("ugro_ssh_errors", meaning, ("node", "kind"), counts.node_errors.all().items())
    buckets = [*map(str, SECONDS), "+Inf"]
    yield HistogramMetricFamily(
        "ugro_tick_seconds",
        "Seconds that a tick took.",
        buckets=list(zip(buckets, map(float, counts.ticks.up_to()), strict=True)),
        sum_value=counts.ticks.sum,
    )
    yield _gauge("ugro_ws_clients", "Live views that are open.", (), [((), float(serve.clients))])
    meaning = "How late the event loop was in 99 of 100 cases of the last minute."
    yield _gauge("ugro_event_loop_lag_seconds", meaning, (), [((), serve.lag)])


# --- samples ---------------------------------------------------------------------------------------------------------


def _gauge(name: str, meaning: str, labels: Sequence[str], samples: Samples) -> Family:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for values, value in samples:
        if value is not None and isfinite(value):
            family.add_metric([_label(one) for one in values], value)
    return family


def _counter(name: str, meaning: str, labels: Sequence[str], counts: Iterable[tuple[Sequence[str], int]]) -> Family:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for values, number in counts:
        family.add_metric([_label(one) for one in values], number)
    return family


def _label(words: str) -> str:
    """Foreign words as a label's value: any text, but no half characters, which cannot be sent, and no NUL."""
    return words[:LABEL].encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
