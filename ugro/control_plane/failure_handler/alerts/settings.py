"""`$UGRO_HOME/alerts.yaml`: the channels that alerts go through, and the rules for what goes where.

The address of a channel is a secret: nothing here ever shows one, in an error or otherwise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic import model_validator as validator

from ugro.common.errors import InputError
from ugro.common.fields import ENV_NAME, NAME, Config, Line, Name, Seconds, is_given
from ugro.common.mistakes import Misplaced
from ugro.common.yaml_files import describe_in_file, line_of, read_yaml

QUIET = 600.0
"""Seconds in which a channel is not sent the same message again, unless its rule says otherwise."""

_SCHEMA = re.compile(r"[A-Za-z0-9+.-]{1,40}(?=://)")
_ADDRESS = re.compile(r"[^\s.'\"]*://\S*")


class AlertsError(InputError):
    """alerts.yaml has a mistake: the message names file, line and field, and shows nothing of a channel's address."""

    code = "alerts"


class AlertKind(StrEnum):
    """Kind of an alert, as rules name it."""

    FAILURE = "failure"
    RECOVERY = "recovery"
    HANG = "hang"
    PROPOSAL = "proposal"
    NODE_DOWN = "node_down"
    GPU_HOT = "gpu_hot"
    GPU_LOST = "gpu_lost"
    GPU_IDLE = "gpu_idle"
    GPU_SHARE = "gpu_share"
    DISK_LOW = "disk_low"
    DONE = "done"


class AlertChannel(Config):
    """A channel of notifications: an apprise URL, written here or in an environment variable."""

    url: SecretStr | None = None
    url_env: Line | None = None

    @validator(mode="after")
    def _one_of_both(self) -> AlertChannel:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("either 'url' or 'url_env' is expected")
        if self.url_env is not None and not ENV_NAME.fullmatch(self.url_env):
            raise Misplaced(("url_env",), "the name of an environment variable is expected")
        return self

    def address(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The apprise URL, a secret; None where its environment variable is not set."""
        return self.url.get_secret_value() if self.url else environ.get(self.url_env or "") or None

    @property
    def kind(self) -> str | None:
        """The part of the address that may be shown: `slack` of `slack://…`; None where there is none."""
        found = _SCHEMA.match(self.address() or "")
        return found[0].lower() if found else None


class Rule(Config):
    """Which kinds of alerts go to which channels. With `jobs`, a pattern of names or ids, it is about jobs alone."""

    when: Annotated[tuple[AlertKind, ...], Field(min_length=1)]
    to: Annotated[tuple[Name, ...], Field(min_length=1)]
    jobs: Line | None = None
    quiet: Seconds = QUIET

    @field_validator("when", mode="before")
    @classmethod
    def _known_kinds(cls, value: object) -> object:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(word in list(AlertKind) for word in words):
            raise ValueError(f"a list of these is expected: {', '.join(AlertKind)}")
        return words

    @field_validator("to", mode="before")
    @classmethod
    def _to_as_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    def wants(self, kind: AlertKind, job: str, name: str) -> bool:
        """Whether an alert of this kind about this job (empty: about a node) is for the rule's channels."""
        if self.jobs is not None and not (job and (fnmatchcase(name, self.jobs) or fnmatchcase(job, self.jobs))):
            return False
        return kind in self.when


class AlertSettings(Config):
    """All of alerts.yaml."""

    channels: dict[Name, AlertChannel] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    @field_validator("rules")
    @classmethod
    def _known_channels(cls, rules: tuple[Rule, ...], info: ValidationInfo) -> tuple[Rule, ...]:
        known = info.data.get("channels")
        unknown = [name for rule in rules for name in rule.to if known is not None and name not in known]
        if unknown:
            raise ValueError(f"no channel is called {unknown[0]!r}")
        return rules


class _Hidden(str):
    """Text of which an error message shows nothing."""

    def __repr__(self) -> str:
        return "(hidden)"


def load_settings(path: Path) -> AlertSettings:
    """Read and check alerts.yaml.

    Raises:
        AlertsError: with file, line and field; or others may read the addresses that are in it.
    """
    try:
        document = read_yaml(path, AlertsError)
        channels = document.get("channels")
        for name in channels if isinstance(channels, dict) else ():
            if not NAME.fullmatch(name):  # it may be the address itself, in the wrong place
                line = line_of(document, ("channels", name))
                raise AlertsError(f"{path}:{line}: channels: a short name is expected: 'phone: {{url: …}}'")
        hidden = {"channels": _hidden(channels)} if channels else {}
        settings = AlertSettings.model_validate(document | hidden)
    except ValidationError as error:
        keys = {key: key for model in (AlertSettings, AlertChannel, Rule) for key in model.model_fields}
        raise AlertsError(_ADDRESS.sub("(hidden)", describe_in_file(error, path, document, keys))) from None
    except AlertsError as error:
        raise AlertsError(_ADDRESS.sub("(hidden)", error.message), error.hint) from None
    mode = path.stat().st_mode & 0o777
    if mode & 0o077 and any(channel.url for channel in settings.channels.values()):
        raise AlertsError(
            f"{path} has addresses of channels and others may read it (mode {mode:o})", f"chmod 600 {path}"
        )
    return settings


def _hidden(value: Any) -> Any:
    """A document whose text, at any depth, is shown by no error message."""
    if isinstance(value, dict):
        return {key: _hidden(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_hidden(each) for each in value]
    return _Hidden(value) if isinstance(value, str) and is_given(value) else value


EXAMPLE = """\
# What UGRO tells you, and how. Only you may read this file (mode 600): addresses of channels are secrets.
# Try it: ugro alerts test. More: ugro alerts --help

channels:  # a name, and an address of https://appriseit.com/services/
  # phone: {url: "ntfys://a-secret-topic"}
  # team: {url: "slack://TokenA/TokenB/TokenC/#training"}
  # mail: {url_env: UGRO_MAIL_URL}   # the address is in this variable: mailtos://user:password@example.org?to=you@…

rules:  # when: failure recovery hang proposal node_down gpu_hot gpu_lost gpu_idle gpu_share disk_low done
  # - {when: [failure, hang, proposal, recovery, node_down, gpu_lost], to: [phone]}
  # - {when: [gpu_hot, disk_low], to: [mail], quiet: 6h}      # the same alert is sent once in 6 hours (else 10m)
  # - {when: [done, failure], to: [team], jobs: "llama-*"}    # only of jobs whose name or id is like this
"""
