"""Patterns of the course of a run: it makes progress, reached its end, or was started again."""

from __future__ import annotations

import re
from collections import Counter

# A run that got to its end. What is not the `sure` word of a trainer may be that of a script around it, which does not
# know, or knows only that it is over.
SUCCESS = re.compile(
    r"(?P<sure>'train_runtime':|train_runtime\s+=|`Trainer\.fit` stopped: `max_(?:epochs|steps|time)|"
    r"[Pp]rocess \d+ exits successfully)|"
    r"(?i:\b(?:training|train|finetuning|fine-tuning|optimi[sz]ation|experiment|run|job|script|all (?:epochs|tasks))\b"
    r"[\w ,'!:-]{0,40}"
    r"\b(?:completed?|finished|done|succeeded|successfully|ended)\b)|"
    r"(?i:\b(?:finished|completed|done with|done|end of) (?:training|train)\b)|"
    r"^(?:Total )?[Tt]raining time:? \d+:\d|训练完成|训练已完成|训练结束|"
    r"[Ee]xit(?:ed)?(?: with)? (?:code|status)[:=]? 0\b|\b(?:epochs|steps|iterations) completed in \d|"
    r"(?i:\bsav(?:e|ed|ing) (?:the )?(?:final|last) (?:model|checkpoint|weights)\b)|"
    r"(?i:\bsav(?:e|ed|ing) .{0,60}[/_]final\b|\bsav(?:e|ed|ing) .{0,60}model_final\b)|"
    r"\b[Ff]inal (?:validation|test|eval\w*) (?:metrics|results?|accuracy|loss|score)\b|"
    r"^(?:Done|DONE|done|Finished|Success)[.!]?$"
)
_NOT_YET = re.compile(r"(?i)\b(?:not|never|until|unless|if|when|once|before|will|would|should|must|waiting|\w+n't)\b")
_NOT_WELL = re.compile(r"(?i)error|fail|abort|unexpected|interrupt|prematur|killed|crash|(?:code|status)\W*[1-9-]")
# The state of a job by its scheduler, beside the exit code 0 of its script.
_STATE = re.compile(r"\bState: (?!COMPLETED)[A-Z_]{4,}")


def got_to_its_end(text: str, match: re.Match[str]) -> bool:
    """Whether the words of success that were found in a line mean that, with what stands around them."""
    if _STATE.search(text):
        return False
    rest = text[match.end() : match.end() + 40].split(". ")[0]
    return not (_NOT_YET.search(text[max(0, match.start() - 25) : match.end()]) or _NOT_WELL.search(match[0] + rest))


LEFT = re.compile(
    r"destroy_process_group\(\) was not called before program exit|process group has NOT been destroyed before|"
    r"at interpreter shutdown|after interpreter shutdown|_run_exitfuncs|Exception ignored in atexit"
)
"""Messages of a Python process that exits, be it with a traceback or at the end of its script."""

# Signs of a run that makes progress. Loading, mapping and downloading show bars too, and say nothing of training; nor
# does the summary that a logger prints at the end.
PROGRESS = re.compile(
    rb"(?i)(?<!co)loss|(?:\b|[\d.])(?:it/s|s/it)\b|\bepoch\b|\b(?:global_?)?step[ =:\[/]|\biter(?:ation)?\b|"
    rb"samples/s|tokens/s|tok/s|\bbatch[ :=#/\[]*\d"
)
LOADING = re.compile(
    rb"(?i)loading|download|fetching|tokeniz|\bmap\b|filter|generating|sanity|Error|Exception|warning|File \"|wandb: "
)

