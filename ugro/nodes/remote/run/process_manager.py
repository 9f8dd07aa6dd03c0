"""Starts, watches and ends the ranks of one attempt on one node.

The files in a run's folder are the truth (docs/architecture.md names them); everything here either makes them or reads
them, so a controller that was killed finds the same world again.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter

from ugro.common.errors import NodeRefused
from ugro.common.fields import Line
from ugro.common.models.job import GpuPart
from ugro.common.models.record import Record
from ugro.common.paths import RunPaths
from ugro.common.text import printable
from ugro.nodes.remote.answers import require
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.python import ask_script
from ugro.nodes.remote.run.launchers import NEEDS, RANK_VARIABLES, agent, own_variables, rank_option
from ugro.nodes.remote.setup.setup import OF_INVENTORY, JobInterpreters
from ugro.nodes.transport import Transport

PORTS = (29500, 30499)
"""Ports for a job's rendezvous, from first to last: torchrun's default port and about a thousand that follow."""

TIME_LIMIT = "time-limit"
"""The file in a run's folder with the time limit that its ranks keep. Runs of an earlier UGRO have none."""

CHECKPOINT_REQUEST = "checkpoint-request"
"""The file in a run's folder that appears when a checkpoint is asked for; ranks find its path in their environment."""

INTERPRETER = re.compile(r"(python|pypy)[0-9.]*|sh|bash|dash|zsh|perl|ruby|node")
NAME_LENGTH = 60
"""Characters that are kept of a program's name: a job may call its programs what it likes."""

_STORAGE = re.compile(r"[!-~]{1,100}")

START_TIMEOUT = 30.0
PREPARE_TIMEOUT = 60.0
LIMIT_TIMEOUT = 20.0


@dataclass(frozen=True)
class NodeLaunch:
    """Everything one node needs to start its part of an attempt."""

    paths: RunPaths
    uid: str
    command: tuple[str, ...]
    """The script and its arguments; `-m` or `--no-python` before them means what it does for torchrun."""
    nnodes: int
    nproc: int
    master_addr: str
    master_port: int
    python: str
    gpus: tuple[str, ...] = ()
    interface: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    """Variables whose values come apart from the script, in a file that `reaper.py` reads and removes."""
    time_limit: float | None = None
    """Seconds after which `rank.py` ends a rank; it warns the script `time_warning` seconds before."""
    time_warning: float | None = None
    shares: tuple[float, ...] = ()
    """The fraction of the global batch of each rank of this node; none: equal batches."""
    part: GpuPart | None = None
    """What the job declared of the GPU that it shares with others."""
    resume_from: str | None = None
    """The checkpoint to resume from, on this node; may begin with `~/`."""
    resume_words: tuple[str, ...] = ()
    """Arguments that pass it to the script, with {path} in its place; UGRO_RESUME_FROM has it, too."""
    resume_of_each_rank: bool = False
    """Whether that path has `{rank}` in it, for `rank.py` to fill in."""
    launcher: str = "torchrun"
    launcher_args: tuple[str, ...] = ()
    """Options of the launcher that are added to those that UGRO sets."""
    world: tuple[tuple[str, int, tuple[str, ...]], ...] = ()
    """The name of every node of the attempt, by node rank, with the number of its ranks and its GPUs."""

    @property
    def run(self) -> str:
        """The token that marks every process of this run on this node, in UGRO_RUN."""
        return run_token(self.uid, self.paths)


def run_token(uid: str, paths: RunPaths) -> str:
    """The value of UGRO_RUN: unlike the job's id it is unique, also where nodes of a sandbox share one machine."""
    return f"{uid}/{paths.attempt}/{paths.node_rank}"


class PeerRoute(Record):
    """How a node reaches its peer of a training: with which address of its own, over which interface."""

    peer: Line
    address: Line
    interface: Line | None


class PreparedNode(Record):
    """What a node said just before the launch.

    `network` names its network stack: nodes that name the same one share their loopback. `addresses` has the interface
    of each address of the node (nothing: it does not say), `own` the address that its `train_address` stands for there.
    `ways` lead to the peers it was asked about, and `errors` says by peer why there is none.
    """

    python: Line
    torch: Line | None
    missing: tuple[Line, ...] = ()
    network: Line
    addresses: dict[Line, Line]
    own: Line | None
    ways: tuple[PeerRoute, ...]
    errors: dict[str, str]
    port: Annotated[int, Field(ge=1, le=65535)] | None


