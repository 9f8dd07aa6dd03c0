"""json.md: what each command prints with `--json`, from the schemas of the service layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from reference.commands import commands_with
from reference.markdown import Incomplete, code, docstring, page, prose, table
from reference.source import texts_below
from ugro.common.models.record import Record
from ugro.common.models.value import Value, json_name
from ugro.sandbox.cluster import SandboxStatus
from ugro.service.schemas import (
    again,
    alerts,
    check,
    checkpoints,
    crontab,
    ending,
    entry,
    estimate,
    explain,
    files,
    first_contact,
    footprint,
    gpu_check,
    history,
    launch,
    live,
    logs,
    maintenance,
    metrics,
    node_python,
    notebook,
    proposals,
    queries,
    queue,
    records,
    removal,
    resume,
    secrets,
    stacks,
    sweeps,
    tensorboard,
    time_limits,
    web,
)
from ugro.service.schemas.base import Request, Stream, answer_to
from ugro.service.schemas.codec import Moment

Model = type[BaseModel] | type[Value]


@dataclass(frozen=True)
class Printed:
    """What a command prints: a field of the answer to its request, or all of it; `when` names the option or form.

    `source` is the request, or the document itself where the command puts it together.
    """

    source: Model
    field: str = ""
    when: str = ""

    @property
    def hint(self) -> Any:
        """Return the type of what is printed."""
        answer: Any = self.source
        if issubclass(answer, Request | Stream):
            answer = answer_to(answer)
        for one in get_args(answer) or (answer,):
            if not self.field:
                return one
            if self.field in fields_of(one):
                return get_type_hints(one, include_extras=True)[self.field]
        raise Incomplete(f"what {self.source.__name__} gives has no field {self.field}")


COMMANDS: Mapping[str, tuple[Printed, ...]] = {
    "launch": (
        Printed(launch.LaunchDocument),
        Printed(launch.LaunchSweep, when="with `--sweep`"),
        Printed(launch.Rehearse, "scripts", "with `--dry-run`"),
    ),
    "ls": (Printed(files.ListFiles),),
    "pull": (Printed(files.Pull, "answer"),),
    "push": (Printed(files.Push, "answer"),),
    "status": (
        Printed(queries.Status, "answer"),
        Printed(queries.ShowJob, "answer", "with JOB"),
        Printed(sweeps.CompareSweep, when="with SWEEP"),
    ),
    "logs": (
        Printed(logs.LogLines, "lines"),
        Printed(logs.LogHits, "hits", "with `--since-line` or `--grep`"),
    ),
    "metrics": (Printed(metrics.Metrics), Printed(metrics.TryPattern, when="with `--try`")),
    "top": (Printed(live.LiveSnapshot, "data"),),
    "stacks": (Printed(stacks.Stacks, "answer"),),
    "rerun": (
        Printed(again.RerunDocument),
        Printed(launch.Rehearse, "scripts", "with `--dry-run`"),
    ),
    "edit": (Printed(again.Edit),),
    "exec": (Printed(entry.Execute, "answer"),),
    "forward": (Printed(entry.Forward),),
    "notebook": (Printed(notebook.NotebookLink),),
    "tensorboard": (Printed(tensorboard.TensorBoardLink),),
    "cancel": (Printed(ending.CheckCancelled, "job"),),
    "hold": (Printed(queue.Hold),),
    "release": (Printed(queue.Release, "job"),),
    "reprioritize": (Printed(queue.Reprioritize),),
    "extend": (Printed(time_limits.Extend),),
    "why": (Printed(queue.Why, "answer"), Printed(sweeps.WhySweep, when="with SWEEP")),
    "events": (Printed(queries.Events, "answer"),),
    "explain": (
        Printed(explain.Explain, "answer"),
        Printed(explain.LogsAnswer, "answer", "with `--log`"),
    ),
    "alerts show": (Printed(alerts.ShowAlerts),),
    "alerts test": (Printed(alerts.SendTestAlerts, "outcomes"),),
    "alerts init": (Printed(alerts.InitAlerts),),
    "checkpoint": (Printed(checkpoints.SaveCheckpoint, "answer"),),
    "checkpoints": (Printed(checkpoints.Checkpoints, "checkpoints"),),
    "resume": (Printed(resume.Resume, "answer"),),
    "proposals": (Printed(proposals.Proposals, "answer"),),
    "approve": (Printed(proposals.Approve, "job"),),
    "deny": (Printed(proposals.Deny, "answer"),),
    "rm": (Printed(removal.Remove),),
    "wait": (Printed(ending.Wait, "job"),),
    "nodes": (Printed(queries.Nodes, "answer"),),
    "history": (Printed(history.History, "answer"),),
    "drain": (Printed(maintenance.DrainNode),),
    "undrain": (Printed(maintenance.UndrainNode, "answer"),),
    "estimate": (Printed(estimate.EstimateMemory, "answer"),),
    "footprint": (Printed(footprint.ShowFootprint),),
    "node add": (Printed(first_contact.AddNode),),
    "node remove": (Printed(first_contact.RemoveNode),),
    "node rename": (Printed(first_contact.RenameNode),),
    "node clean": (Printed(footprint.Clean, "answer"),),
    "node python": (Printed(node_python.FindPython), Printed(node_python.MadePythonDocument, when="with `--make`")),
    "measure": (Printed(maintenance.Measure, "answer"),),
    "run": (Printed(maintenance.RunCommand, "answer", "a list with one for each node"),),
    "check": (
        Printed(check.CheckDocument),
        Printed(check.NetworkCheckDocument, when="with `--network`"),
        Printed(gpu_check.GpuCheckDocument, when="with `--gpu`"),
    ),
    "sweep": (Printed(maintenance.Sweep, "answer"),),
    "serve": (Printed(maintenance.ChangesDocument, when="one line for each tick that changed something"),),
    "dashboard": (Printed(web.Login),),
    "cron install": (Printed(crontab.InstallSweep),),
    "cron remove": (Printed(crontab.RemoveSweep),),
    "cron show": (Printed(crontab.ShowSweep),),
    "secret set": (Printed(secrets.SetSecret),),
    "secret list": (Printed(secrets.ListSecrets, "answer"),),
    "secret remove": (Printed(secrets.RemoveSecret),),
    "state rebuild": (Printed(records.Rebuild, "answer"),),
    "gc": (Printed(removal.Collect, "answer"),),
    "sandbox status": (Printed(SandboxStatus),),
}
"""Each command that has `--json`, and what it prints."""

LINES = {
    "at": "When.",
    "attempt": "Number of the attempt, from 1.",
    "attended": "Whether a scheduler is running.",
    "boot_id": "Id of the node's boot.",
    "bytes": "Its size.",
    "cause": "Cause of the failure ([list](causes.md)).",
    "clock_offset": "The node's clock minus the master's, in seconds, good to half of a round trip.",
    "code": "The code that it runs.",
    "code_bytes": "Size of their code on the master.",
    "cpu_count": "Number of logical CPUs.",
    "disk_free_mib": "Free space where `base_dir` is.",
    "ended_at": "When it ended.",
    "epoch": "Training epoch.",
    "error": "Why; `null`: there is none.",
    "errors": "Nodes that could not be asked, and why.",
    "exit_code": "Exit code of the script.",
    "first_failure": "What failed first, not the follow-on errors.",
    "gpu_problem": "Error message of nvidia-smi; a node without GPUs has neither GPUs nor a problem.",
    "id": "Id of the job.",
    "job": "Id of the job.",
    "launched_at": "When its nodes were first asked to start it.",
    "load_1m": "Load average over one minute.",
    "memory_available_mib": "Memory that programs could get.",
    "memory_free_mib": "Free memory.",
    "memory_total_mib": "All memory.",
    "memory_used_mib": "Memory in use.",
    "never_starts": "Whether it is unschedulable.",
    "node": "Name of the node.",
    "on_master": "Whether the master has a copy.",
    "owner": "Line that names the master that runs the node.",
    "pid": "Process id on the node.",
    "placement": "Where it ran.",
    "power_w": "Power draw.",
    "rank": "Global rank.",
    "schema_version": "Version of the form of this document.",
    "seen_at": "When it was last observed.",
    "signal": "Signal that ended the script, such as `KILL`.",
    "source": "Attempt that saved the checkpoint that it began from.",
    "started_at": "When it was first observed to run.",
    "starts_at": "When it will probably start.",
    "state": "Its state.",
    "step": "Training step.",
    "temperature_c": "Temperature.",
    "utilization_percent": "Share of the time in which it computed.",
}
"""Texts of fields that mean the same wherever they stand. A text below the field itself wins."""

UNITS = {"mib": "MiB", "bytes": "bytes", "seconds": "s", "percent": "%", "ms": "ms", "c": "°C", "w": "W",
         "gbit_per_s": "Gbit/s"}  # fmt: skip
"""Units by the last words of a field's name."""


