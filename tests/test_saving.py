"""How urgent it is, what explains a loss, what may be put back, and what writers are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from opskit.services import saving
from opskit.services.saving import Hit, urgency

NOW = datetime(2026, 3, 1, 3, tzinfo=UTC)
LOST = NOW - timedelta(hours=1)


@pytest.mark.parametrize(
    ("hit", "level", "priority"),
    [
        (Hit(hard=30, conflicts=0, lost=11), "P0", "CRITICAL"),
        (Hit(hard=11, conflicts=0, lost=1), "P0", "CRITICAL"),
        (Hit(hard=11, conflicts=0, lost=0), "P0", "CRITICAL"),  # the gap: many, and loss not confirmed
        (Hit(hard=10, conflicts=0, lost=0), "P1", "HIGH"),
        (Hit(hard=0, conflicts=0, lost=1), "P1", "CRITICAL"),  # of two clocks that disagree, the stricter
        (Hit(hard=3, conflicts=0, lost=0), "P1", "HIGH"),
        (Hit(hard=1, conflicts=0, lost=0, attempts=4, failed=2), "P1", "HIGH"),  # at low traffic shares count
        (Hit(hard=1, conflicts=0, lost=0, attempts=100, failed=2), "P3", "MEDIUM"),
        (Hit(hard=0, conflicts=40, lost=0), "P2", "HIGH"),  # conflicts alone are never P0
        (Hit(hard=0, conflicts=1, lost=0, most_by_one=9), "P2", "HIGH"),
        (Hit(hard=0, conflicts=1, lost=0, most_by_one=1), "P3", "MEDIUM"),
        (Hit(hard=0, conflicts=0, lost=0), "none", "LOW"),
    ],
)
def test_urgency(hit: Hit, level: str, priority: str) -> None:
    assert urgency(hit)[:2] == (priority, level)
    assert urgency(hit)[2]


def test_who_is_refused_for_good_is_told_by_reports_or_by_the_log() -> None:
    minutes = [timedelta(minutes=n) for n in range(4)]
    reports = pd.DataFrame(
        [{"document": "d1", "failure_type": "conflict", "created_at": LOST + n} for n in minutes]
        + [{"document": "d4", "failure_type": "network", "created_at": LOST + n} for n in minutes]
    )
    log = pd.DataFrame(
        [{"document": "d2", "status": 409, "at": LOST + n} for n in minutes]  # whose reports never came
        + [{"document": "d3", "status": 409, "at": LOST + n} for n in minutes]
        + [{"document": "d3", "status": 200, "at": LOST + timedelta(minutes=9)}]  # saved since
        + [{"document": "d5", "status": 409, "at": LOST + n} for n in minutes[:2]]
    )
    found = saving.refused_for_good(reports, log)
    assert list(found[["document", "refused"]].itertuples(index=False, name=None)) == [("d1", 4), ("d2", 4)]
    assert saving.refused_for_good(reports.head(0), log.head(0)).empty


def test_whose_policy_denies_is_named_and_nothing_is_invented() -> None:
    denied = [("document_snapshots", "INSERT"), ("documents", "UPDATE")]
    ((step, command),) = saving.mending("rls-denial", denied)
    assert "document_snapshots" in step
    assert "create policy" not in command
    ((step, _),) = saving.mending("silent-zero-row", [])
    assert "update it again" in step


def risk(**changes: Any) -> dict[str, Any]:
    usual = {"document": "d1", "user_id": "u1", "sign": "shrunk", "lost_at": LOST, "last_attempt": LOST}
    usual |= {"written_on": False, "words_only_stored": 0, "own_structure": False, "dated": True, "touched": False}
    return {**usual, **changes}


def line(**changes: Any) -> dict[str, Any]:
    return {"at": LOST, "status": 200, "operation": None, "code": None, "document": "d1", **changes}


def because(row: dict[str, Any], *lines: dict[str, Any]) -> str:
    log = pd.DataFrame([*lines], columns=["at", "status", "operation", "code", "document"])
    log["at"] = pd.to_datetime(log["at"], utc=True)
    return str(saving.explained(pd.DataFrame([row]), log).because.iloc[0])


EARLIER, LATER = LOST - timedelta(seconds=8), LOST + timedelta(seconds=20)
KILLED = line(status=504)
SANITISED = line(operation="sanitize:html")
FAILED = line(status=500, operation="autosave:update_document", code="42P01")


@pytest.mark.parametrize(
    ("row", "lines", "said"),
    [
        (risk(), [SANITISED], "the sanitiser failed"),
        (risk(), [], ""),  # an author's own cut
        (risk(), [line()], ""),  # that it was saved says nothing about whose wish it was
        (risk(), [{**SANITISED, "document": "d2"}], ""),  # somebody else's
        (risk(), [{**SANITISED, "at": LOST - timedelta(minutes=5)}], ""),  # another save of it
        (risk(sign="never-stored"), [FAILED], "the update failed with 42P01"),
        (risk(sign="never-stored"), [line()], "answered 200, and no row was changed"),
        (risk(sign="never-stored"), [line(), FAILED], "the update failed with 42P01"),
        (risk(sign="never-stored"), [], ""),
        (risk(sign="never-stored"), [line(at=EARLIER), KILLED], "the save was cut off"),
        (risk(sign="never-stored"), [KILLED, line(at=NOW - timedelta(minutes=59, seconds=30))], ""),
        (risk(sign="never-stored"), [line(), line(status=409, at=LATER)], "answered 200, and no row was changed"),
        (risk(sign="never-stored"), [line(at=EARLIER)], ""),  # the save before; of this one we know nothing
        (risk(sign="jumped-back"), [line()], ""),
        (risk(sign="never-stored", dated=False), [FAILED], ""),  # what is stored may be newer
        (risk(sign="never-stored", touched=True), [FAILED], "the update failed with 42P01"),
        (risk(sign="never-stored", touched=True), [line()], ""),  # stored, and then written over, for all we know
    ],
)
def test_only_a_line_of_the_log_explains_a_loss(row: dict[str, Any], lines: list[dict[str, Any]], said: str) -> None:
    assert because(row, *lines) == said


def test_no_loss_needs_no_explanation() -> None:
    log = pd.DataFrame([SANITISED])
    assert list(saving.explained(pd.DataFrame([risk()]).head(0), log).columns)[-1] == "because"


@pytest.mark.parametrize(
    ("row", "may"),
    [
        (risk(because="the sanitiser failed"), True),
        (risk(because=""), False),
        (risk(because="the sanitiser failed", last_attempt=NOW - timedelta(minutes=14)), False),
        (risk(because="the sanitiser failed", last_attempt=NOW - timedelta(minutes=16)), True),
        (risk(because="the update failed with 42P01", sign="never-stored"), True),
        (risk(because="the update failed with 57014", sign="never-stored"), False),
        (risk(because="anything", sign="jumped-back"), False),
        (risk(because="the update failed with 42P01", sign="never-stored", touched=True), False),
        (risk(because="the sanitiser failed", written_on=True, words_only_stored=300), False),
        (risk(because="the sanitiser failed", own_structure=True), False),  # chapters that only the document has
        (risk(because="the sanitiser failed", written_on=True), True),  # it has no word that the copy has not
        (risk(because="the update failed with 42P01", sign="never-stored", words_only_stored=9), True),  # it is older
    ],
)
def test_what_may_be_put_back(row: dict[str, Any], may: bool) -> None:
    assert list(saving.restorable(pd.DataFrame([row]), NOW, blocked=True)) == [may]


BEHIND_A_LOCK = risk(because="the update failed with 57014", sign="never-stored")


def test_what_a_lock_held_up_may_be_put_back_once_it_is_gone_and_all_is_quiet() -> None:
    rows = pd.DataFrame([BEHIND_A_LOCK, {**BEHIND_A_LOCK, "last_attempt": NOW - timedelta(minutes=14)}])
    assert list(saving.restorable(rows, NOW, blocked=False)) == [True, False]
    assert list(saving.restorable(rows, NOW, blocked=True)) == [False, False]


def test_who_has_to_wait_is_told_until_when() -> None:
    busy = risk(because="the sanitiser failed", last_attempt=NOW - timedelta(minutes=3))
    rows = pd.DataFrame([busy, risk(because="the sanitiser failed"), risk(because=""), BEHIND_A_LOCK])
    assert dict(saving.waiting(rows, NOW, blocked=False)) == {0: NOW + timedelta(minutes=12)}
    assert dict(saving.waiting(rows, NOW, blocked=True)) == {
        0: NOW + timedelta(minutes=12),
        3: NOW + timedelta(minutes=15),
    }
    assert saving.waiting(rows.head(0), NOW, blocked=True).empty


def failing(**changes: Any) -> dict[str, Any]:
    return line(**{"status": 500, "operation": "autosave:snapshot", "code": "23502", "text": "said", **changes})


SAVED_SINCE = line(at=NOW)
CAPPED = failing(code="23514", text="Plan free allows 200 document snapshots")


@pytest.mark.parametrize(
    ("lines", "causes", "left", "standing"),
    [
        ([failing()], [], 1, 1),
        ([failing(), SAVED_SINCE], [], 1, 0),  # it failed, nobody knows why, and is over
        ([failing(code="23514")], ["snapshot-cap"], 1, 1),  # a rule of the schema, whatever else is wrong
        ([CAPPED], ["snapshot-cap"], 0, 0),
        ([CAPPED], [], 1, 0),  # it says that the account is full, which it is not
        ([CAPPED, SAVED_SINCE], [], 0, 0),
        ([failing(code="53300")], ["lock"], 1, 0),
        ([failing(code=None, operation=None)], [], 1, 0),
        ([failing(code=None, operation=None, status=504)], [], 0, 0),  # the edge's
        ([failing(code="42P01")], ["broken-trigger"], 0, 0),
        ([failing(code="57014")], ["lock"], 0, 0),
        ([failing(code="57014")], [], 1, 0),  # it waited for nothing that we can see
        ([failing(code="57014", operation="autosave:update_document")], [], 0, 0),  # stored since, by somebody
        ([line(), line(status=409), line(status=401)], [], 0, 0),
    ],
)
def test_a_failed_save_that_no_check_answers_for_is_left(
    lines: list[dict[str, Any]], causes: list[str], left: int, standing: int
) -> None:
    log = pd.DataFrame(lines, columns=["at", "status", "operation", "code", "document", "text"])
    found = saving.unclaimed(log, pd.DataFrame([risk(document="d2")]), causes.__contains__)
    assert (len(found), found.standing.sum()) == (left, standing)


@pytest.mark.parametrize(
    ("report", "lines", "causes", "untold"),
    [
        ({}, [], [], 1),
        ({"failure_type": "network"}, [], [], 0),
        ({}, [line(status=429)], [], 0),
        ({}, [line(status=429, at=NOW)], [], 1),  # another save's
        ({}, [line(status=404)], [], 1),
        ({}, [line(status=404)], ["rls-denial"], 0),
        ({"document": None}, [line(status=429)], [], 1),
    ],
)
def test_a_reported_error_without_a_line_that_tells_why_is_left(
    report: dict[str, Any], lines: list[dict[str, Any]], causes: list[str], untold: int
) -> None:
    log = pd.DataFrame(lines, columns=["at", "status", "operation", "code", "document", "text"])
    left = saving.unclaimed(log, pd.DataFrame([risk()]), causes.__contains__)
    assert saving.unanswered(pd.DataFrame([reported(**report)]), log, left, causes.__contains__) == untold


def reported(**changes: Any) -> dict[str, Any]:
    usual = {"created_at": LOST, "failure_type": "error", "user_id": "u1", "document": "d1"}
    return {**usual, **changes}


@pytest.mark.parametrize(
    ("failures", "lines", "left"),
    [
        ([reported()], [], 1),
        ([reported()], [line(at=NOW)], 0),  # the next save of it succeeded: it is over
        ([reported()], [line(at=LOST - timedelta(minutes=1))], 1),
        ([reported()], [line(at=NOW, document="d2")], 1),
        ([reported()], [line(at=NOW, status=500)], 1),
        ([reported(document=None)], [line(at=NOW)], 1),
        ([reported(failure_type="conflict")] * 2, [line(at=NOW)], 0),  # an ordinary day
        ([reported(failure_type="network")] * 2, [], 0),
        ([reported(failure_type="network", user_id=f"u{n}") for n in range(6)], [], 6),
        ([reported(failure_type="conflict")] * 3, [line(at=NOW)], 3),  # again and again
        ([reported(failure_type="network")] * 3, [line()], 3),
        ([reported(failure_type="network")] * 3, [line(at=NOW)], 0),  # it broke often, and holds again
        ([], [], 0),
    ],
)
def test_a_failure_counts_until_a_save_succeeds(
    failures: list[dict[str, Any]], lines: list[dict[str, Any]], left: int
) -> None:
    told = pd.DataFrame(failures, columns=["created_at", "failure_type", "user_id", "document"])
    log = pd.DataFrame(lines, columns=["at", "status", "operation", "code", "document"])
    assert len(saving.ongoing(told, log)) == left


def crowd(kind: str, users: int, apart: float = 0) -> pd.DataFrame:
    """Reports of as many users, so many minutes apart."""
    said = [
        reported(failure_type=kind, user_id=f"u{n}", document=f"d{n}", created_at=LOST + timedelta(minutes=apart) * n)
        for n in range(users)
    ]
    return pd.DataFrame(said)


def busy(documents: int) -> pd.DataFrame:
    """As many documents saved at that hour."""
    return pd.DataFrame([line(document=f"b{n}") for n in range(documents)])


@pytest.mark.parametrize(
    ("failures", "documents", "counted"),
    [
        (crowd("network", 6), 40, 6),
        (crowd("network", 5), 40, 0),
        (crowd("network", 6), 1000, 0),  # somebody is on a train at any time
        (crowd("network", 60), 1000, 60),
        (crowd("network", 24, apart=60), 40, 0),  # one after the other, all day
        (crowd("conflict", 6, apart=5), 40, 6),  # whenever the clock strikes between them
        (crowd("conflict", 6), 1000, 0),
        (crowd("network", 6), 0, 6),  # nobody else gets through at all
    ],
)
def test_many_are_many_at_once_and_a_share_of_who_writes(failures: pd.DataFrame, documents: int, counted: int) -> None:
    log = busy(documents) if documents else pd.DataFrame([line()]).head(0)
    for later in range(0, 60, 7):
        moved = failures.assign(created_at=failures.created_at + timedelta(minutes=later))
        assert saving.together(moved, log.assign(at=log["at"] + timedelta(minutes=later))).sum() == counted, later


@pytest.mark.parametrize(
    ("failures", "documents", "found"),
    [
        (crowd("conflict", 3), 40, True),
        (crowd("conflict", 2), 40, False),
        (crowd("conflict", 3), 1000, False),
        (crowd("conflict", 10), 1000, True),
        (pd.DataFrame([reported(failure_type="conflict")] * 51), 1000, True),  # within one hour
        (pd.DataFrame([reported(failure_type="network")] * 51), 1000, False),
        (
            crowd("conflict", 1).loc[[0] * 60].assign(created_at=[LOST + timedelta(hours=n) for n in range(60)]),
            40,
            False,
        ),
    ],
)
def test_conflicts_are_frequent_by_their_share_and_by_the_hour(
    failures: pd.DataFrame, documents: int, found: bool
) -> None:
    assert saving.frequent(pd.DataFrame({"document": failures.document.unique()}), failures, busy(documents)) is found


@pytest.mark.parametrize("hit", [Hit(hard=3, conflicts=0, lost=0), Hit(hard=12, conflicts=0, lost=11), Hit(0, 0, 9)])
def test_nobody_is_said_to_have_lost_what_a_copy_holds(hit: Hit) -> None:
    assert "lost" not in urgency(hit)[2].replace("text is lost shows only when", "")
    assert "saving fails" not in urgency(hit)[2]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (risk(because=""), "question"),
        (risk(because="", sign="never-stored"), "unfinished"),  # it has not become shorter
        (risk(because="", sign="never-stored", touched=True), "unfinished"),
        (risk(because="", sign="jumped-back"), "two-texts"),
        (risk(because="the update failed with 42P01", sign="never-stored", touched=True), "two-texts"),
        (risk(because="the sanitiser failed"), "open-tab"),
        (risk(because="the sanitiser failed", document="d2"), "restored"),
    ],
)
def test_what_an_author_is_told_is_true_of_the_loss(row: dict[str, Any], kind: str) -> None:
    assert list(saving.kinds(pd.DataFrame([row]), pd.DataFrame([risk(document="d2")]))) == [kind]
    assert ("shorter" in saving.WORDS[kind]) == (kind == "question")


@pytest.mark.parametrize("kind", saving.WORDS)
def test_a_message_names_the_time_of_the_last_copy_and_promises_nothing(kind: str) -> None:
    text = saving.mail(kind, [("Salt", LOST), ("Tide", NOW)])
    assert "- Salt: last stored copy 2026-03-01 02:00 UTC" in text
    assert "- Tide: last stored copy 2026-03-01 03:00 UTC" in text
    assert "safe" not in text


def test_losses_in_a_line() -> None:
    assert (
        saving.briefly(pd.DataFrame([risk(), risk(document="d2"), risk(sign="jumped-back")]))
        == "1 jumped-back, 2 shrunk"
    )
    assert saving.briefly(pd.DataFrame([risk()]).head(0)) == "none"
