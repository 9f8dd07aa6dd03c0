"""Tries the network as a training would use it: a small job of its own, one rank on each node, measured and removed.

It goes through the engine, so the interface and the meeting point are those of a real launch. It is no job in the
state directory, and nothing stays on the nodes.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ugro.common.errors import NodeError
from ugro.common.job_spec import JobSpec
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.job import Job, NodeShare, Placement
from ugro.common.models.run import RunFiles
from ugro.common.paths import RunPaths, run_paths
from ugro.control_plane.failure_handler.blame import Inquiry
from ugro.control_plane.metadata_store.job_logs import JobLogs
from ugro.control_plane.metadata_store.log_ends import node_log, rank_log
from ugro.control_plane.preflight import Finding
from ugro.control_plane.preflight.findings import problem, warning
from ugro.control_plane.preflight.network_report import FIREWALL, NetworkReport, RankFacts, hung, last_words, slow_links
from ugro.control_plane.scheduler import tracker
from ugro.control_plane.scheduler.tracker import Phase, Runs
from ugro.engines.base import Engine
from ugro.nodes.pool import Pool
from ugro.nodes.remote.answers import require
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.run import process_manager
from ugro.nodes.remote.run.run_files import look
from ugro.nodes.transport import Transport

LIMIT = 60.0
"""Seconds after which a trial without a result is given up."""

JOIN_SECONDS = 30
"""Seconds for which ranks wait for each other, at the beginning and at every step."""

CLEAR_SECONDS = 30.0
LOGS_SECONDS = 10.0
LOOK_SECONDS = 0.5
STOP_GRACE = 2.0
SCRIPT = "network.py"

PLACE = """
umask 077
case $1 in "~/"*) set -- "$HOME/${1#"~/"}" "$2" "$3" ;; esac
mkdir -p "$1/code" || exit 73
# What a trial left whose master died; its ranks have ended themselves. How old it is says the clock that dated our own
# folder, too, which may be a file server's: it is no newer than a file that is dated an hour before ours.
own=$1; jobs=${1%/*}; mark=$jobs/.$3-$$
at=$(stat -c %Y "$own/code") && at=$(date -u -d "@$((at - 3600))" +%Y%m%d%H%M.%S) && TZ=UTC0 touch -t "$at" "$mark" && {
    find "$jobs" -maxdepth 1 -name 'check-*' ! -newer "$mark" ! -path "$own" -exec rm -rf {} +
    rm -f "$mark"
}
cat > "$1/code/.$3" && mv "$1/code/.$3" "$1/code/$2"
"""
"""usage: JOB_DIR SCRIPT NODE. Nodes that share a home write the same file, each whole."""

REMOVE = """
case $1 in "~/"*) set -- "$HOME/${1#"~/"}" ;; esac
# Of nodes that share a home one gets to move it, and the others find nothing.
if mv "$1" "$1.gone-$$" 2>/dev/null; then rm -rf "$1.gone-$$"; fi
base=${1%/*/*}
rmdir "$base/jobs" "$base" 2>/dev/null
[ ! -e "$1" ]
"""
"""usage: JOB_DIR. The folders above it go too if nothing else is in them."""


async def check_network(
    engine: Engine, pool: Pool, nodes: Sequence[str], gpus: Mapping[str, str], python: str | None = None
) -> NetworkReport:
    """Measure every link and an all-reduce, over NCCL with one GPU of each node, or over gloo where `gpus` is empty.

    `python`: what runs it on the nodes, where that is not the inventory's.

    Ends within about `LIMIT` + `LOGS_SECONDS` + `CLEAR_SECONDS`, whatever happens on the nodes.
    """
    trial = _Trial(engine, pool, nodes, gpus, python)
    with tempfile.TemporaryDirectory(prefix="ugro-check-") as folder:
        try:
            await trial.run()
            await trial.fetch_logs(Path(folder))
        finally:
            left = await trial.clear()
        return trial.report(Path(folder), left)


class _Trial:
    """One trial: a job that no store knows."""

    def __init__(
        self, engine: Engine, pool: Pool, nodes: Sequence[str], gpus: Mapping[str, str], python: str | None
    ) -> None:
        self._engine, self._python = engine, python
        self._pool = pool
        self._job = _job(nodes, gpus)
        self._backend = "nccl" if gpus else "gloo"
        self._interfaces: Mapping[str, str | None] = {}
        self._runs: Runs = {}
        self._error: NodeError | None = None

    async def run(self) -> None:
        """Start the ranks, and wait until they have ended or the time is over."""
        args = (self._backend, str(JOIN_SECONDS), f"{LIMIT:.0f}")
        spec = JobSpec(script=SCRIPT, args=args, python=self._python)
        try:
            async with asyncio.timeout(LIMIT):
                await self._place()
                prepared = await self._engine.prepare(self._job, spec)
                self._job, self._interfaces = self._job.changed(placement=prepared.placement), prepared.interfaces
                await self._engine.start(self._job, prepared)
                while await self._look() in (Phase.RUNNING, Phase.UNKNOWN):
                    await asyncio.sleep(LOOK_SECONDS)
        except NodeError as error:
            self._error = error
        except TimeoutError:
            return

    async def _place(self) -> None:
        async def one(transport: Transport) -> None:
            args = (self._paths(transport.name).job_dir, SCRIPT, transport.name)
            outcome = await transport.run(PLACE, args, data=load(f"network/{SCRIPT}").encode())
            require(transport, outcome, f"nothing can be written in {transport.node.base_dir}")

        for answer in (await self._pool.each(self._job.nodes, one)).values():
            if isinstance(answer, NodeError):
                raise answer

    async def _look(self) -> Phase:
        async def one(transport: Transport) -> RunFiles:
            return (await look(transport, [self._paths(transport.name)]))[0]

        self._runs = await self._pool.each(self._job.nodes, one)
        found = tracker.assess(self._job, self._runs)
        self._job = self._job.changed(ranks=found.ranks)
        return found.phase

    async def fetch_logs(self, folder: Path) -> None:
        """Bring what the ranks said; a node that does not answer is left out."""
        await JobLogs(self._engine, self._job, self._job.nodes, folder).bring_all(LOGS_SECONDS)

    async def clear(self) -> list[str]:
        """End what runs and remove what was written. Returns what is in the way of that, by node."""

        async def one(transport: Transport) -> str:
            paths = self._paths(transport.name)
            pids = (await process_manager.stop(transport, paths, self._job.uid, STOP_GRACE)).left
            if pids:
                return f"{transport.name}: pid {', '.join(map(str, pids))} cannot be ended"
            outcome = await transport.run(REMOVE, (paths.job_dir,))
            return f"{transport.name}: {paths.job_dir} cannot be removed" if outcome.status else ""

        answers = await self._pool.each(self._job.nodes, one, CLEAR_SECONDS)
        problems = [answer.message if isinstance(answer, NodeError) else answer for answer in answers.values()]
        return [problem for problem in problems if problem]

    def report(self, folder: Path, left: Sequence[str]) -> NetworkReport:
        """Return the measurements and the problems, from the logs in `folder`."""
        facts = RankFacts(self._job.nodes, [rank_log(folder, rank) for rank in range(len(self._job.nodes))])
        slow = [remark.about(None) for remark in slow_links(facts.links)]
        hint = "the rest of the trial ends by itself within a minute; the next check removes what it wrote"
        leftover = [warning("network", f"not cleaned up: {what}", hint).about(None) for what in left]
        return NetworkReport(
            nodes=self._job.nodes,
            backend=self._backend,
            meets_at=self._meets_at,
            interfaces=dict(self._interfaces),
            links=facts.links,
            all_reduce=facts.all_reduce,
            findings=(*self._failure(facts, folder), *slow, *leftover),
        )

    def _failure(self, facts: RankFacts, folder: Path) -> Iterator[Finding]:
        if self._error:
            yield problem("network", self._error.message, self._error.hint).about(self._error.node)
            return
        phase = tracker.assess(self._job, self._runs).phase if self._runs else Phase.UNKNOWN
        logs = {
            node: node_log(folder, number) + rank_log(folder, number) for number, node in enumerate(self._job.nodes)
        }
        if phase == Phase.FAILED:
            first = Inquiry(
                self._job.ranks,
                self._runs,
                {},
                lambda rank: rank_log(folder, rank),
                lambda node: node_log(folder, self._job.nodes.index(node)),
            ).first()
            words = last_words({first.node: logs[first.node]})
            hint = "\n".join([FIREWALL, *words] if first.cause == "rendezvous_timeout" else words)
            yield problem("network", f"the trial failed on {first.node}: {first.message}", hint).about(first.node)
        elif not facts.all_reduce:
            yield hung(self._job.nodes, facts, LIMIT, self._meets_at, logs).about(None)

    @property
    def _meets_at(self) -> str | None:
        placement = self._job.placement
        return f"{placement.master_addr}:{placement.master_port}" if placement and placement.master_port else None

    def _paths(self, node: str) -> RunPaths:
        paths = run_paths(self._engine.inventory, self._job, node)
        assert paths
        return paths


def _job(nodes: Sequence[str], gpus: Mapping[str, str]) -> Job:
    shares = tuple(
        NodeShare(node=node, node_rank=rank, first_rank=rank, nproc=1, gpus=(gpus[node],) if gpus else ())
        for rank, node in enumerate(nodes)
    )
    name = f"check-{secrets.token_hex(4)}"
    return Job(
        id=name,
        uid=uuid.uuid4().hex,
        name=name,
        submitted_at=time.time(),
        command=(SCRIPT,),
        code=CodeVersion(directory="", files=1, size_bytes=len(load(f"network/{SCRIPT}"))),
        placement=Placement(shares=shares),
    )
