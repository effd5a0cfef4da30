"""How a run ended: every outcome, from the journal alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.actions import Result
from opskit.outcome import EXITS, Exit, Outcome, classify

Event = dict[str, Any]


def event(kind: str, **more: Any) -> Event:
    return {"event": kind, **more}


def plan(actions: int = 0, manual: int = 0, causes: tuple[str, ...] = ("a",)) -> Event:
    return event("plan", actions=actions, manual=manual, causes=list(causes))


def begun(action: str) -> Event:
    return event("action.begun", action=action)


def ended(action: str, result: Result = Result.DONE) -> Event:
    return event("action.ended", action=action, result=str(result))


HEALTHY, UNKNOWN = plan(causes=("healthy",)), plan(causes=("unknown",))
FAILED, REFUSED, INTERRUPTED = event("failed", why="x"), event("refused", why="x"), event("interrupted")

CASES: list[tuple[list[Event], int | None, Outcome, Exit]] = [
    ([], None, Outcome.ERROR, Exit.ERROR),
    ([event("run.begun")], None, Outcome.ERROR, Exit.ERROR),
    ([FAILED], None, Outcome.ERROR, Exit.ERROR),
    ([plan(2), FAILED], None, Outcome.ERROR, Exit.ERROR),
    ([HEALTHY, FAILED], None, Outcome.ERROR, Exit.ERROR),
    ([REFUSED], None, Outcome.REFUSED, Exit.REFUSED),
    ([plan(2), REFUSED], 2, Outcome.REFUSED, Exit.REFUSED),
    ([INTERRUPTED], None, Outcome.INTERRUPTED, Exit.ERROR),
    ([HEALTHY, INTERRUPTED], None, Outcome.INTERRUPTED, Exit.ERROR),
    ([HEALTHY], None, Outcome.HEALTHY, Exit.OK),
    ([UNKNOWN], None, Outcome.UNKNOWN, Exit.PEOPLE),
    ([plan(0)], None, Outcome.PEOPLE, Exit.PEOPLE),  # a cause that nothing is to be done about
    ([plan(3)], None, Outcome.PLANNED, Exit.PLANNED),
    ([plan(3, manual=2)], None, Outcome.PLANNED, Exit.PLANNED),
    ([plan(2, manual=2)], None, Outcome.PEOPLE, Exit.PEOPLE),
    ([plan(2), plan(0, causes=("healthy",))], None, Outcome.HEALTHY, Exit.OK),
    # Applying.
    ([plan(1), begun("a"), ended("a")], 1, Outcome.VERIFIED, Exit.OK),
    ([plan(1), ended("a", Result.ALREADY)], 1, Outcome.VERIFIED, Exit.OK),
    ([plan(1), begun("a"), ended("a", Result.SAID)], 1, Outcome.UNVERIFIED, Exit.PARTLY),
    ([plan(2), begun("a"), ended("a", Result.SAID)], 2, Outcome.PARTLY, Exit.PARTLY),
    ([plan(2), begun("a"), ended("a")], 2, Outcome.PARTLY, Exit.PARTLY),
    ([plan(2)], 2, Outcome.PARTLY, Exit.PARTLY),
    ([plan(1), ended("a", Result.STALE)], 1, Outcome.PARTLY, Exit.PARTLY),
    ([plan(1), ended("a", Result.WAITING)], 1, Outcome.PARTLY, Exit.PARTLY),
    ([plan(1), begun("a"), ended("a", Result.FAILED)], 1, Outcome.PARTLY, Exit.PARTLY),
    ([plan(1), begun("a")], 1, Outcome.FATE_UNKNOWN, Exit.PARTLY),
    ([plan(1), begun("a"), ended("a", Result.UNKNOWN)], 1, Outcome.FATE_UNKNOWN, Exit.PARTLY),
    ([plan(2), begun("a"), ended("a"), begun("b"), FAILED], 2, Outcome.FATE_UNKNOWN, Exit.PARTLY),
    ([plan(2), begun("a"), ended("a"), FAILED], 2, Outcome.PARTLY, Exit.PARTLY),
    ([plan(1), begun("a"), ended("a"), FAILED], 1, Outcome.VERIFIED, Exit.OK),  # a later cell failed
    ([plan(1), FAILED], 1, Outcome.ERROR, Exit.ERROR),
    ([plan(2), begun("a"), INTERRUPTED], 2, Outcome.FATE_UNKNOWN, Exit.PARTLY),
    ([plan(2), begun("a"), ended("a"), INTERRUPTED], 2, Outcome.CUT_SHORT, Exit.PARTLY),
    ([plan(2), begun("a"), ended("a"), REFUSED], 2, Outcome.PARTLY, Exit.PARTLY),
    ([plan(2), INTERRUPTED], 2, Outcome.INTERRUPTED, Exit.ERROR),
    ([plan(1), ended("a", Result.WAITING), ended("a")], 1, Outcome.VERIFIED, Exit.OK),  # resumed
]


@pytest.mark.parametrize(("events", "approved", "outcome", "code"), CASES)
def test_the_journal_tells_how_it_ended(
    events: list[Event], approved: int | None, outcome: Outcome, code: Exit
) -> None:
    assert classify(events, approved) is outcome
    assert outcome.exit is code


def test_every_outcome_has_an_exit_code() -> None:
    assert set(EXITS) == set(Outcome)


def test_every_outcome_is_reached_by_a_case_or_said_elsewhere() -> None:
    elsewhere = {Outcome.LOST, Outcome.UNDONE}  # no end in the journal; an undo says so itself
    assert {outcome for _, _, outcome, _ in CASES} == set(Outcome) - elsewhere


@given(st.lists(st.sampled_from([e for case in CASES for e in case[0]]), max_size=8), st.none() | st.integers(1, 3))
def test_nothing_is_healthy_or_verified_beside_trouble(events: list[Event], approved: int | None) -> None:
    outcome, kinds = classify(events, approved), {e["event"] for e in events}
    if outcome is Outcome.HEALTHY:
        assert not kinds & {"failed", "refused", "interrupted"}
        assert approved is None
    if outcome is Outcome.VERIFIED:
        last = {e["action"]: e["result"] for e in events if e["event"] == "action.ended"}
        assert len(last) == approved
        assert set(last.values()) <= {Result.DONE, Result.ALREADY}
