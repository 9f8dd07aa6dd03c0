"""Host keys, alerts, the crontab and first inventories through the service layer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import pytest
from door import Door

from ugro.common.errors import Declined, HostKeyChanged, InputError
from ugro.common.inventory_file import load_inventory
from ugro.control_plane.failure_handler.alerts.settings import AlertsError
from ugro.service.inventory import write_inventory
from ugro.service.plan import PlanChanged
from ugro.service.schemas.alerts import InitAlerts, SendTestAlerts, ShowAlerts
from ugro.service.schemas.crontab import InstallSweep, RemoveSweep, ShowSweep
from ugro.service.schemas.trust import PlanTrust, Trust


@contextmanager
def ssh_server(port: int = 0) -> Iterator[int]:
    """An SSH server with a new host key; the port it listens on."""
    listens, over, ports = threading.Event(), threading.Event(), list[int]()

    async def main() -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        async with await asyncssh.listen("127.0.0.1", port, server_host_keys=[key], reuse_address=True) as server:
            ports.append(server.get_port())
            listens.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert listens.wait(20)
        yield ports[0]
    finally:
        over.set()
        thread.join()


def reaching(door: Door, home: Path, port: int) -> None:
    """Make the door's inventory one of a node `gpu1` at this port."""
    (home / "gpus.yaml").write_text(f"nodes:\n  gpu1: {{address: 127.0.0.1, port: {port}}}\n")
    door.use(home / "gpus.yaml")


def test_records_the_host_key_that_was_agreed_to(door: Door, home: Path) -> None:
    with ssh_server() as port:
        reaching(door, home, port)
        plan = door.call(PlanTrust(node="gpu1"))
        [key] = plan.keys
        assert key.fingerprint.startswith("SHA256:") and not plan.trusted
        with pytest.raises(InputError, match="confirmation needed") as missing:
            door.call(Trust(plan=plan, answers={}))
        assert "--fingerprint" in missing.value.hint
        with pytest.raises(Declined, match="nothing was recorded"):
            door.call(Trust(plan=plan, answers={"trust": False}))
        with pytest.raises(HostKeyChanged, match="no key it offers"):
            door.call(Trust(plan=plan, answers={}, fingerprint="SHA256:another"))
        assert not Path(plan.path).exists()
        done = door.call(Trust(plan=plan, answers={}, fingerprint=key.fingerprint))
        assert done.path == str(home / ".ssh/known_hosts") and "ssh-ed25519" in Path(done.path).read_text()
        assert door.call(PlanTrust(node="gpu1")).trusted


def test_refuses_a_host_key_that_changed_since_the_plan(door: Door, home: Path) -> None:
    with ssh_server() as port:
        reaching(door, home, port)
        plan = door.call(PlanTrust(node="gpu1"))
    with ssh_server(port):
        with pytest.raises(PlanChanged, match="the host keys of gpu1"):
            door.call(Trust(plan=plan, answers={"trust": True}))
        assert not Path(plan.path).exists()
        door.call(Trust(plan=door.call(PlanTrust(node="gpu1")), answers={"trust": True}))
    with ssh_server(port):
        with pytest.raises(HostKeyChanged, match="has changed") as changed:
            door.call(PlanTrust(node="gpu1"))
        assert "--replace" in changed.value.hint
        plan = door.call(PlanTrust(node="gpu1", replace=True))
        before = Path(plan.path).read_text()
        door.call(Trust(plan=plan, answers={"trust": True}))
        after = Path(plan.path).read_text()
        assert after != before and len(after.splitlines()) == 1


def test_trusts_no_key_of_this_machine(door: Door) -> None:
    with pytest.raises(InputError, match="here is this machine"):
        door.call(PlanTrust(node="here"))


def test_begins_and_shows_alerts(door: Door) -> None:
    with pytest.raises(AlertsError, match="there is no"):
        door.call(ShowAlerts())
    path = Path(door.call(InitAlerts()).path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="is there already"):
        door.call(InitAlerts())
    with pytest.raises(InputError, match="there is no channel"):
        door.call(SendTestAlerts())
    path.write_text("channels: {a: {url: 'json://secret'}}\nrules:\n  - {when: [failure], to: a, quiet: 6h}\n")
    found = door.call(ShowAlerts())
    assert "secret" not in str(found) and found.channels[0].kind == "json"
    rule = {"when": ["failure"], "to": ["a"], "jobs": None, "quiet": 21600.0}
    assert found.as_json()["rules"] == [rule]
    with pytest.raises(InputError, match="no channel is called 'b'"):
        door.call(SendTestAlerts(channels=("b",)))


def test_sends_a_test_message_and_tells_why_it_failed(door: Door) -> None:
    door.store.home.mkdir(exist_ok=True)
    (door.store.home / "alerts.yaml").write_text("channels: {a: {url_env: UGRO_TEST_NO_SUCH}}\n")
    [outcome] = door.call(SendTestAlerts()).outcomes
    assert (outcome.channel, outcome.ok) == ("a", False) and outcome.reason


def test_keeps_the_sweep_in_the_crontab(door: Door, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = home / "bin"
    programs.mkdir()
    stand_in = (
        '#!/bin/sh\ncase $1 in -l) [ ! -e "$0.table" ] || /bin/cat "$0.table" ;; -) /bin/cat > "$0.table" ;; esac\n'
    )
    (programs / "crontab").write_text(stand_in)
    (programs / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(InputError, match="60 is no multiple"):
        door.call(InstallSweep(every=7))
    assert not door.call(ShowSweep()).installed
    done = door.call(InstallSweep(every=5))
    assert done.changed and done.lines[0].startswith("*/5 ") and door.context.attended()
    assert not door.call(InstallSweep(every=5)).changed
    assert door.call(ShowSweep()).lines == done.lines
    assert door.call(RemoveSweep()).changed and not door.context.attended()


def test_writes_a_first_inventory(home: Path) -> None:
    output = home / "inventory.yaml"
    written = write_inventory(output, ["gpu1=ob@192.168.1.101"], "master")
    assert written.names == ("master", "gpu1") and not written.sample
    assert list(load_inventory(output).nodes) == ["master", "gpu1"]
    with pytest.raises(InputError, match="is there already"):
        write_inventory(output, [])
    with pytest.raises(InputError, match="is named twice"):
        write_inventory(output, ["gpu1=a", "gpu1=b"], "master", force=True)
