"""The team's migrations: folder and ledger agree, files come and go, a push does what the command-line tool does."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import psycopg
import pytest

from opskit import sandbox
from opskit.sandbox import catalog, comparison, migrations
from opskit.sandbox.happenings import schedule
from opskit.sandbox.postgres import Postgres
from opskit.sandbox.supabase import SupabaseStore
from opskit.sandbox.world import World

NEW = "20251101093000_documents_slug.sql"
LEDGER = "select version, name, statements from supabase_migrations.schema_migrations order by version"


@pytest.fixture
def world(database: Postgres) -> World:
    world = World(1, database)
    world.supabase = SupabaseStore(world)
    return world


def play(world: World, *told: dict[str, Any]) -> None:
    for one in told:
        schedule(world, one, random.Random(1))
        world.play_past()


def asked(world: World, query: str) -> list[Any]:
    with world.database.connect() as connection:
        return connection.execute(query.encode()).fetchall()


def test_the_ledger_holds_what_the_files_say(world: World) -> None:
    files = [
        (*migrations.FILE.fullmatch(name).groups(), migrations.statements(text))  # type: ignore[union-attr]
        for name, text in migrations.shipped().items()
    ]
    assert asked(world, LEDGER) == files
    assert len(files) >= 7


def test_what_migrations_make_belongs_to_no_superuser(world: World) -> None:
    owners = asked(
        world,
        """select distinct tableowner, rolsuper from pg_tables join pg_roles on rolname = tableowner
           where schemaname in ('public', 'supabase_migrations')""",
    )
    assert owners == [(migrations.OWNER, False)]


def test_opskit_migrates_by_becoming_the_owner_and_not_otherwise(world: World) -> None:
    with psycopg.connect(world.database.dsn("opskit_change")) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("alter table documents add slug text")
        with connection.transaction():
            connection.execute(f"set local role {migrations.OWNER}")
            connection.execute("alter table documents add slug text")
            connection.execute(migrations.ENTER, ["20251101093000", "slug", []])
    with psycopg.connect(world.database.dsn("opskit_read")) as connection, pytest.raises(psycopg.Error):
        connection.execute(f"set role {migrations.OWNER}")


def test_new_tables_can_be_seen(world: World) -> None:
    play(world, {"what": "change_schema", "sql": ["create table tags (id int primary key)"], "migration": "tags"})
    for user in ("opskit_read", "opskit_change", "maintenance"):
        with psycopg.connect(world.database.dsn(user)) as connection:
            assert connection.execute("select * from tags").fetchall() == []


def test_files_come_change_and_go(world: World) -> None:
    gone = "20251006113348_document_branches.sql"
    play(world, {"what": "change_folder", "files": {NEW: "select 1", gone: None}, "linked": "z" * 20})
    assert set(world.migrations) - set(migrations.shipped()) == {NEW, migrations.LINKED}
    assert gone not in world.migrations


def test_a_pushed_file_is_applied_whole_and_entered(world: World) -> None:
    text = (
        "-- Names for addresses; one each.\nalter table documents add slug text;\ncreate index s on documents (slug);"
    )
    play(world, {"what": "change_folder", "files": {NEW: text, "notes.sql": "no migration"}}, {"what": "push"})
    assert asked(world, LEDGER)[-1] == (
        "20251101093000",
        "documents_slug",
        [
            "-- Names for addresses; one each.\nalter table documents add slug text",
            "create index s on documents (slug)",
        ],
    )
    assert asked(world, "select tableowner from pg_tables where tablename = 'documents'") == [(migrations.OWNER,)]


def test_a_file_that_fails_leaves_nothing_but_a_line_in_the_log(world: World) -> None:
    text = "create table tags (id int);\ncreate table tags (id int);\n"
    play(world, {"what": "change_folder", "files": {NEW: text}}, {"what": "push"})
    assert asked(world, "select to_regclass('tags')") == [(None,)]
    assert len(asked(world, LEDGER)) == len(migrations.shipped())
    (line,) = world.supabase.logs
    assert line.attributes["parsed.sql_state_code"] == "42P07"


def test_what_precedes_a_concurrent_index_stays_when_something_after_it_fails(world: World) -> None:
    text = """
        create table tags (id int);
        create index concurrently tags_id on tags (id);
        create table labels (id int);
        alter table no_such_table add x int;
    """
    play(world, {"what": "change_folder", "files": {NEW: text}}, {"what": "push"})
    found = asked(world, "select to_regclass('tags')::text, to_regclass('tags_id')::text, to_regclass('labels')::text")
    assert found == [("tags", "tags_id", None)]
    assert len(asked(world, LEDGER)) == len(migrations.shipped())


def test_a_push_gives_up_on_a_lock_soon(world: World) -> None:
    told = {"what": "change_folder", "files": {NEW: "alter table documents add slug text"}}
    with psycopg.connect(world.database.dsn()) as held:
        held.execute("lock table documents in share mode")
        play(world, told, {"what": "push"})
    (line,) = world.supabase.logs
    assert line.attributes["parsed.sql_state_code"] == "55P03"


@pytest.mark.parametrize(
    ("change", "key", "fields"),
    [
        ("alter table documents add slug text", "columns/documents.slug", None),
        ("alter table documents alter word_count drop not null", "columns/documents.word_count", ["not_null"]),
        ("create index s on documents (title)", "indexes/s", None),
        (
            "alter table projects drop constraint projects_user_id_fkey",
            "constraints/projects.projects_user_id_fkey",
            None,
        ),
        ("drop policy own_select on documents", "policies/documents.own_select", None),
        ("alter policy own_select on projects using (true)", "policies/projects.own_select", ["using"]),
        ("alter table projects disable row level security", "tables/projects", ["row_security"]),
        ("drop function enforce_snapshot_limit() cascade", "functions/enforce_snapshot_limit()", None),
        ("alter table documents disable trigger documents_touch", "triggers/documents.documents_touch", ["enabled"]),
        ("create schema extra", "schemas/extra", None),
        ("create type mood as enum ('calm')", "types/mood", None),
    ],
)
def test_a_changed_schema_is_seen(world: World, change: str, key: str, fields: list[str] | None) -> None:
    with world.database.connect() as connection:
        before = catalog.objects(connection)
        connection.execute(f"set role {migrations.OWNER}")
        connection.execute(change.encode())
        after = catalog.objects(connection)
    states = [{"database": {}, "schema": schema} for schema in (before, after)]
    found = {one["key"]: list(one["fields"]) for one in comparison.changes(*states, [])["stray"]}
    assert key in found
    assert fields is None or found[key] == fields
    touch = {"place": "schema", "keys": ["*"], "fields": ["*"], "where": {}}
    assert comparison.changes(*states, [touch])["stray"] == []


def test_a_sandbox_brings_its_folder_back(company: sandbox.Sandbox, tmp_path: Path) -> None:
    place = migrations.place(company.folder)
    shipped = sorted(migrations.shipped())
    assert sorted(path.name for path in place.iterdir()) == shipped
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"""
        name: mine
        title: A file is pending
        runbook: supabase-migration-procedures
        parameters: {{folder: "${{migrations}}"}}
        happenings:
          - {{what: change_folder, files: {{{NEW}: alter table documents add slug text}}}}
        causes: [healthy]
        touches:
          - {{service: folder, object: "*.sql"}}
        by_hand:
          - happenings: [{{what: change_folder, files: {{{shipped[-1]}: null}}}}]
        """
    )
    truth = company.break_with(path)
    assert truth["parameters"] == {"folder": str(place)}
    assert (place / NEW).read_text() == "alter table documents add slug text"
    before = company.state()
    (place / "20251102000000_by_somebody.sql").write_text("select 1;\n")
    assert company.by_hand() == ["Changed the folder of migrations."]
    assert company.status()["migrations"] == str(place)
    changed = company.changes(before)
    assert {one["key"]: one["kind"] for one in changed["allowed"]} == {
        "20251102000000_by_somebody.sql": "added",
        shipped[-1]: "removed",
    }
    assert changed["stray"] == []
    company.heal()
    assert sorted(path.name for path in place.iterdir()) == shipped
