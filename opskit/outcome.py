"""How a run ended: one table, one classifier, each outcome with its exit code.

The outcome is read from the journal alone. What a notebook file says about itself is not asked: after a crash it
lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum

from opskit.actions import Past, Result
from opskit.checks import HEALTHY, UNKNOWN
from opskit.journal import Event


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    ERROR = 1
    BAD_INPUT = 2
    PLANNED = 3
    REFUSED = 4
    PARTLY = 5
    PEOPLE = 6


class Outcome(StrEnum):
    HEALTHY = "healthy"
    VERIFIED = "done and verified"
    ERROR = "error"
    LOST = "lost"
    INTERRUPTED = "interrupted"
    CUT_SHORT = "interrupted midway"
    PLANNED = "plan awaits approval"
    REFUSED = "refused"
    PARTLY = "partly applied"
    FATE_UNKNOWN = "fate unknown"
    PEOPLE = "only people can"
    UNKNOWN = "unknown"
    UNDONE = "taken back"
    UNVERIFIED = "done but not all verified"

    @property
    def exit(self) -> Exit:
        return EXITS[self]


EXITS = {
    Outcome.HEALTHY: Exit.OK,
    Outcome.VERIFIED: Exit.OK,
    Outcome.UNDONE: Exit.OK,
    Outcome.ERROR: Exit.ERROR,
    Outcome.LOST: Exit.ERROR,
    Outcome.INTERRUPTED: Exit.ERROR,
    Outcome.PLANNED: Exit.PLANNED,
    Outcome.REFUSED: Exit.REFUSED,
    Outcome.CUT_SHORT: Exit.PARTLY,
    Outcome.PARTLY: Exit.PARTLY,
    Outcome.UNVERIFIED: Exit.PARTLY,
    Outcome.FATE_UNKNOWN: Exit.PARTLY,
    Outcome.PEOPLE: Exit.PEOPLE,
    Outcome.UNKNOWN: Exit.PEOPLE,
}


def classify(events: Sequence[Event], approved: int | None) -> Outcome:
    """The outcome that a run's journal shows. `approved`: how many actions were to be carried out, if any were."""
    kinds = [event["event"] for event in events]
    if approved and "action.begun" in kinds:  # whatever happened then, that something was done matters most
        return _carried_out(events, approved)
    if "refused" in kinds:
        return Outcome.REFUSED
    if "interrupted" in kinds:
        return Outcome.INTERRUPTED
    if "failed" in kinds or "plan" not in kinds:
        return Outcome.ERROR
    if approved is not None:
        return _carried_out(events, approved)
    proposed = [event for event in events if event["event"] == "plan"][-1]
    if proposed["actions"] > proposed["manual"]:
        return Outcome.PLANNED
    if proposed["actions"]:
        return Outcome.PEOPLE
    return {HEALTHY: Outcome.HEALTHY, UNKNOWN: Outcome.UNKNOWN}.get(proposed["causes"][0], Outcome.PEOPLE)


def _carried_out(events: Sequence[Event], approved: int | None) -> Outcome:
    past = Past(events)
    results = [Result(event["result"]) for event in past.ended.values()]
    if past.begun.keys() - past.ended.keys() or Result.UNKNOWN in results:
        return Outcome.FATE_UNKNOWN
    if len(results) == approved and all(result.good for result in results):
        return Outcome.UNVERIFIED if Result.SAID in results else Outcome.VERIFIED
    return Outcome.CUT_SHORT if any(e["event"] == "interrupted" for e in events) else Outcome.PARTLY
