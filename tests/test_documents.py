"""Documents at risk are found, and an ordinary evening puts none there; versions and snapshots are put in order."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from losing import SINCE, WRITE_ON, done, losses, stored, write
from support import as_bash_reads

from opskit.actions import Change, Result, take_back
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services, restoring, saving

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
