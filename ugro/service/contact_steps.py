"""The steps of a first contact, one after the other. Each reports what it does, and may be repeated."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import asyncssh

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import AuthenticationFailed, InputError, NodeRefused
from ugro.common.inventory_edit import InventoryText, node_line
from ugro.common.models.login import LoginPrompt
from ugro.common.text import count, printable, some
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.resource_manager.twins import twins
from ugro.nodes.bootstrap.own_key import OwnKey, find_key, make_key
from ugro.nodes.pool import Pool
from ugro.nodes.remote.account import account
from ugro.nodes.transport import Transport
from ugro.nodes.transport.ssh import SshTransport
from ugro.nodes.transport.ssh_config import SshSettings, find_route
from ugro.service.check import check
from ugro.service.context import Context
from ugro.service.node_python import find_on, make_on, plan_on
from ugro.service.schemas.check import Check, CheckDocument, CheckedNode, FindingDocument, NetworkCheckDocument
from ugro.service.schemas.first_contact import (
    AddNode,
    AddNodePlan,
)
from ugro.service.schemas.node_python import PythonMade
from ugro.service.schemas.notices import StepBegan, StepState
from ugro.service.trust import Seen, look_at

PROOF_TIMEOUT = 20.0
"""Seconds for the login that proves the key, and an empty command."""

Fields = dict[str, str | int | bool]


@dataclass
class Contact:
    """One first contact under way: what the steps know, and what the later ones need of the earlier.

    `config` is how the node is reached and described, `fields` are the keys of its line; a step may add to both.
    """

    context: Context
    request: AddNode
    config: NodeConfig
    fields: Fields
    text: InventoryText
    pinned: Sequence[asyncssh.SSHKey] = ()
    findings: list[FindingDocument] = field(default_factory=list)
    torch: list[str] = field(default_factory=list)
    """The nodes on which torch can measure the network."""

    @property
    def name(self) -> str:
        """The node's name."""
        return self.config.name

    @property
    def plan(self) -> AddNodePlan:
        """The plan that was confirmed."""
        return self.request.plan

    def began(self, step: str, text: str) -> None:
        """Report what a step is about to do."""
        self.context.tell(StepBegan(node=self.name, step=step, text=text))

    def agreed(self, question: str) -> bool:
        """Ask the user about what only a step can know; where the user cannot be asked the answer is no."""
        prompt = LoginPrompt(self.name, self.plan.account, f"{question} [y/N]", is_password=False, secret=False)
        return (self.context.ask(prompt) or "").strip().lower() in ("y", "yes")

    async def target(self) -> SshSettings:
        """The settings of the connection to the node."""
        return (await find_route(self.config))[-1]

    def inventory(self) -> Inventory:
        """The inventory as it will be."""
        nodes = {**self.context.inventory.nodes, self.name: self.config}
        return self.context.inventory.model_copy(update={"nodes": nodes})

    @contextlib.asynccontextmanager
    async def trial(self) -> AsyncIterator[Context]:
        """A context in which the inventory has the node already, with connections of its own."""
        trial = Context(str(self.text.path), self.context.store.home)
        trial.inventory = self.inventory()
        trial.tell = self.context.tell
        try:
            yield trial
        finally:
            await trial.close(rest=False)


@dataclass(frozen=True)
class Step:
    """One step: its name in documents, and the function that reports what it does, does it, and returns its end."""

    name: str
    do: Callable[[Contact], Awaitable[tuple[StepState, str]]]


def parts_of(text: InventoryText, seen: Seen) -> Mapping[str, object]:
    """Return what a plan depends on: the inventory, and the host keys."""
    return {"the inventory": hashlib.sha256(text.data).hexdigest(), **seen.parts}


async def _host_key(contact: Contact) -> tuple[StepState, str]:
    """Record the host keys that were agreed to, and pin them for the logins that follow."""
    contact.began("host_key", f"compare the host key of {contact.plan.account} with what you agreed to")
    seen = await look_at(contact.config)
    contact.plan.fingerprint.require(parts_of(contact.text, seen))
    if seen.trusted:
        contact.pinned = [key for name, key in seen.offered.items() if name in seen.on_record]
        return "already", f"the host key is on record in {seen.path}"
    seen.record()
    contact.pinned = seen.keys
    return "done", f"recorded the host keys in {seen.path} as {seen.known_as}"


async def _key(contact: Contact) -> tuple[StepState, str]:
    """See that the user's key logs in; where it does not, install it with what the machine asks for."""
    key = await find_key(contact.config, await contact.target())
    if key:
        contact.began("key", f"log in as {contact.plan.account} with {_short(key.path)}")
        if await _refusal(contact, key) is None:
            return "already", "the key logs in; no password is needed"
    else:
        contact.began("key", "make a key without a passphrase: ~/.ssh/id_ed25519")
        key = await make_key()
    contact.began(
        "key",
        f"log in once as {contact.plan.account} with what it asks for, and append "
        f"the public half of {_short(key.path)} to ~/.ssh/authorized_keys there",
    )
    from ugro.nodes.bootstrap.first_login import FirstLogin  # here: paramiko is needed for a password alone

    login = await FirstLogin.open(contact.config, contact.pinned, contact.context.ask)
    try:
        words = await _install(contact, login, key)
        refusal = await _refusal(contact, key)
        if refusal:
            raise await _explained(contact, login, refusal)
    finally:
        await login.close()
    return "done", f"{words}; a new connection with the key alone logs in"


