"""The testbed itself, and UGRO's transport against the real OpenSSH servers in it."""

from __future__ import annotations

import json
import pwd
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ugro.nodes.transport import ssh
from ugro.testing.commands import until
from ugro.testing.testbed import Host, HostProcess, Testbed, TestbedError
from ugro.testing.testbed.etc import FROM_THE_MACHINE, PASSWORD
from ugro.testing.testbed.network import NETNS, ROOTS, reap_leftovers

ASK = [sys.executable, str(Path(__file__).with_name("ask.py"))]
HOSTILE = [
    "",
    "-n",
    "a b",
    "it's",
    '"q"',
    "$(id) `id` $HOME",
    "a\nb\\n\\",
    "!! %s {x,y} *",
    "ünï",
    "\udcff",
    "x" * 200_000,
]
ECHO = 'for argument; do printf "%s\\0" "$argument"; done'

Answer = dict[str, Any]


@pytest.fixture(autouse=True)
def bed(testbed: Testbed) -> Testbed:
    """The bed as it was when new."""
    testbed.reset()
    return testbed


def command(node: str, script: str, *args: str, timeout: float = 20, within: float | None = None) -> Answer:
    """One command for `ask`, given up after `within` seconds."""
    return {"node": node, "script": script, "args": args, "timeout": timeout, "within": within}


def ask(bed: Testbed, *commands: Answer) -> dict[str, Answer]:
    """Run commands over the pool as the master's user; the last answer of each node."""
    done = bed.run(ASK, input=json.dumps(commands))
    assert done.returncode == 0, done.stderr
    return _by_node(done.stdout.splitlines())


def begin(bed: Testbed, *commands: Answer, keepalive: float = ssh.KEEPALIVE_INTERVAL) -> HostProcess:
    """Start commands over the pool, and return when all have said something."""
    process = bed.popen([*ASK, str(keepalive)], stdin=subprocess.PIPE)
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(commands))
    process.stdin.close()
    process.stdin = None
    for _ in commands:
        assert json.loads(process.stdout.readline())["started"]
    return process


def finish(process: HostProcess) -> dict[str, Answer]:
    """The last answer of each node for commands that were begun."""
    with process:
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return _by_node(stdout.splitlines())


def _by_node(lines: list[str]) -> dict[str, Answer]:
    return {answer["node"]: answer for answer in map(json.loads, lines)}


def text(answer: Answer) -> str:
    """The stdout of a command that succeeded."""
    assert answer.get("status") == 0, answer
    return bytes.fromhex(answer["stdout"]).decode()


def commands_of(host: Host) -> list[str]:
    """The command lines of a host's processes."""
    return [" ".join(process.command) for process in host.processes()]


# The bed


def test_every_host_reaches_every_sshd(bed: Testbed) -> None:
    for host in bed.hosts.values():
        for other in bed.hosts.values():
            greeting = host.run(["bash", "-c", f"head -c 4 </dev/tcp/{other.address}/22"])
            assert greeting.stdout == "SSH-", f"{host.name} to {other.name}: {greeting.stderr}"


def test_hosts_have_users_homes_names_and_boot_ids_of_their_own(bed: Testbed) -> None:
    told = [h.run(["sh", "-c", "id -un; id -u; echo $HOME; pwd; hostname"]).stdout.split() for h in bed.hosts.values()]
    assert [row[0] for row in told] == ["testbed-owner", "testbed-ob", "testbed-ollie"]
    assert all(row[2] == row[3] == f"/home/{row[0]}" for row in told)
    assert [row[4] for row in told] == list(bed.hosts)
    assert len({row[1] for row in told}) == len({host.boot_id for host in bed.hosts.values()}) == 3


def test_a_host_knows_its_own_users_and_no_gpus(bed: Testbed) -> None:
    """Whatever users this machine has, and whatever its /etc says of logins and shells."""
    look = "cut -d: -f1 /etc/passwd /etc/group; ls /etc; command -v nvidia-smi; ls /var/spool /proc/driver"
    for host in bed.hosts.values():
        told = host.run(["sh", "-c", look]).stdout.split()
        users = ["root", "sshd", "nobody", host.user, "root", "tty", "nogroup", host.user]
        files = {*FROM_THE_MACHINE, "group", "hostname", "hosts", "mtab", "nsswitch.conf", "passwd", "shadow"}
        assert told[:8] == users and set(told[8:]) <= {*files, "/var/spool:", "/proc/driver:"}
        with pytest.raises(KeyError):
            pwd.getpwuid(host.uid)


