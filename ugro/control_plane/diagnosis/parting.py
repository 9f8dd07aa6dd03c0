"""The end of a log: its last lines, which may report a bad end in words that no pattern knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import ugro.control_plane.diagnosis.lines as lines
from ugro.control_plane.diagnosis.course import LOADING, PROGRESS, RESTARTED

LAST_LINES = 4
"""Lines at the end of a log that are read once more."""

# What tools of any kind say when they give up. Some of these words are also those of a talk about something else: they
# count after the name of who says them.
_COMPLAINT = re.compile(
    r"\b(?i:failed|failure|fatal|abort(?:ed|ing)?|crash(?:ed)?|terminated|killed|panic|exception|exceeded)\b|"
    r"\b(?:[Ee]rrors?|ERRORS?)\b|core dumped|not a valid|"
    r"^\S+: .*\b(?i:cannot|can't|could ?n.t|could not|unable|denied|refused|invalid|stopped|interrupted)\b|"
    r"^\S+: .*\b(?i:no such|not found)\b|"
    r"^[Uu]sage: \S|失败|失敗|错误|错誤|异常|エラー|오류|실패|\b[Ff]ehler|\b[Ee]rreur\b|\b[Ee]chec\b|ошибк"
)
_MEASURED = re.compile(
    r"(?i)\b(?:0|no|zero|without) (?:\w+ )?(?:errors?|fail)|\berrors?['\"]?\s*[:=]?\s*(?:\(?\w+\)?\s*)?[-\d.]|"
    r"\b(?:fail(?:ed|ures?)|rate)['\"]?\s*[:=]\s*[-\d.]|error[ _-]?(?:rate|bar|file|log)|"
    r"\b(?:mean|avg|average|train\w*|validation|val|test|absolute|squared|rms|relative|root|word|label|prediction|standard|"
    r"std|recon\w*|percent\w*) (?:\w+ )?error|of its own accord|abort complete|\bearly\b|https?://"
)
_LONGEST_COMPLAINT = 300
STOPPED_BY_HAND = re.compile(r"(?:^|\s)\^C$")
"""The last line of a terminal in which the user ended the run."""


def last_complaint(raws: Sequence[bytes], usual: Callable[[bytes], bool]) -> str | None:
    """Return the latest of a log's last lines in which a tool gives up; None if the run continued after it.

    A line that is `usual` in this log was no reason to give up before.
    """
    for at, raw in enumerate(reversed(raws)):
        line = lines.read(raw)
        text = line.text.strip()
        if RESTARTED.search(text):
            return None
        if not line.quiet and not usual(raw) and (complains(text) or (line.loud and at == 0)):
            return text
        if PROGRESS.search(raw) and not LOADING.search(raw):
            return None
    return None


def complains(text: str) -> bool:
    """Whether it is what a tool says that gives up, and not a measured error or a text that a model wrote."""
    said = len(text) <= _LONGEST_COMPLAINT and not text.startswith(("{", '"'))
    return said and _COMPLAINT.search(text) is not None and _MEASURED.search(text) is None
