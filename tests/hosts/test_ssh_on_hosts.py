"""Ways to a node and ways to be refused, against the real OpenSSH servers of the testbed and beside the real `ssh`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ugro.testing.commands import Ugro
from ugro.testing.testbed import Host, Testbed


@pytest.fixture(autouse=True)
def bed(testbed: Testbed) -> Testbed:
    testbed.reset()
    return testbed


@contextmanager
def sshd(host: Host, *lines: str) -> Iterator[None]:
    """The host's sshd with other settings; the first of two counts."""
    path = host.path(".").resolve().parent / "sshd_config"
    before = path.read_text()
    try:
        path.write_text("\n".join(lines) + "\n" + before)
        host.stop_sshd()
        host.start_sshd()
        yield
    finally:
        path.write_text(before)
        host.stop_sshd()
        host.start_sshd()


def error_of(ugro: Ugro, node: str = "gpu1") -> dict[str, Any]:
    """The error that `ugro run` gets from a node."""
    done = ugro("run", "--on", node, "--json", "--", "hostname")
    [document] = json.loads(done.stdout)
    assert document["error"], document
    return dict(document["error"])


def by_ssh(bed: Testbed, *words: str) -> subprocess.CompletedProcess[str]:
    return bed.run(["ssh", "-o", "BatchMode=yes", *words])


RSYNC_SSH = """
import asyncio, json
from pathlib import Path
from ugro.common.inventory_file import load_inventory
from ugro.nodes.code_sync.rsync import ssh_command
from ugro.nodes.transport.ssh_config import find_route
node = load_inventory(Path("inventory.yaml")).node("gpu2")
print(json.dumps(ssh_command(node, asyncio.run(find_route(node)))))
"""


@pytest.mark.long
def test_a_jump_host_of_the_file_is_passed_with_its_own_key(bed: Testbed, ugro_at_home: Ugro) -> None:
    """gpu2 is known only in F, and reached only through gpu1, which takes a key of its own."""
    for name in ("for the jump", "for_node"):
        bed.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f".ssh/{name}"])
    bed.gpu1.write(".ssh/authorized_keys", bed.master.path(".ssh/for the jump.pub").read_text(), 0o600)
    only_through = f'from="{bed.gpu1.address}" ' + bed.master.path(".ssh/for_node.pub").read_text()
    bed.gpu2.write(".ssh/authorized_keys", only_through, 0o600)
    for name in ("id_ed25519", "id_ed25519.pub", "known_hosts"):
        bed.master.path(f".ssh/{name}").unlink()
    bed.master.write("known_jump", f"the-jump {bed.gpu1.host_key}\n")
    bed.master.write(
        "F",
        f"""
Host big-one # the node
  HostName={bed.gpu2.address}
  User testbed-ollie
  ProxyJump jump # by its name here
  IdentityFile ~/.ssh/for_node # its own
  UserKnownHostsFile ~/known_node
Host jump
  HostName {bed.gpu1.address}
  User testbed-ob
  HostKeyAlias the-jump
  UserKnownHostsFile ~/known_jump
  IdentityFile "~/.ssh/for the jump"
""",
    )
    bed.master.write("inventory.yaml", "nodes:\n  gpu2: {address: big-one, ssh_config: ~/F}\n")
    assert error_of(ugro_at_home, "gpu2")["code"] == "host_key_unknown"
    offered = ugro_at_home("trust", "gpu2")
    shown = next(word for word in offered.stdout.split() if word.startswith("SHA256:"))
    trusted = ugro_at_home("trust", "gpu2", "--fingerprint", shown)
    assert trusted.returncode == 0, trusted.stderr
    assert bed.master.path("known_node").read_text().startswith(f"{bed.gpu2.address} ssh-ed25519 ")
    done = ugro_at_home("run", "--on", "gpu2", "--", "hostname")
    assert done.stdout.endswith("| gpu2\n"), done.stderr
    real = by_ssh(bed, "-F", "F", "big-one", "hostname")
    assert real.stdout == "gpu2\n", real.stderr
    rsync = json.loads(bed.run([sys.executable, "-c", RSYNC_SSH]).stdout)
    assert bed.run([*rsync, "big-one", "hostname"]).stdout == "gpu2\n"
    # The jump host's key is checked in each way, whatever the file says.
    bed.master.write("known_jump", "")
    bed.master.write("F", "StrictHostKeyChecking no\n" + bed.master.path("F").read_text())
    error = error_of(ugro_at_home, "gpu2")
    assert error["code"] == "host_key_unknown" and "the jump host jump" in error["message"]
    assert "StrictHostKeyChecking" in error["message"]
    refused = bed.run([*rsync, "big-one", "hostname"])
    assert refused.returncode == 255 and "Host key verification failed" in refused.stderr