def _short(path: str | None) -> str:
    """A key for people: its file, below `~` where it is there."""
    home = os.path.expanduser("~") + "/"
    return f"~/{path.removeprefix(home)}" if path and path.startswith(home) else path or "the key of your agent"


async def _install(contact: Contact, login: Transport, key: OwnKey) -> str:
    """Append the key's line. A link in place of ~/.ssh is followed with consent alone."""
    installed = await account.install_key(login, key.blob, key.line, contact.request.follow_link)
    if installed.link:
        words = f"~/.ssh of {contact.plan.account} is a link to {installed.link}"
        if not contact.agreed(f"{words}. Write the key there?"):
            raise InputError(f"{words}; no key was installed", "to write through it: add --follow-link")
        installed = await account.install_key(login, key.blob, key.line, follow=True)
    corrected = "".join(f"; others can write {path} no longer" for path in installed.corrected)
    return ("installed the key" if installed.added else "the key was in authorized_keys already") + corrected


async def _refusal(contact: Contact, key: OwnKey) -> AuthenticationFailed | None:
    """Log in with that key alone, by a new connection; return why it is refused.

    Raises:
        NodeError: it is something else than the key that does not work.
    """
    alone = {"identity_file": key.path} if key.path else {}
    transport = SshTransport(contact.config.model_copy(update=alone))
    try:
        await transport.run("", timeout=PROOF_TIMEOUT)
    except AuthenticationFailed as error:
        return error
    finally:
        await transport.close()
    return None


async def _explained(contact: Contact, login: Transport, refusal: AuthenticationFailed) -> AuthenticationFailed:
    """The error of a key that is installed and refused, with the likely causes in order."""
    from ugro.nodes.bootstrap.causes import likely_causes

    causes = likely_causes(await account.look(login))
    listed = "; ".join(f"({number}) {cause.text}: {cause.remedy}" for number, cause in enumerate(causes, 1))
    return AuthenticationFailed(
        contact.name,
        f"the key is in ~/.ssh/authorized_keys of {contact.plan.account}, and its login is still refused "
        f"({refusal.problem}). Likely causes, the likeliest first: {listed}",
        f"on {contact.plan.account}: {causes[0].remedy}; then run the same command",
    )


async def _python(contact: Contact) -> tuple[StepState, str]:
    """Find the Python that can train there; where there is none, make one with consent."""
    contact.began("python", f"find a Python on {contact.name} whose torch multiplies matrices there")
    async with contact.trial() as context:
        pool = (await context.reach()).pool
        others = [name for name in context.inventory.nodes if name != contact.name]
        found = await find_on(pool, contact.name, others, context.tell)
        if found.taken is None:
            return await _made_python(contact, pool, others)
    one = next(one for one in found.interpreters if one.path == found.taken)
    words = f"{printable(found.taken)} with torch {one.torch}: {found.why}"
    return ("already", words) if one.source == "configured" else _use_python(contact, found.taken, words)


def _use_python(contact: Contact, path: str, words: str) -> tuple[StepState, str]:
    """Take an interpreter into the node's line; a line that is in the inventory already is the user's."""
    contact.config = contact.config.model_copy(update={"python": path})
    if contact.plan.known:
        return "problem", f"{words}; set for {contact.name} in the inventory: python: {printable(path)}"
    contact.fields["python"] = path
    return "done", words


async def _made_python(contact: Contact, pool: Pool, others: Sequence[str]) -> tuple[StepState, str]:
    later = f"no interpreter there can train; to make one: ugro node python {contact.name} --make"
    try:
        plan = await plan_on(pool, contact.name, others)
    except NodeRefused as error:
        return "problem", f"no interpreter there can train, and none can be made: {error.problem}; {error.hint}"
    for fact in (fact for question in plan.questions for fact in question.facts):
        contact.began("python", fact.strip())
    if not contact.request.make_python and not contact.agreed("No interpreter there can train. Make this one?"):
        return "problem", later
    async for item in make_on(pool, plan):
        if isinstance(item, PythonMade):
            made = item.answer.python
            if made.usable:
                return _use_python(contact, made.path, f"made {printable(made.path)} with torch {made.torch}")
            return "problem", f"{printable(made.path)} was made and cannot train: {printable(made.reason)}"
        contact.began("python", printable(item.line))
    return "problem", later


