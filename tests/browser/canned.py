"""A server's answers without a server: a cluster in every state, its names and texts full of markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any
from urllib.parse import unquote_plus

from browser import canned_results as results
from browser.canned_names import MARKUP, NOW
from playwright.sync_api import Request, WebSocketRoute

from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Rank
from ugro.common.models.job_state import JobState, RankState
from ugro.common.models.metrics import Axis, SeriesSource
from ugro.common.models.place import Place
from ugro.service.documents import job_document
from ugro.service.schemas.base import Document, ErrorDocument
from ugro.service.schemas.checkpoints import ListedCheckpoint
from ugro.service.schemas.explain import FailureDocument
from ugro.service.schemas.history import GpuHistoryDocument, GpuSampleDocument
from ugro.service.schemas.jobs import EventDocument
from ugro.service.schemas.live import LiveGpu, LiveJob, LiveLink, LiveNode, LiveProgress, LiveProposal, LiveView
from ugro.service.schemas.logs import LogHits, LogPage, NumberedLine, Span
from ugro.service.schemas.metrics import MetricsDocument, SegmentDocument, SeriesDocument
from ugro.service.schemas.nodes import DrainDocument
from ugro.testing import builders

LINES = 1_000_000
"""Lines of each rank's log."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)

SESSION = {"role": "operate", "browser": True, "launch": True, "version": "1"}

Answer = tuple[int, Any]


class Canned:
    """The answers by path. `posted` is what was sent; `actions` answers it; `live` are the open sockets."""

    def __init__(self) -> None:
        self.policy = POLICY
        self.view = view()
        self.posted: list[tuple[str, Any]] = []
        self.actions: dict[str, Callable[[Any], Answer]] = {}
        self.sockets: list[WebSocketRoute] = []
        self.up = True
        self.seq = 100
        self.epoch = "first"
        self.lines = LINES

    def answer(self, method: str, path: str, query: str, request: Request) -> Answer:
        """Return the status and the body of a request."""
        if not self.up:
            return 503, {"detail": "down"}
        if method != "GET":
            assert request.headers.get("x-ugro") == "1"
            body = request.post_data_json
            self.posted.append((path, body))
            return self.actions.get(path, lambda _: (200, SESSION))(body)
        options = dict(part.split("=", 1) for part in query.split("&") if part)
        if path.endswith("/logs"):
            return 200, self.page(options).as_json()
        if path.endswith("/logs/search"):
            return 200, hits(options).as_json()
        if path.endswith("/metrics"):
            return 200, metrics(path.split("/")[2], options)
        if path.startswith("/nodes/") and path.endswith("/history"):
            return 200, [gpu.as_json() for gpu in history(path.split("/")[2])]
        if path == "/session":
            return 200, SESSION
        if found := results.answer(path, options):
            return 200, found
        rest = re.sub(r"/jobs/[^/]+", "", path)
        return 200, {"/events": events, "/explain": explained, "/checkpoints": checkpoints}.get(rest, dict)()

    def page(self, options: dict[str, str]) -> LogPage:
        """Return a page of a log."""
        count, start = int(options.get("count", 200)), options.get("from_line")
        if options.get("direction") == "backward":
            first = max(1, (int(start) if start else self.lines) - count + 1)
        else:
            first = int(start or 1)
        shown = tuple(line(number) for number in range(first, min(self.lines, first + count - 1) + 1))
        return LogPage(**about(options, self.lines), shown=shown)

    def connect(self, socket: WebSocketRoute) -> None:
        """Answer one live socket."""
        if not self.up:
            socket.close()
            return
        self.sockets.append(socket)
        socket.on_message(lambda text: self._subscribed(socket, json.loads(str(text))))
        socket.send(
            json.dumps({"type": "hello", "epoch": self.epoch, "version": "1", "seq": self.seq, "role": "operate"})
        )

    def _subscribed(self, socket: WebSocketRoute, message: dict[str, Any]) -> None:
        for topic in message.get("topics", []):
            data = self.view.as_json() if topic == "cluster" else self.topic(topic.removeprefix("job:"))
            self.seq += 1
            socket.send(json.dumps({"type": "snapshot", "topic": topic, "seq": self.seq, "data": data}))

    def change(self, **changes: Any) -> None:
        """Send a delta of the cluster to every page."""
        self.seq += 1
        for socket in self.sockets:
            socket.send(json.dumps({"type": "delta", "topic": "cluster", "seq": self.seq, "data": changes}))

    def drop(self) -> None:
        """Go down as a killed server does."""
        self.up = False
        for socket in self.sockets:
            socket.close()
        self.sockets.clear()

    def topic(self, job_id: str) -> dict[str, Any]:
        """Return the state of a job's topic."""
        listed = self.view.jobs[job_id]
        return {
            "job": whole(listed),
            "events": {str(at): one for at, one in enumerate(events())},
            "progress": listed.progress.as_json() if listed.progress else None,
        }


