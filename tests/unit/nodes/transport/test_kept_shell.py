"""The kept shell: on this machine, and over the real OpenSSH servers of the testbed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ugro.common.errors import CommandTimedOut, LinkLost, NodeRefused
from ugro.nodes.transport import LocalTransport, local, shell
from ugro.nodes.transport.base import OUTPUT_LIMIT
from ugro.testing import builders
from ugro.testing.testbed import Testbed

PID = "echo $$"


@pytest.fixture
async def here(home: Path) -> AsyncIterator[LocalTransport]:
    transport = LocalTransport(builders.this_machine())
    yield transport
    await transport.close()


def running(word: str) -> list[str]:
    """The pids of the processes that have a word on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if word.encode() in words and state not in "ZX":
            found.append(folder.name)
    return found


async def ended(word: str) -> bool:
    """Whether no process has the word any more; what was killed may take a moment."""
    for _ in range(40):
        if not running(word):
            return True
        await asyncio.sleep(0.05)
    return False


# What goes in and what comes out


async def test_output_and_exit_code_come_back(here: LocalTransport) -> None:
    outcome = await here.ask('echo "$#: $1"; echo lost >&2; exit 7', ["a b", "c"])
    assert (outcome.status, outcome.stdout, outcome.stderr, outcome.truncated) == (7, b"2: a b\n", b"", False)
    assert (await here.ask("kill -9 $(exec sh -c 'echo $PPID')")).status == 128 + 9
    assert (await here.ask("pwd; readlink /proc/self/fd/0")).text.split() == [os.environ["HOME"], "/dev/null"]


ARGUMENTS = [
    "", "-n", "a b", "it's", '"q"', "$(id) `id` $HOME", "a\nb\\n\\", "!! %s {x,y} *", "ünï", "x" * 200_000,
    bytes(range(1, 256)).decode("utf-8", "surrogateescape"),
]  # fmt: skip


async def test_arguments_arrive_as_they_are(here: LocalTransport) -> None:
    outcome = await here.ask('for argument; do printf "%s\\0" "$argument"; done', ARGUMENTS)
    assert outcome.stdout.decode("utf-8", "surrogateescape").split("\0") == [*ARGUMENTS, ""]


async def test_a_script_may_have_quotes_lines_and_here_documents(here: LocalTransport) -> None:
    text = "# it's a comment\ncat <<'END'\n'\"$1\\\nEND\ncat <<END\n$1\nEND\nprintf '%s' \"last\nline\""
    for _ in range(2):
        assert (await here.ask(text, ["one"])).text == "'\"$1\\\none\nlast\nline"
    assert (await here.ask("cat <<END\nno newline\nEND")).text == "no newline\n"


@pytest.mark.parametrize("output", [b"", b"\n", b"no newline", b"\n\nx\n\n", bytes(range(256)) * 9, b"\xff\n\n"])
async def test_any_bytes_come_back_as_they_are(here: LocalTransport, tmp_path: Path, output: bytes) -> None:
    (tmp_path / "file").write_bytes(output)
    for _ in range(2):
        outcome = await here.ask('cat "$1"; exit 3', [str(tmp_path / "file")])
        assert (outcome.stdout, outcome.status) == (output, 3)


async def test_big_output_is_whole_and_bigger_output_is_cut(here: LocalTransport) -> None:
    data = (await here.ask('head -c 1000000 /dev/zero | tr "\\0" "\\n"')).stdout
    assert data == b"\n" * 1_000_000
    outcome = await here.ask('head -c "$1" /dev/zero', [str(OUTPUT_LIMIT + 1)])
    assert outcome.truncated and len(outcome.stdout) == OUTPUT_LIMIT
    heard = []
    outcome = await here.ask(
        'head -c "$1" /dev/zero', [str(OUTPUT_LIMIT + 1)], on_output=lambda _, chunk: heard.append(len(chunk))
    )
    assert sum(heard) == OUTPUT_LIMIT + 1 and outcome.stdout == b"" and not outcome.truncated


async def test_output_comes_as_it_is_made(here: LocalTransport) -> None:
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    script = 'echo a; until [ -e "$1" ]; do sleep 0.01; done; printf b; sleep 2006'
    signal = Path.home() / "go on"
    asking = asyncio.create_task(here.ask(script, [str(signal)], on_output=lambda *given: heard.put_nowait(given)))
    assert await heard.get() == ("stdout", b"a")  # its newline may yet begin the end
    signal.touch()
    assert await heard.get() == ("stdout", b"\nb")
    asking.cancel()
    await asyncio.wait([asking])


