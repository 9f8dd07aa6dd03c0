"""Ranks that never meet: torchrun waits on every node, and no rank begins.

torchrun itself says nothing for ten minutes and more. So once none has begun for `PATIENCE` seconds, each node is asked
whether it reaches the meeting point, and records what is in the way as the job's reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ugro.common.errors import NodeError
from ugro.common.job_spec import agent_of
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job
from ugro.common.models.job_state import RankState
from ugro.common.models.run import RunFiles
from ugro.common.text import clock, some
from ugro.control_plane import transitions
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.scheduler.tracker import Runs
from ugro.control_plane.transitions import Stage
from ugro.nodes.pool import Pool
from ugro.nodes.remote.network.reach import obstacle
from ugro.nodes.transport import Transport

PATIENCE = 60.0
"""Seconds after the start in which a rank should have begun, and between two times that nodes are asked."""

CHECK = "see: ugro check --network"

Unreached = Sequence[tuple[str, str]]
"""Nodes that do not reach the meeting point, and why not."""


def waits_to_meet(job: Job, runs: Runs, now: float) -> bool:
    """Whether torchrun runs on all nodes of a job for long, and no rank has begun on any."""
    return (
        len(job.nodes) > 1
        and job.started_at is not None
        and now - job.started_at >= PATIENCE
        and never_met(job)
        and all(isinstance(run, RunFiles) and run.runner_alive and not (run.over or run.ranks) for run in runs.values())
    )


def never_met(job: Job) -> bool:
    """Whether no rank of a job of several nodes was ever seen to begin."""
    began = (RankState.RUNNING, RankState.SUCCEEDED, RankState.FAILED)
    return len(job.nodes) > 1 and not any(rank.pid or rank.state in began for rank in job.ranks)


def unmet_in_words(job: Job, unreached: Unreached) -> str:
    """Return in words why the ranks of a job do not begin, as far as it shows from outside."""
    since = f"no rank has begun since {clock(job.started_at)}" if job.started_at else "no rank has begun"
    meets_at = _meeting_point(job)
    if not unreached:
        return f"{since}; every node reaches {meets_at}: {agent_of(job.launcher)} itself may be slow there ({CHECK})"
    return f"{since}; {_unreached_in_words(unreached, meets_at)}; {CHECK}"


def blamed(failure: FirstFailure, job: Job, unreached: Unreached) -> FirstFailure:
    """The failure of a job whose ranks never met: it is that of the nodes which do not reach the others."""
    if not unreached:
        return failure
    words = f"{_unreached_in_words(unreached, _meeting_point(job))}: a firewall, or another network? {CHECK}"
    return replace(failure, rank=None, node=unreached[0][0], message=words)


def _meeting_point(job: Job) -> str:
    placement = job.placement
    return f"{placement.master_addr}:{placement.master_port}" if placement else "the meeting point"


def _unreached_in_words(unreached: Unreached, meets_at: str) -> str:
    return some([f"{node} does not reach {meets_at} ({why})" for node, why in unreached], "; ")


async def unreached(pool: Pool, job: Job) -> Unreached:
    """Ask the nodes of a job whether they reach where its ranks meet. One that cannot be asked proves nothing."""
    placement = job.placement
    if placement is None or placement.master_addr is None or placement.master_port is None:
        return ()
    address, port = placement.master_addr, placement.master_port

    async def one(transport: Transport) -> str | None:
        return await obstacle(transport, address, port)

    said = await pool.each(job.nodes[1:], one, configs=job.node_configs)
    return [(node, why) for node, why in said.items() if why is not None and not isinstance(why, NodeError)]


async def tell(store: MetadataStore, pool: Pool, job: Job) -> None:
    """Record why the ranks of a job do not begin, unless they began meanwhile, or it is known."""
    words = unmet_in_words(job, await unreached(pool, job))

    def record() -> None:
        now = store.jobs.job(job.id)
        running = transitions.stage(now) == Stage.RUNNING
        if now.attempt == job.attempt and running and never_met(now) and now.reason != words:
            store.jobs.save(*transitions.find_unmet(now, words))

    await store.write(record)
