"""Documents at risk in a real database: found, explained, put back, taken back; and never over something newer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import as_bash_reads, everything, stronger

from opskit.actions import Action, Change, Result, carry_out, take_back, undo_means
from opskit.errors import Faulty, Refused
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services, restoring, saving, texts
from opskit.services.policies import rehearsed

SINCE = datetime.now(UTC) - timedelta(hours=24)


@pytest.fixture
def services(firm: Sandbox) -> Iterator[Services]:
    found = everything(firm.name)[1]
    yield found
    found.database.close()


def losses(services: Services) -> pd.DataFrame:
    log = services.vercel.log(SINCE, "/api/documents/*/autosave")
    found = services.documents.compared(services.documents.at_risk(SINCE))
    return saving.explained(found, log.assign(document=log.path.str.split("/").str[3]))


def done(services: Services, journal: Journal, *actions: Action) -> list[Result]:
    return [result for _, result, _ in carry_out(actions, services, journal)]


def restore(services: Services, row: Any) -> Action:
    return services.documents.restore(row.document, row.kind, row.copy, int(row.words_lost))


def stored(services: Services, document: str) -> str:
    rows = services.database.rows("select content ->> 'html' as html from documents where id = %(id)s", id=document)
    return str(rows[0]["html"])


def write(services: Services, sql: str, *values: Any) -> None:
    with services.database.transaction() as cursor:
        cursor.execute(sql, values)


# Truncated documents.


@pytest.fixture
def truncated(firm: Sandbox, services: Services) -> pd.DataFrame:
    """Documents that the sanitiser emptied, an author's own cut among them, and some that are still being written."""
    told = firm.break_with("autosave-truncation")
    found = losses(services)
    assert set(found.document) == {
        *told["actors"]["lost_documents"],
        *told["actors"]["at_work_documents"],
        *told["actors"]["authors_documents"],
    }
    assert set(found[found.because == ""].document) == set(told["actors"]["authors_documents"])
    quiet = found[saving.restorable(found, datetime.now(UTC), blocked=False)]
    assert set(quiet.document) == set(told["actors"]["lost_documents"])
    return quiet


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


def by_hand(action: Action, folder: Path) -> str:
    """The statement that psql gets once bash has read the line."""
    return as_bash_reads(action.by_hand, folder)[3]


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


WRITE_ON = "update documents set content = content || jsonb_build_object('html', %s::text) where id = %s"


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


SLOW_CLOCK = "select set_config('sandbox.now', (now() - %s::interval)::text, true)"
IN_CHAPTERS = """
    with chosen as (select id from documents where not is_folder order by id limit %(n)s),
    kept as (select id, jsonb_build_object('html', %(html)s::text, 'structure', jsonb_build_array(jsonb_build_object(
               'id', '1', 'text', repeat('salt ', 200)))) as long,
             jsonb_build_object('html', %(html)s::text, 'structure', '[]'::jsonb) as bare from chosen),
    written as (update documents d set content = bare from kept where kept.id = d.id returning d.id, d.user_id),
    versions as (delete from document_versions where document_id in (select id from chosen)),
    snapshots as (delete from document_snapshots where document_id in (select id from chosen))
    insert into document_snapshots (document_id, user_id, autosave_hash, payload, created_at)
    select id, user_id, '', long, now() + %(when)s::interval from written join kept using (id)
    returning document_id::text
"""


@pytest.mark.parametrize(
    ("html", "when", "sign"),
    [("<p>salt</p>", "-2 minutes", "never-stored"), (None, "-10 minutes", "shrunk")],
)
def test_text_in_chapters_counts_as_text(
    firm: Sandbox, services: Services, html: str | None, when: str, sign: str
) -> None:
    with services.database.transaction() as cursor:
        cursor.execute(SLOW_CLOCK, ["5 minutes"])
        cursor.execute(IN_CHAPTERS, {"n": 1, "html": html, "when": when})
        document = cursor.fetchone()["document_id"]
    found = losses(services).set_index("document")
    assert found.sign[document] == sign
    assert found.words_lost[document] == 200


KEPT = """
    insert into document_snapshots (document_id, user_id, autosave_hash, payload, created_at)
    select id, user_id, '', '{"html": "<p>the newest text</p>"}', now() - %s::interval from documents where id = %s
"""
SAVED_BY_HAND = """
    insert into document_versions (document_id, user_id, version_number, title, content)
    select id, user_id, 100000, title, content from documents where id = %s
"""


def some_document(services: Services, n: int) -> str:
    """One that nobody wrote in lately, whose text a version holds."""
    query = """
        select d.id::text from documents d where not is_folder and d.content ->> 'html' <> ''
          and d.updated_at < now() - interval '1 day' and exists (
            select from document_versions v where v.document_id = d.id and v.content = d.content)
        order by d.id offset %(n)s limit 1"""
    return str(services.database.rows(query, n=n)[0]["id"])


