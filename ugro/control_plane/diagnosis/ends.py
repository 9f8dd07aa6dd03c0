"""Ends of processes, as reported by the launchers, schedulers and shells that watched them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ugro.control_plane.diagnosis.codes import SIGNALS
from ugro.control_plane.diagnosis.lines import quote


@dataclass(frozen=True)
class ReportedEnd:
    """A launcher's, scheduler's or shell's report of a process that ended: an exit code or a signal's name.

    `root` and `time` are from torchrun's summary: the process that it saw fail first, and when.
    """

    message: str
    rank: int | None
    code: int | None
    signal: str | None
    root: bool = False
    time: str = ""
    at: int = 0
    progress: int = 0
    talk: int = 0


# What Windows calls a signal is an exit code; some print it with a sign, some without.
_WINDOWS = {0xC0000005: "SEGV", 0xC0000374: "SEGV", 0xC00000FD: "SEGV", 0xC000001D: "ILL", 0xC000013A: "INT"}
_WORDS = {
    **{words: name for name, words in SIGNALS.values()},
    "killed": "KILL",
    "segmentation fault": "SEGV",
    "bus error": "BUS",
    "已杀死": "KILL",
    "段错误": "SEGV",
    "总线错误": "BUS",
}
# Of those that a program prints by itself, too, only after the number of a process.
_SAID = "|".join(words for _, words in SIGNALS.values() if words not in ("Interrupt", "Broken pipe", "Quit", "Hangup"))
# How a process ended, in the words of who watched it. `code` is an exit code, minus a signal, or 128 plus a signal.
ENDS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:failed \(exitcode: )?(?P<code>-?\d+)\) local_rank: (?P<rank>\d+) \(pid",
        r"\(local_rank (?P<rank>\d+)\) FAILED \(exitcode (?P<code>-?\d+)\)",
        r"\bRank (?P<rank>\d+) crashed with exit code (?P<code>-?\d+)",
        r"MPI_ABORT was invoked on rank (?P<rank>\d+)",
        r"application called MPI_Abort\(.{1,60}, (?P<code>-?\d+)\) - process (?P<rank>\d+)",
        r"^Abort\((?P<code>\d+)\) on node \d+ \(rank (?P<rank>\d+) in comm",
        rf"(?:^|\] )Signal: (?P<word>{'|'.join(words for _, words in SIGNALS.values())}) \(\d+\)$",
        r"^make(?:\[\d+\])?: \*\*\* .*Error (?P<code>\d+)",
        r"exitcode\s*: (?P<code>-?\d+)\s+\(pid: \d+\)",
        r"traceback\s*: Signal (?P<code>\d+) \(SIG(?P<signal>\w+)\)",
        r"[Pp]rocess(?:es)? (?P<rank>\d+) terminated with (?:exit code (?P<code>-?\d+)|signal SIG(?P<signal>\w+))",
        r"\[rank: (?P<rank>\d+)\] Child process with PID \d+ terminated with code (?P<code>-?\d+)",
        r"process rank (?P<rank>\d+) with PID \d+ on node \S+ exited on signal (?P<code>\d+)",
        r"srun: error: \S+: tasks? (?P<rank>\d+)[\d,-]*: (?:Exited with exit code (?P<code>\d+)|(?P<word>[A-Z][\w ]+))",
        r"(?:exits with return code =|[Ee]xit(?:ed|s)?(?: with)? (?:[Cc]ode|status)[:=]?|return(?:ed)?(?: with)? "
        r"code|(?:returned|exited with) (?:a )?non-zero (?:exit )?(?:status|code)(?: of|:)?|terminated with exit code)"
        r" {0,4}(?P<code>-?\d+)",
        r"(?:died with <Signals\.|signal \d+: )SIG(?P<signal>[A-Z]+[12]?)",
        r"^(?:\S+: line \d+:\s+\d+ |\[\d+\]\s*\+?\s*\d* ?)?"
        rf"(?P<word>(?:{_SAID}))(?: \(core dumped\)|\s{{2,}}|\s*$)",
        rf"\bline \d+: +\d+ (?P<word>{'|'.join(words for _, words in SIGNALS.values())})\b",
        r"^(?:zsh: |\[\d+\] +[+-]? *\d+ )(?P<word>killed|segmentation fault|bus error)\b",
        r"terminated by signal SIG(?P<signal>[A-Z]+[12]?)",
        r"trainer process with rank=\[(?P<rank>\d+)",
        r"\*\*\* SIG(?P<signal>[A-Z]+[12]?) (?:\(@0x|received (?:by PID|at time=) ?)",
        r"^status (?P<code>-?\d+)\.?$",
        r"(?:KILLED BY SIGNAL:|=   EXIT CODE:) (?P<code>\d+)",
        r"Process (?P<rank>\d+) exit with status code (?P<code>\d+)",
        r"(?:[\])]|it/s|s/it|\d) ?(?P<word>Killed)$",
        r"^(?:.*\s)?(?P<word>已杀死|段错误|总线错误)(?:\s|$|（)",
        # whatever a launcher is: it names a process, how it ended, and its code
        r"\b(?:[Rr]ank|[Ww]orker|[Pp]rocess|[Tt]ask|[Tt]rainer|[Cc]ontainer|[Pp]od)\b.{0,100}"
        r"\b(?:failed|exited|crashed|terminated|died|aborted)\b.{0,300}\bcode[:= ]{1,2}(?P<code>-?[1-9]\d*)",
    )
)

_PART = re.compile(r"^(?:Failures|Root Cause \(first observed failure\)):$")
_RANK = re.compile(r"rank\s*: (\d{1,9}) \(local_rank: \d+\)")
_MPI = re.compile(r"Process name: \[\[\d+,\d+\],(\d{1,9})\]|=\s+RANK (\d{1,9}) PID \d+")
_TIME = re.compile(r"time {2,}: (\d{4}-\d\d-\d\d_[\d:]+)")

TABLE = (_PART, _RANK, _TIME, _MPI)
"""Patterns of the lines of torchrun's and mpirun's tables that name the process of the other lines."""


@dataclass
class FailureTable:
    """Position in the table that torchrun or mpirun prints when ranks failed."""

    root: bool = False
    rank: int | None = None
    time: str = ""

    def take(self, text: str) -> bool:
        """Whether a line says of which process the next ones of the table are."""
        if _PART.match(text):
            self.root, self.rank, self.time = text.startswith("Root"), None, ""
        elif match := _RANK.match(text) or _MPI.match(text):
            self.rank = int(match[match.lastindex or 1])
        elif match := _TIME.match(text):
            self.time = match[1]
        else:
            return False
        return True

    def end(self, match: re.Match[str], text: str, rank: int | None) -> ReportedEnd | None:
        """Return the end that a line reports, by a match of the catalogue's ENDS; None if it was a good one."""
        found = match.groupdict()
        code = int(found["code"][:11]) if found.get("code") else None
        if code == 0:
            return None
        of_table = text.startswith(("exitcode", "traceback", "Exit code:", "=   "))
        if found.get("rank"):
            rank = int(found["rank"][:9])
        elif of_table:
            rank = self.rank
        elif rank is None and "local_rank=0" in text:
            rank = 0
        signal = found.get("signal") or _WORDS.get((found.get("word") or "").strip()) or _signal(code, text)
        root, time = (self.root, self.time) if of_table else (False, "")
        return ReportedEnd(quote(text, match), rank, code, signal, root, time)


_LEAST_NEGATIVE = 240
"""The smallest exit code that is minus a signal as one byte; 255 is that of a mere `exit(-1)`."""


def _signal(code: int | None, text: str) -> str | None:
    if code is None:
        return None
    code = code - 256 if _LEAST_NEGATIVE <= code < 255 else code
    told = re.search(rf"(?i)signal\W{{0,3}}{abs(code)}\b", text) is not None
    number = -code if code < 0 else code - 128 if code > 128 else code if told else 0
    return SIGNALS[number][0] if number in SIGNALS else _WINDOWS.get(code & 0xFFFFFFFF)