async def test_no_output_is_taken_for_the_end(here: LocalTransport) -> None:
    """The nonce is nowhere that a script can look, and what it prints like it is output."""
    marks = "UGRO-aabbccddeeff001122334455-1 0"
    prying = "set; env; alias; tr '\\0' '\\n' </proc/$$/cmdline; tr '\\0' '\\n' </proc/$$/environ"
    await here.ask("true")
    nonce = nonce_of(here)
    for _ in range(2):
        said = (await here.ask(f"printf '\\n%s\\n\\n%s\\n' '{marks}' 'x-0 0'; {prying}; exit 5")).text
        assert said.startswith(f"\n{marks}\n\nx-0 0\n")
        assert nonce not in said
    assert nonce_of(here) == nonce


def nonce_of(transport: LocalTransport) -> str:
    kept = transport._shell._shell
    assert kept
    return kept._nonce


# One call and the next


async def test_calls_share_a_shell_and_nothing_in_it(here: LocalTransport) -> None:
    first = (await here.ask(PID)).text
    await here.ask(
        "cd /; set -f -u -e; umask 077; IFS=x; export LEAK=1; leak() { :; }; alias leak=ls; trap 'echo trapped' EXIT\n"
        "exec 3>/dev/null; ulimit -n 99; set -- 1 2 3; readonly PATH; exit 9"
    )
    before = (await here.ask("echo }; )")).status
    assert before != 0  # a syntax error is the script's own
    await here.ask("exec true")
    told = 'echo "$$|$PWD|$#|$-|$(umask)|${LEAK-}|${IFS#?}"; type leak; ls -d /et*; PATH=x; ls /proc/self/fd/3'
    lines = (await here.ask(told)).text.split("\n")
    assert lines[0].split("|")[:3] == [first.strip(), os.environ["HOME"], "0"]
    fresh = LocalTransport(here.node)
    expected = (await fresh.ask(told)).text.split("\n")
    await fresh.close()
    assert [line.partition("|")[2] for line in lines] == [line.partition("|")[2] for line in expected]
    assert lines[3:] == expected[3:]


async def test_output_of_an_earlier_call_is_not_in_the_answer_of_a_later_one(here: LocalTransport) -> None:
    await here.ask("{ sleep 0.2; echo late; } &")
    await asyncio.sleep(0.4)
    assert (await here.ask("echo mine")).text == "mine\n"


async def test_many_calls_at_once_are_answered_in_order(here: LocalTransport) -> None:
    done: list[int] = []

    async def one(number: int) -> str:
        said = (await here.ask('echo "$1 $$"', [str(number)])).text
        done.append(number)
        return said

    said = await asyncio.gather(*map(one, range(200)))
    assert done == list(range(200))
    assert [line.split()[0] for line in said] == list(map(str, range(200)))
    assert len({line.split()[1] for line in said}) == 1


