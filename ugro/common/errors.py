"""Every error UGRO shows to a person.

    UgroError
    ├── InputError            exit 2   wrong input, inventory or job spec
    │   ├── NoSuchNode
    │   ├── InventoryError
    │   └── JobSpecError
    ├── NodeError             exit 3   a node is unreachable or not trusted
    │   ├── Unreachable
    │   │   ├── TurnedAway             sshd closes the connection before it greets
    │   │   └── AnswerPending          it may only be slow
    │   ├── AuthenticationFailed
    │   ├── KeyUnusable           exit 2: the key on this machine is the mistake
    │   ├── HostKeyUnknown
    │   ├── HostKeyChanged
    │   ├── LinkLost                   the command's outcome is unknown
    │   ├── CommandTimedOut
    │   └── NodeRefused                the node answered, and cannot do what was asked
    │       └── ShellRefused           its login leads to no /bin/sh, and no waiting changes that
    ├── StateError            exit 4   the state directory cannot be read or written
    │   ├── RecordUnreadable           one record is torn or edited; the others are not
    │   │   └── RecordNewer            … or of a newer UGRO, and left as it is
    │   └── StateLocked                somebody else has been acting for too long
    ├── JobFailed             exit 1   the followed or waited-for job failed
    ├── NotSaved              exit 1   a running job left no checkpoint when it was asked for one
    ├── InternalError         exit 1   a bug: its traceback is in the log
    └── Declined              exit 5   a person answered a question with no

A message says what happened and where; the hint says what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

EXIT_OK = 0
EXIT_JOB_FAILED = 1
EXIT_INPUT = 2
EXIT_NODES = 3
EXIT_STATE = 4
EXIT_DECLINED = 5
EXIT_INTERRUPTED = 130


class UgroError(Exception):
    """Base of all errors meant for people.

    `code` is the stable name that scripts may match; `exit_code` is what the command ends with.
    """

    code = "error"
    exit_code = EXIT_INPUT

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, str]:
        """The body of `{"error": …}` that `--json` prints on stderr."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class InputError(UgroError):
    """What the person typed cannot be done as it stands."""

    code = "input"


class NoSuchNode(InputError):
    """A node is named that the inventory does not have."""


class InventoryError(InputError):
    """The inventory has a mistake: the message names file, line, field, what was found and what is expected."""

    code = "inventory"


class JobSpecError(InputError):
    """The job spec has a mistake, reported like an inventory's."""

    code = "job_spec"


class NodeError(UgroError):
    """Something about one node; `node` is its name in the inventory, `problem` the message without it.

    A `lasting` one is over when a person did something about it, and not by waiting.
    """

    code = "node"
    exit_code = EXIT_NODES
    lasting = False

    def __init__(self, node: str, message: str, hint: str = "") -> None:
        super().__init__(f"{node}: {message}", hint)
        self.node = node
        self.problem = message


class Unreachable(NodeError):
    """No connection could be made. It proves nothing about what runs on the node."""

    code = "unreachable"


class TurnedAway(Unreachable):
    """The node's sshd closed the connection before it greeted, again and again: it is busy, or bans this address."""

    code = "turned_away"


class AnswerPending(Unreachable):
    """The node has not answered within the patience of one observation: it may be slow, and counts neither way."""

    code = "answer_pending"


class AuthenticationFailed(NodeError):
    """The node answered but did not accept our key."""

    code = "authentication"
    lasting = True


class KeyUnusable(NodeError):
    """The private key (or an SSH configuration file) on this machine cannot be used, so nothing was tried."""

    code = "key_unusable"
    exit_code = EXIT_INPUT
    lasting = True


class HostKeyUnknown(NodeError):
    """The node's host key is in no known_hosts file."""

    code = "host_key_unknown"
    lasting = True


class HostKeyChanged(NodeError):
    """The node's host key differs from the one on record: a reinstall, or somebody in between."""

    code = "host_key_changed"
    lasting = True


class LinkLost(NodeError):
    """The connection broke while a command ran: whether the command took effect is unknown."""

    code = "link_lost"


class CommandTimedOut(NodeError):
    """The command ran out of its time and was ended on the node."""

    code = "command_timed_out"


class NodeRefused(NodeError):
    """The node answered and cannot do what was asked: no python, no space, no such file."""

    code = "node_refused"


class ShellRefused(NodeRefused):
    """The login works and runs no script of ours: another shell, an expired password, SFTP alone."""

    lasting = True


class StateError(UgroError):
    """The state directory cannot be read or written."""

    code = "state"
    exit_code = EXIT_STATE


class RecordUnreadable(StateError):
    """One record is torn, edited or may not be read; `path` is its file."""

    def __init__(self, path: Path, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.path = path


class RecordNewer(RecordUnreadable):
    """One record was written by a newer UGRO, which this one must not change, nor put an older copy in its place.

    `fields` is what it says, of which only what both are sure to mean alike may be used.
    """

    code = "state_newer"

    def __init__(self, path: Path, detail: str, fields: Mapping[str, object]) -> None:
        super().__init__(
            path,
            f"{path} was written by a newer UGRO: {detail}",
            "nothing of it is changed; update this UGRO to that version, or take out what was added by hand",
        )
        self.fields = fields

    @property
    def ended(self) -> bool:
        """Whether it is surely of a job that has ended."""
        return self.fields.get("state") in ("succeeded", "failed", "cancelled")

    @property
    def holds_nothing(self) -> bool:
        """Whether it is surely of a job that has nothing on any node."""
        return self.ended or self.fields.get("state") in ("queued", "held")


class StateLocked(StateError):
    """Somebody else acts on the cluster just now and did not finish in time."""

    code = "state_locked"


class JobFailed(UgroError):
    """The job that was followed or waited for did not succeed."""

    code = "job_failed"
    exit_code = EXIT_JOB_FAILED


class NotSaved(UgroError):
    """A running job was asked for a checkpoint, and none came in time."""

    code = "not_saved"
    exit_code = EXIT_JOB_FAILED


class InternalError(UgroError):
    """A bug of UGRO's own, met while something was done about `what`; its kind is that of a Python error.

    The command ends as any Python program does that meets one.
    """

    code = "internal"
    exit_code = 1

    def __init__(self, what: str, kind: str) -> None:
        super().__init__(
            f"{what}: unexpected {kind}",
            "everything else goes on; please report it with its traceback, in log/ugro.log of the state directory",
        )


class Declined(UgroError):
    """A person was asked and said no: a decision, and no mistake."""

    code = "declined"
    exit_code = EXIT_DECLINED

    def __init__(self, untouched: str = "nothing was changed") -> None:
        super().__init__(untouched)
