"""Records a node's host key once its fingerprint was seen and agreed to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import asyncssh

from ugro.common.config import NodeConfig
from ugro.common.errors import HostKeyChanged, InputError
from ugro.nodes.transport.host_keys import HostKeyCheck, record_host_keys, writable_known_hosts
from ugro.nodes.transport.link import open_link
from ugro.nodes.transport.ssh import limits
from ugro.service.context import Context
from ugro.service.plan import Fingerprint, Question, consented
from ugro.service.schemas.trust import HostKey, PlanTrust, Trust, Trusted, TrustPlan


@dataclass(frozen=True)
class Seen:
    """The keys that a node offers, and those on record for it."""

    node: str
    keys: list[asyncssh.SSHKey]
    recorded: list[asyncssh.SSHKey]
    path: Path
    known_as: str

    @property
    def offered(self) -> dict[str, asyncssh.SSHKey]:
        """The keys by fingerprint."""
        return {key.get_fingerprint(): key for key in self.keys}

    @property
    def on_record(self) -> dict[str, asyncssh.SSHKey]:
        """The recorded keys by fingerprint."""
        return {key.get_fingerprint(): key for key in self.recorded}

    @property
    def trusted(self) -> bool:
        """Whether a key that it offers is on record."""
        return not self.offered.keys().isdisjoint(self.on_record)

    @property
    def documents(self) -> tuple[HostKey, ...]:
        """The keys as they are shown."""
        return tuple(HostKey(algorithm=key.get_algorithm(), fingerprint=key.get_fingerprint()) for key in self.keys)

    def record(self, replace: bool = False) -> None:
        """Write the offered keys into known_hosts; with `replace` in place of those on record."""
        record_host_keys(self.path, self.known_as, self.keys, replace)

    def refuse_change(self, hint: str) -> None:
        """See that no other keys are on record.

        Raises:
            HostKeyChanged: they are.
        """
        if self.recorded and not self.trusted:
            offered, recorded = ", ".join(self.offered), ", ".join(self.on_record)
            words = f"the host key has changed: it offers {offered}, on record is {recorded}"
            raise HostKeyChanged(self.node, words, hint)

    @property
    def parts(self) -> dict[str, object]:
        """The facts that a plan depends on."""
        return {
            f"the host keys of {self.node}": sorted(self.offered),
            f"the keys on record for {self.node}": [str(self.path), self.known_as, sorted(self.on_record)],
        }


async def plan_trust(context: Context, request: PlanTrust) -> TrustPlan:
    """Plan to record the host keys that a node offers.

    Raises:
        InputError: there is no such node, or it is this machine.
        HostKeyChanged: other keys are on record and `replace` is false, or a key is revoked.
        NodeError: the node is unreachable.
    """
    seen = await _look(context, request.node)
    trusted = seen.trusted
    if not request.replace:
        seen.refuse_change(f"if the machine was reinstalled: ugro trust {seen.node} --replace")
    return TrustPlan(
        node=seen.node,
        address=context.inventory.node(seen.node).address,
        keys=seen.documents,
        path=str(seen.path),
        known_as=seen.known_as,
        trusted=trusted,
        replace=request.replace,
        questions=() if trusted else (_question(seen.node),),
        fingerprint=Fingerprint.of(seen.parts),
    )


def _question(node: str) -> Question:
    return Question(
        id="trust",
        text="Does the machine itself report the same, and do you trust it?",
        refusal="confirmation needed, but stdin is not a terminal",
        hint=f"name the right key: ugro trust {node} --fingerprint SHA256:…",
        untouched=f"{node} is not trusted; nothing was recorded",
    )


async def trust(context: Context, request: Trust) -> Trusted:
    """Record the host keys of a plan.

    Raises:
        PlanChanged: the node offers other keys by now, or others are on record.
        HostKeyChanged: no key has the fingerprint that was agreed to.
        InputError, NodeError: as `plan_trust`; or the answer is missing. Declined: the answer is no.
    """
    plan = request.plan
    if request.fingerprint is None:
        consented(plan.questions, request.answers)
    elif request.fingerprint not in {key.fingerprint for key in plan.keys}:
        words = f"no key it offers has the fingerprint {request.fingerprint}"
        raise HostKeyChanged(plan.node, words, "nothing was recorded")
    seen = await _look(context, plan.node)
    plan.fingerprint.require(seen.parts)
    seen.record(plan.replace)
    return Trusted(path=str(seen.path), known_as=seen.known_as)


async def _look(context: Context, node: str) -> Seen:
    """Return the host keys of a node of the inventory, and those on record.

    Raises:
        InputError: there is no such node, or it is this machine. HostKeyChanged, NodeError: as `look_at`.
    """
    config = context.inventory.node(node)
    if config.local:
        raise InputError(f"{node} is this machine; there is no host key to trust")
    return await look_at(config)


async def look_at(config: NodeConfig) -> Seen:
    """Return the host keys that a machine offers, none of them revoked, and those on record.

    Raises:
        HostKeyChanged: a key is revoked. NodeError: the machine is unreachable.
    """
    link = await open_link(config, limits())
    target, keys = link.target, await link.host_keys()
    check = HostKeyCheck(config.name, target, is_jump=False)
    if set(keys) & set(check.revoked):
        raise check.error("revoked")
    return Seen(config.name, keys, check.recorded, writable_known_hosts(target), target.known_as)
