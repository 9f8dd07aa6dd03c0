"""Where ranks meet, on three hosts: an inventory may call the master what it likes, the others have to reach it.

That they do meet is seen in `test_jobs_on_hosts.py`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator

import pytest
from counting import GPU1, GPU2, MASTER, inventory, stand_in_for_torch

from ugro.testing.commands import Ugro, document
from ugro.testing.testbed.bed import Testbed
from ugro.testing.testbed.hosts import Host


@pytest.fixture
def bed(bed: Testbed) -> Testbed:
    """`ugro check` is asked often, and no rank starts."""
    stand_in_for_torch(bed)
    return bed


def described(bed: Testbed, *lines: str) -> None:
    bed.master.write("inventory.yaml", inventory(*lines))


def meeting(ugro: Ugro, *options: str) -> dict[str, tuple[str, ...]]:
    """What each node would get: the address of the master, and the interface of gloo."""
    found = document(ugro("launch", "t.py", "--dry-run", "--json", *options))
    return {
        entry["node"]: tuple(
            re.findall(r"--master-addr=(\S+)|GLOO_SOCKET_IFNAME=(\S+)", entry["launch_sh"])[number][1 - number]
            for number in (1, 0)
        )
        for entry in found
    }


@pytest.fixture
def given(bed: Testbed) -> Iterator[Callable[..., None]]:
    """Gives a host an interface of its own with an address, or another address."""
    with contextlib.ExitStack() as undo:

        def ip(host: Host, *words: str) -> None:
            done = host.run(["ip", *words], user=False)
            assert done.returncode == 0, done.stderr

        def give(host: Host, address: str, interface: str, *, new: bool = False) -> None:
            if new:
                ip(host, "link", "add", interface, "type", "bridge")
                undo.callback(ip, host, "link", "delete", interface)
                ip(host, "link", "set", interface, "up")
                ip(host, "address", "add", address, "dev", interface)
            else:
                ip(host, "address", "add", address, "dev", interface)
                undo.callback(ip, host, "address", "delete", address, "dev", interface)

        yield give


@pytest.mark.parametrize("address", ["10.213.7.1", "127.0.0.1", "localhost", "gpu-master", "'::1'"])
def test_the_master_may_be_written_as_itself(bed: Testbed, ugro: Ugro, address: str) -> None:
    """The others once looked for the route to that address, and found their own loopback."""
    described(bed, MASTER.replace("10.213.7.1", address), GPU1, GPU2)
    there = ("10.213.7.1", "train0")
    assert meeting(ugro) == {"gpu-master": there, "gpu1": there, "gpu2": there}
    there = ("10.213.7.2", "train0")
    assert meeting(ugro, "--nodes", "gpu1,gpu-master") == {"gpu1": there, "gpu-master": there}


@pytest.mark.parametrize(
    ("node", "key", "problem"),
    [
        (
            "gpu-master",
            "train_address: 127.0.0.1",
            "gpu1: 127.0.0.1, where the ranks would meet on gpu-master, means gpu1",
        ),
        ("gpu-master", "train_address: gpu-master", "gpu1: 127.0.1.1, where the ranks would meet on gpu-master, means"),
        ("gpu-master", "train_address: 10.213.7.99", "gpu-master: its 'train_address' 10.213.7.99 is none of its"),
        ("gpu1", "train_address: 10.213.7.99", "gpu1: its 'train_address' 10.213.7.99 is none of its addresses"),
        ("gpu1", "interface: eth7", "gpu1: its 'interface' eth7 is not there, or has no address"),
        ("gpu1", "interface: lo", "gpu1: it would train over lo, which no other node reaches"),
    ],
)
def test_what_the_inventory_says_of_a_node_is_seen_there(
    bed: Testbed, ugro: Ugro, node: str, key: str, problem: str
) -> None:
    lines = [line.replace("}", f", {key}}}") if f" {node}:" in line else line for line in (MASTER, GPU1, GPU2)]
    described(bed, *lines)
    done = ugro("launch", "t.py", "--dry-run")
    assert done.returncode == 2 and problem in done.stderr, done.stderr
    assert "train_address" in done.stderr or "10.213.7.2 (train0)" in done.stderr
    about, _, text = problem.partition(": ")
    problems = [
        found for found in json.loads(ugro("check", "--json").stdout)["findings"] if found["level"] == "problem"
    ]
    assert any(found["node"] == about and text in found["text"] for found in problems), problems


def test_an_address_that_every_node_has(bed: Testbed, ugro: Ugro, given: Callable[..., None]) -> None:
    """As Docker's bridge has it."""
    for host in (bed.master, bed.gpu1):
        given(host, "172.17.0.1/16", "docker0", new=True)
    described(bed, MASTER.replace("10.213.7.1", "172.17.0.1"), GPU1)
    assert meeting(ugro) == dict.fromkeys(("gpu-master", "gpu1"), ("10.213.7.1", "train0"))
    described(bed, MASTER.replace("}", ", train_address: 172.17.0.1}"), GPU1)
    done = ugro("launch", "t.py", "--dry-run")
    assert "172.17.0.1, where the ranks would meet on gpu-master, is an address of gpu1 too (docker0)" in done.stderr
    assert done.returncode == 2 and "set 'train_address' of gpu-master" in done.stderr
    done = ugro("launch", "t.py")
    assert done.returncode == 1 and "set 'train_address' of gpu-master" in done.stderr
    failed = document(ugro("status", "job-001", "--json"))
    assert failed["first_failure"]["cause"] == "launch_failed" and "train_address" in failed["reason"]


