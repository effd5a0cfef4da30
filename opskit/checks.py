"""Checks, and the one place where their answers become causes and an outcome.

A check answers yes, no, or unknown when it could not look. A "no" may name a cause. `healthy` needs every check
answered; without a cause and with a question open, the answer is `unknown`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

HEALTHY = "healthy"
UNKNOWN = "unknown"


class Answer(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Check:
    """One diagnostic question with its answer and its evidence."""

    name: str
    answer: Answer
    question: str
    cause: str | None = None  # what a "no" means
    because: str = ""  # why it is unknown, or what was seen
    required: bool = True  # without a yes to it, nobody may say healthy
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        return {Answer.YES: "✓ yes", Answer.NO: "✗ no", Answer.UNKNOWN: "? unknown"}[self.answer]


def causes(checks: Iterable[Check]) -> list[str]:
    """The causes that the checks name, in their order; else whether all is healthy or unknown."""
    found = list(checks)
    named = list(dict.fromkeys(c.cause for c in found if c.answer is Answer.NO and c.cause))
    if named:
        return named
    return [HEALTHY] if found and all(settled(c) for c in found) else [UNKNOWN]


def settled(check: Check) -> bool:
    return check.answer is Answer.YES or not check.required
