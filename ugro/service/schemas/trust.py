"""Requests about host keys, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, Request


class HostKey(Document):
    """A host key that a node offers; `fingerprint` is `SHA256:…`, as ssh-keygen shows it."""

    algorithm: str
    fingerprint: str


class TrustPlan(Plan):
    """The host keys that a node offers, and the known_hosts file that would get them, under the name `known_as`.

    `trusted`: one of them is on record, so nothing is to be done. `replace`: those on record go.
    """

    node: str
    address: str
    keys: tuple[HostKey, ...]
    path: str
    known_as: str
    trusted: bool
    replace: bool


class PlanTrust(Request[TrustPlan]):
    """Plan to record the host keys that a node offers; with `replace` in place of those on record."""

    function: ClassVar[str] = "trust.plan_trust"
    here: ClassVar[bool] = True
    node: str
    replace: bool = False


class Trusted(Document):
    """Where the host keys of a node were recorded, and under which name."""

    path: str
    known_as: str


class Trust(Request[Trusted]):
    """Carry out such a plan. A `fingerprint` of one of the keys stands for the answer."""

    function: ClassVar[str] = "trust.trust"
    here: ClassVar[bool] = True
    plan: TrustPlan
    answers: dict[str, bool]
    fingerprint: str | None = None
