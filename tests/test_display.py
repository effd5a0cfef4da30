"""What is personal is masked, by column, unless somebody asks for it; then the record says so."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from opskit import display, run
from opskit.display import mask, masked, personal
from opskit.journal import Journal
from opskit.plan import MADE_FOR
from opskit.redaction import Redactor

ANA = "ana.lima@example.com"
HIDDEN = "a…@example.com"


@pytest.mark.parametrize(
    "name",
    ["email", "EMAIL", "e-mail", "E_Mail", "eMail", "customer_email", "customerEmail", "Email address", "emails",
     "full_name", "fullName", "First Name", "username", "user_name", "customer name", "phone", "ip_address",
     "content", "html", "html_body", "payload", "preview", "body", "prompt", "document_title", ("user", "email")],
)  # fmt: skip
def test_personal_columns(name: object) -> None:
    assert personal(name)


@pytest.mark.parametrize(
    "name",
    ["title", "name", "event", "profile", "customer", "message", "context", "mailbox_id", "zip", "tip", "shipped",
     "email_confirmed_at", "content_type", "content_length", "payload_hash", "user_id", 5, None, "", ("a", "b")],
)  # fmt: skip
def test_columns_that_stay(name: object) -> None:
    assert not personal(name)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (ANA, HIDDEN),
        ("hello @bob, call me", "(19 characters)"),
        (f"Ana <{ANA}>", "(26 characters)"),
        ("Ana Lima", "(8 characters)"),
        ("", ""),
        (None, None),
        (5, 5),
        (2.5, 2.5),
        (True, True),
        (b"raw", "(3 bytes)"),
        ({"type": "doc", "n": [1, "ab"]}, {"type": "(3 characters)", "n": [1, "(2 characters)"]}),
    ],
)
def test_what_a_mask_leaves(value: Any, shown: Any) -> None:
    assert mask(value) == shown


def test_a_masked_table_keeps_everything_else() -> None:
    times = pd.to_datetime(["2026-11-23T03:00Z", None])
    frame = pd.DataFrame({"id": ["p1", "p2"], "Email": [ANA, None], "n": [1, 2], "x": [None, 2.5], "at": times})
    found = masked(frame)
    assert found["Email"].tolist()[0] == HIDDEN
    assert found["Email"].isna().tolist() == [False, True]
    pd.testing.assert_frame_equal(found.drop(columns="Email"), frame.drop(columns="Email"))
    assert frame["Email"][0] == ANA  # the runbook's own table is as it was


def test_what_is_nested_is_masked_by_its_own_names() -> None:
    nested = {"plan": "pro", "user": {"email": ANA, "age": 5}, "history": [{"fullName": "Ana Lima"}]}
    hidden = {"plan": "pro", "user": {"email": HIDDEN, "age": 5}, "history": [{"fullName": "(8 characters)"}]}
    found = masked(pd.DataFrame({"data": [nested, json.dumps(nested), "{not JSON", None]}))["data"].tolist()
    assert found[0] == hidden
    assert json.loads(found[1]) == hidden
    assert found[2] == "{not JSON"


def test_an_index_and_columns_of_several_levels_are_masked_too() -> None:
    index = pd.MultiIndex.from_tuples([(ANA, "a")], names=["email", "kind"])
    columns = pd.MultiIndex.from_tuples([("user", "email"), ("user", "id")])
    found = masked(pd.DataFrame([[ANA, "u1"]], index=index, columns=columns))
    assert ANA not in found.to_csv()
    assert "u1" in found.to_csv()
    pivoted = pd.DataFrame([[1]], index=pd.Index([ANA], name="email"), columns=pd.Index([ANA], name="customer_email"))
    assert ANA not in masked(pivoted).to_csv()


def test_columns_of_one_name_and_of_categories() -> None:
    twice = pd.DataFrame([[ANA, ANA]], columns=["email", "email"])
    assert masked(twice).to_numpy().tolist() == [[HIDDEN, HIDDEN]]
    categories = pd.DataFrame({"email": pd.Categorical([ANA, "abc@example.com"])})
    assert masked(categories)["email"].tolist() == [HIDDEN, HIDDEN]


def test_a_charts_words_stay_words() -> None:
    figure, axes = plt.subplots()
    axes.set_title("sk_test_abcdefgh")
    assert "sk_test_abcdefgh</text>" in display.svg(figure)
    plt.close(figure)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was shown, as text and HTML."""
    said: list[str] = []
    monkeypatch.setattr(display, "emit", lambda markup, text: said.extend((markup, text)))
    return said


