"""Brings one placed job onto its nodes, all of them or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

from ugro.common.errors import NodeError, NodeRefused, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job
from ugro.common.text import printable, some
from ugro.control_plane import transitions
from ugro.control_plane.metadata_store import MetadataStore
from ugro.engines.base import Cargo, Engine, OnPhase, OnSent, Prepared


class NotStarted(UgroError):
    """A node could not start its part. `job` is the record as it stood, `node` the one that could not, `error` why."""

    code = "launch_failed"

    def __init__(self, job: Job, error: NodeError) -> None:
        super().__init__(error.message, error.hint)
        self.job = job
        self.node = error.node
        self.error = error


class Launcher:
    """Says what goes to the nodes and records the start before it is made. Every step may be repeated."""

    def __init__(
        self,
        store: MetadataStore,
        engine: Engine,
        bring_checkpoint: Callable[[Job], Awaitable[Path]],
        on_sent: OnSent | None = None,
    ) -> None:
        """`bring_checkpoint` fetches the checkpoint that a job resumes from to this machine."""
        self._store = store
        self._engine = engine
        self._bring_checkpoint = bring_checkpoint
        self._on_sent = on_sent

    async def launch(self, job: Job, owners: Mapping[str, str]) -> Job:
        """Prepare every node, record where the ranks meet, start every node. Returns the job as it was recorded.

        `owners` has the owner lines of nodes as they were just seen.

        Raises:
            NotStarted: a node cannot; what did start is the caller's to stop.
            SecretMissing, SecretExposed: a secret that it needs is not there, or others may read it; nothing started.
        """
        spec = self._store.jobs.spec(job.id)
        secrets = self._store.secrets.values(spec.secret_names)

        async def tell(reason: str, message: str) -> None:
            nonlocal job
            change = transitions.set_up(job, reason, message)
            job = await self._store.write(lambda: self._store.jobs.save(*change))

        try:
            _require_ranks(job)
            prepared = await self._engine.prepare(job, spec, self._cargo(job, secrets, tell), owners)
            placement = prepared.placement
            words = f"ranks meet at {placement.master_addr}:{placement.master_port} on {job.nodes[0]}"
            if pythons := dict.fromkeys(prepared.pythons.values()):
                words += f"; python {some([printable(python) for python in pythons])}"
            placed = transitions.set_meeting_point(job, placement, self._store.clock.now(), words)
            job = await self._store.write(lambda: self._store.jobs.save(*placed))
            await self._engine.start(job, prepared)
        except NodeError as error:
            raise NotStarted(job, error) from None
        return job

    async def rehearse(self, job: Job, spec: JobSpec) -> Prepared:
        """Return what each node would get. Nodes are asked, and nothing is written anywhere.

        Raises:
            NotStarted: a node could not start its part.
        """
        try:
            return await self._engine.prepare(job, spec)
        except NodeError as error:
            raise NotStarted(job, error) from None

    def _cargo(self, job: Job, secrets: Mapping[str, str], on_phase: OnPhase) -> Cargo:
        files = self._store.jobs.files(job.id)
        return Cargo(
            code=files.snapshot(job.code.attempt),
            earlier_code=tuple(files.snapshot(code.attempt) for code in job.earlier_code),
            bring_checkpoint=lambda: self._bring_checkpoint(job),
            on_sent=self._on_sent,
            secrets=secrets,
            logs=files.logs(job.attempt),
            on_phase=on_phase,
        )


def nothing_runs(what: str, nodes: Sequence[str], proved: Collection[str]) -> str:
    """Say what is known of nodes where a job was ended: `no processes of it remain on gpu1` only where it is proved."""
    sure, others = [node for node in nodes if node in proved], [node for node in nodes if node not in proved]
    said = [f"no processes of {what} remain on {', '.join(sure)}"] if sure else []
    said += [f"no process of {what} was found on {', '.join(others)}"] if others else []
    return "; ".join(said)


def _require_ranks(job: Job) -> None:
    """A rank that is new would find no part of its own, and the part of one that is gone would be left out.

    Raises:
        NodeRefused: the checkpoint has the parts of more or fewer ranks than there are.
    """
    held = job.resume_from
    if held and held.ranks and job.placement and held.ranks != job.placement.world_size:
        told = f"{held.name} has the parts of {held.ranks} ranks, and this attempt has {job.placement.world_size}"
        hint = f"resume on nodes with {held.ranks} ranks, or start again: ugro resume {job.id} --from 0"
        raise NodeRefused(job.nodes[0], told, hint)
