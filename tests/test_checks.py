"""Checks: a cause is what a "no" names, and healthy needs every required answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.checks import Answer, Check, causes, settled

YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN


def check(answer: Answer, cause: str | None = None, required: bool = True) -> Check:
    return Check("name", answer, "question?", cause, required=required)


@pytest.mark.parametrize(
    ("checks", "found"),
    [
        ([], ["unknown"]),
        ([check(YES)], ["healthy"]),
        ([check(YES), check(YES, "a")], ["healthy"]),
        ([check(UNKNOWN)], ["unknown"]),
        ([check(YES), check(UNKNOWN, "a")], ["unknown"]),
        ([check(NO)], ["unknown"]),
        ([check(NO, "a")], ["a"]),
        ([check(NO, "a"), check(UNKNOWN, "b")], ["a"]),
        ([check(NO, "b"), check(YES), check(NO, "a"), check(NO, "b")], ["b", "a"]),
        ([check(YES), check(UNKNOWN, required=False)], ["healthy"]),
        ([check(YES), check(NO, required=False)], ["healthy"]),
        ([check(YES), check(NO, "a", required=False)], ["a"]),
    ],
)
def test_answers_become_causes(checks: list[Check], found: list[str]) -> None:
    assert causes(checks) == found


answers = st.builds(check, st.sampled_from(Answer), st.none() | st.sampled_from("abc"), st.booleans())


@given(st.lists(answers, max_size=8))
def test_healthy_is_said_only_when_every_required_question_was_answered_yes(checks: list[Check]) -> None:
    found = causes(checks)
    assert found
    if found == ["healthy"]:
        assert checks
        assert all(c.answer is YES for c in checks if c.required)
        assert not any(c.answer is NO and c.cause for c in checks)


@given(st.lists(answers, max_size=8))
def test_a_cause_is_never_named_by_anything_but_a_no(checks: list[Check]) -> None:
    named = {c.cause for c in checks if c.answer is NO}
    assert set(causes(checks)) <= named | {"healthy", "unknown"}


@given(answers)
def test_an_answer_is_told_in_words_and_not_by_colour(one: Check) -> None:
    assert one.mark.split()[1] == one.answer
    assert settled(one) == (one.answer is YES or not one.required)
