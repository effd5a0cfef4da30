"""Migrations on an older PostgreSQL, and behind a pooler that hands out connections by transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pooler import behind, judge, pooler
from support import events, everything

from opskit import environment
from opskit.actions import Action, Change, Result, carry_out
from opskit.commands.runs import look
from opskit.commands.sandbox import approve_and_apply
from opskit.database import Database
from opskit.errors import Refused
from opskit.journal import Journal
from opskit.outcome import Outcome
from opskit.sandbox import Sandbox
from opskit.services import Services, busiest, connect, migrations, pins, rehearsal, reversal, scratch
from opskit.services.migrations import Migrations
from opskit.services.statements import File

RUNBOOK = "supabase-migration-procedures"


# PostgreSQL 15, as Debian has it.


@pytest.fixture(scope="module")
def older() -> Iterator[Any]:
    """Services of a database there, whose owner is no superuser."""
    binaries = scratch.Binaries(judge("postgres").parent, 15, packaged=True)
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # as Supabase has it
            patch.setitem(scratch.SETTINGS, "shared_preload_libraries", "pg_stat_statements")
            server = stack.enter_context(scratch.server(binaries))
        with server.open("postgres").session() as session:
            session.execute(rehearsal.STANDINS.read_text())
            session.execute("alter role postgres login; alter database postgres owner to postgres")
        users = dict.fromkeys(("read", "change"), scratch.SUPERUSER)
        found = Database(f"postgresql:///postgres?host={server.home}", users, dict.fromkeys(users, ""), "opskit/test")
        yield SimpleNamespace(database=found, migrations=Migrations(found, "postgres"))
        found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., list[File]]:
    def put(*texts: str) -> list[File]:
        for number, text in enumerate(texts):
            (tmp_path / f"2027010100000{number}_f{number}.sql").write_text(text)
        return list(migrations.opened(tmp_path).files)

    return put


def do(services: Any, action: Action) -> None:
    change = Change.known[action.name]
    change.do(services, action.arguments, action.before, "key")
    assert change.done(change.look(services, action.arguments), action.before)


def test_on_an_older_version_files_are_rehearsed_with_real_extensions_applied_and_taken_back(
    older: Any, folder: Callable[..., list[File]]
) -> None:
    files = folder(
        'create extension "uuid-ossp"; create extension pg_trgm;\n'
        "create table notes (id uuid primary key default uuid_generate_v4(), user_id uuid not null, text text);\n"
        "alter table notes enable row level security;\n"
        "create policy own on notes to authenticated using (auth.uid() = user_id);",
        "create index concurrently notes_text on notes using gin (text gin_trgm_ops);",
        "alter table notes add column size text;",
    )
    found = older.migrations.rehearse(files, "target")
    assert list(found.tried.verdict) == ["passes"] * 3
    assert found.notes == []
    for file in files:
        do(older, older.migrations.apply_file(file, 1, 30))
    assert older.migrations.align(migrations.opened(files[0].path.parent)).pending == []
    kept = migrations.opened(files[0].path.parent)
    assert older.migrations.replay(kept, []).drift.empty
    with older.database.session() as session:
        session.execute(
            "insert into notes (user_id, text, size) select gen_random_uuid(), i, i from generate_series(1, 50) i"
        )
    steps = reversal.reverse(files[2])
    (lost,) = reversal.lost(steps)
    keeping = older.migrations.keep_rows(files[2], lost)
    do(older, keeping)
    do(older, older.migrations.reverse(files[2], steps, 1, 30, [keeping]))
    assert older.migrations.invalid_indexes().empty


def test_of_another_version_what_the_files_make_is_told_by_its_name(
    older: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 15 spells the view as `select viewed.id`, newer ones as `select id`."""
    newest = scratch.installed()[0]
    monkeypatch.setattr(scratch, "choose", lambda target: newest)
    (tmp_path / "20270102000000_views.sql").write_text(
        "create table viewed (id int); create view views as select id from viewed;"
    )
    (file,) = migrations.opened(tmp_path).files
    again = older.migrations.look_again([file])
    assert "by name alone: rehearsed on PostgreSQL 18; the target is 15" in again.title
    actions, journal = [older.migrations.apply_file(file, 1, 30), again], Journal(tmp_path / "journal.jsonl")
    assert [result for _, result, _ in carry_out(actions, older, journal)] == [Result.DONE, Result.ALREADY]
    with older.database.session() as session:
        session.execute("drop view views")
    assert Change.known[again.name].look(older, again.arguments) == {
        "differs": ["table public.views: missing", "view public.views: missing"]
    }


def test_on_an_older_version_rows_are_counted_or_not_proven(older: Any, folder: Callable[..., list[File]]) -> None:
    with older.database.session() as session:
        session.execute("create table counted (id int primary key, text text); insert into counted values (1, 'x')")
    found = older.migrations.offenders(
        folder(
            "alter table counted alter column text type int;",
            "alter table counted add constraint long check (length(text) > 1);",
        )
    )
    casts, checks = found.itertuples()
    assert casts.offenders is None
    assert "not proven" in casts.why
    assert checks.offenders == 1


