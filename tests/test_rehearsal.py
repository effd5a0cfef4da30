"""Migrations rehearsed in a scratch database: what fails, what it locks, and what is not held against a file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from rehearsing import OWNER, files, rehearse
from support import everything

from opskit.actions import Change
from opskit.database import Database
from opskit.errors import CannotTell
from opskit.sandbox import Sandbox
from opskit.services import access, catalog, migrations, rehearsal, scratch


def test_one_report_names_every_failing_file_with_its_statement(target: Database, tmp_path: Path) -> None:
    found = rehearse(
        target,
        tmp_path,
        "create table fresh (id int);\nselect 1;\n\nalter table documents add column title text;",
        "alter table fresh add column more int;",  # what came before the error is there for it
        "select 1;\nselct 2;",
        "select * from nowhere;",
        "create index concurrently fresh_more on fresh (more);\nselect 1;",
        "begin; create table own (id int); commit; create table own (id int);",
    )
    assert found.notes == []
    told = found.tried[["verdict", "line", "sqlstate"]].itertuples(index=False, name=None)
    assert list(told) == [
        ("fails", 4, "42701"),
        ("passes", 0, ""),
        ("fails", 2, ""),
        ("fails", 1, "42P01"),
        ("passes", 0, ""),
        ("fails", 1, "42P07"),
    ]


def test_locks_are_those_really_taken(target: Database, tmp_path: Path) -> None:
    found = rehearse(
        target,
        tmp_path,
        "create table fresh (id uuid references documents (id));\ncreate index on fresh (id);",
        "create index i on documents (title);\nalter table documents add column a int;",
        "update documents set title = title where false;",
    )
    locks = found.locks[["file", "line", "table", "mode"]].itertuples(index=False, name=None)
    assert list(locks) == [
        ("20270101000000_f0.sql", 1, "public.documents", "SHARE ROW EXCLUSIVE"),
        ("20270101000001_f1.sql", 1, "public.documents", "SHARE"),
        ("20270101000001_f1.sql", 2, "public.documents", "ACCESS EXCLUSIVE"),
    ]


def test_a_missing_extension_is_not_the_files_fault(target: Database, tmp_path: Path) -> None:
    texts = ("create extension postgis;", "create table places (at geography);", "select 1;")
    assert list(rehearse(target, tmp_path, *texts).tried.verdict) == ["could not rehearse"] * 2 + ["passes"]


def test_only_an_extension_that_is_missing_excuses_what_is_not_supported(target: Database, tmp_path: Path) -> None:
    found = rehearse(
        target,
        tmp_path,
        "create view titles as select title from documents;\nalter table documents alter column title type varchar(9);",
        "select no_such_function();",
        "do $$ begin create extension postgis; end $$;",
        "select st_area();",
    )
    verdicts = ["fails", "fails", "could not rehearse", "could not rehearse"]
    assert list(found.tried.verdict) == verdicts, found.tried
    assert list(found.tried.sqlstate) == ["0A000", "42883", "0A000", "42883"]


ORDINARY = """
alter publication supabase_realtime add table documents;
create extension if not exists vector with schema extensions;
create table notes (id int primary key, embedding extensions.vector(3), session uuid references auth.sessions (id));
drop extension vector cascade;
alter role authenticated set statement_timeout = '15s';
alter role authenticator set pgrst.db_max_rows = '100';
create policy hears on realtime.messages for select to authenticated using (realtime.topic() = 'documents');
"""


UNKNOWN_HERE = """
alter role supabase_auth_admin set statement_timeout = '15s';
alter role anon set log_min_messages = 'debug1';
create table held (id uuid references auth.refresh_tokens (id));
select cron.schedule('a', '* * * * *', 'select 1');
do $$ begin perform net.http_get('x'); end $$;
select vault.create_secret('x', 'y');
create function heard() returns event_trigger language plpgsql as 'begin end'; \
create event trigger heard on ddl_command_end execute function heard();
"""


WRONG = """
create table held (id uuid references auth.users (id), other int references nowhere);
create index on auth.users (email);
create table nowhere.held (id int);
alter publication supabase_realtime add table nowhere;
create extension vector schema nowhere;
"""


@pytest.mark.parametrize(
    ("lines", "verdict"), [(ORDINARY, "passes"), (UNKNOWN_HERE, "could not rehearse"), (WRONG, "fails")]
)
def test_what_supabase_lets_its_owner_do_is_not_held_against_a_file(
    target: Database, tmp_path: Path, lines: str, verdict: str
) -> None:
    texts = lines.replace("\\\n", "").strip().splitlines()
    tried = rehearse(target, tmp_path, *texts).tried
    assert list(tried.verdict) == [verdict] * len(texts), tried


def test_a_file_is_not_blamed_for_what_could_not_be_rehearsed_before_it(target: Database, tmp_path: Path) -> None:
    found = rehearse(
        target,
        tmp_path,
        "create table held (token uuid references auth.refresh_tokens (id));\n"
        "alter table documents add column held uuid references held (id);",
        "create index on public.held (token);\ncreate table kept (id int);",
        "update documents set held = null where false;",
        "alter table kept add column more int;",
        "select * from holding;",
    )
    assert list(found.tried.verdict) == ["could not rehearse"] * 3 + ["passes", "fails"], found.tried


def test_what_works_of_a_failing_file_is_there_as_it_would_be(target: Database, tmp_path: Path) -> None:
    """Also what the owner does as somebody else."""
    found = rehearse(
        target,
        tmp_path,
        "create extension vector;\ncreate policy a on storage.objects using (true);\nselect 1 / 0;",
        "create table t (v vector(3));\ndrop policy a on storage.objects;\nset role postgres;\ndrop table t;",
    )
    assert list(found.tried.verdict) == ["fails", "passes"], found.tried


@pytest.mark.deep
def test_what_is_published_is_copied(firm: Sandbox, tmp_path: Path) -> None:
    drops = "alter publication supabase_realtime drop table documents;"
    published = "create publication supabase_realtime for table documents"
    database = everything(firm.name)[1].database
    amiss(firm, tmp_path, published, "alter publication supabase_realtime owner to postgres")
    found = rehearse(database, tmp_path, drops, "alter publication supabase_realtime add table documents;")
    assert (found.notes, list(found.tried.verdict)) == ([], ["passes"] * 2), found.tried
    assert list(rehearse(database, tmp_path, "select 1;", drops).tried.verdict) == ["passes"] * 2
    database.close()


def test_what_nearly_every_project_uses_is_there_or_stands_in(target: Database, tmp_path: Path) -> None:
    found = rehearse(
        target,
        tmp_path,
        'create extension if not exists "uuid-ossp" with schema extensions;\ncreate extension pgcrypto;\n'
        "create extension citext;\ncreate extension pg_trgm with schema extensions;",
        "create table tags (id uuid primary key default extensions.uuid_generate_v4(), name citext unique not null,\n"
        "  token text default encode(gen_random_bytes(20), 'hex'), user_id uuid);\n"
        "insert into tags (name, token) values ('a', crypt('word', gen_salt('bf', 8)));\n"
        "select digest('a', 'sha256'), hmac('a', 'b', 'sha1'), pgp_sym_decrypt(pgp_sym_encrypt('a', 'k'), 'k');",
        "create index on documents using gin (title extensions.gin_trgm_ops);\n"
        "create index on documents using gist (title extensions.gist_trgm_ops);\n"
        "select extensions.similarity('a', 'b'), 'a' operator(extensions.%) 'b', 'a' operator(extensions.<->) 'b';",
        "insert into tags (name, user_id) values ('b', extensions.uuid_generate_v5(extensions.uuid_ns_url(), 'x'));\n"
        "create index on tags using gin (token extensions.gin_trgm_ops);",
    )
    assert list(found.tried.verdict) == ["passes"] * 3 + ["could not rehearse"], found.tried
    assert found.tried.sqlstate.iloc[-1] == "0A000"
    assert [note.split()[0] for note in found.notes] == ["citext", "pg_trgm", "pgcrypto", "uuid-ossp"]
    taken = access.changed(found.before, found.after)
    assert set(taken.table) <= {"tags"}  # an index that takes no row here closes nothing to its owner


def test_the_owner_is_no_superuser_there_either(target: Database, tmp_path: Path) -> None:
    assert list(rehearse(target, tmp_path, "alter table auth.users add column x int;").tried.sqlstate) == ["42501"]


def test_policies_and_triggers_on_tables_of_supabase_are_the_teams_own(target: Database, tmp_path: Path) -> None:
    found = rehearse(
        target,
        tmp_path,
        "create policy avatars on storage.objects for select using (bucket_id = 'avatars');\n"
        "create function greet() returns trigger language plpgsql as 'begin return new; end';\n"
        "create trigger on_auth_user_created after insert on auth.users for each row execute function greet();",
        "drop policy made_long_ago on storage.objects;",
        "alter table storage.objects add column mine int;",
    )
    assert list(found.tried.verdict) == ["passes", "could not rehearse", "fails"], found.tried


def amiss(firm: Sandbox, place: Path, *statements: str) -> None:
    """Change the target's database behind everybody's back."""
    told = {"name": "amiss", "title": "x", "runbook": "supabase-migration-procedures", "causes": ["unknown"]}
    (path := place / "amiss.yaml").write_text(yaml.safe_dump({**told, "sql": list(statements)}))
    firm.break_with(path)


def test_names_are_looked_for_where_the_owner_would(firm: Sandbox, tmp_path: Path) -> None:
    services = everything(firm.name)[1]
    token = "create function helpers.token() returns int return 7"
    made_there = ("create schema helpers", "grant usage on schema helpers to public", token)
    (made,) = files(tmp_path, "create table t (id int default token());")
    try:
        amiss(firm, tmp_path, *made_there, f'alter role {OWNER} set search_path = "$user", public, helpers')
        assert list(rehearsal.rehearse(services.database, OWNER, [made], "target").tried.verdict) == ["passes"]
        action = services.migrations.apply_file(made, 3, 60)
        Change.known[action.name].do(services, action.arguments, action.before, "key")
        assert services.database.rows("select count(*)::int as n from t") == [{"n": 0}]
    finally:  # a role belongs to no database, and comes back with none
        amiss(firm, tmp_path, *made_there, f"alter role {OWNER} reset search_path")
    assert list(rehearsal.rehearse(services.database, OWNER, [made], "target").tried.sqlstate) == ["42883"]


@pytest.mark.deep
def test_whose_search_path_it_is_changes_nothing_in_what_is_compared(firm: Sandbox, tmp_path: Path) -> None:
    services = everything(firm.name)[1]
    made = "create table public.t (id int default helpers.token() primary key, v extensions.vector)"
    begins = ("create schema helpers", "create function helpers.token() returns int return 7",
              "grant usage on schema helpers to public",
              "create schema if not exists extensions", "grant usage on schema extensions to public",
              "create extension if not exists vector schema extensions")  # fmt: skip
    amiss(firm, tmp_path, *begins, 'alter database postgres set search_path = "$user", public, helpers, extensions')
    before = services.migrations.shape()
    found = rehearsal.rehearse(services.database, OWNER, files(tmp_path, f"{made};"), "target")
    assert list(found.tried.verdict) == ["passes"], found.tried
    with services.database.session() as session:
        session.execute(f"set role {OWNER}; " + made)
    after = services.migrations.shape()
    differs = {name: text for name, text in found.changes.items() if after.get(name) != text}
    assert (differs, before.keys() < after.keys()) == ({}, True)
    services.database.close()


def test_a_new_project_begins_with_what_supabase_brings(target: Database, standing: Sandbox, tmp_path: Path) -> None:
    shipped = migrations.opened(standing.folder / "supabase" / "migrations").files
    found = rehearsal.rehearse(target, OWNER, shipped, "empty")
    assert list(found.tried.verdict) == ["passes"] * 7
    assert found.locks.empty


def test_what_was_applied_makes_what_the_target_holds(target: Database, standing: Sandbox, tmp_path: Path) -> None:
    shipped = migrations.opened(standing.folder / "supabase" / "migrations").files
    found = catalog.read(target.rows)
    pending = files(tmp_path, "alter table documents add column slug text;\nset lock_timeout = '2s';", "select 1;")
    played = rehearsal.replay(target, OWNER, shipped, pending, found)
    assert played.notes == []
    assert catalog.difference(played.expected, found).empty
    assert played.present == {pending[0].version: [False, None], pending[1].version: [None]}
    assert played.pending == {("column", "public.documents.slug"): {"text"}}


def test_a_statement_is_there_also_where_a_later_one_changed_what_it_made(
    target: Database, standing: Sandbox, tmp_path: Path
) -> None:
    shipped = migrations.opened(standing.folder / "supabase" / "migrations").files
    texts = (
        "create table notes (id int);\nalter table notes enable row level security;\ncreate index i on notes (id);",
    )
    there = {**catalog.read(target.rows), ("table", "public.notes"): "r, row-level security"}
    there |= {("column", "public.notes.id"): "integer"}
    played = rehearsal.replay(target, OWNER, shipped, files(tmp_path, *texts), there)
    assert list(played.present.values()) == [[True, True, False]]
    assert played.drift.empty


def test_what_pending_files_took_away_or_left_halfway_is_no_drift(
    target: Database, standing: Sandbox, tmp_path: Path
) -> None:
    shipped = migrations.opened(standing.folder / "supabase" / "migrations").files
    texts = (
        "alter table documents rename column title to heading;",
        "alter table documents drop column status;\ncreate table notes (id int);\n"
        "alter table notes enable row level security;",
    )
    there = catalog.read(target.rows)
    heading = there.pop(("column", "public.documents.title"))
    del there["column", "public.documents.status"]
    there |= {("column", "public.documents.heading"): heading, ("table", "public.notes"): "r"}
    there |= {("column", "public.notes.id"): "integer", ("table", "public.by_hand"): "r"}
    played = rehearsal.replay(target, OWNER, shipped, files(tmp_path, *texts), there)
    assert not {"public.documents.title", "public.documents.heading", "public.documents.status"} & set(
        played.drift.name
    )
    assert list(played.drift[played.drift.kind == "table"].name) == ["public.by_hand"]


def test_nothing_is_left_of_a_scratch_server(target: Database, tmp_path: Path) -> None:
    with scratch.server(scratch.choose(18)) as server, server.open("postgres").session() as session:
        (home,) = session.execute("select current_setting('unix_socket_directories') as home")
        assert Path(home["home"]).is_dir()
    assert not Path(home["home"]).exists()
    shown = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    assert home["home"] not in shown


def test_without_any_postgresql_it_could_not_be_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "installed", lambda: ())
    with pytest.raises(CannotTell, match="could not rehearse: no PostgreSQL"):
        scratch.choose(18)
