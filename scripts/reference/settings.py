"""inventory.md and job.md: the keys of the files that people write, from their pydantic models."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from reference.markdown import Incomplete, code, docstring, page, prose, table
from ugro.common import fields
from ugro.common.config import Inventory, MetricsSettings, NodeConfig, WebSettings
from ugro.common.fields import Config
from ugro.common.job_spec import (
    CheckpointRules,
    FailurePolicy,
    HangAfter,
    JobSpec,
    MetricsRules,
    Setup,
    rules,
    setup,
)
from ugro.common.job_spec.environment import FILES_KEY, FILES_MEANING
from ugro.common.text import exactly

KINDS: Mapping[Any, str] = {
    fields.Text: "text",
    fields.Line: "text",
    fields.Name: "name",
    fields.NodeName: "name of a node",
    fields.Whole: "whole number",
    fields.Flag: "flag",
    fields.Address: "host name or IP address",
    fields.RemotePath: "absolute or `~/` path",
    fields.Seconds: "duration",
    fields.Moment: "time",
    fields.Mib: "size",
    fields.Env: "map of variables",
    fields.Secrets: "list: name of a secret",
    rules.Dependency: "job",
    rules.Cause: "cause",
    rules.Sweep: "map of values",
    rules.Share: "fraction below 1, or flag",
    int: "whole number",
    WebSettings: "map: [below](#dashboard)",
    MetricsSettings: "map: [below](#metrics)",
    HangAfter: "map: [below](#hang_after)",
    CheckpointRules: "map: [below](#checkpoints)",
    FailurePolicy: "map: [below](#on_failure)",
    MetricsRules: "map: [below](#metrics)",
    Setup: "map: [below](#setup)",
    setup.Python: "path, program or environment",
    setup.Input: "path",
}
"""What the type of a field is called in the files. Kinds are explained in docs/files.md."""

INTERNAL = {"inventory": {"path", "departed"}}
"""Fields that no file has: UGRO sets them."""

KINDS_PAGE = "[How each kind is written](../files.md). What stands in no file has the default."


def inventory_page() -> str:
    """Return the page of `inventory.yaml`."""
    top = [
        (code("defaults"), "map of keys of a node", "", "Keys that count for every node that has none of its own"),
        *(row for row in _rows(Inventory, INTERNAL["inventory"]) if row[0] in ("`nodes`", "`dashboard`", "`metrics`")),
    ]
    script = [row for row in _rows(Inventory, INTERNAL["inventory"]) if row[0] == "`script`"]
    return page(
        "inventory.yaml",
        "The machines of the cluster. `--inventory FILE`, `$UGRO_INVENTORY`, `./inventory.yaml`, "
        "`$UGRO_HOME/inventory.yaml`: the first of these counts.",
        KINDS_PAGE,
        table(HEADS, top),
        "## A node",
        "Each key may also stand under `defaults:`, but for `name`, which is the node's own key.",
        table(HEADS, _rows(NodeConfig)),
        "## Only under `defaults:`",
        table(HEADS, script),
        "## `dashboard`",
        _about(WebSettings) + " [More](../api.md#who-may-reach-it).",
        table(HEADS, _rows(WebSettings)),
        "## `metrics`",
        _about(MetricsSettings) + " [More](../monitoring.md).",
        table(HEADS, _rows(MetricsSettings)),
    )


def job_page() -> str:
    """Return the page of `job.yaml`."""
    nested: Sequence[tuple[str, type[Config]]] = (
        ("setup", Setup),
        ("checkpoints", CheckpointRules),
        ("metrics", MetricsRules),
        ("on_failure", FailurePolicy),
        ("hang_after", HangAfter),
    )
    parts = [f"## {key}\n\n{_about(model)}\n\n{table(HEADS, _rows(model))}" for key, model in nested]
    return page(
        "job.yaml",
        "What `ugro launch job.yaml` runs. Options on the command line win over what stands here. The frozen "
        "`spec.json` of a job has the same keys, with durations in seconds and sizes in MiB.",
        KINDS_PAGE,
        table(HEADS, _job_rows()),
        *parts,
    )


def _job_rows() -> Iterator[tuple[str, str, str, str]]:
    """Yield the fields of a spec, and what a job.yaml alone may say of its environment."""
    for row in _rows(JobSpec):
        if row[0] != code("env"):
            yield row
            continue
        yield row[0], f"{row[1]}, or list of `NAME=value` and of names to forward", *row[2:]
        yield code(FILES_KEY), "path, or list of them", "none", f"{FILES_MEANING}. Only in a job.yaml"


HEADS = ("key", "kind", "default", "meaning")


def _about(model: type[Config]) -> str:
    return prose(" ".join(docstring(model).split("\n\n")[0].split()))


def _rows(model: type[Config], internal: set[str] | None = None) -> list[tuple[str, str, str, str]]:
    hints = typing.get_type_hints(model, include_extras=True)
    rows = []
    for name, field in model.model_fields.items():
        if name in (internal or ()):
            continue
        if not field.description:
            where = f"{model.__module__}.{model.__name__}.{name}"
            raise Incomplete(f"{where} has no description: give it Field(description=…)")
        rows.append((code(name), kind(hints[name]), _default(field, hints[name]), field.description))
    return rows


def kind(hint: Any) -> str:
    """Return the type of a field in the words of the files.

    Raises:
        Incomplete: `KINDS` has no words for it.
    """
    found, bounds = _known(hint)
    if found is not None:
        return KINDS[found] + _between(bounds)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(kind(one) for one in inner if one is not NoneType)
    if origin is Annotated:
        return kind(inner[0])
    if origin is Literal:
        return ", ".join(code(str(one)) for one in inner)
    if origin is tuple:
        return f"list: {kind(inner[0])}"
    if origin is dict:
        model = isinstance(inner[1], type) and issubclass(inner[1], NodeConfig)
        return "map: name to [node](#a-node)" if model else f"map: {kind(inner[0])} to {kind(inner[1])}"
    raise Incomplete(f"the type {hint} has no words: add it to KINDS in scripts/reference/settings.py")


def _known(hint: Any) -> tuple[Any, Sequence[Any]]:
    """The entry of `KINDS` that a type is or was made from, and what was added to it."""
    if get_origin(hint) is not Annotated:
        return (hint, ()) if hint in KINDS else (None, ())
    base, *added = get_args(hint)
    for length in range(len(added), 0, -1):
        for known in KINDS:
            if get_origin(known) is Annotated and get_args(known) == (base, *added[:length]):
                return known, added[length:]
    return None, ()


def _between(added: Sequence[Any]) -> str:
    limits = [limit for one in added if isinstance(one, FieldInfo) for limit in one.metadata]
    low = next((limit.ge for limit in limits if hasattr(limit, "ge")), None)
    high = next((limit.le for limit in limits if hasattr(limit, "le")), None)
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return "" if low is None else f" of at least {low}"


def _default(field: FieldInfo, hint: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is PydanticUndefined or value in (None, "", ()) or isinstance(value, Config):
        return ""
    if isinstance(value, bool):
        return code(str(value).lower())
    known = _known(hint)[0]
    if known is fields.Seconds:
        return code(exactly(value))
    return code(_size(value) if known is fields.Mib else str(value))


def _size(mib: int) -> str:
    """A size as the files have it, exactly."""
    return f"{mib // 1024}G" if mib and mib % 1024 == 0 else f"{mib}M" if mib else "0"