def test_the_first_address_that_all_reach(bed: Testbed, ugro: Ugro, given: Callable[..., None]) -> None:
    """gpu1 is reached over a network that gpu2 has no part in."""
    given(bed.master, "10.99.1.1/24", "train0")
    given(bed.gpu1, "10.99.1.2/24", "train0")
    described(bed, MASTER, GPU1.replace("10.213.7.2", "10.99.1.2"), GPU2)
    bed.master.path(".ssh/known_hosts").write_text(f"* {bed.gpu1.host_key}\n* {bed.gpu2.host_key}\n")
    assert {address for address, _ in meeting(ugro).values()} == {"10.213.7.1"}
    described(bed, MASTER.replace("}", ", train_address: 10.99.1.1}"), GPU1, GPU2)
    done = ugro("launch", "t.py", "--dry-run")
    assert "gpu2: no way to 10.99.1.1, where the ranks would meet on gpu-master: Network is unreachable" in done.stderr
    given(bed.gpu2, "10.99.1.3/24", "vpn0", new=True)
    done = ugro("launch", "t.py", "--dry-run")  # it has a route now, and nothing comes back
    assert re.search(r"gpu2: no way to 10\.99\.1\.1, .*: (No route to host|no answer from its port 29\d+)", done.stderr)


def test_a_node_that_is_reached_through_another(bed: Testbed, ugro: Ugro, given: Callable[..., None]) -> None:
    """Where it is logged in to, no other node reaches it; and nothing there leads to the master's own address."""
    given(bed.gpu1, "10.99.1.2/24", "train0")
    given(bed.gpu2, "10.99.1.3/24", "train0")
    bed.master.write(".ssh/config", "Host 10.99.1.3\n  ProxyJump testbed-ob@10.213.7.2\n", 0o600)
    bed.master.path(".ssh/known_hosts").write_text(f"* {bed.gpu1.host_key}\n* {bed.gpu2.host_key}\n")
    behind = GPU2.replace("10.213.7.3", "10.99.1.3")
    for nodes in ((MASTER, GPU1, behind), (MASTER, behind), (MASTER.replace("10.213.7.1", "127.0.0.1"), behind)):
        described(bed, *nodes)
        assert set(meeting(ugro).values()) == {("10.213.7.1", "train0")}


def test_the_interface_that_the_inventory_names(bed: Testbed, ugro: Ugro, given: Callable[..., None]) -> None:
    given(bed.master, "10.99.1.1/24", "fast0", new=True)
    described(bed, MASTER.replace("}", ", interface: train0}"), GPU1)
    assert meeting(ugro) == dict.fromkeys(("gpu-master", "gpu1"), ("10.213.7.1", "train0"))


def test_a_link_local_address_means_nothing_elsewhere(bed: Testbed, ugro: Ugro) -> None:
    lines = bed.master.run(["ip", "-6", "-o", "address", "show", "dev", "train0", "scope", "link"]).stdout
    address = re.findall(r"inet6 (fe80\S+)/", lines)[0]
    described(bed, MASTER.replace("10.213.7.1", f"'{address}%train0'"), GPU1)
    assert meeting(ugro) == dict.fromkeys(("gpu-master", "gpu1"), ("10.213.7.1", "train0"))
    described(bed, MASTER.replace("}", f", train_address: '{address}'}}"), GPU1)
    done = ugro("launch", "t.py", "--dry-run")
    assert done.returncode == 2 and f"gpu-master: its address {address} is link-local" in done.stderr