def at_risk(services: Services, document: str) -> Any:
    found = services.documents.at_risk(SINCE)
    return next(iter(found[found.document == document].itertuples()), None)


def test_a_new_title_does_not_hide_a_text_that_never_was_stored(firm: Sandbox, services: Services) -> None:
    document = some_document(services, 0)
    write(services, KEPT, "20 minutes", document)
    write(services, "update documents set word_count = word_count where id = %s", document)  # as a new title would
    found = at_risk(services, document)
    assert (found.sign, found.dated, found.touched) == ("never-stored", True, True)


def test_a_browsers_slow_clock_makes_no_loss_of_what_was_saved_by_hand(firm: Sandbox, services: Services) -> None:
    document = some_document(services, 0)
    long = stored(services, document)
    write(services, KEPT, "5 minutes", document)
    with services.database.transaction() as cursor:
        cursor.execute(SLOW_CLOCK, ["10 minutes"])
        cursor.execute(WRITE_ON, [long + "<p>saved by hand</p>", document])
    write(services, SAVED_BY_HAND, document)  # the server's own clock
    assert at_risk(services, document) is None
    write(services, "delete from document_versions where document_id = %s", document)
    assert not at_risk(services, document).dated  # no copy holds it: older or newer, nobody knows


def test_a_save_under_way_is_no_loss_and_hides_none(firm: Sandbox, services: Services) -> None:
    document = some_document(services, 0)
    write(services, KEPT, "50 milliseconds", document)
    assert at_risk(services, document) is None
    write(services, KEPT, "2 minutes", document)  # this one never was stored
    assert at_risk(services, document).sign == "never-stored"


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


# Saves that never became the document; and the policies behind it.


def test_the_policies_tell_what_a_rehearsed_save_shows(firm: Sandbox, services: Services, tmp_path: Path) -> None:
    def owner() -> dict[tuple[str, str], bool | None]:
        matrix = services.policies.matrix(**sample)
        assert not matrix[matrix.who != "owner"].allowed.any()
        rows = matrix[matrix.who == "owner"]
        return dict(zip(zip(rows.table, rows.command, strict=True), rows.allowed, strict=True))

    told = firm.break_with("autosave-silent-zero-row")
    sample = {"document": told["actors"]["unsaved_documents"][0], "owner": told["actors"]["unsaved"][0]}
    assert owner()[("documents", "UPDATE")] is False
    assert owner()[("documents", "SELECT")] is True
    assert rehearsed(services.database, **sample) == {"owner": 0, "stranger": 0, "anonymous": 0}
    mend = services.policies.mend_by_hand(**sample, advice="mend it", command="psql")
    journal = Journal(tmp_path / "journal.jsonl")
    assert done(services, journal, mend) == [Result.WAITING]
    found = losses(services)
    assert set(found.document) == set(told["actors"]["unsaved_documents"])
    assert set(found.because) == {"answered 200, and no row was changed"}
    firm.by_hand()
    before = stored(services, sample["document"])
    assert all(owner().values())
    assert rehearsed(services.database, **sample)["owner"] == 1
    assert stored(services, sample["document"]) == before  # rolled back
    assert done(services, journal, mend) == [Result.DONE]


@pytest.mark.parametrize(
    "denial",
    [
        "drop policy own_insert on document_snapshots",
        "alter policy own_update on documents with check (false)",
    ],
)
def test_a_step_by_hand_waits_while_any_part_of_a_save_is_denied(
    firm: Sandbox, services: Services, tmp_path: Path, denial: str
) -> None:
    query = "select id::text as document, user_id::text as owner from documents where not is_folder limit 1"
    sample = services.database.rows(query)[0]
    mend = services.policies.mend_by_hand(**sample, advice="mend it", command="psql")
    assert done(services, Journal(tmp_path / "well.jsonl"), mend) == [Result.DONE]
    firm.break_with(stronger("autosave-healthy", tmp_path, sql=[denial]))
    services.database.close()
    again = everything(firm.name)[1]
    sample = again.database.rows(query)[0]
    mend = again.policies.mend_by_hand(**sample, advice="mend it", command="psql")
    assert done(again, Journal(tmp_path / "journal.jsonl"), mend) == [Result.WAITING]
    again.database.close()


def test_looking_cannot_rehearse_a_save(firm: Sandbox, services: Services) -> None:
    sample = services.database.rows("select id::text as document, user_id::text as owner from documents limit 1")[0]
    with pytest.raises(Faulty, match="cannot execute UPDATE in a read-only transaction"):
        services.database.rows("update documents set title = title where id = %(document)s", **sample)


# Old text over newer, versions, snapshots.


