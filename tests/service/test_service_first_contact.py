"""Add, remove and rename nodes through the service layer, at an SSH server on loopback that runs commands here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest
from door import Door

from ugro.common.errors import AuthenticationFailed, Declined, HostKeyChanged, InputError, InventoryError, Unreachable
from ugro.common.inventory_file import load_inventory
from ugro.common.job_spec import JobSpec
from ugro.common.models.drain import Drain
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job_state import JobState
from ugro.common.models.login import LoginPrompt
from ugro.common.models.metrics import MeasuredLink
from ugro.common.models.node import NodeView
from ugro.control_plane.scheduler.submission import choose_code, submit
from ugro.service import contact_steps
from ugro.service.context import Context
from ugro.service.plan import PlanChanged
from ugro.service.schemas.check import Check, CheckDocument, Checked, CheckedNode, FindingDocument, Level
from ugro.service.schemas.first_contact import AddNode, PlanAddNode, PlanRemoveNode, RemoveNode, RenameNode
from ugro.service.schemas.node_python import InterpreterDocument, NodePythonDocument
from ugro.service.schemas.notices import StepBegan
from ugro.testing import builders
from ugro.testing.ssh_server import ScriptedServer, new_key


@contextmanager
def machine(folder: Path, port: int = 0) -> Iterator[ScriptedServer]:
    """A machine that lets the key in which its folder has."""
    server, listens, over = ScriptedServer(folder, f"m{port}"), threading.Event(), threading.Event()

    async def main() -> None:
        async with server.listen():
            listens.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert listens.wait(20)
        yield server
    finally:
        over.set()
        thread.join()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, NodeView]:
    """What the check sees of each node, in place of a check: real ones are made in tests/hosts."""
    views: dict[str, NodeView] = {}

    async def check(context: Context, request: Check) -> Checked:
        nodes = tuple(
            CheckedNode(
                name=name,
                address=config.address,
                reachable=True,
                error=None,
                clock=None,
                python=None,
                machine=None,
                way=None,
                view=views.get(name),
            )
            for name, config in context.inventory.nodes.items()
        )
        return Checked(answer=CheckDocument(nodes=nodes, findings=()))

    async def find_on(pool: object, node: str, others: object, tell: object) -> NodePythonDocument:
        python = InterpreterDocument(
            path="/opt/train/bin/python",
            source="conda",
            version="3.11",
            torch="2.13",
            cuda=None,
            archs=(),
            usable=True,
            reason="right about a matrix product",
        )
        return NodePythonDocument(
            node=node,
            configured="python3",
            device="cpu",
            interpreters=(python,),
            taken=python.path,
            why="the only one",
            more=0,
            complete=True,
        )

    monkeypatch.setattr(contact_steps, "check", check)
    monkeypatch.setattr(contact_steps, "find_on", find_on)
    return views


@pytest.fixture
def gpu(door: Door, home: Path, seen: dict[str, NodeView]) -> Iterator[ScriptedServer]:
    """A machine, a key of the user that it lets in, and an inventory without it."""
    (home / ".ssh").mkdir(mode=0o700)
    (home / "gpus.yaml").write_text("nodes:  # mine\n  here: {address: 10.9.9.9, local: true}\n")
    door.use(home / "gpus.yaml")
    with machine(home) as server:
        key = new_key(home / ".ssh/id_ed25519")
        server.allowed.add(key.public_data)
        yield server


def target(server: ScriptedServer) -> str:
    return f"ob@127.0.0.1:{server.port}"


def test_adds_a_machine_whose_key_login_works_and_removes_it(door: Door, home: Path, gpu: ScriptedServer) -> None:
    before = (home / "gpus.yaml").read_text()
    plan = door.call(PlanAddNode(target=target(gpu)))
    assert (plan.node, plan.known, plan.trusted, plan.makes_key) == ("gpu1", False, False, False)
    with pytest.raises(InputError, match="host key of gpu1 is not known") as missing:
        door.call(AddNode(plan=plan, answers={}))
    assert missing.value.hint.endswith(f"ugro node add {target(gpu)} --fingerprint {plan.keys[0].fingerprint}")
    with pytest.raises(Declined, match="nothing was sent"):
        door.call(AddNode(plan=plan, answers={"trust": False}))
    with pytest.raises(HostKeyChanged, match="no key it offers"):
        door.call(AddNode(plan=plan, answers={}, fingerprint="SHA256:another"))
    assert gpu.users == [] or not (home / ".ssh/known_hosts").exists()

    done = door.call(AddNode(plan=plan, answers={}, fingerprint=plan.keys[0].fingerprint))
    assert [step.state for step in done.steps if step.step in ("host_key", "key")] == ["done", "already"]
    assert [notice.step for notice in door.told if isinstance(notice, StepBegan)][:2] == ["host_key", "key"]
    line = f"  gpu1: {{address: 127.0.0.1, user: ob, port: {gpu.port}, python: /opt/train/bin/python}}\n"
    assert (home / "gpus.yaml").read_text() == before + line

    again = door.call(PlanAddNode(target=target(gpu)))
    assert (again.node, again.known, again.trusted, again.questions) == ("gpu1", True, True, ())
    repeated = door.call(AddNode(plan=again, answers={}))
    states = {step.step: step.state for step in repeated.steps}
    assert states["host_key"] == states["key"] == states["inventory"] == "already"

    door.use(home / "gpus.yaml")
    removal = door.call(PlanRemoveNode(node="gpu1"))
    with pytest.raises(Declined):
        door.call(RemoveNode(plan=removal, answers={"remove": False}))
    removed = door.call(RemoveNode(plan=removal, answers={"remove": True}))
    assert removed.owed == () and (home / "gpus.yaml").read_text() == before


def test_refuses_what_the_inventory_has(door: Door, home: Path, gpu: ScriptedServer) -> None:
    other = f"  gpu7: {{address: 127.0.0.1, port: {gpu.port}, user: ob}}\n  box: {{address: 10.1.1.1}}\n"
    with (home / "gpus.yaml").open("a") as file:
        file.write(other)
    door.use(home / "gpus.yaml")
    with pytest.raises(InputError, match=r"127.0.0.1 is in the inventory as gpu7") as known:
        door.call(PlanAddNode(target=target(gpu), name="gpu8"))
    assert known.value.hint == "to rename it: ugro node rename gpu7 gpu8"
    with pytest.raises(InputError, match="as gpu7, with user ob"):
        door.call(PlanAddNode(target=target(gpu).replace("ob@", "eve@")))
    with pytest.raises(InputError, match=r"box is in the inventory already, with the address 10.1.1.1"):
        door.call(PlanAddNode(target="box=10.1.1.2"))
    with pytest.raises(InputError, match=r"10.9.9.9 is this machine, which is in the inventory as here"):
        door.call(PlanAddNode(target="10.9.9.9"))
    for name in ("all", "7", "a b"):
        with pytest.raises(InputError, match="is no name for a node"):
            door.call(PlanAddNode(target="10.1.1.2", name=name))
    with pytest.raises(InputError, match="names no machine"):
        door.call(PlanAddNode(target="a@b@c"))
    with pytest.raises(Unreachable, match="refuses connections"):
        door.call(PlanAddNode(target="127.0.0.1", port=1, name="shut"))
    with pytest.raises(Unreachable, match="not a known host name"):
        door.call(PlanAddNode(target="no-such-host.invalid"))


def test_refuses_a_host_key_that_changes_before_the_login(door: Door, home: Path, gpu: ScriptedServer) -> None:
    plan = door.call(PlanAddNode(target=target(gpu)))
    with machine(home, 1) as another:
        moved = replace(plan, port=another.port)
        with pytest.raises(PlanChanged, match="the host keys of gpu1"):
            door.call(AddNode(plan=moved, answers={"trust": True}))
    with (home / "gpus.yaml").open("a") as file:
        file.write("# edited\n")
    with pytest.raises(PlanChanged, match="the inventory"):
        door.call(AddNode(plan=plan, answers={"trust": True}))
    assert not (home / ".ssh/known_hosts").exists()
    recorded = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{gpu.port} {recorded}")
    with pytest.raises(HostKeyChanged, match="has changed") as changed:
        door.call(PlanAddNode(target=target(gpu)))
    assert "ssh-keygen -R '[127.0.0.1]:" in changed.value.hint


def test_asks_for_a_password_only_where_an_answer_is_possible(door: Door, home: Path, gpu: ScriptedServer) -> None:
    gpu.allowed.clear()
    plan = door.call(PlanAddNode(target=target(gpu)))
    with pytest.raises(AuthenticationFailed, match="neither a password nor answers"):
        door.call(AddNode(plan=plan, answers={"trust": True}))
    assert "gpu1" not in (home / "gpus.yaml").read_text()


def test_adds_no_machine_twice(door: Door, home: Path, gpu: ScriptedServer, seen: dict[str, NodeView]) -> None:
    """One machine at two addresses: its boot id and folder show it."""
    view = NodeView(node="here", seen_at=1, boot_id="b", pid_namespace="p", folder="1:2", clock_offset=0, cpu_count=1)
    seen |= {"here": view, "gpu1": view.model_copy(update={"node": "gpu1"})}
    plan = door.call(PlanAddNode(target=target(gpu)))
    with pytest.raises(InputError, match="gpu1 is here under another name"):
        door.call(AddNode(plan=plan, answers={"trust": True}))
    assert list(load_inventory(home / "gpus.yaml").nodes) == ["here"]


def test_prints_the_line_for_an_inventory_that_cannot_be_edited(door: Door, home: Path, gpu: ScriptedServer) -> None:
    (home / "gpus.yaml").write_text("nodes: {here: {address: 10.9.9.9, local: true}}\n")
    door.use(home / "gpus.yaml")
    with pytest.raises(InventoryError, match="its nodes stand between braces") as refused:
        door.call(PlanAddNode(target=target(gpu)))
    assert refused.value.hint.endswith(f"gpu1: {{address: 127.0.0.1, user: ob, port: {gpu.port}}}")


def nodes_named(door: Door, home: Path, *names: str) -> Path:
    """An inventory of nodes that cannot be reached, beside this machine."""
    path = home / "gpus.yaml"
    lines = "".join(f"  {name}: {{address: 127.0.0.1, port: 1}}  # {name}\n" for name in names)
    path.write_text(f"nodes:\n  here: {{address: 10.9.9.9, local: true}}\n{lines}")
    door.use(path)
    return path


def test_renames_a_node_with_what_is_known_of_it(door: Door, home: Path) -> None:
    path = nodes_named(door, home, "a", "b")
    store = door.store
    store.config.drain(Drain(node="a", reason="new fan", since=1.0))
    store.config.remember_nodes((), [load_inventory(path).nodes["a"]])
    link = MeasuredLink(source="a", target="b", backend="gloo", gbit_per_s=1.0, latency_ms=0.1, measured_at=1.0)
    store.metrics.links.remember([link, link.model_copy(update={"source": "b", "target": "a"})])
    (store.home / "history/a").mkdir(parents=True)
    for taken, match in (("b", "another node"), ("all", "no name"), ("7", "no name")):
        with pytest.raises(InputError, match=match):
            door.call(RenameNode(node="a", to=taken))
    with pytest.raises(InputError, match="no node is called 'x'"):
        door.call(RenameNode(node="x", to="y"))
    done = door.call(RenameNode(node="a", to="z"))
    assert set(done.moved) == {"drain", "observation", "history", "links"}
    assert path.read_text().endswith(
        "  z: {address: 127.0.0.1, port: 1}  # a\n  b: {address: 127.0.0.1, port: 1}  # b\n"
    )
    assert store.config.drains().keys() == {"z"} and store.config.drains()["z"].reason == "new fan"
    assert store.config.remembered_configs().keys() == {"z"}
    assert {(link.source, link.target) for link in store.metrics.links.all()} == {("z", "b"), ("b", "z")}
    assert (store.home / "history/z").is_dir() and not (store.home / "history/a").exists()


def test_keeps_nodes_that_jobs_need(door: Door, home: Path) -> None:
    nodes_named(door, home, "a")
    (door.project / "t.py").write_text("")
    spec = JobSpec(script="t.py", workdir=str(door.project), nodes=("a",))
    job = submit(door.store, spec, choose_code(spec))
    for request in (PlanRemoveNode(node="a"), RenameNode(node="a", to="z")):
        with pytest.raises(InputError, match=f"{job.id} waits for a by name") as refused:
            door.call(request)
        assert refused.value.hint == f"to end it: ugro cancel {job.id}"
    running = builders.placement("a")
    builders.change(door.store, job.id, EventKind.RUNNING, state=JobState.RUNNING, placement=running)
    for request in (PlanRemoveNode(node="a"), RenameNode(node="a", to="z")):
        with pytest.raises(InputError, match=f"{job.id} is on a") as refused:
            door.call(request)
        assert refused.value.hint == f"wait for it, or end it: ugro cancel {job.id}"


def test_removes_an_unreachable_node_and_names_what_stays_there(door: Door, home: Path) -> None:
    path = nodes_named(door, home, "a", "b")
    door.store.config.drain(Drain(node="a", reason="gone", since=1.0))
    plan = door.call(PlanRemoveNode(node="a"))
    assert (
        plan.error and plan.error.code == "unreachable" and "What UGRO has there stays" in plan.questions[-1].facts[0]
    )
    with pytest.raises(InputError, match="confirmation needed"):
        door.call(RemoveNode(plan=plan, answers={}))
    done = door.call(RemoveNode(plan=plan, answers={"remove": True}))
    assert len(done.owed) == 2 and '"rm -r ~/.ugro"' in done.owed[0] and "added-by-ugro" in done.owed[1]
    assert list(load_inventory(path).nodes) == ["here", "b"] and not door.store.config.drains()
    path.write_text("nodes:\n  b: {address: 127.0.0.1}\n")
    door.use(path)
    with pytest.raises(InventoryError, match="b is the only node"):
        door.call(PlanRemoveNode(node="b"))


def test_gives_no_answer_without_a_user() -> None:
    prompt = LoginPrompt("gpu1", "ob@gpu1", "Password of ob@gpu1", True, True)
    assert Context().ask(prompt) is None


def test_says_why_no_link_was_measured() -> None:
    nodes, able = ["master", "gpu1", "gpu2"], ["master", "gpu2"]
    assert contact_steps.in_the_way("gpu2", nodes, able, {"master"}) == (
        " (no torch that can do it on gpu1; jobs are on master)"
    )
    assert contact_steps.in_the_way("gpu2", ["gpu2"], ["gpu2"], ()) == ""

    def finding(level: Level, text: str, subject: str = "network", node: str | None = "gpu1") -> FindingDocument:
        return FindingDocument(level=level, node=node, subject=subject, text=text, hint="")

    found = [finding("ok", "trains over lan0"), finding("problem", "no GPU", "gpus")]
    assert contact_steps.unmeasured(found) == "the trial measured no link"
    found += [
        finding("info", "that needs two nodes", node=None),
        finding("problem", "the trial failed on gpu1: refused"),
    ]
    assert contact_steps.unmeasured(found) == "the trial failed on gpu1: refused", "of another node than the new one"
