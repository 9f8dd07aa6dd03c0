"""Reads logs of any length in one pass and bounded memory, and keeps what may say why a run ended."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import ugro.control_plane.diagnosis.lines as lines
from ugro.control_plane.diagnosis.conjecture import HEADING, is_item
from ugro.control_plane.diagnosis.course import (
    LEFT,
    LOADING,
    PROGRESS,
    RESTARTED,
    SUCCESS,
    Banner,
    got_to_its_end,
)
from ugro.control_plane.diagnosis.ends import FailureTable, ReportedEnd
from ugro.control_plane.diagnosis.entry import CatalogueEntry, EntryKind
from ugro.control_plane.diagnosis.evidence import ENOUGH_PROGRESS, FACTS, REFUSED, Evidence, Sighting
from ugro.control_plane.diagnosis.lines import PlainLine
from ugro.control_plane.diagnosis.parting import LAST_LINES, STOPPED_BY_HAND, last_complaint
from ugro.control_plane.diagnosis.searching import NAN, TELLING, end_in, entry_of, possible, searched
from ugro.control_plane.diagnosis.silence import Shape, silence
from ugro.control_plane.diagnosis.traceback import EXCEPTION, HEADER, LONGEST, RAISED, Block, Blocks

MOST_SIGHTINGS = 512
MOST_SHAPES = 4096
MOST_ENDS = 256
MOST_RANKS = 10_000
OFTEN = 64
"""Times a line is seen until its repetitions are only counted."""

USUAL = 3
"""Times that a complaint is heard without an end until it is one of many."""

CONTINUATION = 6
"""Lines after the exception that still belong to its message."""

SOON = 40
"""Lines after a failure in which what says that it is over may be a script around it, which does not know."""


_FINITE = re.compile(r"(?i)\bloss['\"]?\s*[:=]\s*(?:tensor\()?['\"]?-?(?=[\d.]*[1-9])\d")
# Warnings that are more: NCCL has no word for an error, and a script may say that it ends itself.
_MEANT = re.compile(r"NCCL WARN|(?:stopping|ending|aborting) (?:the )?training|[Ee]xiting run")
# What the lines after an exception may say without making its cause clearer.
_SAYS_NO_MORE = ("unknown", "collective_timeout", "cuda_error", "cancelled")
_ENDED_BY_SOMEBODY = ("cancelled", "killed")
# Causes that a scheduler, a shell or a kernel reports after an exception: they are no part of its message.
_SAID_BY_OTHERS = ("time_limit", "node_lost", "node_rebooted", "segfault", "launch_failed")
_SAID_AS_WARNING = ("hang", "cancelled")
# The end of a connection as the operating system reports it, whatever the other end was.
_OWN_CONNECTION = re.compile(r"(?:Broken|Connection)\w*Error\b|EOFError\b")
_NUMBER_TELLS = re.compile(rb"code|status|(?i:nan|inf)\b")
_NAMES_A_RANK = re.compile(rb"(?i)rank|\[(?:default|gpu)?\d|^ {0,4}\d{1,4}: |-master-0")

# What differs between lines of one shape: numbers, and the strokes and spaces of progress bars.
_VARYING = b"0123456789.#=> \t\xe2\x96" + bytes(range(0x80, 0x90))


class EvidenceReader:
    """Takes logs one after the other; `evidence` is what they said so far. Never raises, whatever the bytes are."""

    def __init__(self) -> None:
        self.evidence = Evidence()
        self._blocks = Blocks()
        self._kept: dict[tuple[str, ...], Sighting] = {}
        self._dull: dict[bytes, Shape] = {}
        self._end_line = b""
        self._step_at = 0
        self._often: dict[bytes, Sighting] = {}
        self._latest: Sighting | None = None
        self._tails: dict[str, tuple[Sighting, int]] = {}
        self._table = FailureTable()
        self._fresh_progress = ENOUGH_PROGRESS
        self._rank: int | None = None
        self._file = 0
        self._file_at = 0
        self._stream = ""
        self._banner = Banner()
        self._failed_at = -1
        self._failed_progress = -1
        self._heading_at = -1
        self._done_at: int | None = None

    def read(self, chunks: Iterable[bytes], rank: int | None = None, one_process: bool = False) -> None:
        """Read a log; `rank` is whose it is, for lines that do not say."""
        self._rank = rank
        self._file += 1
        kind = "rank" if rank is not None else "process" if one_process else "mixed"
        self._stream = f"{kind} {self._file if rank is None else rank}"
        self._file_at = self.evidence.lines
        self._banner, self._failed_at = Banner(), -1
        last: deque[bytes] = deque([b""], maxlen=LAST_LINES)
        for raws in lines.split(chunks):
            for raw in raws:
                self._take(raw)
                if raw and not raw.isspace():
                    last.append(raw)
        self._tails.clear()
        if self._done_at is not None and self.evidence.progress - self._done_at >= ENOUGH_PROGRESS:
            self.evidence.success_at = -1  # what was over was not the training
        self.evidence.cut_short |= self._blocks.end(self.evidence.lines)
        self._take_leave(last)
        self.evidence.sightings = list(self._kept.values())
        if self.evidence.success_at < 0:
            self.evidence.silence = silence(self._dull.values(), self._end_line) or self.evidence.silence
        self._end_line = b""

    def _take_leave(self, last: Sequence[bytes]) -> None:
        """Look again at a log's last lines, which may say that it ended badly in words that nothing knows."""
        end, complaint = lines.read(last[-1]).text, last_complaint(last, self._is_usual)
        self.evidence.complained = complaint is not None
        self.evidence.last_words = (complaint or end)[: lines.QUOTED]
        if STOPPED_BY_HAND.search(end):
            self._keep("cancelled", EntryKind.ROOT, end.strip(), None, self._stream, None)

    def _is_usual(self, raw: bytes) -> bool:
        known = self._dull.get(raw.translate(None, _VARYING))
        return known is not None and known.count > USUAL

    def _take(self, raw: bytes) -> None:
        """Read closely only lines that may have a finding: most lines of a long log have the shape of earlier ones."""
        evidence = self.evidence
        evidence.lines = at = evidence.lines + 1
        shape = raw.translate(None, _VARYING)
        line = None
        known, banner = self._dull.get(shape), self._banner
        if known is not None:
            self._seen_before(known, raw, at)
        if banner.live and (known is None or known.banner):
            if banner.again(shape, at, self._failed_at > 0):
                self._start_anew()
            elif known is not None:
                known.banner = banner.has(shape)
        if self._blocks.open or self._tails:
            line = lines.read(raw)
            if self._belongs_to_a_traceback(line):
                return
            if at % LONGEST == 0:  # of ranks that fell silent in the middle
                self._blocks.forget(at - LONGEST)
                self._tails.clear()
        if known is not None:
            evidence.talk += 1
            if self._fresh_progress < ENOUGH_PROGRESS:
                self._count_progress(raw)
        elif often := self._often.get(shape):
            self._again(often)
        elif not self._told(raw, line):
            evidence.talk += bool(shape)
            self._count_progress(raw)
            self._dismiss(shape, raw)
        elif self._latest and self._latest.count >= OFTEN and len(self._often) < MOST_SHAPES:
            self._often[shape] = self._latest

    def _seen_before(self, known: Shape, raw: bytes, at: int) -> None:
        """Count another line of a shape, and note whether it shows progress or only watches it."""
        known.count += 1
        if known.count == 2:
            known.classify()
        if known.step:
            self._step_at = at
        elif known.watch and known.at < self._step_at:
            known.since, known.since_at = raw, at
        known.last, known.at = raw, at

    def _told(self, raw: bytes, line: PlainLine | None) -> bool:
        telling = TELLING.any(searched(raw))
        if telling or _NAMES_A_RANK.search(raw):
            line = line or lines.read(raw)
            if line.rank is not None and len(self.evidence.ranks) < MOST_RANKS:
                self.evidence.ranks.add(line.rank)
            self.evidence.masters = self.evidence.masters or "-master-0" in line.source
        if not (telling and line is not None and self._understood(line)):
            return False
        ended = bool(self.evidence.ends) and self.evidence.ends[-1].at == self.evidence.lines
        if ended or (self._latest and self._latest.cause in _ENDED_BY_SOMEBODY):
            self._end_line = raw
        return True

    def _start_anew(self) -> None:
        """Put aside what this log said so far: it is of a run that is over."""
        evidence = self.evidence
        over = {key: sighting for key, sighting in self._kept.items() if sighting.at > self._file_at}
        ends = [end for end in evidence.ends if end.at > self._file_at]
        if ends or over:
            earlier = evidence.before or Evidence()
            evidence.before = replace(
                earlier,
                sightings=[*earlier.sightings, *over.values()][:MOST_SIGHTINGS],
                ends=[*earlier.ends, *ends][:MOST_ENDS],
            )
        for key in over:
            del self._kept[key]
        evidence.ends = [end for end in evidence.ends if end.at <= self._file_at]
        evidence.started_at, evidence.started_progress = evidence.lines, evidence.progress
        evidence.success_at = evidence.left_at = self._failed_at = -1
        self._often.clear()
        self._latest, self._table, self._fresh_progress = None, FailureTable(), 0

    def _dismiss(self, shape: bytes, raw: bytes) -> None:
        if len(self._dull) >= MOST_SHAPES:
            self._dull.clear()
        if len(shape) < lines.QUOTED and not _NUMBER_TELLS.search(shape):
            self._dull[shape] = Shape(self._banner.has(shape), raw, self.evidence.lines)

    def note_end(self, message: str, signal: str, rank: int | None = None) -> None:
        """Add how the process ended, from a source other than its logs."""
        at, progress, talk = self.evidence.lines + 1, self.evidence.progress, self.evidence.talk
        end = ReportedEnd(message, rank, None, signal, root=True, at=at, progress=progress, talk=talk)
        self.evidence.ends.append(end)

    def _count_progress(self, raw: bytes) -> None:
        if self._fresh_progress < ENOUGH_PROGRESS and PROGRESS.search(raw) and not LOADING.search(raw):
            self._fresh_progress += 1
            self.evidence.progress += 1

    def _understood(self, line: PlainLine) -> bool:
        """Keep the findings of a line. Return whether there was one."""
        rank, stream = self._whose(line)
        self._latest = None
        at = self.evidence.lines
        if self._heading_at > 0 and is_item(line.text, at - self._heading_at):
            return True
        begun = self._blocks.begin(stream, line.text, at) and not line.text.lstrip().startswith("^C")
        ended = begun or self._end(line, rank)
        told = ended or self._loose(line, rank, stream) or self._loss(line, rank)
        return self._course(line) or told

    def _whose(self, line: PlainLine) -> tuple[int | None, str]:
        return line.rank if line.rank is not None else self._rank, line.source or self._stream

    def _belongs_to_a_traceback(self, line: PlainLine) -> bool:
        rank, stream = self._whose(line)
        self._continue(line, stream)
        block = self._blocks.take(stream, line.text, self.evidence.lines)
        if block and block.exception:
            self._end(line, rank)
            self._exception(block, block.rank if block.rank is not None else rank, stream)
        return block is not None

    def _continue(self, line: PlainLine, stream: str) -> None:
        """Add a line to the message of the exception before it, which may become another cause by it."""
        sighting, count = self._tails.pop(stream, (None, 0))
        if sighting is None or line.text.startswith("Traceback"):
            return
        if not line.text.strip():
            if sighting.message.endswith(":"):
                self._tails[stream] = (sighting, count)
            return
        if count < CONTINUATION and not line.level:
            self._tails[stream] = (sighting, count + 1)
            entry = entry_of(line.text.strip())
            if sighting.count == 1:
                sighting.more.append(line.text.strip()[: lines.QUOTED])
            open_ended = sighting.cause in ("nccl_error", "cuda_error") or sighting.message.endswith(":")
            vague = sighting.cause == "python_exception" and count == 0 and not EXCEPTION.match(line.text)
            vague = vague and entry is not None and entry.kind is EntryKind.ROOT
            told = (
                entry is not None
                and entry.kind is not EntryKind.HINT
                and entry.cause not in (*_SAYS_NO_MORE, *_SAID_BY_OTHERS)
            )
            if entry and told and (open_ended or vague):
                sighting.cause, sighting.kind, sighting.entry = entry.cause, entry.kind, entry

    def _exception(self, block: Block, rank: int | None, stream: str) -> None:
        entry = entry_of(block.exception) or entry_of(f"{block.exception} (raised in {block.frame})")
        if entry and entry.cause == "peer_lost" and block.local and _OWN_CONNECTION.match(block.exception):
            entry = None
        if block.orphaned:
            entry = None
        cause, kind = (entry.cause, entry.kind) if entry else ("python_exception", EntryKind.ROOT)
        kind = EntryKind.CONSEQUENCE if block.orphaned else kind
        block.handled |= LEFT.search(block.exception) is not None
        found = self._keep(cause, kind, block.exception, rank, stream, entry, block)
        if block.fatal:
            self._fails()
        self._tails[stream] = (found, 0)

    def _loose(self, line: PlainLine, rank: int | None, stream: str) -> bool:
        text = line.text.strip()
        entry = entry_of(text)
        quiet = line.quiet and HEADER not in text
        if entry and line.chatty and _is_small_talk(entry, text):
            return False
        if entry:
            hint = (
                quiet
                and entry.kind is EntryKind.ROOT
                and entry.cause not in _SAID_AS_WARNING
                and not _MEANT.search(text)
            )
            inner = lines.inner_rank(text) if rank is None else rank
            self._keep(entry.cause, EntryKind.HINT if hint else entry.kind, text, inner, stream, entry)
            if not hint and (
                entry.cause == "collective_timeout" or (entry.cause == "bad_arguments" and REFUSED in text)
            ):
                self._fails()
            return True
        raised = EXCEPTION.match(text) or (RAISED.search(text) if HEADER in text else None)
        if raised and not quiet and not LEFT.search(text):
            self._keep("python_exception", EntryKind.ROOT, text[raised.start() :], rank, stream, None)
            return True
        return False

    def _loss(self, line: PlainLine, rank: int | None) -> bool:
        if NAN in possible(line.text) and NAN.search(line.text) and not _FINITE.search(line.text):
            self._keep("nan_loss", EntryKind.CONFIRMATION, line.text.strip(), rank, "", None)
            return True
        return False

    def _course(self, line: PlainLine) -> bool:
        """Return whether a line shows the run's course: that it reached its end, exits, or is started again."""
        text, evidence = line.text.strip(), self.evidence
        patterns = possible(text)
        if HEADING in patterns and HEADING.search(text):
            self._heading_at = evidence.lines
            return True
        if RESTARTED in patterns and RESTARTED.search(text):
            self._start_anew()
            return True
        if LEFT in patterns and LEFT.search(text) and self._failed_at < 0:
            evidence.left_at = evidence.lines
        match = SUCCESS.search(text) if SUCCESS in patterns else None
        if match is None or not got_to_its_end(text, match):
            return False
        since = evidence.lines - self._failed_at if self._failed_at > 0 else SOON
        if match["sure"] or since >= SOON or evidence.progress > self._failed_progress:
            evidence.success_at = evidence.lines
            self._fresh_progress, self._done_at = (ENOUGH_PROGRESS, None) if match["sure"] else (0, evidence.progress)
        return True

    def _fails(self) -> None:
        self._failed_at, self._failed_progress = self.evidence.lines, self.evidence.progress

    def _end(self, line: PlainLine, rank: int | None) -> bool:
        text, evidence = line.text.strip(), self.evidence
        if self._table.take(text):
            return True
        match = end_in(text)
        end = self._table.end(match, text, rank) if match else None
        if end is None:
            return False
        if len(evidence.ends) < MOST_ENDS:
            evidence.ends.append(replace(end, at=evidence.lines, progress=evidence.progress, talk=evidence.talk))
        self._fails()
        self._fresh_progress = 0
        return entry_of(text) is None

    def _keep(
        self,
        cause: str,
        kind: EntryKind,
        text: str,
        rank: int | None,
        stream: str,
        entry: CatalogueEntry | None,
        block: Block | None = None,
    ) -> Sighting:
        """Note a sighting, or that one was seen again. Of very many the first and the last ones are kept."""
        evidence = self.evidence
        key = (cause, kind, stream, re.sub(r"\d+", "0", text[:160]), str(block and block.fatal))
        found = self._kept.get(key)
        handled = found is not None and evidence.progress - found.progress >= ENOUGH_PROGRESS // 2
        if found is None or handled:
            match = entry.pattern.search(text) if entry else None
            quote = lines.quote(text, match) if match else text[: lines.QUOTED]
            found = Sighting(cause, kind, quote, evidence.lines, rank, stream, entry, block)
            found.facts = {
                name: value for fact in FACTS if (told := fact.search(text)) for name, value in told.groupdict().items()
            }
            if len(self._kept) >= MOST_SIGHTINGS:
                for old in list(self._kept)[MOST_SIGHTINGS // 4 : MOST_SIGHTINGS // 2]:
                    del self._kept[old]
            self._kept[key] = found
            self._seen(found)
        else:
            self._again(found)
        self._latest = found if block is None else None
        return found

    def _again(self, sighting: Sighting) -> None:
        sighting.count += 1
        self._seen(sighting)

    def _seen(self, sighting: Sighting) -> None:
        evidence = self.evidence
        sighting.last_at, sighting.progress, sighting.talk = evidence.lines, evidence.progress, evidence.talk
        self._fresh_progress = 0


def _is_small_talk(entry: CatalogueEntry, text: str) -> bool:
    """Whether a logger would not say it of a failure at a level below that of a warning."""
    return entry.kind is EntryKind.ROOT and entry.cause not in _SAID_AS_WARNING and not RAISED.search(text)