def unknown(kind: type[Document]) -> dict[str, Any]:
    """Return the fields of a document of which nothing is known."""
    return {field.name: None for field in fields(kind)}


def job(number: int, state: JobState, name: str = "train", **fields: Any) -> LiveJob:
    """A job in short."""
    basis: dict[str, Any] = unknown(LiveJob) | {
        "id": f"job-{number:03}",
        "name": name,
        "state": state,
        "attempt": 1,
        "reason": "",
        "nodes": (),
        "gpus": 0,
        "priority": 0,
        "submitted_at": NOW - 5000 + number,
        "stopping": False,
    }
    return LiveJob.checked(basis | fields)


def view() -> LiveView:
    """A cluster with a job in every state."""
    begun = {"nodes": ("gpu-master", "gpu1"), "gpus": 2, "started_at": NOW - 2000}
    ended = begun | {"ended_at": NOW - 500}
    progress = LiveProgress(step=420, steps=1000, epoch=None, epochs=None, steps_per_second=3.5, ends_at=NOW + 600)
    jobs = [
        job(1, JobState.SUCCEEDED, **ended),
        job(2, JobState.FAILED, MARKUP, reason=f"rank 1 on gpu1: {MARKUP}", **ended),
        job(3, JobState.CANCELLED, **ended),
        job(4, JobState.UNKNOWN, reason="gpu1 is unreachable", **begun),
        job(5, JobState.RUNNING, "vit-large", progress=progress, **begun),
        job(6, JobState.STARTING, nodes=("gpu1",), gpus=1),
        job(7, JobState.QUEUED, "later", reason="waits for 2 free GPUs"),
        job(8, JobState.QUEUED, "sooner", reason="waits for a free GPU"),
        job(9, JobState.HELD, reason=f"held: {MARKUP}"),
        job(10, JobState.RUNNING, alert="no rank has printed anything for 21 min", **begun),
    ]
    links = [link("gpu-master", "gpu1", 2.3), link("gpu1", "gpu-master", 2.2), link("gpu-master", "gpu2", 0.94)]
    return LiveView(
        at=NOW,
        attended=True,
        nodes={one.name: one for one in nodes()},
        jobs={one.id: one for one in jobs},
        queue=("job-008", "job-007"),
        proposals={
            "job-002": LiveProposal(
                job="job-002", attempt=1, at=NOW, cause="cuda_oom", what=f"resume at step 400 with {MARKUP}"
            )
        },
        links={f"{one.source}>{one.target} {one.backend}": one for one in links},
        problems={},
    )


def link(source: str, target: str, speed: float) -> LiveLink:
    """A measured link."""
    return LiveLink(
        source=source, target=target, backend="gloo", gbit_per_s=speed, latency_ms=0.2, measured_at=NOW - 3600
    )


