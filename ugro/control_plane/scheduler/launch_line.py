"""Translate a terminal's command line to one of `ugro launch`: `torchrun --nnodes 2 train.py`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ugro.common.job_spec.launchers import check_options
from ugro.common.text import printable

START = ("ugro", "launch")
"""The beginning of the line, unless the user gave options, which stay."""

_PYTHON = re.compile(r"(python|pypy)[0-9.]*")
_TORCHRUN = frozenset({"torchrun", "torch.distributed.run", "torch.distributed.launch"})
_LAUNCHERS = _TORCHRUN | {"accelerate", "deepspeed"}
# fmt: off
_WITH_VALUE = frozenset((
    "W", "X",
    "nnodes", "nproc-per-node", "node-rank", "master-addr", "master-port", "local-addr", "rdzv-backend",
    "rdzv-endpoint", "rdzv-id", "rdzv-conf", "max-restarts", "monitor-interval", "start-method", "role", "log-dir",
    "r", "redirects", "t", "tee", "local-ranks-filter", "logs-specs",
    "num-processes", "num-machines", "machine-rank", "main-process-ip", "main-process-port", "mixed-precision",
    "config-file", "gpu-ids", "dynamo-backend", "num-cpu-threads-per-process",
    "zero-stage", "deepspeed-config-file", "fsdp-version", "gradient-accumulation-steps", "bind-core-list", "log-level",
    "num-gpus", "num-nodes", "hostfile", "H", "include", "i", "exclude", "e",
))
# fmt: on
"""Options of these programs whose value is the next word, without their dashes."""
_OURS = {
    "nnodes": "--nodes", "num-machines": "--nodes", "num-nodes": "--nodes",
    "nproc-per-node": "--gpus-per-node", "num-gpus": "--gpus-per-node",
}  # fmt: skip


@dataclass(frozen=True)
class Foreign:
    """A command line of a launcher, taken apart: what it runs, how, with which arguments and options of its own."""

    what: str
    args: tuple[str, ...] = ()
    module: bool = False
    no_python: bool = False
    options: dict[str, str] = field(default_factory=dict)
    launcher: str = "torchrun"
    launcher_args: tuple[str, ...] = ()


def plain(words: Sequence[str], start: Sequence[str] = START) -> str:
    """The words to type for a command that runs as it is typed; `start` as for `line`."""
    return printable(shlex.join([*start, "--", *words]))


def line(directory: Path, foreign: Foreign, start: Sequence[str] = START) -> str:
    """The words to type in that directory; `start` has those that begin it, with the options that were given."""
    how = ["-m"] if foreign.module else ["--no-python"] if foreign.no_python else []
    in_place = foreign.no_python and "/" not in foreign.what and os.path.isfile(directory / foreign.what)
    what = f"./{foreign.what}" if in_place else foreign.what
    own = [
        word
        for name, value in foreign.options.items()
        if name in _OURS and _OURS[name] not in start and re.fullmatch("[1-9][0-9]*", value)
        for word in (_OURS[name], value)
    ]
    launcher = ["--launcher", foreign.launcher] if foreign.launcher != "torchrun" and "--launcher" not in start else []
    launcher += ["--launcher-args", shlex.join(foreign.launcher_args)] if foreign.launcher_args else []
    args = [word for word in foreign.args if word != "--"]
    return printable(shlex.join([*start, *own, *launcher, *how, what, *(["--", *args] if args else [])]))


def translated(directory: Path, words: Sequence[str], said: Foreign, start: Sequence[str] = START) -> str:
    """Return the command for words that begin with an interpreter, a launcher or another program; empty otherwise.

    `said` has the words that `ugro launch` took for its own options: -m and --no-python.
    """
    program, *rest = words
    name = Path(program).name
    if os.path.isfile(directory / program):
        return ""
    if _PYTHON.fullmatch(name) or name in _LAUNCHERS:
        if foreign := _taken_apart(name, rest, said):
            instead = line(directory, foreign, start)
            if _PYTHON.fullmatch(name) and foreign.launcher == "torchrun":
                once = line(directory, replace(foreign, launcher="python"), start)
                return f"once, on one node: {once}; for each GPU, with torchrun: {instead}"
            return f"UGRO starts {foreign.launcher} on each node: {instead}"
        return plain(words, start) if rest else "name the script: UGRO starts it with the python of each node"
    if said.module or said.no_python or not shutil.which(program):
        return ""
    return plain(words, start)


def _kept(launcher: str, option: Sequence[str]) -> Sequence[str]:
    """Options that such a launcher gets from UGRO, too: those that say how it trains, not where."""
    if launcher == "torchrun":  # what is left of its options changes nothing that people name it for
        return ()
    try:
        check_options(launcher, option)
    except ValueError:
        return ()
    return option


def _taken_apart(program: str, words: Sequence[str], said: Foreign) -> Foreign | None:
    """Return what such a program runs; None where the words do not show it, as with `python -c`."""
    found, left = said, list(words)
    if program == "accelerate":
        if left[:1] != ["launch"]:
            return None
        del left[0]
    if program in ("accelerate", "deepspeed"):
        found = replace(found, launcher=program)
    while left and left[0].startswith("-"):
        option = left.pop(0)
        name, equals, value = option.lstrip("-").partition("=")
        name = name.replace("_", "-")
        if name == "c" and _PYTHON.fullmatch(program):
            return None
        given = [option]
        if not equals and name in _WITH_VALUE and left:
            value = left.pop(0)
            given.append(value)
        found = replace(
            found,
            module=found.module or name in ("m", "module"),
            no_python=found.no_python or name == "no-python",
            options=found.options | {name: value},
            launcher_args=(*found.launcher_args, *_kept(found.launcher, given)),
        )
    if not left:
        return None
    what, *args = left
    if found.module and what in _TORCHRUN:
        return _taken_apart(what, args, replace(found, module=False))
    return replace(found, what=what, args=tuple(args))