async def test_a_script_is_sent_once(here: LocalTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    write = local._LocalChannel.write

    async def counting(channel: local._LocalChannel, data: bytes) -> None:
        sent.append(len(data))
        await write(channel, data)

    monkeypatch.setattr(local._LocalChannel, "write", counting)
    script = "echo " + "x" * 5000
    for _ in range(3):
        await here.ask(script)
    assert sent[1] > 5000 > 200 > sent[2] == sent[3]


async def test_more_scripts_than_a_shell_holds_begin_a_new_one(here: LocalTransport) -> None:
    said = {(await here.ask(f"{PID}; : {number}")).text for number in range(shell.SCRIPTS_KEPT + 1)}
    assert len(said) == 2


# When it goes wrong


async def test_a_timeout_ends_the_call_and_its_shell(here: LocalTransport) -> None:
    first = (await here.ask(PID)).text
    heard = bytearray()
    began = time.monotonic()
    with pytest.raises(CommandTimedOut, match=r"within 0\.3 s"):
        await here.ask(
            "trap '' TERM; echo before; sleep 2001; sleep 2001", timeout=0.3, on_output=lambda _, c: heard.extend(c)
        )
    assert time.monotonic() - began < 3
    assert heard == b"before\n"
    assert await ended("2001")
    assert not Path(f"/proc/{first.strip()}").exists()
    assert (await here.ask(PID)).text != first


async def test_waiting_for_ones_turn_costs_no_time(here: LocalTransport) -> None:
    said = await asyncio.gather(*(here.ask("sleep 0.2; echo done", timeout=0.5) for _ in range(5)))
    assert [outcome.text for outcome in said] == ["done\n"] * 5


async def test_a_cancelled_call_is_ended_and_the_next_in_line_is_served(here: LocalTransport) -> None:
    long = asyncio.create_task(here.ask("sleep 2002"))
    waiting, given_up = asyncio.create_task(here.ask("echo next")), asyncio.create_task(here.ask("echo never"))
    await asyncio.sleep(0.2)
    assert running("2002")
    given_up.cancel()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    assert (await waiting).text == "next\n"
    assert await ended("2002") and given_up.cancelled()


async def test_a_listener_that_fails_costs_the_shell_and_nothing_more(here: LocalTransport) -> None:
    def fail(stream: str, chunk: bytes) -> None:
        raise KeyError(stream)

    with pytest.raises(KeyError):
        await here.ask("echo a; sleep 2003", on_output=fail)
    assert await ended("2003")
    assert (await here.ask("echo b")).text == "b\n"


async def test_a_shell_that_is_killed_is_a_lost_call_and_then_another_shell(here: LocalTransport) -> None:
    with pytest.raises(LinkLost, match="the shell on the node ended"):
        await here.ask("kill -9 $$; sleep 0.1")
    pid = int((await here.ask(PID)).text)
    os.kill(pid, 9)
    await asyncio.sleep(0.1)
    assert int((await here.ask(PID)).text) != pid, "one that died between two calls is not missed"


async def test_closing_ends_shell_and_call(here: LocalTransport) -> None:
    pid = (await here.ask(PID)).text.strip()
    asking = asyncio.create_task(here.ask("sleep 2004"))
    await asyncio.sleep(0.2)
    await here.close()
    with pytest.raises(LinkLost):
        await asking
    assert await ended("2004") and not Path(f"/proc/{pid}").exists()
    assert (await here.ask("echo again")).text == "again\n"


def test_an_unclosed_transport_leaves_nothing(home: Path) -> None:
    async def forget() -> str:
        transport = LocalTransport(builders.this_machine())
        return (await transport.ask(PID)).text.strip()

    assert not Path(f"/proc/{asyncio.run(forget())}").exists()


async def test_a_login_shell_that_is_none(here: LocalTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SHELL_COMMAND", "echo This account is not available; exit 1")
    with pytest.raises(NodeRefused, match=r"did not run our script \(This account is not available\)"):
        await here.ask("true")
    monkeypatch.setattr(local, "SHELL_COMMAND", "echo hm; sleep 2005")
    monkeypatch.setattr(shell, "START_TIMEOUT", 0.3)
    with pytest.raises(CommandTimedOut, match="its login shell did not start"):
        await here.ask("true")
    assert await ended("2005")


async def test_chatter_of_any_length_is_passed_over(here: LocalTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    chatter = "seq 100000; seq 9 >&2; printf 'no newline'; exec /bin/sh"
    monkeypatch.setattr(local, "SHELL_COMMAND", chatter)
    assert (await here.ask("echo on")).text == "on\n"


@pytest.mark.parametrize("sh", ["dash", "bash --posix", "busybox sh"])
async def test_any_posix_shell_will_do(here: LocalTransport, monkeypatch: pytest.MonkeyPatch, sh: str) -> None:
    monkeypatch.setattr(local, "SHELL_COMMAND", f"exec {sh}")
    outcome = await here.ask('for argument; do printf "%s\\0" "$argument"; done; exit 3', ARGUMENTS[:-2])
    assert outcome.stdout.decode("utf-8", "surrogateescape").split("\0") == [*ARGUMENTS[:-2], ""]
    assert outcome.status == 3
    pid = (await here.ask(PID)).text
    for fault in ("echo }; )", ". /no/such/file", "set -u; : $nothing", "readonly x=1; x=2", "exec /no/such/file"):
        assert (await here.ask(fault)).status != 0
    assert (await here.ask("echo $#; echo $$")).text == f"0\n{pid}"


# Over SSH

PROGRAM = """
import asyncio, json, sys, time
from pathlib import Path
from ugro.common.inventory_file import load_inventory
from ugro.common.errors import NodeError
from ugro.nodes.pool import Pool
from ugro.nodes.transport import ssh

def tell(**fields):
    print(json.dumps(fields), flush=True)

async def ask(node, script, *args, **options):
    began = time.monotonic()
    try:
        outcome = await node.ask(script, args, **options)
        said = dict(status=outcome.status, text=outcome.stdout.decode())
    except NodeError as error:
        said = dict(code=error.code)
    return said | dict(seconds=time.monotonic() - began)

async def main():
    async with Pool(load_inventory(Path("inventory.yaml"))) as pool:
"""


def program(body: str) -> list[str]:
    """A Python program for the master, with a pool of transports and `ask`."""
    indented = "".join(f"        {line}\n" for line in body.strip().splitlines())
    return [sys.executable, "-W", "error", "-c", f"{PROGRAM}{indented}\nasyncio.run(main())\n"]


def told(bed: Testbed, body: str) -> list[dict[str, Any]]:
    done = bed.run(program(body))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def bed(testbed: Testbed) -> Testbed:
    testbed.reset()
    return testbed


NOISE = "echo chatter; sh -c 'echo more >&2'; sleep 1\n"


def test_a_slow_login_is_paid_once(bed: Testbed) -> None:
    bed.gpu1.write(".bashrc", f"echo x >>logins; {NOISE}")
    answers = told(bed, 'for n in range(20): tell(**await ask(pool["gpu1"], "echo $1; exit 3", str(n)))')
    assert [(answer["status"], answer["text"]) for answer in answers] == [(3, f"{n}\n") for n in range(20)]
    assert answers[0]["seconds"] > 0.9 and sum(answer["seconds"] for answer in answers[1:]) < 0.9
    assert bed.gpu1.path("logins").read_text() == "x\n"
    assert not bed.gpu1.processes() or all("/bin/sh" not in p.command for p in bed.gpu1.processes())


def test_other_login_shells_become_ours(bed: Testbed) -> None:
    bed.gpu1.set_shell("/usr/bin/fish")
    bed.gpu1.write(".config/fish/config.fish", NOISE)
    bed.gpu2.set_shell("/usr/bin/tcsh")
    bed.gpu2.write(".cshrc", NOISE)
    body = """
for name in ("gpu1", "gpu2"):
    for n in range(3):
        tell(**await ask(pool[name], 'printf %s "$1"', "it's\\n$HOME !! " + str(n)))
"""
    answers = told(bed, body)
    assert [answer["text"] for answer in answers] == [f"it's\n$HOME !! {n}" for n in (0, 1, 2)] * 2


def test_no_shell_of_ours_is_refused_over_ssh(bed: Testbed) -> None:
    bed.gpu2.set_shell("/usr/sbin/nologin")
    assert told(bed, 'tell(**await ask(pool["gpu2"], "true"))')[0]["code"] == "node_refused"


def test_a_call_that_is_ended_is_ended_on_the_node(bed: Testbed) -> None:
    bed.gpu1.write(".bashrc", NOISE)
    body = """
node = pool["gpu1"]
tell(**await ask(node, "trap '' TERM; sleep 1007; sleep 1007", timeout=0.5))
given_up = asyncio.create_task(ask(node, "sleep 1007"))
await asyncio.sleep(2)
given_up.cancel()
await asyncio.wait([given_up])
tell(**await ask(node, "ps -eo args | grep -c '[s]leep 1007'"))
await asyncio.gather(*(node.run("sleep 0.3") for _ in range(9)))
tell(free=node._sessions._value)
"""
    timed_out, left, sessions = told(bed, body)
    assert timed_out["code"] == "command_timed_out"
    assert left["text"] == "0\n"
    assert sessions["free"] == 7


def test_a_cut_link_costs_one_call(bed: Testbed) -> None:
    body = """
ssh.KEEPALIVE_INTERVAL = 0.5
node = pool["gpu1"]
tell(**await ask(node, "echo on"))
tell(**await ask(node, "sleep 1008"))
await asyncio.to_thread(sys.stdin.readline)
for _ in range(40):
    said = await ask(node, "echo healed")
    if "code" not in said:
        break
    await asyncio.sleep(0.2)
tell(**said)
await asyncio.to_thread(sys.stdin.readline)
tell(**await ask(node, "echo after"))
tell(free=node._sessions._value)
"""
    with bed.popen(program(body), stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        assert json.loads(process.stdout.readline())["text"] == "on\n"
        bed.gpu1.cut()
        lost = json.loads(process.stdout.readline())
        assert lost["code"] == "link_lost" and lost["seconds"] < 6
        bed.gpu1.heal()
        process.stdin.write("healed\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["text"] == "healed\n"
        bed.gpu1.end_sessions()  # while the shell is idle
        time.sleep(0.3)
        out, err = process.communicate("go on\n", timeout=20)
        after, sessions = map(json.loads, out.splitlines())
        assert (after["text"], sessions["free"]) == ("after\n", 7)
        assert (process.returncode, err) == (0, "")