def gpu(number: int, held_by: str | None, **fields: Any) -> LiveGpu:
    """A GPU; its driver says nothing but what is given."""
    basis: dict[str, Any] = unknown(LiveGpu)
    return LiveGpu.checked(
        basis | {"index": number, "uuid": f"GPU-{number}-{held_by}", "name": "RTX 4070", "job": held_by} | fields
    )


def nodes() -> list[LiveNode]:
    """Three nodes: one is busy, one has a driver that says little, one is unreachable and drained."""
    full = {
        "memory_total_mib": 12282,
        "memory_used_mib": 9000,
        "utilization_percent": 87,
        "temperature_c": 71,
        "power_w": 181.5,
    }
    basis: dict[str, Any] = unknown(LiveNode) | {
        "reachable": True,
        "departed": False,
    }
    away = ErrorDocument(code="node_unreachable", message=f"gpu2: {MARKUP}", hint="is it on?")
    return [
        LiveNode.checked(
            basis
            | {"name": "gpu-master", "address": "192.168.1.100", "cpu_count": 16, "load_1m": 2.5}
            | {"gpus": (gpu(0, "job-005", **full), gpu(1, None, **full | {"name": MARKUP}))}
        ),
        LiveNode.checked(basis | {"name": "gpu1", "address": "192.168.1.101", "gpus": (gpu(0, "job-010"),)}),
        LiveNode.checked(
            basis
            | {"name": "gpu2", "address": "192.168.1.102", "reachable": False, "error": away, "last_seen": NOW - 754}
            | {"drained": DrainDocument(reason=MARKUP, since=NOW - 9000), "gpus": (gpu(0, None, **full),)}
        ),
    ]


def whole(listed: LiveJob) -> dict[str, Any]:
    """The whole document of a job."""
    states = {JobState.RUNNING: RankState.RUNNING, JobState.FAILED: RankState.FAILED}
    ranks = tuple(
        Rank(
            rank=at,
            local_rank=0,
            node=node,
            gpu=f"GPU-{at}",
            pid=100 + at,
            state=states.get(listed.state, RankState.LOST),
        )
        for at, node in enumerate(listed.nodes)
    )
    failed = listed.state == JobState.FAILED
    record = builders.job(
        listed.state,
        id=listed.id,
        name=listed.name,
        reason=listed.reason,
        submitted_at=listed.submitted_at,
        started_at=listed.started_at,
        launched_at=listed.started_at,
        ended_at=listed.ended_at,
        alert=listed.alert,
        command=("train.py", "--note", MARKUP),
        sweep=results.part(listed) if listed.sweep else None,
        ranks=ranks,
        placement=builders.placement(*listed.nodes) if listed.nodes else None,
        first_failure=FirstFailure(rank=1, node="gpu1", cause="cuda_oom", message=MARKUP) if failed else None,
    )
    return job_document(record, None, None, results.declared(record)).as_json()


def events() -> list[dict[str, Any]]:
    """The timeline of a job."""
    kinds = ("submitted", "starting", "running", "checkpoint", "a kind of a newer UGRO")
    return [
        EventDocument(at=NOW - 2000 + 60 * at, job="job-005", node="", kind=kind, message=MARKUP).as_json()
        for at, kind in enumerate(kinds)
    ]


def explained() -> dict[str, Any]:
    """Why a job failed."""
    return FailureDocument(
        cause="cuda_oom",
        rank=1,
        evidence=(f"torch.OutOfMemoryError: {MARKUP}",),
        suggestion="Use a smaller batch.",
        retry_helps=False,
        message=MARKUP,
        where="train.py:12",
        facts={MARKUP: MARKUP},
        job="job-002",
        state=JobState.FAILED,
        attempt=1,
        node="gpu1",
        exit_code=1,
        signal=None,
        resume="ugro resume job-002",
    ).as_json()


