"""What the runner keeps of a notebook: nothing of a secret, however its pieces were sent."""

from __future__ import annotations

import json
import time
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import nbformat
import pytest
from disguises import readings
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output

from opskit import record
from opskit.environment import Limits
from opskit.journal import Journal
from opskit.redaction import Redactor
from opskit.runner import Session, across_outputs, save

SECRET = "sk_test_abcdefghijklmnop"
LABEL = "[secret token]"
redactor = Redactor({"token": SECRET})


def said(text: str, name: str = "stdout") -> Any:
    return new_output("stream", name=name, text=text)


def shown(text: str, kind: str = "display_data", form: str = "text/plain") -> Any:
    return new_output(kind, data={form: text, "text/plain": text})


A, B, C = SECRET[:7], SECRET[7:15], SECRET[15:]
SPLIT = {
    "stdout and stderr": [said(A), said(B + C, "stderr")],
    "both streams in turn": [said(A), said(B, "stderr"), said(C)],
    "one stream, interrupted": [said(A), said(" warning ", "stderr"), said(B + C)],
    "a stream and a display": [said(f"before {A}"), shown(B + C)],
    "a display and a stream": [shown(A), said(f"{B}{C} after")],
    "two displays": [shown(A), shown(B + C)],
    "three displays": [shown(A), shown(B), shown(C)],
    "letter by letter": [shown(letter) for letter in SECRET],
    "HTML": [shown(A, form="text/html"), shown(B + C, form="text/html")],
    "HTML after text": [said(A), shown(B + C, form="text/html")],
    "SVG and Markdown": [shown(A, form="image/svg+xml"), shown(B + C, form="text/markdown")],
    "a result after a print": [said(A), shown(B + C, kind="execute_result")],
    "twice": [said(A), shown(B + C), said(A), shown(B + C)],
}


@pytest.mark.parametrize("outputs", SPLIT.values(), ids=SPLIT.keys())
def test_a_secret_over_several_outputs_is_not_readable(outputs: list[Any], tmp_path: Path) -> None:
    found = kept(outputs, tmp_path)
    assert not [text for text in readings(found) if SECRET in text]
    assert LABEL in json.dumps(found)
    assert len(found) == len(outputs)


def kept(outputs: list[Any], folder: Path) -> list[Any]:
    """The outputs of a cell as they come to lie in the record."""
    journal = Journal(folder / "journal.jsonl", redactor)
    session = Session(folder, journal, redactor, {}, folder, folder, lambda *_: None, Limits())
    save(new_notebook(cells=[new_code_cell("1", outputs=outputs)]), session)
    nb = nbformat.read(folder / record.NOTEBOOK, as_version=4)
    nbformat.validate(nb)
    found: list[Any] = nb.cells[0].outputs
    return found


def test_what_holds_no_secret_stays_as_it_is(tmp_path: Path) -> None:
    outputs = [said("sk_te"), shown("st_nothing", form="text/html"), said("x", "stderr"), said("\x1b[1mfine\x1b[0m")]
    assert kept(outputs, tmp_path) == outputs


@pytest.mark.parametrize("half", ["\ud800", "\udc80", "a\udfff"])
def test_half_of_a_character_is_kept_visibly(half: str, tmp_path: Path) -> None:
    (found,) = kept([said(f"<{half}>")], tmp_path)
    assert found["text"] == "<" + half[:-1] + "\ufffd>"


def test_two_halves_are_one_character(tmp_path: Path) -> None:
    (found,) = kept([said("\ud83d\ude00")], tmp_path)
    assert found["text"] == "😀"


@given(st.lists(st.integers(1, len(SECRET) - 1), min_size=1, max_size=5), st.data())
def test_no_way_of_splitting_it_leaves_it_readable(places: list[int], data: st.DataObject) -> None:
    at = [0, *sorted(set(places)), len(SECRET)]
    makers = [said, shown, lambda text: said(text, "stderr"), lambda text: shown(text, form="text/html")]
    outputs = [data.draw(st.sampled_from(makers))(SECRET[one:two]) for one, two in pairwise(at)]
    across_outputs(outputs, redactor)
    assert not [text for text in readings(outputs) if SECRET in text]


@pytest.mark.deep
def test_no_way_of_splitting_it_in_three_leaves_it_readable() -> None:
    makers = (said, shown, lambda text: said(text, "stderr"), lambda text: shown(text, form="text/html"))
    for one, two in combinations(range(1, len(SECRET)), 2):
        for first, second, third in product(makers, repeat=3):
            outputs = [first(f"a {SECRET[:one]}"), second(SECRET[one:two]), third(f"{SECRET[two:]} z")]
            across_outputs(outputs, redactor)
            assert not [text for text in readings(outputs) if SECRET in text]


def test_many_outputs_take_no_time() -> None:
    outputs = [shown(f"{n} {SECRET}", form="text/html") for n in range(3_000)]
    began = time.perf_counter()
    across_outputs(outputs, redactor)
    assert time.perf_counter() - began < 3
    assert SECRET not in json.dumps(outputs)