_PREPARED = TypeAdapter(PreparedNode)


def rank_environment(launch: NodeLaunch) -> dict[str, str]:
    """Return the variables of a rank that torchrun does not set; the job's own `env` wins over what UGRO suggests."""
    env: dict[str, str] = {}
    if launch.interface:
        # NCCL takes prefixes, unless `=` is before the name; gloo takes exact names only.
        env |= {"NCCL_SOCKET_IFNAME": f"={launch.interface}", "GLOO_SOCKET_IFNAME": launch.interface}
    if launch.launcher == "accelerate" and not launch.gpus:
        env["ACCELERATE_USE_CPU"] = "true"  # its option --cpu would start a single process
    env |= dict(launch.env)
    env |= own_variables(launch)
    if launch.gpus:
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(launch.gpus)}
    env |= {"UGRO_JOB": launch.paths.job, "UGRO_ATTEMPT": str(launch.paths.attempt), "UGRO_RUN": launch.run}
    for name, seconds in (("UGRO_TIME_LIMIT", launch.time_limit), ("UGRO_TIME_WARNING", launch.time_warning)):
        if seconds is not None:
            env[name] = _number(seconds)
    if launch.part:
        env["UGRO_GPU_MEMORY_MIB"] = str(launch.part.memory_mib)
        env["UGRO_GPU_FRACTION"] = str(launch.part.fraction)
    if launch.shares:
        env["UGRO_BATCH_SHARES"] = ",".join(map(str, launch.shares))
    return env


def launch_script(launch: NodeLaunch) -> str:
    """Return the text of `launch.sh`: what a user would type, plus the files that say what came of it.

    With arguments it starts nothing: it runs them in the environment of the ranks, as a command of its own.
    """
    env = {key: value for key, value in rank_environment(launch).items() if key not in launch.secrets}
    exports = "\n".join(f"export {key}={shlex.quote(value)}" for key, value in env.items())
    if launch.secrets:
        exports += f"\n# secrets, which reaper.py reads from a file and removes: {', '.join(launch.secrets)}"
    own = f"python={path_word(launch.python)}"
    if launch.launcher not in NEEDS:
        exports = f"unset {' '.join(RANK_VARIABLES)}\n{exports}\n" + 'export UGRO_PYTHON="$python"'
    if "/" in launch.python:  # programs of its environment are found, as after `activate`
        exports = f'export PATH="${{python%/*}}:$PATH"\n{exports}'
    if launch.resume_from is not None:
        own += f"; resume_from={path_word(launch.resume_from)}"
        exports += '\nexport UGRO_RESUME_FROM="$resume_from"'
        exports += "\nexport UGRO_RESUME_EACH=1" if launch.resume_of_each_rank else ""
    resume = "".join(f" {_resume_word(word)}" for word in launch.resume_words if launch.resume_from is not None)
    limit = (
        ""
        if launch.time_limit is None
        else f"echo {limit_line(launch.time_limit, launch.time_warning)} > {TIME_LIMIT}\n"
    )
    return f"""#!/bin/sh
# {launch.paths.job}, attempt {launch.paths.attempt}, node rank {launch.paths.node_rank} of {launch.nnodes}
umask 022
run_dir=$PWD
{own} # before the job's environment, which may have another HOME
surround() {{
{exports}
cd ../../code || exit
}}
[ $# -eq 0 ] || {{ surround; unset UGRO_RUN; exec "$@"; }} # beside the ranks, and none of them

mkdir claim 2>/dev/null || exit 0 # a second launch of the same attempt ends here
echo {shlex.quote(launch.uid)} > claim/uid
{limit}read -r stat < "/proc/$$/stat"; set -- ${{stat##*) }}; shift 19
read -r boot < /proc/sys/kernel/random/boot_id
echo "$$ $1 $boot" > pid.tmp && mv pid.tmp pid
trap : HUP INT TERM # ranks get their own signals; this stays to write the exit file

( # the job's environment is not this script's: a PATH of its own may not lead to mv and date
surround
export TORCHELASTIC_ERROR_FILE="$run_dir/agent.error"
export UGRO_CHECKPOINT_REQUEST="$run_dir/{CHECKPOINT_REQUEST}"
exec "$python" -S "$run_dir/reaper.py" "$run_dir" \\
    "$python" {agent(launch)}\\
    "$run_dir/rank.py" {rank_option(launch)}"$run_dir" {shlex.join(launch.command)}{resume}
)
code=$? # of a reaper that could not start, or was killed: else it has left torchrun's own
cd "$run_dir" && {{ [ -s exit ] || {{ echo "$code $(date +%s) reaper" 1<> exit.room && mv exit.room exit; }}; }}
"""