# In the words of torchrun, Ray, Horovod, Slurm, and of trainers.
RESTARTED = re.compile(
    r"will restart worker group|Restarting worker group|Setting OMP_NUM_THREADS environment variable for each process|"
    r"restart_count=[1-9]|TORCHELASTIC_RESTART_COUNT[=:] ?[1-9]|"
    r"^nohup: (?:ignoring input|忽略输入)|SLURM_RESTART_COUNT[=:] ?[1-9]|"
    r"DUE TO JOB REQUEUE|[Rr]equeu(?:ed|ing) (?:SLURM |the )?job|"
    r"[Jj]ob \S+ (?:has been |was )?requeued|FailureDecision\.RETRY|"
    r"[Rr]estart(?:ing|ed) (?:the |all |from )?(?:\S+ )?(?:actors?|workers?|worker group|training|trainer|trial|"
    r"run|job|process(?:es)?|checkpoint|step \d|epoch \d)\b|"
    r"[Aa]ttempting to (?:restore|restart|recover)|"
    r"[Rr]ecover(?:ing|ed) from (?:the )?(?:last |latest )?(?:checkpoint|failure)|"
    r"(?:[Rr]esum(?:ing|ed)|[Rr]estor(?:ing|ed)) (?:the )?"
    r"(?:training|run|job|trial|all states|state|(?:epoch|step) \d+)?\s?"
    r"(?:from|at) (?:the )?(?:last |latest )?(?:[\w-]+ )?(?:checkpoint|step|epoch|iteration|snapshot)|"
    r"\b[Ff]ailed\W{1,3}(?:re-?try|restart|re-?start|relaunch|resum)ing (?:\d|from\b|training\b|in \d+ ?s\w*$)|"
    r"(?:[Rr]etry|[Rr]elaunch|[Rr]e-?run|[Rr]esubmi)(?:ing|tted|tting|ning)? "
    r"(?:the )?(?:training|job|run|trial|worker group)\b"
)
"""A run that is started again: what went wrong before no longer says how it ended."""

BANNER = 3
"""Lines that a log begins with, by which another start of the same script is known."""

TELLING_SHAPE, COMPARED = 12, 40
"""Bytes that the shape of such a line must have, so that it is not like any other, and those that are compared."""

FIRST_LINES = 30
"""Lines of a log among which they are."""

REPEATED = 20
"""Times that such a line comes again without a failure until it is known to be one of many."""

NEAR = 3
"""Lines of a log within which the next one of them comes."""


class Banner:
    """Recognize the first lines of a log when they come again, given the shapes of its lines; `live` while it can.

    Where they come again before anything failed, several processes write, and another copy shows nothing.
    """

    def __init__(self) -> None:
        self.live = True
        self._shapes: list[bytes] = []
        self._learning = True
        self._matched = 0
        self._last_at = 0
        self._looked_at = 0
        self._times: Counter[bytes] = Counter()

    def has(self, shape: bytes) -> bool:
        """Whether it is one of the first lines, or may become one."""
        return self._learning or shape[:COMPARED] in self._shapes

    def again(self, shape: bytes, at: int, failed: bool) -> bool:
        """Whether the log's first lines came again, in their order, since something failed."""
        start = shape[:COMPARED]
        if self._learning and self._learn(start, failed):
            return False
        if not self.live or start not in self._shapes:
            return False
        self._times[start] += not failed
        if self._times[start] > REPEATED:
            del self._shapes[self._shapes.index(start) :]
            self.live, self._matched = len(self._shapes) > 1, 0
            return False
        goes_on = self._matched and start == self._shapes[self._matched] and at - self._last_at <= NEAR
        self._matched = self._matched + 1 if goes_on else int(start == self._shapes[0])
        self._last_at = at
        if self._matched < len(self._shapes):
            return False
        self._matched = 0
        self.live = failed
        return failed

    def _learn(self, start: bytes, failed: bool) -> bool:
        self._looked_at += 1
        full = len(self._shapes) >= BANNER or self._looked_at > FIRST_LINES
        self._learning = not (full or failed or b"Traceback" in start)
        if self._learning and len(start) >= TELLING_SHAPE and start not in self._shapes:
            self._shapes.append(start)
        self.live = self._learning or len(self._shapes) > 1
        return self._learning