def test_on_an_older_version_an_update_goes_in_batches(older: Any, tmp_path: Path) -> None:
    with older.database.session() as session:
        session.execute("create table filled (id bigint primary key, slug text)")
        session.execute("insert into filled select i, null from generate_series(1, 2000) i")
        session.execute("alter table filled owner to postgres")
    filling = older.migrations.filling("update filled set slug = 'n' || id where slug is null", [], "id")
    action = older.migrations.fill(filling, 1, 30)
    assert [r for _, r, _ in carry_out([action], older, Journal(tmp_path / "journal.jsonl"))] == [Result.DONE]


BY_VALUE = "select count(*) from busy where n = $1"


def test_the_busiest_statements_are_planned_before_and_after(older: Any) -> None:
    assert older.migrations.busiest().empty  # without the extension
    with older.database.session() as session:
        session.execute("create schema if not exists extensions")
        session.execute("create extension pg_stat_statements schema extensions")
        session.execute("select extensions.pg_stat_statements_reset()")
        session.execute(
            "create table busy (id int, n int); insert into busy select i, i from generate_series(1, 9000) i"
        )
        session.execute("analyze busy")
        for sql in ("select max(n) from busy", "select count(id) from busy", "select count(*) from busy where n = 5"):
            session.execute(sql)
        before = older.migrations.busiest()
        plans = dict(zip(before.statement, before.plan, strict=True))
        assert plans["select max(n) from busy"] == "Aggregate < Seq Scan busy"
        assert plans[BY_VALUE] == "Aggregate < Seq Scan busy"
        assert older.migrations.planned_otherwise(before).empty
        session.execute("create index busy_n on busy (n)")
        session.execute("alter table busy rename column id to number")
        found = {row.statement: row.after for row in older.migrations.planned_otherwise(before).itertuples()}
    assert set(found) == {"select max(n) from busy", "select count(id) from busy", BY_VALUE}
    assert found[BY_VALUE] == "Aggregate < Index Only Scan busy_n busy"
    assert "Index Only Scan busy_n busy" in found["select max(n) from busy"]
    assert "42703" in found["select count(id) from busy"]


def test_a_newer_version_plans_without_values(firm: Sandbox) -> None:
    database = everything(firm.name)[1].database
    found = busiest.plan(database, "select id from documents where user_id = $1 and title like 'a%' limit $2")
    assert "documents_user" in found
    assert busiest.plan(database, "select nothing from documents where id = $1").startswith("fails: column")
    assert busiest.plan(database, "update documents set title = $1") == "not known: this role may not ask for its plan"
    assert database.rows("select name from pg_prepared_statements") == []


# pgbouncer.


def services(firm: Sandbox, port: int, direct: bool = False) -> Services:
    target = environment.Environment.model_validate(behind(firm, port, direct))
    secrets = {access: environment.resolve(target, access) for access in ("read", "change")}
    return connect(target, secrets, "opskit/test")


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_pooler_by_transaction_is_noticed_and_the_direct_address_taken(firm: Sandbox, mode: str) -> None:
    with pooler(firm, mode) as port:
        assert services(firm, port).migrations.pooled() == (mode == "transaction")
        assert not services(firm, port, direct=True).migrations.pooled()
    assert not everything(firm.name)[1].migrations.pooled()


@pytest.mark.deep
def test_behind_a_pooler_the_runbook_refuses_or_goes_the_direct_way(firm: Sandbox, repository: Path) -> None:
    told = firm.break_with("migrations-healthy")
    given = {**told["parameters"], "environment": "pooled"}
    place = repository / "parameters" / "environments" / "pooled.yaml"
    with pooler(firm, "transaction") as port:
        place.write_text(yaml.safe_dump(behind(firm, port)))
        folder, outcome = look(RUNBOOK, given)
        assert outcome is Outcome.REFUSED
        assert "hands out connections by transaction" in events(folder, "refused")[0]["why"]
        place.write_text(yaml.safe_dump(behind(firm, port, direct=True)))
        folder, outcome = look(RUNBOOK, given)
        assert outcome is Outcome.PLANNED
        assert approve_and_apply(folder)[1] is Outcome.VERIFIED
    assert [one for one in firm.healed() if not one["ok"]] == []


def test_a_direct_address_holds_no_secret(firm: Sandbox) -> None:
    content = behind(firm, 1, direct=True)
    content["services"]["database"]["direct"] = "postgresql://me:word@127.0.0.1/postgres"
    with pytest.raises(ValueError, match="the address holds a password"):
        environment.Environment.model_validate(content)


def test_a_direct_address_that_leads_elsewhere_is_refused(firm: Sandbox, older: Any) -> None:
    target, found = everything(firm.name)
    elsewhere = Migrations(older.database, "postgres")
    with pytest.raises(Refused, match=r"database_system is \d+,\d+, not \d+"):
        pins.compare(target, replace(found, migrations=elsewhere), lambda name, error: None)
