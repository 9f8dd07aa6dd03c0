"""Find in logs why a run ended: a catalogue as data, one reader for any log, and a pure verdict."""

from __future__ import annotations

from ugro.control_plane.diagnosis.finding import Diagnosis
from ugro.control_plane.diagnosis.reading import EvidenceReader
from ugro.control_plane.diagnosis.verdict import explain

__all__ = ["Diagnosis", "EvidenceReader", "diagnose", "diagnose_so_far", "explain"]

# SIGTERM is how torchrun and UGRO end the ranks that were still well.
_TOLD_TO_END = ("TERM", "INT", "HUP")


def diagnose(log: str, exit_code: int | None, signal: str | None) -> Diagnosis:
    """The cause that the end of a failed rank's log and its exit code or signal speak for."""
    ended = f"ended by SIG{signal}" if signal else f"exit code {exit_code}"
    if signal in _TOLD_TO_END:
        return Diagnosis("killed", ended, consequence=True)
    reader = EvidenceReader()
    reader.read([log.encode("utf-8", "replace")], one_process=True)
    if signal:
        reader.note_end(ended, signal)
    found = explain(reader.evidence, failed=True)
    if found is None or found.cause == "unknown":
        last = reader.evidence.last_words
        return Diagnosis("unknown", f"{ended}, last words: {last}" if last else ended)
    return found


def diagnose_so_far(log: str) -> Diagnosis | None:
    """The failure that the end of a log speaks for, of a rank that may still run; None if it speaks for none."""
    reader = EvidenceReader()
    reader.read([log.encode("utf-8", "replace")], one_process=True)
    return explain(reader.evidence)