def a_run(folder: Path, **parameters: Any) -> run.Run:
    about = {key: key for key in MADE_FOR}
    given: Any = SimpleNamespace(**parameters)
    target: Any = SimpleNamespace(digest="sha256:0")
    services: Any = None
    redactor = Redactor({"token": "sk_test_abcdefgh"})
    return run.Run(folder, about, given, target, services, Journal(folder / "journal.jsonl", redactor))


def test_masking_is_the_default(tmp_path: Path, shown: list[str]) -> None:
    found = a_run(tmp_path)
    found.show(pd.DataFrame({"email": [ANA] * 20}), "People")
    kept = (tmp_path / "evidence" / "people.csv").read_text()
    assert ANA not in "".join(shown) + kept
    assert HIDDEN in kept
    assert found.journal.read() == []


def test_lifting_it_is_said(tmp_path: Path, shown: list[str]) -> None:
    found = a_run(tmp_path, unmask=True)
    found.show(pd.DataFrame({"email": [ANA], "n": [1]}), "People")
    assert ANA in shown[0]
    for said in shown:
        assert "shown in full, because this run was asked to: email" in said
    assert [(e["event"], e["title"], e["columns"]) for e in found.journal.read()] == [("unmasked", "People", ["email"])]
    found.show(pd.DataFrame({"n": [1]}), "Numbers")  # nothing to lift
    assert "in full" not in "".join(shown[2:])
    assert len(found.journal.read()) == 1


def test_a_series_and_a_named_index_are_shown_whole(tmp_path: Path, shown: list[str]) -> None:
    found = a_run(tmp_path)
    counted = pd.Series([ANA, ANA, "bob@example.com"], name="email").value_counts()
    found.show(counted, "Deliveries by person")
    assert HIDDEN in shown[1]
    assert ANA not in "".join(shown)


def test_evidence_takes_any_text(tmp_path: Path, shown: list[str]) -> None:
    found = a_run(tmp_path)
    found.show(pd.DataFrame({"said": ["\ud800 sk_test_abcdefgh"] * 20}), "Half \ud800 characters")
    found.draft("half \ud800", "\ud800 sk_test_abcdefgh")
    for path in [*tmp_path.rglob("*.csv"), *tmp_path.rglob("*.txt")]:
        assert "\ufffd [secret token]" in path.read_text()


def test_a_timeline_has_a_lane_for_each_kind_of_thing() -> None:
    start = datetime(2026, 1, 1, 3, tzinfo=UTC)
    lanes: dict[str, list[Any]] = {
        "failures": [start + timedelta(minutes=n) for n in range(300)],
        "deployments": [(start, "Tidy up"), (start + timedelta(seconds=1), "Tidy down"),
                        (start + timedelta(hours=4), "Mend")],
        "outage": [(start, start + timedelta(hours=1), "database")],
        "our own actions": [],
    }  # fmt: skip
    drawn = display.svg(display.timeline(lanes, "What happened when"))
    for word in (*lanes, "Tidy up", "Mend", "database", "What happened when", "UTC"):
        assert word in drawn
    assert "Tidy down" not in drawn  # it would run into the one before


def test_a_timeline_of_nothing_is_drawn_too() -> None:
    drawn = display.svg(display.timeline({"failures": [], "deployments": []}, "Nothing"))
    assert "deployments" in drawn


def test_a_timeline_takes_what_tables_hold() -> None:
    frame = pd.DataFrame({"at": pd.to_datetime(["2026-01-01T03:00:00+02:00"]), "what": ["A"]})
    entries = list(frame[["at", "what"]].itertuples(index=False, name=None))
    assert "A</text>" in display.svg(display.timeline({"one": entries, "two": frame["at"]}, "Mixed"))
