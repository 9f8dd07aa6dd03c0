"""Parts of a job spec with rules of their own: dependencies, retries, checkpoints, hangs, metrics."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from ugro.common.causes import CAUSES
from ugro.common.fields import NAME, Config, Line, Seconds, Text, Whole, is_flag
from ugro.common.globs import check_glob
from ugro.common.job_names import LAST, LAST_FAILED
from ugro.common.metric_pattern import compiled


def _dependency(value: str) -> str:
    job, _, when = value.partition(":")
    if not (NAME.fullmatch(job) or job in (LAST, LAST_FAILED)) or when not in ("", *DEPENDENCIES):
        raise ValueError(f"a job is expected, or JOB:{' or JOB:'.join(DEPENDENCIES)}")
    return value


def _cause(value: str) -> str:
    if value not in CAUSES:
        near = difflib.get_close_matches(value, CAUSES, 1)
        raise ValueError(f"a cause of failure is expected: {', '.join(near or CAUSES)}")
    return value


DEPENDENCIES = ("success", "failure", "any")
"""How the job that is waited for has to end; `success` unless another is said."""

Dependency = Annotated[str, AfterValidator(_dependency)]
Cause = Annotated[str, AfterValidator(_cause)]
OutputGlob = Annotated[Line, AfterValidator(check_glob)]
"""Files below the job's code folder, where its script runs."""


class HangAfter(Config):
    """Bounds of the silence, in seconds, after which a job can count as hung."""

    min: Seconds = Field(default=600.0, description="Shortest silence that can be a hang, and time without any work")
    max: Seconds = Field(default=7200.0, validate_default=True, description="Longest silence that is waited for")

    @field_validator("max")
    @classmethod
    def _not_below_min(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("min", 0.0):
            raise ValueError("a duration that is not shorter than 'min' is expected")
        return value


def _resume_template(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"not words as a shell reads them: {error}") from None
    if words and sum(word.count("{path}") for word in words) != 1:
        raise ValueError("{path} is expected in it once, as in '--resume_from_checkpoint {path}'")
    return value


Action = Literal["ask", "retry", "fail"]
"""What is done about a failure: propose and wait, try again without a question, nothing."""


class FailurePolicy(Config):
    """Retry policy of a job. `causes` overrides it for single causes: standing consent, or none.

    Of retries without a question there are at most `max_retries`; the first comes `backoff` seconds after the failure,
    and each one after twice as long as the one before.
    """

    default: Action = Field(default="ask", description="For every cause that `causes` does not name")
    causes: dict[Cause, Action] = Field(default_factory=dict, description="For single [causes](causes.md)")
    max_retries: Annotated[Whole, Field(ge=0, le=1000)] = Field(
        default=3, description="Retries without a question; after them UGRO asks"
    )
    backoff: Seconds = Field(default=30.0, description="Wait before the first retry; doubled with each one more")

    def action(self, cause: str) -> str:
        """Return the action for a failure of this cause."""
        return self.causes.get(cause, self.default)


def policy_from_words(value: object) -> object:
    """Return the fields of a policy from `retry`, or words of the command line such as `ask` and `peer_lost=retry`.

    Raises:
        ValueError: there is no word, or something else.
    """
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)):
        return value
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError("keys with values, or words such as ask and oom=fail, are expected")
    policy: dict[str, Any] = {"causes": {}}
    for word in words:
        cause, equals, action = word.partition("=")
        if equals:
            policy["causes"][cause] = action
        else:
            policy["default"] = cause
    return policy


class CheckpointRules(Config):
    """Where a job's checkpoints are, how its script resumes from one, and which copies the master keeps.

    `dir` is absolute, begins with `~/`, or is relative to the job's code; `pattern` is a glob of paths below it.
    `resume` are the arguments that a resumed script gets, with {path}; UGRO_RESUME_FROM is also set. The master keeps
    the last `keep_last` copies, and those of every `keep_every` steps.
    """

    dir: Line = Field(default="", description="Where the script saves: absolute, `~/…`, or relative to the code")
    pattern: Line = Field(default="", description="Glob of paths below `dir`; default: what the usual tools write")
    resume: Annotated[Text, AfterValidator(_resume_template)] = Field(
        default="", description="Words for a resumed script, with `{path}` once: `--resume_from_checkpoint {path}`"
    )
    keep_last: Annotated[Whole, Field(ge=1)] = Field(default=3, description="Newest copies that the master keeps")
    keep_every: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Also keep the copies of every so many steps"
    )


