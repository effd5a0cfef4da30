"""Migrations taken back: what would be lost is kept first, and what has no way back is for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from applying import VERSION, apply, do, file, ledger, owned
from support import as_bash_reads

from opskit.actions import Change
from opskit.errors import Denied, Refused
from opskit.sandbox import Sandbox
from opskit.services import Services, migrating, reversal


def test_a_migration_is_taken_back_where_nothing_is_lost(services: Services, tmp_path: Path) -> None:
    made = file(tmp_path, "set lock_timeout = '1s';\nalter table document_snapshots rename column payload to body;")
    do(services, apply(services, made))
    steps = reversal.reverse(made)
    assert reversal.lossless(steps)
    do(services, services.migrations.reverse(made, steps, 1, 30))
    assert services.database.rows("select count(payload) as n from document_snapshots limit 1")
    assert ledger(services) == []


def test_what_would_be_lost_is_kept_before_a_migration_is_taken_back(services: Services, tmp_path: Path) -> None:
    text = (
        "alter table documents add column slug text;\ncreate table made (id int primary key, note text);\n"
        "alter table made enable row level security;\ncreate policy own on made using (true);"
    )
    made = file(tmp_path, text)
    do(services, apply(services, made))
    owned(services, "update documents set slug = 'x' where id in (select id from documents order by id limit 3)")
    owned(services, "insert into made values (1, 'one')")
    steps = reversal.reverse(made)
    assert (reversal.lossless(steps), reversal.possible(steps)) == (False, True)
    keeping = [services.migrations.keep_rows(made, one) for one in reversal.lost(steps)]
    back = services.migrations.reverse(made, steps, 1, 30, keeping)
    assert back.removes_access
    assert list(back.after) == [action.id for action in keeping]
    with pytest.raises(Refused, match="was not kept in opskit_kept"):
        Change.known[back.name].do(services, back.arguments, back.before, "key")
    assert [one.title for one in keeping] == [
        f'Keep what made holds: 1 rows, into opskit_kept."v{VERSION}_made"',
        f'Keep what documents.slug holds: 3 rows, into opskit_kept."v{VERSION}_documents_slug"',
    ]
    for action in keeping:
        do(services, action)
    owned(services, "insert into made values (2, 'late'); update made set note = 'changed' where id = 1")
    do(services, back)
    assert ledger(services) == []
    assert services.database.rows("select to_regclass('public.made') as made") == [{"made": None}]
    kept = owned(services, f'select note from opskit_kept."v{VERSION}_made" order by note')
    assert [row["note"] for row in kept] == ["changed", "late", "one"]  # what was written since, too
    assert len(owned(services, f'select id, slug from opskit_kept."v{VERSION}_documents_slug"')) == 3
    with pytest.raises(Denied):
        services.database.rows(f'select * from opskit_kept."v{VERSION}_made"')


def test_a_way_back_takes_as_long_as_the_person_allows(services: Services, tmp_path: Path) -> None:
    """What is kept is a whole table, perhaps; and its writers wait meanwhile, so it is the person who says how long."""
    made = file(tmp_path, "create table made (id int primary key, note json);")
    do(services, apply(services, made))
    owned(services, "insert into made select i, '{}' from generate_series(1, 20000) i")
    steps = reversal.reverse(made)
    keeping = [services.migrations.keep_rows(made, one) for one in reversal.lost(steps)]
    do(services, keeping[0])
    owned(services, "update made set note = '[]' where id = 7")
    back = services.migrations.reverse(made, steps, 1, 77, keeping)
    query = migrating._late(back.arguments["lost"][0])
    plan = "\n".join(row["QUERY PLAN"] for row in owned(services, f"explain {query}"))
    assert re.search(r"(Hash|Merge) Cond: \(+\w+\.id = \w+\.id\)", plan), plan
    back.arguments["sql"].append("create table seen as select current_setting('statement_timeout') as it")
    do(services, back)
    assert owned(services, "select it from seen") == [{"it": "77s"}]
    assert len(owned(services, f'select id from opskit_kept."v{VERSION}_made" where id = 7')) == 2


def test_by_hand_the_rows_are_kept_too(services: Services, tmp_path: Path) -> None:
    made = file(tmp_path, "alter table documents add column slug text;")
    do(services, apply(services, made))
    owned(services, "update documents set slug = 'x'")
    (lost,) = reversal.lost(reversal.reverse(made))
    words = as_bash_reads(services.migrations.keep_rows(made, lost).by_hand, tmp_path)
    for sql in (words[3], words[5]):
        owned(services, sql)
    assert owned(services, f'select count(slug) as n from opskit_kept."v{VERSION}_documents_slug"')[0]["n"] > 0


@pytest.mark.parametrize("days", [None, 7])
def test_a_restore_is_for_people_and_says_what_it_loses(
    services: Services, firm: Sandbox, tmp_path: Path, days: int | None
) -> None:
    told: Any = {"name": "made", "title": "x", "runbook": "supabase-migration-procedures", "causes": ["healthy"]}
    told["happenings"] = [{"what": "set_project", "pitr_days": days, "last_backup": "6 h ago", "when": "1 day ago"}]
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(told))
    firm.break_with(tmp_path / "made.yaml")
    made = file(tmp_path, "alter table documents drop column status;")
    do(services, apply(services, made))
    assert not reversal.possible(reversal.reverse(made))
    before = datetime.now(UTC) - timedelta(minutes=50)
    point = services.supabase.restore_point(before)
    assert point
    assert point.at == before if days else point.at < before
    action = services.migrations.restore(made, point)
    assert action.manual
    assert f"in the {str(point.loses).split('.')[0]} since is lost" in action.title
    assert ("supabase backups restore" in action.by_hand) == bool(days)
    assert point.loses >= (timedelta(minutes=50) if days else timedelta(hours=5))
    assert services.supabase.restore_point(datetime.now(UTC) - timedelta(days=30)) is None


@pytest.mark.parametrize(
    ("text", "back", "safe"),
    [
        ("create index i on t (a);", 'drop index "i"', True),
        ("create index i on app.t (a);", 'drop index "app"."i"', True),
        ("create index if not exists i on t (a);", None, False),  # what was there before is not ours to drop
        ("create table if not exists t (a int);", None, False),
        ("alter table t add column if not exists a int;", None, False),
        ("alter table t rename to u;", 'alter table "u" rename to "t"', True),
        ("alter table t add constraint c check (a > 0);", 'alter table "t" drop constraint "c"', True),
        ("alter table t add column a int;", 'alter table "t" drop column "a"', False),
        ("create table t (a int);", 'drop table "t"', False),
        ("drop table t;", None, False),
        ("update t set a = 1;", None, False),
    ],
)
def test_ways_back(tmp_path: Path, text: str, back: str | None, safe: bool) -> None:
    (step,) = steps = reversal.reverse(file(tmp_path, text))
    assert (step.sql, reversal.lossless(steps)) == (back, safe)
