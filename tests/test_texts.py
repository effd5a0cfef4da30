"""What two bodies of a document have in common, and what a reader is shown of the difference."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from opskit.services import texts

LONG = {"html": "<h1>Salt</h1><p>The harbour kept its lamps low.</p><p>Nobody asked why.</p>", "structure": []}
SHORT = {"html": "<h1>Salt</h1><p>The harbour kept its lamps low &amp; dry.</p>", "structure": []}


def body(*words: str) -> dict[str, Any]:
    return {"html": f"<p>{' '.join(words)}</p>"}


def test_words_are_what_a_reader_sees() -> None:
    assert texts.words(SHORT) == ["Salt", "The", "harbour", "kept", "its", "lamps", "low", "&", "dry."]
    assert texts.words({}) == texts.words({"html": None}) == []


def test_lost_words_are_counted_as_often_as_they_stood_there() -> None:
    assert texts.lost(body("the"), body("the", "the", "sea")) == 2
    assert texts.lost(SHORT, LONG) == 4  # low. Nobody asked why.
    assert texts.lost({}, LONG) == len(texts.words(LONG))


def test_words_of_chapters_are_lost_as_well() -> None:
    chapters = {
        **SHORT,
        "structure": [{"id": "7", "title": "Salt and tide", "parts": [{"text": "low lamps"}], "order": 1}],
    }
    assert texts.lost(SHORT, chapters) == 5
    assert texts.lost(chapters, SHORT) == 0
    assert texts.difference(SHORT, chapters) == [("+", "Salt and tide"), ("+", "low lamps")]


words = st.lists(st.sampled_from(["sea", "salt", "tide", "lamp"]), max_size=12)


@given(words, words)
def test_nothing_is_lost_to_itself_and_all_of_it_to_nothing(one: list[str], other: list[str]) -> None:
    assert texts.lost(body(*one), body(*one)) == 0
    assert texts.lost(body(), body(*one)) == len(one)
    gone = texts.lost(body(*other), body(*one))
    assert gone == sum((Counter(one) - Counter(other)).values()) <= len(one)


def test_the_difference_is_told_in_paragraphs() -> None:
    assert texts.difference(SHORT, LONG) == [
        ("-", "The harbour kept its lamps low & dry."),
        ("+", "The harbour kept its lamps low."),
        ("+", "Nobody asked why."),
    ]
    assert texts.difference(LONG, LONG) == []


def test_a_long_difference_ends_in_how_much_more_there_is() -> None:
    long = {"html": "".join(f"<p>Line {n}</p>" for n in range(100))}
    found = texts.difference({}, long)
    assert len(found) == texts.SHOWN + 1
    assert found[-1] == ("…", "60 more")


chapters = st.lists(
    st.dictionaries(st.sampled_from(["id", "title", "order"]), st.integers(0, 9), min_size=1), max_size=4
)


@given(chapters)
def test_the_order_of_keys_makes_no_other_text(found: list[dict[str, int]]) -> None:
    reordered = [dict(reversed(list(one.items()))) for one in found]
    one, other = {"html": "<p>a</p>", "structure": found}, {"structure": reordered, "html": "<p>a</p>", "metadata": {}}
    assert texts.same(one, other)
    assert texts.same(json.loads(json.dumps(one)), one)


def test_other_text_chapters_or_anchors_are_another_text() -> None:
    assert not texts.same(LONG, SHORT)
    assert not texts.same(LONG, {**LONG, "structure": [{"id": 1}]})
    assert not texts.same(LONG, {**LONG, "metadata": {"anchors": [1]}})


def test_many_names_are_cut_short() -> None:
    assert texts.told(["a", "b"]) == "a, b"
    assert texts.told(list("abcdefg"), 3) == "a, b, c and 4 more"
