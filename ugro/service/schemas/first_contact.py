"""Requests about the machines of the inventory: add, remove and rename a node. They are answered where the user sits.

The keys, known_hosts and the inventory are the user's, so no request goes to the resident controller. None has a field
for a password: what a machine asks for is answered in the same process (`Context.ask`), and kept nowhere.
"""

from __future__ import annotations

from typing import ClassVar

from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, ErrorDocument, Request
from ugro.service.schemas.check import FindingDocument
from ugro.service.schemas.footprint import CleanPlan
from ugro.service.schemas.notices import StepDocument
from ugro.service.schemas.trust import HostKey


class AddNodePlan(Plan):
    """What adding a machine does.

    `entry` is its line in the inventory. `known`: the inventory has it, so what is missing is done. `trusted`: one of
    its host keys is on record in `path`. `key` is the file of the key that is installed if it does not log in; null:
    the agent's, or a new one is made (`makes_key`).
    """

    node: str
    account: str
    address: str
    user: str | None
    port: int | None
    identity_file: str | None
    inventory: str
    entry: str
    known: bool
    keys: tuple[HostKey, ...]
    path: str
    trusted: bool
    key: str | None
    makes_key: bool


class PlanAddNode(Request[AddNodePlan]):
    """Plan to add the machine `[NAME=][USER@]ADDRESS[:PORT]` to the inventory, after a first login."""

    function: ClassVar[str] = "first_contact.plan_add"
    here: ClassVar[bool] = True
    target: str
    name: str | None = None
    port: int | None = None
    identity_file: str | None = None


class AddedNode(Document):
    """A machine that was added."""

    schema_version: int = 1
    node: str
    inventory: str
    """The inventory's path."""
    entry: str
    """Its line there."""
    steps: tuple[StepDocument, ...]
    """What was done, in order."""
    findings: tuple[FindingDocument, ...]
    """What the check found."""


class AddNode(Request[AddedNode]):
    """Carry out such a plan. A `fingerprint` of one of the host keys stands for the answer about it.

    `follow_link`: ~/.ssh on the machine may be a link. `make_python`: make an environment there without asking if no
    interpreter can train. `links`: measure the network between idle nodes.
    """

    function: ClassVar[str] = "first_contact.add"
    here: ClassVar[bool] = True
    plan: AddNodePlan
    answers: dict[str, bool]
    fingerprint: str | None = None
    follow_link: bool = False
    make_python: bool = False
    links: bool = True


class RemoveNodePlan(Plan):
    """What removing a node undoes. `error`: it cannot be reached, so what is on it stays, and is named in `owed`.

    `shared_with` names a node with the same home directory, for which folder and key stay.
    """

    node: str
    inventory: str
    entry: str
    clean: CleanPlan | None
    shared_with: str | None
    error: ErrorDocument | None
    owed: tuple[str, ...]


class PlanRemoveNode(Request[RemoveNodePlan]):
    """Plan to remove a node: UGRO's folder there, the line of the key that UGRO added, and its inventory entry."""

    function: ClassVar[str] = "node_removal.plan_remove_node"
    here: ClassVar[bool] = True
    node: str


class RemovedNode(Document):
    """A node that was removed."""

    schema_version: int = 1
    node: str
    inventory: str
    """The inventory's path."""
    steps: tuple[StepDocument, ...]
    """What was done, in order."""
    owed: tuple[str, ...]
    """What stays on the machine, and how to remove it by hand."""


class RemoveNode(Request[RemovedNode]):
    """Carry out such a plan."""

    function: ClassVar[str] = "node_removal.remove_node"
    here: ClassVar[bool] = True
    plan: RemoveNodePlan
    answers: dict[str, bool]


class RenamedNode(Document):
    """A node that has another name."""

    schema_version: int = 1
    node: str
    """Its name now."""
    before: str
    """Its name before."""
    inventory: str
    """The inventory's path."""
    moved: tuple[str, ...]
    """What follows the node to its new name: `drain`, `observation`, `history`, `links`."""


class RenameNode(Request[RenamedNode]):
    """Give a node another name: in the inventory, and where the state directory names it."""

    function: ClassVar[str] = "node_rename.rename_node"
    here: ClassVar[bool] = True
    node: str
    to: str
