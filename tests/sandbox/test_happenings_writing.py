"""What scenarios tell of writers and of the database: each happening, played through the app into a real database."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from psycopg.rows import dict_row
from pydantic import TypeAdapter, ValidationError

from opskit.sandbox import vercel
from opskit.sandbox.happenings import Happening, schedule
from opskit.sandbox.postgres import Postgres
from opskit.sandbox.sentry import SentryStore
from opskit.sandbox.stripe import StripeStore
from opskit.sandbox.vercel import VercelStore
from opskit.sandbox.world import World

WINDOW = "90 minutes ago .. 10 minutes ago"
ROWS = """
    insert into auth.users (id, email)
      select ('7d1f4a9e-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, n || '@example.com'
      from generate_series(1, 12) n;
    update user_profiles set subscription_tier = 'studio' where email like '1%';
    insert into projects (id, user_id, title) select id, id, 'Nights' from user_profiles;
    insert into documents (project_id, user_id, title, content, word_count, created_at, updated_at)
      select id, id, 'One',
        jsonb_build_object('html', repeat('<p>' || repeat('It was a dark night. ', 12) || '</p>', 5),
                           'structure', '[]'::jsonb, 'metadata', '{}'::jsonb),
        300, now() - interval '9 days', now() - interval '8 days' from user_profiles
"""


@pytest.fixture
def world(database: Postgres) -> Iterator[World]:
    made = World(1, database, addresses={"app": "http://127.0.0.1:9"})
    made.secrets.update(webhook="whsec_x", jwt="j" * 32)
    made.stripe, made.vercel, made.sentry = StripeStore(made), VercelStore(made), SentryStore(made)
    vercel.populate(made)
    yield made
    made.locks.release()


def play(world: World, *told: dict[str, Any], seed: int = 3) -> None:
    rng = random.Random(seed)
    for one in told:
        schedule(world, {"when": WINDOW, **one}, rng)
    world.play_past()


def rows(world: World, query: str) -> list[dict[str, Any]]:
    with world.database.connect(row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def number(world: World, query: str) -> int:
    (value,) = rows(world, query)[0].values()
    return int(value)


def statuses(world: World) -> Counter[int]:
    return Counter(row.status for row in world.vercel.requests if row.path.startswith("/api/documents/"))


def reports(world: World) -> Counter[str]:
    return Counter(one["failure_type"] for one in rows(world, "select failure_type from autosave_failures"))


def lengths(world: World) -> list[int]:
    """Of the texts of the one document that was worked on, in the order in which they were versions."""
    query = "select word_count from document_versions order by created_at, version_number"
    return [300, *(one["word_count"] for one in rows(world, query))]


def test_writers_write_within_the_time_and_everything_is_stored(world: World) -> None:
    play(world, {"what": "write", "name": "them", "count": 4, "saves": [3, 6]})
    assert len(set(world.actors["them"])) == len(set(world.actors["them_documents"])) == 4
    assert statuses(world).keys() == {200}
    saves = statuses(world)[200]
    assert 12 <= saves <= 24
    for table in ("document_versions", "document_snapshots"):
        assert number(world, f"select count(*) from {table}") == saves
    attempts = "select count(*) from document_undo_history h, jsonb_array_elements(h.undo_stack)"
    assert number(world, attempts) == saves
    times = rows(world, "select min(created_at) as first, max(created_at) as last from document_snapshots")[0]
    now = datetime.now(UTC)
    assert now - timedelta(minutes=91) < times["first"] < times["last"] < now - timedelta(minutes=9)


def test_a_group_goes_on_with_its_documents(world: World) -> None:
    play(world, {"what": "write", "name": "them", "count": 3, "when": "5 hours ago .. 4 hours ago"})
    play(world, {"what": "write", "of": "them", "name": "again", "saves": 1})
    assert world.actors["again_documents"] == world.actors["them_documents"]
    assert number(world, "select count(distinct document_id) from document_snapshots") == 3
    with pytest.raises(ValueError, match="'nobody'"):
        schedule(world, {"what": "write", "of": "nobody"}, random.Random(1))


def test_there_are_only_so_many_writers(world: World) -> None:
    play(world, {"what": "write", "count": 2, "tier": "free"})
    with pytest.raises(ValueError, match="13 writers are wanted, and only 10"):
        schedule(world, {"what": "write", "count": 13}, random.Random(1))


def test_a_save_that_reaches_nobody_is_reported_and_the_next_is_stored(world: World) -> None:
    play(world, {"what": "write", "saves": 5, "unreached": 2})
    assert reports(world) == {"network": 2}
    assert statuses(world) == {200: 3}


def test_offline_nothing_is_attempted_and_nothing_told(world: World) -> None:
    play(world, {"what": "write_offline", "saves": 6})
    assert statuses(world) == {200: 4}
    assert reports(world) == {}
    assert number(world, "select jsonb_array_length(undo_stack) from document_undo_history") == 4


def test_an_expired_session_is_401_without_a_report_or_an_attempt_noted(world: World) -> None:
    play(world, {"what": "stay_signed_out", "saves": 6})
    assert statuses(world) == {200: 3, 401: 3}
    assert reports(world) == {}
    assert number(world, "select jsonb_array_length(undo_stack) from document_undo_history") == 3


def test_writers_cut_their_own_text_little_by_little_or_at_once(world: World) -> None:
    play(world, {"what": "delete_own_text", "saves": 6})
    found = lengths(world)
    assert len(found) == 7
    assert all(0.6 * before < after < before for before, after in pairwise(found))


def test_abruptly_they_look_like_a_truncation(world: World) -> None:
    play(world, {"what": "delete_own_text", "saves": 1, "abruptly": True})
    before, after = lengths(world)
    assert 0 < after < before / 5
    assert [row.lines for row in world.vercel.requests] == [()], "and the log has nothing to say about it"


def test_a_new_chapter_refuses_every_save_but_the_first_on_one_device(world: World) -> None:
    play(world, {"what": "add_chapter", "saves": 6})
    assert statuses(world) == {200: 1, 409: 5}
    assert reports(world) == {"conflict": 5}
    assert number(world, "select count(distinct user_agent) from autosave_failures") == 1


def test_two_devices_refuse_each_other_and_both_texts_leave_snapshots(world: World) -> None:
    play(world, {"what": "conflict", "saves": 9})
    assert statuses(world) == {200: 3, 409: 6}
    assert number(world, "select count(distinct user_agent) from autosave_failures") == 2
    assert number(world, "select count(distinct payload) from document_snapshots") == 3


@pytest.mark.parametrize(("by", "snapshots", "requests"), [("manual_save", 4, 4), ("null_hash", 5, 5)])
def test_an_old_text_is_saved_over_a_newer_one(world: World, by: str, snapshots: int, requests: int) -> None:
    play(world, {"what": "overwrite", "saves": 5, "by": by})
    found = lengths(world)
    assert len(found) == 6
    assert found[0] < found[-1] < found[-2], "it resembles the first rather than the last but one"
    assert reports(world) == {}
    assert number(world, "select count(*) from document_snapshots") == snapshots
    assert statuses(world) == {200: requests}


def test_a_manual_save_makes_versions_and_no_snapshots(world: World) -> None:
    play(world, {"what": "save_by_hand", "saves": 3})
    assert number(world, "select count(*) from document_versions") == 3
    assert number(world, "select count(*) from document_snapshots") == 0


def test_a_full_account_fails_at_every_document(world: World) -> None:
    play(world, {"what": "fill_snapshots", "name": "full", "count": 2, "when": "3 hours ago"})
    assert number(world, "select count(*) from document_snapshots") == 400
    assert number(world, "select count(*) from documents") == 12 + 2 * 9
    play(world, {"what": "write", "of": "full", "name": "again", "saves": 2})
    assert statuses(world) == {500: 4}
    late = "select count(*) from document_snapshots s join documents d on d.id = document_id where s.created_at > updated_at"  # noqa: E501
    assert number(world, late) == 0


def test_a_changed_schema_is_in_the_ledger_only_as_a_migration(world: World) -> None:
    before = number(world, "select count(*) from supabase_migrations.schema_migrations")
    told = {
        "what": "change_schema",
        "when": "1 h ago",
        "sql": ["alter table documents disable trigger documents_version"],
    }
    play(world, told)
    assert number(world, "select count(*) from supabase_migrations.schema_migrations") == before
    play(world, {**told, "migration": "recount_words"})
    newest = rows(world, "select * from supabase_migrations.schema_migrations order by version desc limit 1")[0]
    assert (newest["name"], newest["statements"]) == ("recount_words", told["sql"])
    assert len(newest["version"]) == 14
    play(world, {"what": "write", "saves": 3})
    assert number(world, "select count(*) from document_versions") == 0
    assert number(world, "select count(*) from document_snapshots") == 3


def test_the_same_seed_tells_the_same_past(world: World, database: Postgres) -> None:
    told = {"what": "write", "count": 3, "name": "them"}
    play(world, told)
    first = (dict(world.actors), rows(world, "select content from documents order by id"))
    database.restore("fresh")
    world.actors.clear()
    play(world, told)
    assert (dict(world.actors), rows(world, "select content from documents order by id")) == first


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"what": "write", "saves": [5, 2]}, "lower number"),
        ({"what": "write", "every": "often"}, "no length of time"),
        ({"what": "write", "tier": "gold"}, "tier"),
        ({"what": "overwrite", "by": "magic"}, "by"),
        ({"what": "change_schema"}, "sql"),
        ({"what": "change_schema", "sql": []}, "sql"),
        ({"what": "lock", "colour": "red"}, "colour"),
    ],
)
def test_what_cannot_happen_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Happening).validate_python(told)
