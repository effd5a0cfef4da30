"""Supabase's own command-line tool judges our applying: its ledger is ours, and after us it has nothing to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_supabase_cli import (  # noqa: F401  # fixtures
    LEDGER,
    NEW,
    TEXTS,
    Run,
    hold,
    installed,
    run,
    sampled,
)

from opskit.actions import Change
from opskit.database import Database
from opskit.errors import Faulty
from opskit.sandbox import migrations as kept
from opskit.sandbox.postgres import Postgres
from opskit.services import migrations
from opskit.services.migrations import Migrations

FAILING = {"quotes", "fails", "fails after concurrently", "unique concurrently", "not ours", "no syntax"}
GOOD = [name for name in TEXTS if name not in FAILING]


def services(database: Postgres) -> Any:
    address = f"postgresql://127.0.0.1:{database.port}/postgres?sslmode=disable"
    words = dict.fromkeys(("read", "change"), database.passwords[kept.OWNER])
    found = Database(address, dict.fromkeys(words, kept.OWNER), words, "opskit/test")
    return SimpleNamespace(database=found, migrations=Migrations(found, kept.OWNER))


def apply(ours: Any, folder: Path) -> None:
    """Everything pending in a folder."""
    for file in ours.migrations.align(migrations.opened(kept.place(folder))).pending:
        action = ours.migrations.apply_file(file, 2, 30)
        Change.known[action.name].do(ours, action.arguments, action.before, "key")


def rows(database: Postgres) -> list[Any]:
    with database.connect() as connection:
        return connection.execute(LEDGER).fetchall()


@pytest.mark.parametrize("name", sampled(GOOD))
def test_our_row_is_the_tools_and_then_it_has_nothing_to_do(
    run: Run,  # noqa: F811
    database: Postgres,
    tmp_path: Path,
    name: str,
) -> None:
    hold(tmp_path, {NEW: TEXTS[name]})
    ours = services(database)
    apply(ours, tmp_path)
    written = rows(database)
    listed = run("migration", "list").data["migrations"]
    assert all(one["local"] == one["remote"] for one in listed)
    assert run("db", "push", "--yes").code == 0
    assert rows(database) == written
    ours.database.close()
    database.restore("fresh")
    assert run("db", "push", "--yes").code == 0
    assert rows(database) == written


@pytest.mark.parametrize("name", sampled(sorted(FAILING - {"no syntax"})))
def test_what_the_tool_stops_at_stops_us_and_leaves_the_same(
    run: Run,  # noqa: F811
    database: Postgres,
    tmp_path: Path,
    name: str,
) -> None:
    left = "select relname, relkind from pg_class where relnamespace = 'public'::regnamespace order by 1"
    hold(tmp_path, {NEW: TEXTS[name]})
    ours = services(database)
    with pytest.raises(Faulty):
        apply(ours, tmp_path)
    ours.database.close()
    with database.connect() as connection:
        stays = connection.execute(left).fetchall()
    entered = rows(database)
    database.restore("fresh")
    assert run("db", "push", "--yes").code == 1
    with database.connect() as connection:
        assert connection.execute(left).fetchall() == stays
    assert rows(database) == entered


def test_after_the_tools_push_we_see_nothing_pending(
    run: Run,  # noqa: F811
    database: Postgres,
    tmp_path: Path,
) -> None:
    hold(tmp_path, {NEW: TEXTS["comments"]})
    assert run("db", "push", "--yes").code == 0
    found = services(database).migrations.align(migrations.opened(kept.place(tmp_path)))
    assert (found.pending, found.problems) == ([], [])
