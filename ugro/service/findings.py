"""What a diagnosis found, as documents; and the diagnosis of log files, also of runs that UGRO never saw."""

from __future__ import annotations

from collections.abc import Iterable

from ugro.control_plane.diagnosis import Diagnosis, EvidenceReader, explain
from ugro.control_plane.diagnosis.causes import CAUSES
from ugro.service.schemas.explain import DiagnosisDocument, LogsAnswer


def explain_logs(logs: Iterable[tuple[int | None, Iterable[bytes]]]) -> LogsAnswer:
    """Explain why the run failed that wrote these logs: each with its rank, where that is known, and in pieces.

    No request: the logs are where the asker is, and may be larger than what is worth sending.
    """
    reader = EvidenceReader()
    for rank, pieces in logs:
        reader.read(pieces, rank)
    found = explain(reader.evidence)
    return LogsAnswer(answer=diagnosis_document(found), words=words_of(found))


def diagnosis_document(found: Diagnosis | None) -> DiagnosisDocument:
    """Return the document of a finding; None: nothing shows that the run failed."""
    if found is None:
        return DiagnosisDocument()
    return DiagnosisDocument(
        cause=found.cause,
        rank=found.rank,
        evidence=found.evidence,
        suggestion=found.advice.suggestion,
        retry_helps=found.advice.retry_helps,
        message=found.message,
        where=found.where,
        facts=found.facts,
        consequences=found.consequences,
    )


def words_of(found: Diagnosis | None) -> str | None:
    """Return the words for the cause of a finding."""
    return CAUSES.get(found.cause, CAUSES["unknown"]).words if found else None
