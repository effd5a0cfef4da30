"""Migrations rehearsed in a scratch database: what fails, what it locks, whom it lets in."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import everything

from opskit.actions import Change
from opskit.database import Database
from opskit.errors import CannotTell
from opskit.sandbox import Sandbox
from opskit.services import access, catalog, checkpoints, migrations, rehearsal, scratch
from opskit.services.rehearsal import Rehearsal
from opskit.services.statements import File

OWNER = "postgres"


@pytest.fixture(scope="module")
def target(standing: Sandbox, state: Path) -> Iterator[Database]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_STATE", str(state))
        found = everything(standing.name)[1].database
    yield found
    found.close()


def files(folder: Path, *texts: str) -> list[File]:
    for number, text in enumerate(texts):
        (folder / f"2027010100000{number}_f{number}.sql").write_bytes(text.encode())
    return list(migrations.opened(folder).files)


def rehearse(target: Database, folder: Path, *texts: str, base: str = "target") -> Rehearsal:
    return rehearsal.rehearse(target, OWNER, files(folder, *texts), base)


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


def test_whom_the_policies_let_in_before_and_after(target: Database, tmp_path: Path) -> None:
    found = rehearse(
        target,
        tmp_path,
        "create policy everybody on document_versions for select to anon, authenticated using (true);",
        "create table notes (id int primary key, user_id uuid not null);",
    )
    assert access.exposed(found.before).empty
    assert found.before[(found.before.who == "owner") & (found.before.command == "select")].allowed.all()
    opened = access.exposed(access.changed(found.before, found.after).rename(columns={"allowed_after": "allowed"}))
    seen = set(opened[["table", "command", "who"]].itertuples(index=False, name=None))
    assert {("document_versions", "select", "stranger"), ("document_versions", "select", "anonymous")} <= seen
    assert {(t, w) for t, c, w in seen if c == "delete"} == {("notes", "stranger"), ("notes", "anonymous")}
    meant = ["public.document_versions select", "public.notes delete by stranger"]
    left = access.exposed(found.after, meant)
    assert seen - set(left[["table", "command", "who"]].itertuples(index=False, name=None)) == {
        ("document_versions", "select", "stranger"),
        ("document_versions", "select", "anonymous"),
        ("notes", "delete", "stranger"),
    }


def test_where_no_row_can_be_made_nobody_is_denied_anything(target: Database, tmp_path: Path) -> None:
    found = rehearse(
        target,
        tmp_path,
        'create table notes (id varchar(30) primary key, "ownerId" uuid references auth.users);',
        "create table dated (at date, user_id uuid) partition by range (at);",
        "create domain must as text not null; create table kept (id int primary key, user_id uuid, it must);",
    )
    after = found.after[found.after.table.isin(["notes", "dated", "kept"])]
    told = {(table, tuple(sorted(map(str, set(group.allowed))))) for table, group in after.groupby("table")}
    assert told == {("notes", ("True",)), ("dated", ("True",)), ("kept", ("None",))}


OWN = "alter table {0} enable row level security; create policy own on {0} using (auth.uid() = user_id);"
ALWAYS = "create table todos (id bigint generated always as identity primary key, user_id uuid not null, task text);"
ENUM = (
    "create type shade as enum ('light', 'dark');"
    "create table shades (id uuid, shade shade, user_id uuid, primary key (id, shade));"
)
BY_MONTH = (
    "create table days (at date, id uuid, user_id uuid, primary key (id, at)) partition by range (at);"
    "create table days_2025 partition of days for values from ('2025-01-01') to ('2026-01-01') partition by hash (id);"
    "create table days_2025_a partition of days_2025 for values with (modulus 1, remainder 0);"
)


def test_whoever_may_use_a_table_is_told_whatever_its_key_is(target: Database, tmp_path: Path) -> None:
    tables = ("todos", "shades", "days")
    text = ALWAYS + ENUM + BY_MONTH + "".join(OWN.format(table) for table in tables)
    opened = "".join(f"alter policy own on {table} using (true);" for table in tables)
    closed, open_ = rehearse(target, tmp_path, text).after, rehearse(target, tmp_path, text, opened).after
    for found, allowed in ((closed, {"owner"}), (open_, {"owner", "stranger", "anonymous"})):
        of_ours = found[found.table.isin(tables)].groupby(["table", "command"])
        assert {key: set(of[of.allowed == True].who) for key, of in of_ours} == {  # noqa: E712  # None is an answer
            (table, command): allowed for table in tables for command in ("select", "insert", "update", "delete")
        }
    assert set(closed[closed.table.isin(["days_2025", "days_2025_a"])].allowed) == {True}  # nobody closed these


def test_rows_that_a_migration_brings_are_not_the_owners(target: Database, tmp_path: Path) -> None:
    found = rehearse(
        target,
        tmp_path,
        "create table templates (id uuid primary key, is_public boolean default false, created_by uuid);"
        "alter table templates enable row level security;"
        "create policy see on templates for select using (is_public or created_by = auth.uid());"
        "insert into templates values (gen_random_uuid(), true);",
    ).after
    seen = found[(found.table == "templates") & (found.command == "select")]
    assert dict(zip(seen.who, seen.allowed, strict=True)) == {"owner": True, "stranger": False, "anonymous": False}


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


# What is tried once is not tried again.

GOOD = tuple(f"create table made{n} (id int);\nalter table documents add column made{n} int;" for n in range(4))


@pytest.fixture
def kept(state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place of its own for what is kept."""
    place = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("OPSKIT_STATE", str(place))
    yield place / scratch.KEPT
    scratch.purge()