def test_what_else_sshd_wants_is_told_and_how_to_exempt_this_machine(bed: Testbed, ugro_at_home: Ugro) -> None:
    with sshd(bed.gpu1, "AuthenticationMethods publickey,password"):
        error = error_of(ugro_at_home)
        assert error["code"] == "authentication"
        assert "testbed-ob@10.213.7.2 accepts our key and wants more: password" in error["message"]
        assert "Match Address 10.213.7.1" in error["hint"] and "AuthenticationMethods publickey" in error["hint"]
        assert "ssh-copy-id" not in error["hint"]
    with sshd(bed.gpu1, "AuthenticationMethods publickey,publickey"):
        assert "wants more: publickey" in error_of(ugro_at_home)["message"]
    path = bed.gpu1.path(".").resolve().parent / "sshd_config"
    path.write_text(
        "AuthenticationMethods publickey,password\n"
        + path.read_text()
        + "Match Address 10.213.7.1\n    AuthenticationMethods publickey\n"
    )
    with sshd(bed.gpu1):
        assert ugro_at_home("run", "--on", "gpu1", "--", "hostname").returncode == 0, "the advice helps"
    text = path.read_text().partition("\n")[2].partition("Match Address")[0]
    path.write_text(text)


def test_tells_an_sshd_that_forwards_no_ports(bed: Testbed, ugro_at_home: Ugro) -> None:
    with sshd(bed.gpu1, "AllowTcpForwarding no"):
        done = ugro_at_home("forward", "gpu1", "0:22")
        assert done.returncode == 3 and "gpu1: its sshd forwards no connections" in done.stderr
        assert "AllowTcpForwarding yes" in done.stderr


REFUSALS = {
    "AllowUsers nobody": "does not accept our key",
    "PubkeyAcceptedAlgorithms rsa-sha2-512": "does not accept our key",
    "PubkeyAuthentication no": "takes no keys, only: ",
}


@pytest.mark.parametrize("line", REFUSALS)
def test_a_refused_login_is_told_as_exactly_as_can_be_known(bed: Testbed, ugro_at_home: Ugro, line: str) -> None:
    with sshd(bed.gpu1, line):
        error = error_of(ugro_at_home)
    assert error["code"] == "authentication" and REFUSALS[line] in error["message"], error
    if "accept our key" in REFUSALS[line]:
        assert "AllowUsers" in error["hint"] and "PubkeyAcceptedAlgorithms" in error["hint"]
        command = error["hint"].removeprefix("install it: ").partition(";")[0]
        assert shlex.split(command)[0] == "ssh-copy-id" and shlex.split(command)[-1] == "testbed-ob@10.213.7.2"
    else:
        assert "PubkeyAuthentication yes" in error["hint"]


def test_more_keys_than_sshd_hears_are_told(bed: Testbed, ugro_at_home: Ugro) -> None:
    lines = []
    for number in range(4):
        bed.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f".ssh/wrong{number}"])
        lines.append(f"IdentityFile ~/.ssh/wrong{number}\n")
    bed.master.write(".ssh/config", "".join(lines) + "IdentityFile ~/.ssh/id_ed25519\n", 0o600)
    with sshd(bed.gpu1, "MaxAuthTries 3"):
        error = error_of(ugro_at_home)
    assert error["code"] == "authentication" and "MaxAuthTries" in error["message"]
    assert "identity_file" in error["hint"]
    assert ugro_at_home("run", "--on", "gpu1", "--", "hostname").returncode == 0


def test_a_key_for_another_place_or_an_account_that_expired_is_a_refusal(bed: Testbed, ugro_at_home: Ugro) -> None:
    key = bed.gpu1.path(".ssh/authorized_keys").read_text()
    bed.gpu1.write(".ssh/authorized_keys", f'from="10.1.1.1" {key}', 0o600)
    error = error_of(ugro_at_home)
    assert error["code"] == "authentication" and "from= in authorized_keys" in error["hint"]
    bed.gpu1.write(".ssh/authorized_keys", key, 0o600)
    shadow = bed.gpu1.path(".").resolve().parent / "etc/shadow"
    before = shadow.read_text()
    try:
        shadow.write_text(before.replace(":19000::::::\nob", ":19000::::::\nob").rstrip().removesuffix(":") + "1:\n")
        error = error_of(ugro_at_home)
        assert error["code"] == "authentication" and "locked account" in error["hint"]
    finally:
        shadow.write_text(before)


def test_root_that_may_not_log_in_is_told(bed: Testbed, ugro_at_home: Ugro) -> None:
    """sshd knows root's key and refuses all the same: no second factor, and nothing to copy."""
    bed.gpu1.write("root_keys", (bed.root / "id_ed25519.pub").read_text())
    bed.master.write("inventory.yaml", f"nodes:\n  gpu1: {{address: {bed.gpu1.address}, user: root}}\n")
    with sshd(bed.gpu1, "StrictModes no", "PermitRootLogin no", "AuthorizedKeysFile /home/testbed-ob/root_keys"):
        error = error_of(ugro_at_home)
    assert error["code"] == "authentication", error
    assert "knows our key and still refuses" in error["message"] and "PermitRootLogin" in error["hint"]
