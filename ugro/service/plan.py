"""Plan, then act: what will change and what needs consent, and whether that is still true when it is carried out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

from ugro.common.errors import Declined, InputError
from ugro.common.text import some
from ugro.service.schemas.base import Document


class Question(Document):
    """A decision of the user's before a plan is carried out.

    `facts` are lines shown before the question. `refusal` and `hint` are the error where asking is not possible.
    `optional`: a no leaves that part out; else it ends the plan, and `untouched` says so.
    """

    id: str
    text: str
    facts: tuple[str, ...] = ()
    refusal: str
    hint: str
    default: bool = False
    optional: bool = False
    untouched: str = "nothing was changed"


class Fingerprint(Document):
    """What a plan was made of, as one digest for each thing by its name in words: `the attempt of job-001`."""

    parts: dict[str, str]

    @classmethod
    def of(cls, parts: Mapping[str, Any]) -> Self:
        """Return the fingerprint of such things: records, or what JSON can write."""
        return cls(parts={name: digest(value) for name, value in parts.items()})

    def require(self, now: Mapping[str, Any]) -> None:
        """Check that the same things are as they were.

        Raises:
            PlanChanged: something is not; the message names it.
        """
        current = Fingerprint.of(now).parts
        changed = [name for name in {**self.parts, **current} if self.parts.get(name) != current.get(name)]
        if changed:
            raise PlanChanged(changed)


class PlanChanged(InputError):
    """A plan is no longer true: what it was made of changed before it was carried out."""

    code = "plan_changed"

    def __init__(self, changed: list[str]) -> None:
        super().__init__(f"changed since this was planned: {some(changed)}; nothing was done", "look again, and decide")
        self.changed = tuple(changed)


class Plan(Document):
    """Base of plans: the effects are fields of the subclasses; these are the questions, and what it all rests on."""

    questions: tuple[Question, ...] = ()
    fingerprint: Fingerprint


def consented(questions: tuple[Question, ...], answers: Mapping[str, bool]) -> dict[str, bool]:
    """Return the answer to each question; an optional one without an answer is left out.

    Raises:
        InputError: a question has no answer. Declined: one that the plan needs was answered with no.
    """
    for question in questions:
        if question.id not in answers and not question.optional:
            raise InputError(question.refusal, question.hint)
        if not (question.optional or answers[question.id]):
            raise Declined(question.untouched)
    return {question.id: answers.get(question.id, False) for question in questions}


def digest(value: Any) -> str:
    """Return a digest of a record, or of what JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Return a record as JSON has it, and the text of anything else."""
    from pydantic import BaseModel  # here, since a command that only carries a plan needs none

    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