PLAIN = {str: "text", Path: "text", int: "whole number", float: "number", bool: "flag", NoneType: "`null`"}
"""Types that JSON has, in words."""


def documents_page() -> str:
    """Return the page of what all commands print with `--json`."""
    if differ := set(commands_with("--json")) ^ set(COMMANDS):
        raise Incomplete(f"COMMANDS of scripts/reference/documents.py and --json differ: {', '.join(sorted(differ))}")
    hints = [printed.hint for several in COMMANDS.values() for printed in several]
    return page(
        "JSON documents",
        "What each command prints with `--json`: one document on stdout, or a list of them. Conventions, errors and "
        "exit codes: [scripting.md](../scripting.md).",
        "Every field is there. *time* is a text, ISO 8601 in UTC. A `null` means unknown or none.",
        table(("command", "prints"), ((code(f"ugro {name}"), _forms(forms)) for name, forms in COMMANDS.items())),
        *map(_section, _reached(hints)),
    )


def _forms(forms: Iterable[Printed]) -> str:
    return "; ".join(kind(form.hint) + (f" ({form.when})" if form.when else "") for form in forms)


def _reached(hints: Iterable[Any]) -> list[Model]:
    """Return the models in these types, each followed by those in its fields.

    Raises:
        Incomplete: two of them have one name.
    """
    left, found = list(hints), dict[str, Model]()
    while left:
        hint = left.pop(0)
        if not _is_model(hint):
            left[:0] = get_args(hint)
        elif hint.__name__ not in found:
            found[hint.__name__] = hint
            left[:0] = [*filter(None, [_base(hint)]), *get_type_hints(hint, include_extras=True).values()]
        elif found[hint.__name__] is not hint:
            raise Incomplete(f"two documents are called {hint.__name__}")
    return list(found.values())