def test_a_broken_host_is_named_with_what_a_login_answers(bed: Testbed) -> None:
    bed.log_in_everywhere()
    stranger = f"{bed.gpu1.user}:x:4242:4242::/:/bin/sh"
    first = 'all=$(cat /etc/passwd) && printf "%s\\n" "$0" "$all" >/etc/passwd'  # it wins
    bed.gpu1.run(["sh", "-c", first, stranger], user=False)
    with pytest.raises(TestbedError, match=r"gpu1 is broken: a login answers 'testbed-ob@.*: Permission denied"):
        bed.log_in_everywhere()


def test_a_host_sees_its_own_processes_and_files_only(bed: Testbed) -> None:
    with bed.gpu1.popen(["sleep", "1001"], env={"MARK": "here"}) as process:
        assert "sleep 1001" in bed.gpu1.run(["ps", "-eo", "args"]).stdout
        assert "sleep 1001" not in bed.gpu2.run(["ps", "-eo", "args"]).stdout
        (seen,) = until(lambda: [p for p in bed.gpu1.processes() if p.command == ["sleep", "1001"]])
        assert seen.environ["MARK"] == "here" and seen.environ["HOME"] == "/home/testbed-ob"
        bed.gpu1.kill(seen.pid, signal.SIGTERM)
        assert process.wait(timeout=5) == -signal.SIGTERM
    bed.gpu1.run(["touch", "/tmp/mine", "/dev/shm/mine"])
    assert "mine" not in bed.gpu2.run(["ls", "/tmp", "/dev/shm"]).stdout
    assert not Path("/tmp/mine").exists() and not Path("/dev/shm/mine").exists()


def test_run_and_popen_carry_input_status_and_signals(bed: Testbed) -> None:
    assert bed.run(["cat"], input="a\nb").stdout == "a\nb"
    assert bed.run(["sh", "-c", "pwd; echo $X; exit 3"], cwd="/usr", env={"X": "y"}).stdout == "/usr\ny\n"
    assert bed.run(["sh", "-c", "kill -9 $$"]).returncode == -signal.SIGKILL
    assert bed.gpu1.run(["id", "-u"], user=False).stdout == "0\n"
    with pytest.raises(subprocess.TimeoutExpired):
        bed.run(["sleep", "1002"], timeout=0.2)
    with bed.popen(["sh", "-c", "trap 'exit 7' INT; echo ready; while :; do sleep 0.05; done"]) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 7
    assert not any("sleep" in line for line in commands_of(bed.master))


def test_a_written_file_is_the_users_and_an_installed_program_is_found(bed: Testbed) -> None:
    bed.gpu1.write("a/b.txt", "hello")
    bed.gpu1.install_program("nvidia-smi", "#!/bin/sh\necho fake\n")
    look = 'stat -c "%U %U" a/b.txt a; nvidia-smi'
    assert bed.gpu1.run(["sh", "-c", look]).stdout.split() == [*["testbed-ob"] * 4, "fake"]
    assert text(ask(bed, command("gpu1", "nvidia-smi"))["gpu1"]) == "fake\n"


def test_a_reboot_ends_everything_and_shows_in_the_boot_id(bed: Testbed) -> None:
    before = bed.gpu2.boot_id
    with bed.gpu2.popen(["sleep", "1003"]) as process:
        bed.gpu2.reboot()
        assert process.wait(timeout=5) == -signal.SIGKILL
    assert bed.gpu2.boot_id != before
    assert text(ask(bed, command("gpu2", "hostname"))["gpu2"]) == "gpu2\n"
    bed.gpu2.set_boot_id("another")
    assert bed.gpu2.boot_id == "another"


def test_a_password_opens_a_first_contact(bed: Testbed) -> None:
    code = (
        "import asyncio, asyncssh\n"
        "async def main():\n"
        f"    login = dict(username='testbed-ob', password={PASSWORD!r}, client_keys=None)\n"
        "    async with asyncssh.connect('10.213.7.2', **login) as connection:\n"
        "        print((await connection.run('id -un')).stdout)\n"
        "asyncio.run(main())"
    )
    assert bed.run([sys.executable, "-c", code]).stdout.split() == ["testbed-ob"]


def test_a_dead_makers_bed_is_reaped_and_a_living_ones_is_not(bed: Testbed) -> None:
    made = "from ugro.testing.testbed import Testbed; print(Testbed().root, flush=True)"
    code = f"{made}; import os; os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=30)
    left = Path(done.stdout.strip())
    assert done.returncode == -signal.SIGKILL and left.parent == ROOTS
    reap_leftovers()
    assert not left.exists() and not list(NETNS.glob(f"ugro-{left.name[-4:]}-*"))
    assert bed.root.exists() and bed.gpu1.run(["true"]).returncode == 0