def test_old_text_over_newer_is_found_and_left_to_its_author(firm: Sandbox, services: Services) -> None:
    told = firm.break_with("autosave-stale-overwrite")
    found = losses(services)
    assert set(found.document) == {*told["actors"]["overwritten_documents"], *told["actors"]["unchecked_documents"]}
    assert set(found.sign) == {"jumped-back"}
    assert not saving.restorable(found, datetime.now(UTC), blocked=False).any()


MANY_SAVES = """
    with of as (select id, user_id, title, content from documents where id = %(id)s),
    kept as (insert into document_snapshots (document_id, user_id, autosave_hash, payload, created_at)
      select of.id, user_id, '', content, now() - interval '20 seconds' * (%(saves)s - n)
      from of, generate_series(1, %(saves)s) n)
    insert into document_versions (document_id, user_id, version_number, title, content, created_at)
    select of.id, user_id, 100000 + n, title, content, now() - interval '20 seconds' * (%(saves)s - n)
    from of, generate_series(1, %(saves)s) n
"""


def test_a_loss_that_many_saves_followed_is_found_or_said_to_be_out_of_sight(
    services: Services, truncated: pd.DataFrame
) -> None:
    row = next(truncated.itertuples())
    write(services, "update user_profiles set subscription_tier = 'studio' where id = %s", row.user_id)
    for saves, unread in ((60, []), (600, [row.document])):
        with services.database.transaction() as cursor:
            cursor.execute(MANY_SAVES, {"id": row.document, "saves": saves})
        assert row.document in set(services.documents.at_risk(SINCE).document) or unread
        assert services.documents.not_read_whole(SINCE) == unread


def test_an_ordinary_evening_puts_nothing_at_risk(firm: Sandbox, services: Services) -> None:
    firm.break_with("autosave-busy")
    assert services.documents.at_risk(SINCE).empty
    assert services.documents.full_accounts(SINCE).empty
    assert services.sessions.blockers().empty


def test_missing_versions_are_added_and_taken_back(firm: Sandbox, services: Services, tmp_path: Path) -> None:
    told, journal = firm.break_with("autosave-trigger-off"), Journal(tmp_path / "journal.jsonl")
    documents = told["actors"]["unversioned_documents"]
    assert set(documents) <= set(services.documents.unversioned(SINCE).document)
    actions = [services.documents.backfill_versions(one, SINCE) for one in documents]
    assert set(done(services, journal, *actions)) == {Result.DONE}
    assert not set(documents) & set(services.documents.unversioned(SINCE).document)
    assert {result for _, result, _ in take_back(actions, services, journal)} == {Result.DONE}
    assert set(documents) <= set(services.documents.unversioned(SINCE).document)


def test_a_full_account_is_pruned_of_its_oldest_and_they_are_kept(
    firm: Sandbox, services: Services, tmp_path: Path
) -> None:
    told, journal = firm.break_with("autosave-snapshot-cap"), Journal(tmp_path / "journal.jsonl")
    full = services.documents.full_accounts(SINCE)
    assert set(full.user_id) == set(told["actors"]["full"])
    oldest = services.database.rows(
        "select id, document_id::text as document from document_snapshots where user_id = %(user)s "
        "order by created_at limit 1",
        user=full.user_id[0],
    )[0]
    action = services.documents.prune_snapshots(full.user_id[0], int(full.cap[0]), [oldest["document"]])
    as_bash_reads(action.by_hand, tmp_path)
    said = (tmp_path / "snapshots.csv").read_text().split("\0")[3]
    exported = said.removeprefix("copy (").removesuffix(") to stdout csv header")
    listed = {row["id"] for row in services.database.rows(exported)}
    everything_there = services.database.rows(
        "select id from document_snapshots where user_id = %(user)s", user=full.user_id[0]
    )
    newest = services.database.rows(
        "select distinct on (document_id) id from document_snapshots where user_id = %(user)s "
        "order by document_id, created_at desc", user=full.user_id[0],
    )  # fmt: skip
    assert done(services, journal, action) == [Result.DONE]
    left = services.database.rows("select id from document_snapshots where user_id = %(user)s", user=full.user_id[0])
    assert {row["id"] for row in newest} <= {row["id"] for row in left}
    assert oldest["id"] in {row["id"] for row in left}  # its document has a loss
    assert listed == {row["id"] for row in everything_there} - {row["id"] for row in left}  # by hand the very same
    assert len(left) < full.cap[0]
    assert (tmp_path / "private" / f"{action.id}.json").stat().st_size > 1000


def test_what_cannot_be_undone_says_so() -> None:
    for name in ("sessions.cancel", "sessions.terminate", "snapshots.prune"):
        assert Change.known[name].final
    assert not Change.known["documents.restore"].final
    assert f"{saving.QUIET.total_seconds() / 60:.0f} minutes" == restoring.QUIET
