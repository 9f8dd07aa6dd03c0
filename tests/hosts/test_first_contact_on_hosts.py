"""First contact with machines whose sshd is a real one: what it asks for, and why a key may still be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ugro.testing.commands import Ugro
from ugro.testing.testbed import Host, Testbed
from ugro.testing.testbed.etc import PASSWORD

INVENTORY = """\
# mine
defaults: {python: /usr/bin/python3}  # one without torch, whose import takes long
nodes:
    gpu-master: {address: 10.213.7.1, local: true}   # this one

"""
PAM = "auth required pam_unix.so\naccount required pam_unix.so\nsession required pam_permit.so\n"

AT_TERMINAL = """
import os, pty, sys
expected = [tuple(pair.split("|")) for pair in sys.argv[1].split("&")]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-m", "ugro", *sys.argv[2:]])
said = ""
while True:
    try:
        data = os.read(terminal, 4096)
    except OSError:
        break
    if not data:
        break
    said += data.decode()
    while expected and expected[0][0] in said:
        prompt, reply = expected.pop(0)
        print(said[: said.index(prompt) + len(prompt)], end="")
        said = said[said.index(prompt) + len(prompt) :]
        os.write(terminal, reply.encode() + b"\\n")
print(said)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
"""Runs `ugro` at a terminal of its own; each reply is typed once its prompt is there."""


@pytest.fixture(autouse=True)
def bed(testbed: Testbed) -> Iterator[Testbed]:
    """A master that knows the host keys and has a key, which no machine has."""
    testbed.reset()
    testbed.master.write("inventory.yaml", INVENTORY, 0o640)
    testbed.gpu1.path(".ssh/authorized_keys").unlink()
    yield testbed


@contextmanager
def configured(host: Host, *lines: str, pam: str = "") -> Iterator[None]:
    """The host's sshd with other settings, and with PAM where there are rules for it."""
    folder = host.path(".").resolve().parent
    path, rules = folder / "sshd_config", folder / "etc/pam.d"
    before = path.read_text()
    if pam:
        rules.mkdir()
        (rules / "sshd").write_text(pam)
    try:
        path.write_text("\n".join([*lines, *(["UsePAM yes"] if pam else [])]) + "\n" + before)
        host.stop_sshd()
        host.start_sshd()
        yield
    finally:
        path.write_text(before)
        if pam:
            (rules / "sshd").unlink()
            rules.rmdir()
        host.stop_sshd()
        host.start_sshd()