def fields_of(model: Model) -> dict[str, str]:
    """Return the names of a model's fields, each with the one in JSON."""
    if issubclass(model, Value):
        return {field.name: json_name(field.name) for field in fields(model)}
    return {name: field.alias or name for name, field in model.model_fields.items()}


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel | Value)


def _base(model: Model) -> Model | None:
    """The document whose fields a document has beside its own."""
    base = model.__mro__[1]
    return base if issubclass(base, Value | Record) and fields_of(base) else None


def _section(model: Model) -> str:
    about = [prose(" ".join(paragraph.split())) for paragraph in docstring(model).split("\n\n")]
    base = _base(model)
    more = [f"The fields of {kind(base)} and:"] if base else []
    return "\n\n".join([f"## {model.__name__}", *about, *more, table(("field", "type", "meaning"), _rows(model, base))])


def _rows(model: Model, base: Model | None) -> Iterator[tuple[str, str, str]]:
    """One row for each field of a model that its base does not have.

    Raises:
        Incomplete: a field has no meaning in words.
    """
    hints, texts = get_type_hints(model, include_extras=True), texts_below(model)
    for name, named in fields_of(model).items():
        if base and name in fields_of(base) and name not in texts:
            continue
        meaning = texts.get(name) or LINES.get(name)
        if not meaning:
            raise Incomplete(f"{model.__module__}.{model.__name__}.{name} has no description: write one below it")
        yield code(named), kind(hints[name]) + _unit(name, hints[name]), prose(meaning)


def _unit(name: str, hint: Any) -> str:
    numeric = {int, float} & {hint, *get_args(hint)}
    unit = next((unit for end, unit in UNITS.items() if f"_{name}".endswith(f"_{end}")), "")
    return f" ({unit})" if unit and numeric else ""


def kind(hint: Any) -> str:
    """Return the JSON type of a field in words.

    Raises:
        Incomplete: there are none.
    """
    if hint == Moment:
        return "time"
    if hint in PLAIN:
        return PLAIN[hint]
    if _is_model(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(code(one.value) for one in hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(map(code, inner))
    if origin in (Union, UnionType):
        return " or ".join(map(kind, inner))
    if origin is Annotated:
        return kind(inner[0])
    if origin is tuple:
        return f"list of {kind(inner[0])}"
    if origin is dict:
        return f"map of {kind(inner[0])} to {kind(inner[1])}"
    raise Incomplete(f"the type {hint} has no words: add it to PLAIN in scripts/reference/documents.py")