async def _check(contact: Contact) -> tuple[StepState, str]:
    """Check the node beside the others. A machine that is a node already under another name is not added.

    Raises:
        InputError: it is.
    """
    contact.began("check", f"check {contact.name}: GPUs, Python, torch, disk and clock")
    nodes = (await _on_trial(contact, Check())).nodes
    contact.torch = [node.name for node in nodes if node.python and node.python.distributed]
    views = {node.name: node.view for node in nodes if node.view}
    others = [name for name in contact.inventory().nodes if name != contact.name]
    if twin := twins([*others, contact.name], views).get(contact.name):
        raise InputError(
            twin.text(contact.name), "nothing was added to the inventory; one entry for a machine is enough"
        )
    wrong = [finding for finding in contact.findings if finding.level in ("problem", "warning")]
    if wrong:
        return "problem", f"found {count(len(wrong), 'thing')} to correct: {'; '.join(f.text for f in wrong)}"
    return "done", _seen_in_words(next(node for node in nodes if node.name == contact.name))


def _seen_in_words(node: CheckedNode) -> str:
    gpus = [printable(gpu.name) for gpu in node.view.gpus] if node.view else []
    torch = f"torch {printable(node.python.torch)}" if node.python and node.python.torch else "no torch"
    return f"{', '.join(gpus) or 'no GPU'}, {torch}"


async def _links(contact: Contact) -> tuple[StepState, str]:
    """Measure the network between the nodes on which nothing runs."""
    if not contact.request.links:
        return "skipped", "not asked for; later: ugro check --network"
    busy = {name for job in contact.context.store.jobs.live(pass_over) if job.state.on_nodes for name in job.nodes}
    idle = [name for name in contact.torch if name not in busy]
    if contact.name not in idle or len(idle) < 2:
        reasons = in_the_way(contact.name, list(contact.inventory().nodes), contact.torch, busy)
        return "skipped", f"that needs two idle nodes with torch{reasons}; later: ugro check --network"
    known = {(link.source, link.target) for link in contact.context.store.metrics.links.all()}
    if {(contact.name, name) for name in idle if name != contact.name} <= known:
        return "already", "measured before; again: ugro check --network"
    contact.began("links", f"measure the network between {', '.join(idle)}")
    before = list(contact.findings)
    found = await _on_trial(contact, Check(nodes=",".join(idle), network=True))
    new = [finding for finding in contact.findings if finding.level in ("problem", "warning")]
    new = [finding for finding in new if finding not in before]
    contact.findings[:] = [*before, *new]
    if new:
        return "problem", "; ".join(finding.text for finding in new)
    links = found.network.links if isinstance(found, NetworkCheckDocument) and found.network else ()
    own = [link for link in links if link.source == contact.name]
    rates = ", ".join(f"{link.gbit_per_s:.1f} Gbit/s to {link.target}" for link in own)
    return ("done", rates) if own else ("skipped", f"{unmeasured(found.findings)}; again: ugro check --network")


def in_the_way(name: str, nodes: Sequence[str], able: Sequence[str], busy: Collection[str]) -> str:
    """Return why nodes measure no link with `name`, in brackets; nothing where there is no other node."""
    asked = [name, *(node for node in nodes if node != name)]
    without, working = [node for node in asked if node not in able], [node for node in asked if node in busy]
    reasons = [f"no torch that can do it on {some(without)}"] if without else []
    reasons += [f"jobs are on {some(working)}"] if working else []
    return f" ({'; '.join(reasons)})" if reasons else ""


def unmeasured(findings: Sequence[FindingDocument]) -> str:
    """Return why a trial measured no link of a node: what was found may be about another node."""
    about = [finding for finding in findings if finding.subject == "network"]
    reason = next((one for level in ("problem", "info") for one in about if one.level == level), None)
    return reason.text if reason else "the trial measured no link"


async def _on_trial(contact: Contact, request: Check) -> CheckDocument:
    """Check nodes as if the inventory had the new one. Its findings, and those about all, are kept."""
    async with contact.trial() as context:
        found = (await check(context, request)).answer
    contact.findings[:] = [finding for finding in found.findings if finding.node in (contact.name, None)]
    return found


async def _inventory(contact: Contact) -> tuple[StepState, str]:
    """Insert the node's line into the inventory; every other byte stays."""
    line = node_line(contact.name, contact.fields)
    if contact.plan.known:
        return "already", f"{contact.text.path} has {contact.name}"
    contact.began("inventory", f"add to {contact.text.path}: {line}")
    contact.text.replace(contact.text.adding(contact.name, contact.fields))
    contact.context.inventory = contact.inventory()
    return "done", f"added to {contact.text.path}: {line}"


STEPS: tuple[Step, ...] = (
    Step("host_key", _host_key),
    Step("key", _key),
    Step("python", _python),
    Step("check", _check),
    Step("links", _links),
    Step("inventory", _inventory),
)
"""In this order. One after `key` reaches the node in `Contact.trial`, and may add to `config` and `fields`."""