BY_VRAM: Literal["vram"] = "vram"
"""Of `share`: the job shares a GPU, and its `vram` is the memory that it takes of it."""


def share_of(value: object) -> float | Literal["vram"] | None:
    """Read which part of a GPU a job takes: a fraction, or `true` where its `vram` says it.

    Raises:
        ValueError: it is neither.
    """
    if value is None or value == BY_VRAM:
        return None if value is None else BY_VRAM
    if is_flag(value):
        return BY_VRAM if value is True or str(value).lower() in ("true", "yes", "on") else None
    try:
        fraction = float(value) if isinstance(value, (str, int, float)) else 0.0
    except ValueError:
        fraction = 0.0
    if not 0.0 < fraction < 1.0:  # nor is a NaN
        raise ValueError("a fraction of one GPU between 0 and 1 is expected, as in 0.5")
    return fraction


Share = Annotated[float | Literal["vram"] | None, BeforeValidator(share_of)]


def _metric_pattern(value: str) -> str:
    if value:
        compiled(value)
    return value


MOST_JOBS = 1000
"""Jobs of one sweep at most."""

_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(\d{1,18}))?")
_ARGUMENT = re.compile(r"-{0,2}[A-Za-z_][\w.-]*")


def sweep_values(value: object) -> tuple[str, ...]:
    """Return the values of one argument of a sweep: a list, or text such as `1e-3,1e-4`, `1..5` or `0..100..10`.

    Raises:
        ValueError: there is none, one is given twice, or there are more than MOST_JOBS.
    """
    if isinstance(value, str):
        given: list[object] = list(value.split(","))
    elif isinstance(value, (list, tuple)):
        given = list(value)
    else:
        given = [value]
    found: list[str] = []
    for one in given:
        if isinstance(one, bool) or not isinstance(one, (str, int, float)):
            raise ValueError("texts or numbers are expected")
        word = str(one).strip()
        found += _counted(match) if (match := _RANGE.fullmatch(word)) else [word]
        if len(found) > MOST_JOBS:
            raise ValueError(f"more than {MOST_JOBS} values; sweep fewer, or launch several sweeps")
    if not all(found):
        raise ValueError("values such as 1e-3,1e-4 or 1..5 are expected")
    if twice := next((word for word in found if found.count(word) > 1), None):
        raise ValueError(f"{twice} is given twice")
    return tuple(found)


def _counted(match: re.Match[str]) -> list[str]:
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if step == 0 or last < first:
        raise ValueError(f"{match[0]}: a range counts up, as in 1..5 or 0..100..10")
    if (last - first) // step >= MOST_JOBS:
        raise ValueError(f"{match[0]} are {(last - first) // step + 1:,} values; at most {MOST_JOBS} jobs are a sweep")
    return [str(number) for number in range(first, last + 1, step)]


def _sweep(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("arguments with values are expected, as in {lr: [1e-3, 1e-4], seed: 1..3}")
    swept: dict[str, tuple[str, ...]] = {}
    for name, values in value.items():
        if not (isinstance(name, str) and _ARGUMENT.fullmatch(name)):
            raise ValueError(f"{name!r} is no name of an argument")
        try:
            swept[name.lstrip("-")] = sweep_values(values)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if (jobs := math.prod(map(len, swept.values()))) > MOST_JOBS:
        raise ValueError(f"these values make {jobs:,} jobs; at most {MOST_JOBS} jobs are a sweep")
    return swept


Sweep = Annotated[dict[str, tuple[Text, ...]], BeforeValidator(_sweep)]
"""Values of arguments: one job is made for each combination."""


class MetricsRules(Config):
    """How metrics are read from a job's log where it has a format that UGRO does not know.

    Each named group of `pattern` is a series; the groups `step` and `epoch` say where. `ugro metrics --try` tries it.
    """

    pattern: Annotated[Line, AfterValidator(_metric_pattern)] = Field(
        default="", description=r"Regular expression with named groups: `step (?P<step>\d+).*loss (?P<loss>\S+)`"
    )