def limit_line(limit: float, warning: float | None) -> str:
    """The content of a run's `time-limit`, which `rank.py` reads again and again."""
    return f"{_number(limit)} {_number(warning or 0.0)}"


def _number(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def path_word(path: str) -> str:
    """A path of the node as a shell word, with a leading `~/` left to the node."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def _resume_word(word: str) -> str:
    """A word of the resume template as a shell word: the checkpoint's path is in a variable by then."""
    before, path, after = word.partition("{path}")
    return (
        f'{before and shlex.quote(before)}"$UGRO_RESUME_FROM"{after and shlex.quote(after)}'
        if path
        else shlex.quote(word)
    )


async def make_folder(transport: Transport, base_dir: str, job: str, uid: str) -> str:
    """Make the job's folder on a node and return the id of the storage it lies on: shared homes have one id.

    Raises:
        NodeError: the node is unreachable; NodeRefused: no folder can be made, or another job of that id runs there.
    """
    outcome = await transport.run(load("run/folder.sh"), (base_dir, job, uid))
    require(transport, outcome, f"cannot make a folder for {job} in {base_dir}")
    storage = outcome.text.strip()
    if not _STORAGE.fullmatch(storage):
        raise NodeRefused(transport.name, f"{base_dir}/storage-id there makes no sense: {printable(storage)[:80]!r}")
    return storage


async def prepare(
    transport: Transport,
    peers: Sequence[str],
    *,
    knock: int | None = None,
    ports: tuple[int, int] | None = None,
    launcher: str = "torchrun",
    interpreters: JobInterpreters = OF_INVENTORY,
) -> PreparedNode:
    """Check that a node can start its ranks: its python, what the launcher needs there, and (rank 0) a free port.

    The answer also has its routes to the peers; with `knock`, a peer without an answer at that port is out of reach.
    `interpreters` run the job where they differ from the inventory's.

    Raises:
        NodeRefused: it cannot, with the reason in words.
    """
    name, python = transport.name, interpreters.usable(transport)
    needs = NEEDS.get(launcher, ()) if interpreters.made else ()
    request = {
        "peers": list(peers),
        "knock": knock,
        "own": transport.node.train_address,
        "ports": ports,
        "modules": needs,
    }
    problem, hint = "the check before the launch failed", f"try there: {python} -c 'import sys; print(sys.version)'"
    args = (json.dumps(request),)
    ask = functools.partial(ask_script, transport, "run/prepare.py", args, _PREPARED, problem)
    seen = await ask(timeout=PREPARE_TIMEOUT, hint=hint, python=python)
    if "torch" in needs and not seen.torch:
        find = f"find an interpreter there that has it, or make one: ugro node python {name}"
        raise NodeRefused(name, f"{python} has no torch", f"{find}; or {interpreters.remedy(name)}")
    if seen.missing:
        problem = f"{python} has no {printable(seen.missing[0])}, which the launcher {launcher} needs"
        hint = f"install it there: {python} -m pip install {launcher}; or {interpreters.remedy(name)}"
        raise NodeRefused(name, problem, hint)
    if ports and not seen.port:
        raise NodeRefused(name, f"no port between {ports[0]} and {ports[1]} is free for the rendezvous")
    return seen


async def start(
    transport: Transport, paths: RunPaths, uid: str, script: str, secrets: Mapping[str, str] | None = None
) -> None:
    """Start a node's part of an attempt by its `launch_script`; harmless when it runs already.

    `secrets` are values by variable. They go to the node as data on stdin and into a file that only its user can read.

    Raises:
        Unreachable, NodeRefused: it did not start. LinkLost, CommandTimedOut: it may have.
    """
    args = (
        paths.run_dir, paths.job, str(paths.attempt), run_token(uid, paths), uid, script,
        load("run/rank.py"), load("run/reaper.py"), json.dumps(dict(secrets)) if secrets else "",
    )  # fmt: skip
    outcome = await transport.run(load("run/start.sh"), args, timeout=START_TIMEOUT)
    require(transport, outcome, "the launch failed")


async def set_time_limit(transport: Transport, paths: RunPaths, limit: float, warning: float | None) -> None:
    """Let the ranks of a run that has a time limit keep another one, in seconds since their start.

    Raises:
        NodeRefused: its ranks cannot hear of it, or the file cannot be written. NodeError: as `Transport.run` does.
    """
    outcome = await transport.run(
        load("run/limit.sh"), (paths.run_dir, limit_line(limit, warning)), timeout=LIMIT_TIMEOUT
    )
    require(transport, outcome, "the time limit of its ranks cannot be changed")


@dataclass(frozen=True)
class RunProcess:
    """A process of a run, with its children, outside of torchrun's own tree: a detached child of the script, say."""

    pid: int
    name: str

    @property
    def text(self) -> str:
        """For people: `python upload.py (pid 4711)`."""
        return f"{self.name} (pid {self.pid})"


@dataclass(frozen=True)
class Stopped:
    """What came of ending a run on one node: the pids that remain, and what ran there outside of torchrun's tree.

    `proved`: no process of it remains, not even one that nothing tells to be of the run. Else none was found.
    """

    left: tuple[int, ...]
    detached: tuple[RunProcess, ...]
    proved: bool = False


async def stop(transport: Transport, paths: RunPaths, uid: str, grace: float, *, began: bool = False) -> Stopped:
    """End every process of a run: SIGTERM, `grace` seconds of patience, SIGKILL.

    `began`: it was seen there before, so that missing files do not prove that it never started.

    Raises:
        NodeError: the node cannot be reached; what happened there is unknown.
    """
    args = (paths.run_dir, run_token(uid, paths), f"{grace:.0f}", *(["began"] if began else []))
    outcome = await transport.run(load("run/stop.sh"), args, timeout=grace + 20)
    require(transport, outcome, "its processes could not be ended")
    match = re.search(r"^left((?: [0-9]{1,10})*)$", outcome.text, re.MULTILINE)
    if not match:
        raise NodeRefused(transport.name, f"stopping gave no clear answer: {printable(outcome.text)[:100]}")
    left = tuple(int(pid) for pid in match[1].split())
    proved = not left and outcome.text.rstrip().endswith("\nproved")
    return Stopped(left, _processes(outcome.text), proved)


async def detached(transport: Transport, paths: RunPaths, uid: str) -> tuple[RunProcess, ...]:
    """Return the processes of a run outside of torchrun's own tree. Nothing is ended.

    Raises:
        NodeError: the node cannot be read.
    """
    outcome = await transport.ask(load("run/stop.sh"), (paths.run_dir, run_token(uid, paths), "look"))
    require(transport, outcome, "its processes cannot be seen")
    return _processes(outcome.text)


def _processes(text: str) -> tuple[RunProcess, ...]:
    found = re.findall(r"^found (\d{1,9}) (.*)$", text, re.MULTILINE)
    return tuple(RunProcess(int(pid), program_name(words.split("\t"))) for pid, words in found)


def program_name(words: Sequence[str]) -> str:
    """Return what a command line runs: its program, and an interpreter's script. Other arguments may be secrets."""
    program, *rest = words
    name = program.rsplit("/", 1)[-1]
    if INTERPRETER.fullmatch(name):
        options = itertools.takewhile(lambda word: word not in ("-c", "-e"), rest)
        script = next((word for word in options if word and word[0] != "-"), "")
        name = f"{name} {script.rsplit('/', 1)[-1]}".rstrip()
    return printable(name)[:NAME_LENGTH]


def merged_env(*parts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Environment maps laid over each other, the later ones winning, in a form that can be frozen."""
    merged: dict[str, str] = {}
    for part in parts:
        merged |= part
    return tuple(merged.items())
