"""Migration files put down, done as planned, and found in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opskit.actions import Change, Result, carry_out, plain
from opskit.journal import Journal
from opskit.services import Services, migrations
from opskit.services.statements import File

VERSION = "20270101000000"


ROW = "select version, name, statements from supabase_migrations.schema_migrations where version = %(version)s"


def file(folder: Path, text: str, version: str = VERSION) -> File:
    path = folder / f"{version}_made.sql"
    path.write_bytes(text.encode())
    return next(one for one in migrations.opened(folder).files if one.version == version)


def do(services: Services, action: Any) -> Any:
    """Do it if it still is as planned; the state afterwards."""
    change = Change.known[action.name]
    assert plain(change.look(services, action.arguments)) == action.before
    change.do(services, action.arguments, action.before, "key")
    now = plain(change.look(services, action.arguments))
    assert change.done(now, action.before)
    return now


def ledger(services: Services, version: str = VERSION) -> list[Any]:
    return services.database.rows(ROW, version=version)


def apply(services: Services, made: File, **timeouts: float) -> Any:
    return services.migrations.apply_file(made, timeouts.get("lock", 1), 30)


def held(services: Services, sql: str) -> None:
    """A table of the owner's, to see what was done to it how often."""
    owned(services, "create table tally (n int)")
    owned(services, sql)


def carried(services: Services, action: Any, folder: Path) -> tuple[Result, str]:
    ((_, result, why),) = carry_out([action], services, Journal(folder / "journal.jsonl"))
    return result, why


def owned(services: Services, sql: str) -> list[Any]:
    with services.database.session() as session:
        session.execute("set role postgres")
        return session.execute(sql)