# The transport against real servers


def test_the_pool_logs_in_everywhere(bed: Testbed) -> None:
    answers = ask(bed, *(command(name, "id -un; hostname") for name in bed.hosts))
    assert {name: text(answer).split() for name, answer in answers.items()} == {
        "gpu-master": ["testbed-owner", "gpu-master"],
        "gpu1": ["testbed-ob", "gpu1"],
        "gpu2": ["testbed-ollie", "gpu2"],
    }


NOISE = "echo chatter; echo more >&2; sleep 1"
RC_FILES = {"/bin/bash": ".bashrc", "/usr/bin/fish": ".config/fish/config.fish", "/usr/bin/tcsh": ".cshrc"}


def test_no_login_shell_harms_hostile_arguments(bed: Testbed) -> None:
    for host, (shell, rc_file) in zip(bed.hosts.values(), RC_FILES.items(), strict=True):
        host.set_shell(shell)
        # tcsh knows no >&2 of its own.
        host.write(rc_file, NOISE if "tcsh" not in shell else "echo chatter; sh -c 'echo more >&2'; sleep 1")
    inventory = bed.master.path("inventory.yaml").read_text().replace("local: true", "user: testbed-owner")
    bed.master.write("inventory.yaml", inventory)
    for name, answer in ask(bed, *(command(name, ECHO, *HOSTILE) for name in bed.hosts)).items():
        assert answer["status"] == 0, answer
        got = bytes.fromhex(answer["stdout"]).decode(errors="surrogateescape").split("\0")
        assert got == [*HOSTILE, ""], f"{bed[name].name}"
        assert answer["stderr"] == "" and answer["seconds"] > 0.9


def test_host_keys_changed_and_unknown_are_told_apart(bed: Testbed) -> None:
    bed.gpu1.new_host_key()
    known = bed.master.path(".ssh/known_hosts").read_text().splitlines(keepends=True)
    bed.master.write(".ssh/known_hosts", "".join(line for line in known if bed.gpu2.address not in line))
    answers = ask(bed, command("gpu1", "true"), command("gpu2", "true"))
    assert (answers["gpu1"]["code"], answers["gpu2"]["code"]) == ("host_key_changed", "host_key_unknown")
    bed.trust()
    answers = ask(bed, command("gpu1", "true"), command("gpu2", "true"))
    assert [answer["status"] for answer in answers.values()] == [0, 0]


def test_an_encrypted_key_is_unusable(bed: Testbed) -> None:
    bed.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", ".ssh/id_ed25519"])
    inventory = bed.master.path("inventory.yaml").read_text()
    bed.master.write("inventory.yaml", inventory.replace("defaults:", "defaults:\n  identity_file: ~/.ssh/id_ed25519"))
    answer = ask(bed, command("gpu1", "true"))["gpu1"]
    assert answer["code"] == "key_unusable" and "encrypted" in answer["message"]


def test_a_foreign_key_is_not_accepted(bed: Testbed) -> None:
    bed.gpu1.write(".ssh/authorized_keys", "")
    assert ask(bed, command("gpu1", "true"))["gpu1"]["code"] == "authentication"


def test_a_stopped_sshd_keeps_its_sessions(bed: Testbed) -> None:
    process = begin(bed, command("gpu1", "echo on; sleep 1; echo still"))
    bed.gpu1.stop_sshd()
    answer = ask(bed, command("gpu1", "true"))["gpu1"]
    assert answer["code"] == "unreachable" and "refuses" in answer["message"]
    assert text(finish(process)["gpu1"]) == "on\nstill\n"
    bed.gpu1.start_sshd()
    assert ask(bed, command("gpu1", "true"))["gpu1"]["status"] == 0


@pytest.mark.long
def test_a_lost_link_is_noticed_and_its_command_lives_on(bed: Testbed) -> None:
    endless = "echo on; exec sleep 1004"
    process = begin(bed, command("gpu1", endless, timeout=300), command("gpu2", endless, timeout=300), keepalive=1)
    bed.gpu1.cut()
    bed.gpu2.end_sessions()
    unreachable = ask(bed, command("gpu1", "true"))["gpu1"]
    assert unreachable["code"] == "unreachable" and unreachable["seconds"] < ssh.CONNECT_TIMEOUT + 1
    answers = finish(process)
    assert [answers[name]["code"] for name in ("gpu1", "gpu2")] == ["link_lost", "link_lost"]
    assert answers["gpu2"]["seconds"] < 3 < answers["gpu1"]["seconds"] < 3 + ssh.KEEPALIVE_COUNT + 1
    assert all(any("sleep 1004" in line for line in commands_of(host)) for host in (bed.gpu1, bed.gpu2))
    bed.gpu1.heal()
    assert [answer["status"] for answer in ask(bed, command("gpu1", "true"), command("gpu2", "true")).values()] == [
        0,
        0,
    ]


