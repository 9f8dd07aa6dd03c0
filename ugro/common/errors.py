"""Every error that UGRO shows to the user.

    UgroError
    ├── InputError            exit 2   wrong input, inventory or job spec
    │   ├── NoSuchNode
    │   ├── NoSuchJob
    │   ├── InventoryError
    │   └── JobSpecError
    ├── NodeError             exit 3   a node is unreachable or not trusted
    │   ├── Unreachable
    │   │   ├── TurnedAway             sshd closes the connection before its greeting
    │   │   └── AnswerPending          no answer within one observation
    │   ├── AuthenticationFailed
    │   ├── KeyUnusable           exit 2: the key on this machine is unusable
    │   ├── HostKeyUnknown
    │   ├── HostKeyChanged
    │   ├── LinkLost                   the command's outcome is unknown
    │   ├── CommandTimedOut
    │   └── NodeRefused                the node answered, and cannot carry out the request
    │       ├── PortClosed             nothing listens on that port of the node
    │       ├── SetupFailed            the setup command of a job failed there
    │       └── ShellRefused           its login leads to no /bin/sh; waiting does not help
    ├── StateError            exit 4   the state directory cannot be read or written
    │   ├── RecordUnreadable           one record is damaged or edited; the others are not
    │   │   └── RecordNewer            it is of a newer UGRO, and stays unchanged
    │   ├── StateLocked                another process has held the lock for too long
    │   └── ResidentGone               the resident controller ended before it answered
    ├── JobFailed             exit 1   the followed or waited-for job failed
    ├── NotSaved              exit 1   a running job saved no checkpoint after a request
    ├── InternalError         exit 1   a bug; its traceback is in the log
    ├── WaitTimedOut          exit 6   a job that was waited for has not ended in time
    └── Declined              exit 5   the user answered no

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
EXIT_WAIT_TIMEOUT = 6
EXIT_INTERRUPTED = 130


class UgroError(Exception):
    """Base of all errors shown to the user.

    `code` is the stable name that scripts may match; `exit_code` is what the command ends with.
    """

    code = "error"
    exit_code = EXIT_INPUT

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, str]:
        """Return the body of `{"error": …}` that `--json` prints on stderr."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class InputError(UgroError):
    """The user's input cannot be carried out as typed."""

    code = "input"


class NoSuchNode(InputError):
    """A node is named that the inventory does not have."""


class NoSuchJob(InputError):
    """A job is named that the state directory does not have."""


class InventoryError(InputError):
    """The inventory has an error: the message names file, line, field, the value found and the value expected."""

    code = "inventory"


class JobSpecError(InputError):
    """The job spec has an error, reported like an inventory's."""

    code = "job_spec"


class NodeError(UgroError):
    """An error about one node; `node` is its name in the inventory, `problem` the message without it.

    A `lasting` one needs action by the user; waiting does not help.
    """

    code = "node"
    exit_code = EXIT_NODES
    lasting = False

    def __init__(self, node: str, message: str, hint: str = "") -> None:
        super().__init__(f"{node}: {message}", hint)
        self.node = node
        self.problem = message


class Unreachable(NodeError):
    """No connection could be made. This proves nothing about the processes on the node."""

    code = "unreachable"


class TurnedAway(Unreachable):
    """The node's sshd closed every connection before its greeting: it is overloaded, or bans this address."""

    code = "turned_away"


class AnswerPending(Unreachable):
    """The node did not answer within the time limit of one observation: it counts neither as up nor as down."""

    code = "answer_pending"


class AuthenticationFailed(NodeError):
    """The node answered but rejected the key."""

    code = "authentication"
    lasting = True


class KeyUnusable(NodeError):
    """The private key (or an SSH configuration file) on this machine cannot be used, so no login was tried."""

    code = "key_unusable"
    exit_code = EXIT_INPUT
    lasting = True


class HostKeyUnknown(NodeError):
    """The node's host key is in no known_hosts file."""

    code = "host_key_unknown"
    lasting = True


class HostKeyChanged(NodeError):
    """The node's host key differs from the one on record: a reinstall, or a man in the middle."""

    code = "host_key_changed"
    lasting = True


class LinkLost(NodeError):
    """The connection broke while a command ran: whether the command took effect is unknown."""

    code = "link_lost"


class CommandTimedOut(NodeError):
    """The command exceeded its time limit and was ended on the node."""

    code = "command_timed_out"


class NodeRefused(NodeError):
    """The node answered and cannot carry out the request: no python, no space, no such file."""

    code = "node_refused"


class PortClosed(NodeRefused):
    """Nothing listens on a port of the node's loopback."""


class SetupFailed(NodeRefused):
    """The setup command of a job failed on the node, or took too long."""

    code = "setup_failed"


class ShellRefused(NodeRefused):
    """The login works but cannot run UGRO's scripts: another shell, an expired password, SFTP alone."""

    lasting = True


class StateError(UgroError):
    """The state directory cannot be read or written."""

    code = "state"
    exit_code = EXIT_STATE


class RecordUnreadable(StateError):
    """One record is damaged, edited or not readable; `path` is its file."""

    def __init__(self, path: Path, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.path = path


class RecordNewer(RecordUnreadable):
    """One record was written by a newer UGRO, which this one must neither change nor replace by an older copy.

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
        """Return whether the record is certainly of a job that has ended."""
        return self.fields.get("state") in ("succeeded", "failed", "cancelled")

    @property
    def holds_nothing(self) -> bool:
        """Return whether the record is certainly of a job that has nothing on any node."""
        return self.ended or self.fields.get("state") in ("queued", "held")


class StateLocked(StateError):
    """Another process acts on the cluster and did not finish in time."""

    code = "state_locked"

    def __init__(self, message: str, hint: str = "", pid: int | None = None) -> None:
        super().__init__(message, hint)
        self.pid = pid
        """Of the other process, where it is known."""


class ResidentGone(StateError):
    """The resident controller ended before it answered. What it recorded of the request stays."""

    code = "resident_gone"


class JobFailed(UgroError):
    """The followed or waited-for job did not succeed."""

    code = "job_failed"
    exit_code = EXIT_JOB_FAILED


class NotSaved(UgroError):
    """A running job saved no checkpoint in time after a request."""

    code = "not_saved"
    exit_code = EXIT_JOB_FAILED


class WaitTimedOut(UgroError):
    """A job has not ended within the time that it was waited for. This says nothing against the job."""

    code = "wait_timeout"
    exit_code = EXIT_WAIT_TIMEOUT


class InternalError(UgroError):
    """A bug of UGRO's own, met while something was done about `what`; its kind is that of a Python error.

    `job` is the id of the only job that it stops; empty: it may stop any.

    The command ends as any Python program does that meets one.
    """

    code = "internal"
    exit_code = 1

    def __init__(self, what: str, kind: str, job: str = "") -> None:
        super().__init__(
            f"{what}: unexpected {kind}",
            "everything else continues; please report it with the traceback in log/ugro.log of the state directory",
        )
        self.job = job


class Declined(UgroError):
    """The user answered no to a question: a decision, not an error."""

    code = "declined"
    exit_code = EXIT_DECLINED

    def __init__(self, untouched: str = "nothing was changed") -> None:
        super().__init__(untouched)