def add(ugro: Ugro, *options: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    arguments = ("node", "add", "testbed-ob@10.213.7.2", "--no-links", "--password-file", "-", *options)
    return ugro(*arguments, input=f"{password}\n")


def refused(bed: Testbed, ugro: Ugro, *options: str, password: str = PASSWORD) -> dict[str, Any]:
    """The error of an attempt; the inventory is as it was."""
    done = add(ugro, *options, "--json", password=password)
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert bed.master.path("inventory.yaml").read_text() == INVENTORY
    return dict(json.loads(done.stderr)["error"])


def keys_of(host: Host) -> list[str]:
    return host.path(".ssh/authorized_keys").read_text().splitlines()


@pytest.mark.long
def test_adds_a_machine_by_its_password_and_removes_it_again(bed: Testbed, ugro_at_home: Ugro) -> None:
    bed.gpu1.write(".ssh/authorized_keys", "# kept\nssh-ed25519 AAAA another", 0o600)
    inventory = bed.master.path("inventory.yaml")
    before = inventory.read_text()
    done = add(ugro_at_home, "--json")
    assert done.returncode == 0, done.stderr
    added = json.loads(done.stdout)
    assert [(step["step"], step["state"]) for step in added["steps"]] == [
        *(("host_key", "already"), ("key", "done"), ("python", "problem")),
        *(("check", "problem"), ("links", "skipped"), ("inventory", "done")),
    ]
    mark = "# this one\n"
    line = "    gpu1: {address: 10.213.7.2, user: testbed-ob}\n"
    assert inventory.read_text() == before.replace(mark, mark + line) and inventory.stat().st_mode & 0o777 == 0o640
    kept, other, ours = keys_of(bed.gpu1)
    assert (kept, other) == ("# kept", "ssh-ed25519 AAAA another") and ours.endswith(" added-by-ugro")
    for folder, mode in ((".ssh/authorized_keys", 0o600), (".ssh", 0o755)):
        assert bed.gpu1.path(folder).stat().st_mode & 0o777 == mode

    again = add(ugro_at_home, "--json", password="not used")
    states = {step["step"]: step["state"] for step in json.loads(again.stdout)["steps"]}
    assert states["key"] == states["inventory"] == "already" and len(keys_of(bed.gpu1)) == 3

    renamed = ugro_at_home("node", "rename", "gpu1", "big")
    assert renamed.returncode == 0 and "    big: {address" in inventory.read_text()
    removed = ugro_at_home("node", "remove", "big", "--yes", "--json")
    assert removed.returncode == 0, removed.stderr
    assert inventory.read_text() == before and keys_of(bed.gpu1) == ["# kept", "ssh-ed25519 AAAA another"]


@pytest.mark.long
def test_adds_a_machine_at_a_terminal(bed: Testbed) -> None:
    """An unknown host key, no key of one's own, and two mistyped passwords."""
    for name in ("known_hosts", "id_ed25519", "id_ed25519.pub"):
        bed.master.path(f".ssh/{name}").unlink()
    replies = f"trust it? [y/N]:|y&10.213.7.2:|wrong&10.213.7.2:|wrong&10.213.7.2:|{PASSWORD}&Make this one? [y/N]|n"
    words = ("node", "add", "gpu3=testbed-ob@10.213.7.2", "--no-links")
    done = bed.run([sys.executable, "-c", AT_TERMINAL, replies, *words], timeout=120)
    assert done.returncode == 0 and "gpu3 is in inventory.yaml" in done.stdout, done.stdout
    assert bed.gpu1.host_key in bed.master.path(".ssh/known_hosts").read_text()
    assert bed.master.path(".ssh/id_ed25519").stat().st_mode & 0o777 == 0o600


def test_gives_up_after_three_wrong_passwords(bed: Testbed, ugro_at_home: Ugro) -> None:
    replies = "10.213.7.2:|wrong&10.213.7.2:|wrong&10.213.7.2:|wrong"
    words = ("node", "add", "testbed-ob@10.213.7.2")
    done = bed.run([sys.executable, "-c", AT_TERMINAL, replies, *words], timeout=120)
    assert done.returncode == 3 and "it refused 3 answers" in done.stdout and "wrong" not in done.stdout
    error = refused(bed, ugro_at_home, "--name", "gpu3", password="Zk-9 'x")
    assert "it refused the password" in error["message"] and "Zk-9" not in str(error)
    assert not any("Zk-9" in path.read_text() for path in bed.master.path(".ugro").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "lines",
    [
        ("PasswordAuthentication no", "KbdInteractiveAuthentication yes"),
        ("KbdInteractiveAuthentication yes", "AuthenticationMethods publickey password,keyboard-interactive"),
    ],
    ids=["keyboard-interactive", "password-and-keyboard-interactive"],
)
def test_logs_in_by_what_sshd_asks_for(bed: Testbed, ugro_at_home: Ugro, lines: tuple[str, ...]) -> None:
    with configured(bed.gpu1, *lines, pam=PAM):
        done = add(ugro_at_home)
    assert done.returncode == 0, done.stderr
    assert "a new connection with the key alone logs in" in done.stderr


@pytest.mark.long
def test_adds_a_machine_behind_a_jump_host(bed: Testbed, ugro_at_home: Ugro) -> None:
    """The jump host takes the key, the machine behind it the password."""
    bed.gpu1.write(".ssh/authorized_keys", bed.master.path(".ssh/id_ed25519.pub").read_text(), 0o600)
    bed.gpu2.path(".ssh/authorized_keys").unlink()
    through = f"Host behind\n  HostName {bed.gpu2.address}\n  User testbed-ollie\n  ProxyJump testbed-ob@10.213.7.2\n"
    bed.master.write(".ssh/config", through, 0o600)
    words = ("node", "add", "behind", "--no-links", "--password-file", "-")
    done = ugro_at_home(*words, input=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    assert "behind: {address: behind}" in bed.master.path("inventory.yaml").read_text() and len(keys_of(bed.gpu2)) == 1


def test_corrects_modes_of_the_key_file_and_its_folder_alone(bed: Testbed, ugro_at_home: Ugro) -> None:
    bed.gpu1.write(".ssh/authorized_keys", "", 0o666)
    bed.gpu1.path(".ssh").chmod(0o777)
    done = add(ugro_at_home)
    assert done.returncode == 0 and "others can write .ssh no longer" in done.stderr.replace("\n", " "), done.stderr
    assert bed.gpu1.path(".ssh").stat().st_mode & 0o777 == 0o755


def test_names_the_likely_cause_where_the_installed_key_is_refused(bed: Testbed, ugro_at_home: Ugro) -> None:
    bed.gpu1.path(".").chmod(0o777)
    try:
        error = refused(bed, ugro_at_home)
    finally:
        bed.gpu1.path(".").chmod(0o755)
    assert "(1) others can write /home/testbed-ob (mode 0777)" in error["message"]
    assert "chmod go-w /home/testbed-ob" in error["hint"]
    with configured(bed.gpu1, "AuthorizedKeysFile /etc/ssh/keys/%u"):
        error = refused(bed, ugro_at_home)
    assert "(1) sshd reads keys from /etc/ssh/keys/%u, not from ~/.ssh/authorized_keys" in error["message"]
    assert "sudo tee -a /etc/ssh/keys/testbed-ob" in error["hint"]
    assert len(keys_of(bed.gpu1)) == 1


def test_names_an_account_that_runs_nothing(bed: Testbed, ugro_at_home: Ugro) -> None:
    bed.gpu1.set_shell("/usr/sbin/nologin")
    error = refused(bed, ugro_at_home)
    assert "not available" in error["message"] and "usermod --shell" in error["hint"]
    bed.gpu1.set_shell("/bin/bash")
    shadow: Path = bed.gpu1.path(".").resolve().parent / "etc/shadow"
    before = shadow.read_text()
    shadow.write_text(before.replace(":19000::::::\n", ":0:0:90:7:::\n"))
    try:
        with configured(bed.gpu1, pam=PAM):
            error = refused(bed, ugro_at_home)
    finally:
        shadow.write_text(before)
    assert "assword" in error["message"] and "has expired" in error["hint"], error


@pytest.mark.long
def test_follows_no_link_without_consent(bed: Testbed, ugro_at_home: Ugro) -> None:
    bed.gpu1.path(".ssh").rmdir()
    bed.gpu1.write("elsewhere/keys", "")
    bed.gpu1.path(".ssh").symlink_to("elsewhere")
    done = add(ugro_at_home)
    assert done.returncode == 2 and "is a link to elsewhere; no key was installed" in done.stderr
    assert add(ugro_at_home, "--follow-link").returncode == 0


def test_lists_what_stays_on_a_machine_that_cannot_be_reached(bed: Testbed, ugro_at_home: Ugro) -> None:
    bed.master.write("inventory.yaml", INVENTORY + "    gpu1: {address: 10.213.7.2}\n")
    bed.gpu1.stop_sshd()
    done = ugro_at_home("node", "remove", "gpu1", "--yes")
    assert done.returncode == 3 and done.stdout.count("still there: ") == 2 and "added-by-ugro" in done.stdout
    assert bed.master.path("inventory.yaml").read_text() == INVENTORY