def test_a_timeout_ends_the_remote_command(bed: Testbed) -> None:
    stubborn = "trap '' TERM; sleep 1005"
    limits = {"gpu-master": 0.4, "gpu1": 2.5, "gpu2": 1}
    answers = ask(bed, *(command(name, stubborn, timeout=limit) for name, limit in limits.items()))
    for name, limit in limits.items():
        assert answers[name].get("code") == "command_timed_out", answers[name]
        assert answers[name]["seconds"] < limit + 4
        assert not any("sleep 1005" in line for line in commands_of(bed[name]))


def test_a_command_given_up_is_ended(bed: Testbed) -> None:
    answers = ask(bed, *(command(name, "echo; sleep 1006", timeout=300, within=1) for name in bed.hosts))
    assert {answer["code"] for answer in answers.values()} == {"unreachable"}
    assert not any("sleep 1006" in line for host in bed.hosts.values() for line in commands_of(host))


def test_a_shell_that_runs_no_script_of_ours_is_refused(bed: Testbed) -> None:
    bed.gpu1.write(".bashrc", "exec fish")
    bed.gpu2.set_shell("/usr/sbin/nologin")
    answers = ask(bed, command("gpu1", "echo hi"), command("gpu2", "echo hi"))
    assert [answer["code"] for answer in answers.values()] == ["node_refused", "node_refused"], answers
    assert "not available" in answers["gpu2"]["message"]


def test_an_encrypted_key_is_unusable_wherever_it_comes_from(bed: Testbed) -> None:
    bed.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", ".ssh/id_ed25519"])
    answer = ask(bed, command("gpu1", "true"))["gpu1"]
    assert answer["code"] == "key_unusable" and "no agent holds it" in answer["message"]


def test_an_encrypted_key_that_the_agent_holds_is_used(bed: Testbed) -> None:
    inventory = bed.master.path("inventory.yaml").read_text()
    bed.master.write("inventory.yaml", inventory.replace("defaults:", "defaults:\n  identity_file: ~/.ssh/id_ed25519"))
    agent = "eval $(ssh-agent) >/dev/null; ssh-add -q .ssh/id_ed25519; ssh-keygen -q -p -N secret -f .ssh/id_ed25519; "
    ugro = f"{sys.executable} -m ugro run --on gpu1 -- hostname; status=$?; ssh-agent -k >/dev/null; exit $status"
    done = bed.run(["bash", "-c", agent + ugro])
    assert done.returncode == 0 and done.stdout.endswith("gpu1 | gpu1\n"), done.stderr


def test_another_kind_of_host_key_than_recorded_is_a_changed_one(bed: Testbed) -> None:
    bed.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", "other"])
    kind, key = bed.master.path("other.pub").read_text().split()[:2]
    bed.master.write(".ssh/known_hosts", f"{bed.gpu1.address} {kind} {key}\n")
    assert ask(bed, command("gpu1", "true"))["gpu1"]["code"] == "host_key_changed"


def test_a_known_hosts_file_that_makes_no_sense_is_named(bed: Testbed) -> None:
    bed.master.write(".ssh/known_hosts", "nonsense\n")
    answer = ask(bed, command("gpu1", "true"))["gpu1"]
    assert answer["code"] == "key_unusable" and "known_hosts" in answer["message"]


@pytest.mark.long
def test_a_jump_host_is_passed_and_blamed_by_name(bed: Testbed) -> None:
    """gpu2 is reached through gpu1, as ~/.ssh/config says."""
    bed.master.write(".ssh/config", f"Host {bed.gpu2.address}\n  ProxyJump testbed-ob@{bed.gpu1.address}\n", 0o600)
    assert ask(bed, command("gpu2", "hostname"))["gpu2"]["status"] == 0
    bed.master.write(".ssh/known_hosts", f"{bed.gpu2.address} {bed.gpu2.host_key}\n")
    answer = ask(bed, command("gpu2", "true"))["gpu2"]
    assert answer["code"] == "host_key_unknown" and f"jump host testbed-ob@{bed.gpu1.address}" in answer["message"]
    bed.trust()
    bed.gpu1.stop_sshd()
    answer = ask(bed, command("gpu2", "true"))["gpu2"]
    assert answer["code"] == "unreachable" and f"through testbed-ob@{bed.gpu1.address}" in answer["message"]
