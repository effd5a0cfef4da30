"""Lost texts put back and taken back; and never over something newer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from losing import SINCE, WRITE_ON, by_hand, done, losses, restore, stored, write
from support import as_bash_reads

from opskit.actions import Action, Change, Result, carry_out, take_back, undo_means
from opskit.errors import Refused
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services, restoring, saving, texts


def test_a_restored_text_is_the_copys_and_can_be_taken_back(
    services: Services, truncated: pd.DataFrame, tmp_path: Path
) -> None:
    journal, row = Journal(tmp_path / "journal.jsonl"), next(truncated.itertuples())
    actions = [services.documents.preserve_copies([row.document]), restore(services, row)]
    _, copy = services.documents.bodies(row.document, row.kind, row.copy)
    assert copy["html"][-40:] not in str([action.data() for action in actions])  # no text stands in a plan
    bad = stored(services, row.document)
    assert done(services, journal, *actions) == [Result.DONE, Result.DONE]
    assert stored(services, row.document) == copy["html"] != bad
    kept = (tmp_path / "private" / f"{actions[0].id}.json").read_text()
    assert copy["html"][:40] in kept.replace('\\"', '"')
    assert services.documents.at_risk(SINCE).document.isin([row.document]).sum() == 0
    write(services, "delete from document_snapshots where document_id = %s and created_at > now()", row.document)
    taken = list(take_back(actions, services, journal))
    assert [result for _, result, _ in taken] == [Result.DONE]
    assert stored(services, row.document) == bad
    assert done(services, Journal(tmp_path / "again.jsonl"), actions[1]) == [
        Result.STALE
    ]  # it has been written in since


def test_by_hand_writes_the_same_as_the_action(services: Services, truncated: pd.DataFrame, tmp_path: Path) -> None:
    def now(document: str) -> Any:
        query = "select content ->> 'html' as html, word_count from documents where id = %(id)s"
        return services.database.rows(query, id=document)[0]

    one, two, *_ = truncated.itertuples()
    action, other = restore(services, one), restore(services, two)
    assert done(services, Journal(tmp_path / "journal.jsonl"), action) == [Result.DONE]
    with services.database.transaction() as cursor:
        assert cursor.execute(by_hand(other, tmp_path)).rowcount == 1
        kept = cursor.execute(
            "select count(*) as n from document_versions where document_id = %s and content ->> 'html' = ''",
            [two.document],
        )
        assert kept.fetchone()["n"] >= 1
    for row in (one, two):
        _, copy = services.documents.bodies(row.document, row.kind, row.copy)
        assert now(row.document) == {"html": copy["html"], "word_count": len(texts.words(copy))}


def test_the_backup_by_hand_exports_every_table_that_a_copy_may_come_from(
    services: Services, truncated: pd.DataFrame, tmp_path: Path
) -> None:
    action = services.documents.preserve_copies(list(truncated.document))
    as_bash_reads(action.by_hand, tmp_path)
    for table, _ in restoring.TABLES.values():
        query = (tmp_path / f"{table}.csv").read_text().split("\0")[3]
        assert f"select * from {table} " in query
        services.database.rows(query.removeprefix("copy (").removesuffix(") to stdout csv header"))


def test_undo_says_first_what_it_does_to_the_texts(services: Services, truncated: pd.DataFrame) -> None:
    planned = [restore(services, row) for row in truncated.itertuples()]
    [said] = undo_means([services.documents.preserve_copies(list(truncated.document)), *planned])
    assert said.startswith(f"the bad text goes back into {len(planned)} documents")


ABOUT = {"environment": "production", "incident": "night"}


def test_what_has_to_wait_is_done_once_it_is_stored_well(
    services: Services, truncated: pd.DataFrame, tmp_path: Path
) -> None:
    row, journal = next(truncated.itertuples()), Journal(tmp_path / "journal.jsonl")
    step = services.documents.run_again([row.document], SINCE, datetime(2026, 3, 1, 12, 32, tzinfo=UTC), ABOUT)
    assert step.by_hand.startswith("opskit run autosave-incidents --environment production --incident night -p since ")
    assert "12:32 UTC" in step.title
    assert done(services, journal, step) == [Result.WAITING]
    assert done(services, journal, restore(services, row), step) == [Result.DONE, Result.DONE]


def test_what_was_written_meanwhile_is_not_overwritten(
    services: Services, truncated: pd.DataFrame, tmp_path: Path
) -> None:
    one, two, *_ = truncated.itertuples()
    newer, touched = restore(services, one), restore(services, two)
    write(
        services, 'update documents set content = content || \'{"html": "<p>newer</p>"}\' where id = %s', one.document
    )
    write(
        services, "update documents set word_count = word_count where id = %s", two.document
    )  # the same text, another time
    journal = Journal(tmp_path / "journal.jsonl")
    assert done(services, journal, newer, touched) == [Result.STALE, Result.STALE]
    assert stored(services, one.document) == "<p>newer</p>"


def test_what_was_written_on_after_the_loss_is_for_the_author_to_decide(
    services: Services, truncated: pd.DataFrame
) -> None:
    def found(document: str) -> Any:
        return next(one for one in losses(services).itertuples() if one.document == document)

    row, other, *_ = truncated.itertuples()
    assert not found(row.document).written_on
    _, copy = services.documents.bodies(row.document, row.kind, row.copy)
    write(services, WRITE_ON, copy["html"][: len(copy["html"]) // 4].rpartition(" ")[0], row.document)
    again = found(row.document)  # nothing in it that the copy has not
    assert (again.written_on, again.words_only_stored) == (True, 0)
    write(services, WRITE_ON, "<p>Xylophones fret zestfully beneath quartz.</p>", other.document)
    once_more = found(other.document)
    assert once_more.because == "the sanitiser failed"
    assert (once_more.written_on, once_more.words_only_stored > 3) == (True, True)
    told = pd.DataFrame([once_more])
    quiet = datetime.now(UTC) + timedelta(hours=1)
    assert not saving.restorable(told, quiet, blocked=False).any()
    assert saving.waiting(told, quiet, blocked=False).empty


ADD_CHAPTERS = """
    update documents set content = jsonb_set(content, '{structure}', (content -> 'structure') ||
      '{"id": "1", "title": "The newest chapter"}'::jsonb) where id = %s
