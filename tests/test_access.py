"""Who gets at whose rows, tried on a copy before and after the files."""

from __future__ import annotations

from pathlib import Path

from rehearsing import rehearse

from opskit.database import Database
from opskit.services import access


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
    assert access.outdated(found.before, meant) == meant
    assert access.outdated(found.after, [*meant, "public.gone select"]) == ["public.gone select"]
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