def told(found: Rehearsal) -> list[object]:
    rows = [found.tried.drop(columns="seconds"), found.locks, found.before, found.after]
    return [sorted(map(repr, frame.itertuples(index=False, name=None))) for frame in rows]


def test_what_has_not_changed_is_not_tried_again(target: Database, tmp_path: Path, kept: Path) -> None:
    first = rehearse(target, tmp_path, *GOOD)
    again = rehearse(target, tmp_path, *GOOD)
    assert (first.earlier, again.earlier) == (0, 4)
    assert told(again) == told(first)
    more = rehearse(target, tmp_path, *GOOD, "alter table made3 add column more int;", "select made;")
    assert more.earlier == 4
    assert list(more.tried.verdict) == ["passes"] * 5 + ["fails"]
    assert rehearse(target, tmp_path, "select 1;", *GOOD[1:]).earlier == 0


def test_a_file_that_was_mended_is_begun_with(target: Database, tmp_path: Path, kept: Path) -> None:
    broken = rehearse(target, tmp_path, *GOOD[:3], "create table made3 (id int); select 1 / 0;", "select * from made3;")
    assert (broken.earlier, list(broken.tried.verdict)) == (0, ["passes"] * 3 + ["fails", "passes"])
    mended = rehearse(target, tmp_path, *GOOD, "select * from made3;")
    assert (mended.earlier, list(mended.tried.verdict)) == (3, ["passes"] * 5)
    fresh = rehearse(target, tmp_path, *GOOD, "select * from made3;", base="empty")
    assert fresh.earlier == 0


@pytest.mark.deep
def test_a_target_that_has_changed_is_copied_anew(
    target: Database, standing: Sandbox, tmp_path: Path, kept: Path, state: Path
) -> None:
    assert rehearse(target, tmp_path, *GOOD).earlier == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKIT_STATE", str(state))
        changing = everything(standing.name)[1].database
    with changing.session() as session:
        session.execute("set role postgres")
        session.execute("create table on_the_target (id int)")
        try:
            assert rehearse(target, tmp_path, *GOOD).earlier == 0
        finally:
            session.execute("drop table on_the_target")


@pytest.mark.deep
def test_what_all_databases_share_is_never_begun_with(target: Database, tmp_path: Path, kept: Path) -> None:
    texts = ("create role made_by_a_file;", *GOOD)
    for _ in range(2):
        found = rehearse(target, tmp_path, *texts)
        assert (found.earlier, set(found.tried.verdict)) == (0, {"passes"})


@pytest.mark.deep
def test_only_a_few_copies_are_kept_and_they_can_be_purged(target: Database, tmp_path: Path, kept: Path) -> None:
    for n in range(checkpoints.MOST + 2):
        assert rehearse(target, tmp_path, f"create table other{n} (id int);").earlier == 0
    (home,) = [one for one in kept.iterdir() if one.is_dir()]
    assert len(list(home.glob("behind_*.json"))) == checkpoints.MOST
    assert len([one for one in (home / "data" / "base").iterdir() if one.is_dir()]) <= checkpoints.MOST + 4
    assert rehearse(target, tmp_path, f"create table other{checkpoints.MOST + 1} (id int);").earlier == 1
    assert scratch.purge()
    assert not home.exists()
    assert not scratch.purge()


@pytest.mark.deep
def test_what_was_not_stopped_in_order_is_not_begun_with(target: Database, tmp_path: Path, kept: Path) -> None:
    rehearse(target, tmp_path, *GOOD)
    (home,) = [one for one in kept.iterdir() if one.is_dir()]
    (home / scratch.WHOLE).write_text("another start of the machine")
    assert rehearse(target, tmp_path, *GOOD).earlier == 0


@pytest.mark.deep
def test_two_at_once_do_not_get_in_each_others_way(target: Database, tmp_path: Path, kept: Path) -> None:
    rehearse(target, tmp_path, *GOOD)
    with scratch.lasting(scratch.choose(18), "other") as mine:
        assert mine.keep
        assert rehearse(target, tmp_path, *GOOD).earlier == 0


@pytest.mark.deep
def test_with_its_process_goes_a_server_and_what_it_held(target: Database, tmp_path: Path, kept: Path) -> None:
    script = """if True:
        import os, signal
        from opskit.services import scratch
        with scratch.lasting(scratch.choose(18), "killed") as server:
            print(server.home, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    home = Path(done.stdout.strip())
    assert (done.returncode, home.parent) == (-9, kept)
    deadline = time.monotonic() + 20
    while home.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not home.exists()


@pytest.mark.deep
def test_where_nothing_can_be_kept_it_is_rehearsed_all_the_same(
    target: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("no folder")
    monkeypatch.setenv("OPSKIT_STATE", str(tmp_path / "state"))
    for _ in range(2):
        found = rehearse(target, tmp_path, "select 1;")
        assert (found.earlier, list(found.tried.verdict)) == (0, ["passes"])
    assert not scratch.purge()