"""


def test_chapters_that_came_after_the_loss_are_never_written_over(services: Services, truncated: pd.DataFrame) -> None:
    row, other, *_ = truncated.itertuples()
    write(services, ADD_CHAPTERS, row.document)  # its text is still empty: no word of it is new
    found = losses(services).set_index("document", drop=False)
    assert found.because[row.document] == "the sanitiser failed"
    assert found.written_on[row.document]
    quiet = saving.restorable(found, datetime.now(UTC) + timedelta(hours=1), blocked=False)
    assert (quiet[row.document], quiet[other.document]) == (False, True)
    assert saving.two_texts(found)[row.document]


LATER = """
    insert into document_snapshots (document_id, user_id, autosave_hash, payload, created_at)
    select d.id, d.user_id, 'later', '{"html": "<p>the newest text</p>"}',
           (select max(created_at) from document_snapshots s where s.document_id = d.id) + interval '1 second'
    from documents d where d.id = %s
"""


def test_a_copy_that_came_since_the_plan_is_never_hidden_by_an_older_one(
    services: Services, truncated: pd.DataFrame, tmp_path: Path
) -> None:
    row = next(truncated.itertuples())
    action, bad = restore(services, row), stored(services, row.document)
    write(services, LATER, row.document)
    ((_, result, why),) = carry_out([action], services, Journal(tmp_path / "journal.jsonl"))
    assert result is Result.STALE
    assert "newest_snapshot was" in why
    with pytest.raises(Refused, match="saved since the plan was made"):  # it came after the last look, before the lock
        Change.known[action.name].do(services, action.arguments, action.before, "key")
    assert stored(services, row.document) == bad


def longest_snapshot(services: Services, document: str) -> Action:
    """A restore that rests on no version."""
    query = "select id::text from document_snapshots where document_id = %(id)s order by length(payload::text) desc"
    copy = services.database.rows(query, id=document)[0]["id"]
    return services.documents.restore(document, "snapshot", copy, 1)


def test_what_a_restore_replaces_is_kept_though_the_trigger_forgets(
    services: Services, truncated: pd.DataFrame, tmp_path: Path
) -> None:
    row, journal = next(truncated.itertuples()), Journal(tmp_path / "journal.jsonl")
    bad = stored(services, row.document)
    write(services, "update user_profiles set subscription_tier = 'free' where id = %s", row.user_id)
    write(services, "delete from document_versions where document_id = %s", row.document)
    write(
        services,
        "insert into document_versions (document_id, user_id, version_number, title, content, created_at) "
        "select id, user_id, 1, title, content, now() - interval '40 days' from documents where id = %s",
        row.document,
    )
    action = longest_snapshot(services, row.document)
    assert done(services, journal, action) == [Result.DONE]
    assert stored(services, row.document) != bad
    assert [result for _, result, _ in take_back([action], services, journal)] == [Result.DONE]
    assert stored(services, row.document) == bad


def test_where_no_version_would_keep_it_nothing_is_replaced(
    services: Services, truncated: pd.DataFrame, tmp_path: Path
) -> None:
    row = next(truncated.itertuples())
    bad = stored(services, row.document)
    write(services, "update user_profiles set subscription_tier = 'free' where id = %s", row.user_id)
    write(services, "select set_config('sandbox.now', (now() + interval '60 days')::text, false)")  # all is forgotten
    action = longest_snapshot(services, row.document)
    ((_, result, why),) = carry_out([action], services, Journal(tmp_path / "journal.jsonl"))
    assert result is Result.STALE
    assert "no version would keep what it was" in why
    assert stored(services, row.document) == bad


def test_who_tried_to_save_a_moment_ago_is_asked_first(
    firm: Sandbox, services: Services, truncated: pd.DataFrame, tmp_path: Path
) -> None:
    told = firm.state  # the company as it is; its writers at work are in the same scenario
    assert told is not None
    found = losses(services)
    busy = next(found[~found.document.isin(truncated.document) & (found.because != "")].itertuples())
    journal = Journal(tmp_path / "journal.jsonl")
    (result,) = carry_out([restore(services, busy)], services, journal)
    assert result[1] is Result.STALE
    assert "ask them first" in result[2]
    with services.database.transaction() as cursor:
        assert cursor.execute(by_hand(restore(services, busy), tmp_path)).rowcount == 0
    assert stored(services, busy.document) == ""


CLOCK = """
    update document_undo_history set updated_at = now() - interval '{}', undo_stack = jsonb_build_array(
      jsonb_build_object('timestamp', now() + interval '{}')) where document_id = '{}'
"""


def test_whose_clock_is_slow_is_seen_to_be_writing_and_whose_is_fast_is_not(
    services: Services, truncated: pd.DataFrame, tmp_path: Path
) -> None:
    slow, fast, *_ = truncated.itertuples()
    with services.database.transaction() as cursor:
        cursor.execute("set local role postgres")
        cursor.execute(CLOCK.format("1 minute", "-21 minutes", slow.document))
        cursor.execute(CLOCK.format("50 minutes", "1 day", fast.document))
    found, now = losses(services).set_index("document", drop=False), datetime.now(UTC)
    may = saving.restorable(found, now, blocked=False)
    assert (may[slow.document], may[fast.document]) == (False, True)
    assert (pd.to_datetime(found.last_attempt, utc=True) <= now).all()
    journal = Journal(tmp_path / "journal.jsonl")
    assert done(services, journal, restore(services, slow), restore(services, fast)) == [Result.STALE, Result.DONE]