def checkpoints() -> list[dict[str, Any]]:
    """A complete checkpoint and an incomplete one."""
    basis: dict[str, Any] = unknown(ListedCheckpoint) | {
        "kind": "torch",
        "bytes": 10**9,
        "saved_at": NOW - 900,
        "places": (Place(node="gpu1", path="/c"),),
        "on_master": False,
    }
    flags = {"split": False, "other_branch": False, "weights_only": False}
    good = {"step": 400, "name": MARKUP, "whole": True}
    bad = {"step": 420, "name": "c-420", "whole": False, "problem": MARKUP}
    return [ListedCheckpoint.checked(basis | flags | one).as_json() for one in (good, bad)]


def metrics(job_id: str, options: dict[str, str]) -> dict[str, Any]:
    """Curves: one with values that are no number, one whose name is markup."""
    axis = options.get("x", "step")
    begin, pace = {"step": (0.0, 1.0), "time": (NOW - 2000, 2.0), "elapsed": (0.0, 2.0)}[axis]
    own = int(job_id[-3:]) % 7 / 10
    points = tuple((begin + pace * at, None if 200 <= at < 210 else 3.0 + own - at / 200) for at in range(420))
    bad = tuple((begin + pace * at, "nan") for at in range(200, 210))
    segment = SegmentDocument(attempt=1, start=points[0][0], end=points[-1][0], count=len(points), overwritten=0)
    series = tuple(
        SeriesDocument(
            name=name,
            unit="",
            source=SeriesSource.EVENT_FILE,
            points=points,
            bad=bad,
            overwritten=(),
            segments=(segment,),
            thinned=False,
            count=len(points),
            last=0.9,
            min=0.9,
            max=3.0,
        )
        for name in ([unquote_plus(options["names"])] if "names" in options else ("loss", "learning_rate", MARKUP))
    )
    found = MetricsDocument(id=job_id, x=Axis(axis), series=series, progress=None, dropped=(), reading=False, hint="")
    return found.as_json()


def history(node: str) -> list[GpuHistoryDocument]:
    """A day of one GPU: free, then held by job-005, with a hole."""
    basis: dict[str, Any] = unknown(GpuSampleDocument) | {
        "memory_used_mib": 8000,
        "power_w": 150.0,
    }
    samples = tuple(
        GpuSampleDocument.checked(
            basis
            | {"at": NOW - 86_400 + 60 * minute}
            | {"utilization_percent": 90 if minute > 1300 else 0, "job": "job-005" if minute > 1300 else None}
        )
        for minute in range(1440)
        if not 400 < minute < 500
    )
    return [GpuHistoryDocument(node=node, uuid=f"GPU-0-{node}", index=0, name=MARKUP, samples=samples)]


def line(number: int) -> NumberedLine:
    """A line of a log; each hundredth has colours, each thousandth markup."""
    text, spans = f"step {number} loss 0.5", ()
    if number % 1000 == 0:
        text = f"{MARKUP} {number}"
    elif number % 100 == 0:
        text, spans = (
            f"WARNING {number}",
            (Span(text="WARNING", class_="bold fg-red"), Span(text=f" {number}", class_="")),
        )
    return NumberedLine(rank=0, number=number, offset=20 * number, text=text, spans=spans)


def about(options: dict[str, str], lines: int = LINES) -> dict[str, Any]:
    """What each page of a log and each search has."""
    known = {"job": "job-005", "attempt": 1, "rank": int(options.get("rank", 0)), "ranks": 2, "unfinished": False}
    return known | {"size": 20 * lines, "lines": lines, "behind": 0, "unreadable": None}


def hits(options: dict[str, str]) -> LogHits:
    """The lines that a search for a number finds: those whose own number ends with its digits."""
    number = int(re.sub(r"\D", "", options["query"]))
    step = 10 ** len(str(number))
    found = tuple(line(one) for one in range(number, LINES + 1, step))[: int(options["limit"])]
    return LogHits(**about(options), hits=found, next_offset=None)
