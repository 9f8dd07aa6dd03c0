"""What differs between two job specs, and a spec with changes. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from ugro.common.errors import InputError
from ugro.common.fields import variables_of
from ugro.common.job_spec import JobSpec, job_spec
from ugro.common.text import exactly
from ugro.control_plane.scheduler.arguments import options_of, with_changes
from ugro.service.schemas.again import FieldChange, SpecChanges
from ugro.service.schemas.codec import iso
from ugro.service.submission import COUNTS

FIXED = ("workdir", "sweep", "schema_version")
"""Fields that no job changes: its code is frozen, and one job is no sweep."""

_INSTEAD = {
    "hold": "see: ugro hold, ugro release",
    "sweep": "launch a sweep: ugro launch --sweep",
}
"""What to do instead of a change of a fixed field; of the others, a rerun takes other code."""

FIXED_IN_WAITING = (*FIXED, "hold")
"""The same of a job that waits: `ugro hold` and `ugro release` say whether it is held."""

_AGAIN = re.compile(r"-r[0-9]+")
LONGEST_NAME = 63
_SPANS = ("time_limit", "time_warning", "grace")


def changed(spec: JobSpec, changes: SpecChanges, script: str = "", fixed: tuple[str, ...] = FIXED) -> JobSpec:
    """Return a spec with changes, but for `fixed` fields; `script` is the script's text, whose options are known then.

    Raises:
        JobSpecError: a value is wrong. InputError: the script has no such argument.
    """
    given = dict(changes.fields)
    if refused := [name for name in fixed if name in given]:
        hint = _INSTEAD.get(refused[0], "for other code: ugro rerun JOB --new-code")
        raise InputError(f"'{refused[0]}' of a job cannot be changed", hint)
    fields = spec.model_dump()
    if changes.whole:
        fields = {name: fields[name] for name in fixed}
    else:
        given |= _merged(spec, given)
        fields |= {other: None for one, other in COUNTS if one in given}
    made = job_spec(**(fields | given))
    args = made.args if changes.args is None else changes.args
    if changes.settings:
        args, _ = with_changes(args, changes.settings, options_of(script))
    return made if args == made.args else job_spec(**(made.model_dump() | {"args": args}))


def _merged(spec: JobSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of which only the keys are replaced that are given. A variable has one value, or one secret."""
    merged = dict[str, Any]()
    if isinstance(given.get("checkpoints"), dict):
        merged["checkpoints"] = spec.checkpoints.model_dump() | given["checkpoints"]
    env, secrets = given.get("env", {}), given.get("secrets", ())
    if isinstance(env, dict) and isinstance(secrets, (list, tuple)) and (env or secrets):
        said = variables_of(map(str, secrets))
        merged["env"] = {name: value for name, value in spec.env.items() if name not in said} | env
        kept = [one for one in spec.secrets if not variables_of([one]).keys() & {*said, *env}]
        merged["secrets"] = [*kept, *secrets]
    return merged


def differences(before: JobSpec, after: JobSpec) -> tuple[FieldChange, ...]:
    """Return the fields that differ; of those that have keys, the keys."""
    old, new = _flat(before), _flat(after)
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return tuple(FieldChange(field=name, before=old.get(name), after=new.get(name)) for name in names)


def in_words(changes: tuple[FieldChange, ...]) -> str:
    """Return the differences on one line."""
    return "; ".join(f"{one.field}: {_shown(one.before)} → {_shown(one.after)}" for one in changes)


def next_name(name: str, taken: Mapping[str, Any] | set[str]) -> str:
    """Return a name for another job like the one of this name: `lr-1-r2`, `lr-1-r3` …"""
    end = _AGAIN.search(name)
    stem = name[: end.start()] if end and end.end() == len(name) and end.start() else name
    number = 2
    while True:
        suffix = f"-r{number}"
        if (found := stem[: LONGEST_NAME - len(suffix)] + suffix) not in taken:
            return found
        number += 1


def _shown(value: str | None) -> str:
    return "default" if value is None else value


def _flat(spec: JobSpec) -> dict[str, str]:
    fields = spec.model_dump(mode="json", exclude=set(FIXED))
    said = {name: exactly(value) for name in _SPANS if (value := fields[name]) is not None}
    said |= {"not_before": iso(spec.not_before) or ""} if spec.not_before is not None else {}
    said |= {"vram": f"{spec.vram} MiB"} if spec.vram is not None else {}
    fields |= said
    flat: dict[str, str] = {}
    for name, value in fields.items():
        if name == "args":
            flat[name] = shlex.join(value)
        elif isinstance(value, dict):
            flat |= {f"{name}.{key}": _text(one) for key, one in value.items() if one not in (None, {}, [])}
        elif value not in (None, {}, []):
            flat[name] = _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)
