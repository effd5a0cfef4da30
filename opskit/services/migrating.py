"""The changes that migrations are: a file applied, finished or taken back, an index rebuilt, a version put right.

All of it is done as the role that owns the schema, with a timeout on locks. The ledger's row is written as the Supabase
CLI writes it, last, and in the transaction of the last statements where they have one.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from opskit import actions
from opskit.actions import Arguments, Change
from opskit.database import Database, Session
from opskit.errors import Faulty, Refused, ServiceError
from opskit.services import statements
from opskit.services.statements import File, Statement

TRIES = 5  # where a lock is not to be had
PAUSE = 2.0  # seconds before the second; each is twice as long as the one before
KEPT = "select exists (select from supabase_migrations.schema_migrations where version = %(version)s) as kept"
ENTER = """
    insert into supabase_migrations.schema_migrations (version, name, statements)
    values (%(version)s, %(name)s, %(statements)s)
"""
LEDGER = """
    create schema if not exists supabase_migrations;
    create table if not exists supabase_migrations.schema_migrations
      (version text primary key, statements text[], name text)
"""
INDEX = """
    select i.indisvalid as valid, pg_get_indexdef(i.indexrelid) as definition
    from pg_index i where i.indexrelid = to_regclass(%(index)s)
"""
RIGHT = "membership of the role that owns the schema"


def read(of: Arguments) -> File | None:
    """The file of an action, as it lies there now."""
    path = Path(of["path"])
    return statements.read(path, of["version"], of["name"]) if path.is_file() else None


def digest(file: File | None) -> str | None:
    return None if file is None or file.trouble else actions.digest(file.texts)


def planned(of: Arguments, digest_then: str | None) -> File:
    """The file of an action, if it still is the one that was planned. Raises Refused where it is not, or cannot be
    sent: a file that could not be read has no statements, and an empty file would be entered as applied."""
    file = read(of)
    if file is not None and file.trouble:
        raise Refused(f"{file.trouble}; not applied.")
    if file is None or digest(file) != digest_then:
        raise Refused(f"{of['path']} is not the file that was planned; not applied.")
    return file


def kept(database: Database, version: str) -> bool:
    """Whether the ledger has a version; a database without a ledger has none."""
    try:
        return bool(database.rows(KEPT, version=version)[0]["kept"])
    except Faulty as error:
        if error.sqlstate == "42P01":
            return False
        raise


class Apply(Change):
    name = "migrations.apply_file"
    title = "Apply {version}_{name}.sql"
    right = RIGHT
    in_database = True
    final = "a migration is taken back by another one, forward: see the runbook's rollback"

    def look(self, services: Any, of: Arguments) -> Any:
        return {"in_ledger": kept(services.database, of["version"]), "file": digest(read(of))}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["in_ledger"])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        file = planned(of, before["file"])
        only = of.get("statements")
        left = [s for s in file.statements if s.node is not None and (only is None or s.number in only)]
        with services.migrations.database.session(of["statement_timeout"] + 60.0) as session:
            begin_as(session, services.migrations.owner, of["lock_timeout"], of["statement_timeout"])
            session.execute(LEDGER if not _has_ledger(session) else "select 1")
            send(session, services.migrations.owner, file, left, of)

    def by_hand(self, of: Arguments, before: Any) -> str:
        return "supabase db push --linked --yes"


class Finish(Apply):
    name = "migrations.finish_file"
    title = "Finish {version}_{name}.sql: statements {left}, then the ledger"

    def by_hand(self, of: Arguments, before: Any) -> str:
        repair = f"supabase migration repair --linked --status applied {of['version']}"
        return f'psql "$DATABASE_URL" -1 -f statements-{of["left"]}.sql && {repair}'


def send(session: Session, owner: str | None, file: File, left: list[Statement], of: Arguments) -> None:
    """Send these statements as the CLI does, then the ledger's row. Raises Faulty saying what stays of a failure."""
    row = {"version": file.version, "name": file.name, "statements": file.texts}
    groups = [(alone, list(some)) for alone, some in groupby(left, lambda s: s.alone)]
    done: list[int] = []
    for last, (alone, some) in _with_last([*groups, (False, [])] if not groups or groups[-1][0] else groups):
        enter = row if last else None
        try:
            if alone:
                for statement in some:
                    _by_itself(session, owner, statement, of)
                    done.append(statement.number)
            else:
                _patiently(session, owner, some, enter, of)
                done += [s.number for s in some]
        except ServiceError as error:
            stays = f" Statements {done} are committed; the ledger has no row." if done else " Nothing of it stays."
            failed = Faulty("database", error.message.removeprefix("database: ") + stays)
            failed.sqlstate = error.sqlstate
            raise failed from None


def _with_last(groups: list[Any]) -> Iterator[tuple[bool, Any]]:
    for number, group in enumerate(groups, 1):
        yield number == len(groups), group


def _patiently(session: Session, owner: str | None, some: list[Statement], row: Any, of: Arguments) -> None:
    """One transaction; where it does not get a lock it is rolled back, and tried again a little later."""
    for number in range(TRIES):
        try:
            return _together(session, owner, some, row, of)
        except ServiceError as error:
            if error.sqlstate != "55P03" or number == TRIES - 1:
                raise
        time.sleep(PAUSE * 2**number)
    return None


def _together(session: Session, owner: str | None, some: list[Statement], row: Any, of: Arguments) -> None:
    begin_as(session, owner, of["lock_timeout"], of["statement_timeout"])
    session.execute("begin")
    try:
        for statement in some:
            session.execute(statement.text)
        if row:
            session.execute(ENTER, **row)
        session.execute("commit")
    except ServiceError:
        if not session.idle:
            session.execute("rollback")
        raise


def _by_itself(session: Session, owner: str | None, statement: Statement, of: Arguments) -> None:
    """What no transaction holds: no timeout on locks, which would leave an invalid index behind. One that an earlier
    attempt left is dropped before."""
    begin_as(session, owner, 0, 0)
    index = getattr(statement.node, "idxname", None)
    if index and any(row["valid"] is False for row in session.execute(INDEX, index=f'"{index}"')):
        session.execute(f'drop index concurrently "{index}"')
    session.execute(statement.text)


def begin_as(session: Session, owner: str | None, lock_timeout: float, statement_timeout: float) -> None:
    """As the CLI begins each file, with our timeouts; a file may set its own."""
    session.execute("reset all")
    if owner:
        session.execute(f'set role "{owner}"')
    session.execute(f"set lock_timeout = '{lock_timeout}s'")
    session.execute(f"set statement_timeout = '{statement_timeout}s'")


def _has_ledger(session: Session) -> bool:
    return bool(
        session.execute("select to_regclass('supabase_migrations.schema_migrations') is not null as it")[0]["it"]
    )


KEPT_ROWS = """
    select exists (select from pg_class c where c.relname = %(relname)s
                   and c.relnamespace = (select oid from pg_namespace where nspname = %(schema)s)) as kept
"""


class KeepRows(Change):
    name = "migrations.keep_rows"
    title = "Keep what {table} holds: {rows} rows, into {kept}"
    right = RIGHT
    in_database = True
    final = "the copy stays until people drop it"

    def look(self, services: Any, of: Arguments) -> Any:
        return {"kept": _is_kept(services.database, of["kept"])}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["kept"])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        schema = of["kept"].partition(".")[0]
        with services.migrations.database.session(of["patience"]) as session:
            begin_as(session, services.migrations.owner, 3, of["patience"])
            session.execute("set row_security = off")
            session.execute(f"create schema if not exists {schema}")
            session.execute(f"create table {of['kept']} as {of['query']}")

    def by_hand(self, of: Arguments, before: Any) -> str:
        schema = of["kept"].partition(".")[0]
        made = shlex.quote(f"create table {of['kept']} as {of['query']}")
        return f'psql "$DATABASE_URL" -c "create schema if not exists {schema}" -c {made}'


def _is_kept(database: Database, kept: str) -> bool:
    schema, _, table = kept.partition(".")
    return bool(database.rows(KEPT_ROWS, schema=schema, relname=table.strip('"'))[0]["kept"])


class Reverse(Change):
    name = "migrations.reverse"
    title = "Take back {version}_{name}: {steps}, and its row in the ledger"
    right = RIGHT
    in_database = True
    final = "apply the migration again, once the app knows it; what was kept is in its table"

    def look(self, services: Any, of: Arguments) -> Any:
        return {"in_ledger": kept(services.database, of["version"])}

    def done(self, now: Any, before: Any) -> bool:
        return not now["in_ledger"]

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        if missing := [one["kept"] for one in of["lost"] if not _is_kept(services.database, one["kept"])]:
            raise Refused(f"what would be lost was not kept in {', '.join(missing)}; not taken back.")
        with services.migrations.database.transaction() as cursor:
            _become(cursor, services.migrations.owner, of["lock_timeout"])
            for one in of["lost"]:
                _complete(cursor, one)
            for sql in of["sql"]:
                cursor.execute(sql)
            cursor.execute("delete from supabase_migrations.schema_migrations where version = %(version)s", of)

    def by_hand(self, of: Arguments, before: Any) -> str:
        repair = f"supabase migration repair --linked --status reverted {of['version']}"
        return f'psql "$DATABASE_URL" -1 -c {shlex.quote("; ".join(of["sql"]))} && {repair}'


def _complete(cursor: Any, one: dict[str, str]) -> None:
    """Keep what was written since, too, while nobody can write more."""
    cursor.execute(f"lock table {one['table']} in share row exclusive mode")
    cursor.execute(
        f"insert into {one['kept']} select now.* from ({one['query']}) now "  # noqa: S608  # parsed names
        f"where not exists (select from {one['kept']} k where k::text = now::text)"
    )


class Renumber(Change):
    name = "migrations.renumber"
    title = "Ledger: {old} is called {new} now; its statements are the same"
    right = RIGHT
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {name: kept(services.database, of[name]) for name in ("old", "new")}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["new"] and not now["old"])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        _rename(services, of["old"], of["new"])

    def undo(self, services: Any, of: Arguments, before: Any, after: Any, key: str) -> None:
        _rename(services, of["new"], of["old"])

    def by_hand(self, of: Arguments, before: Any) -> str:
        repair = "supabase migration repair --linked --status"
        return f"{repair} reverted {of['old']} && {repair} applied {of['new']}"


def _rename(services: Any, old: str, new: str) -> None:
    with services.migrations.database.transaction() as cursor:
        _become(cursor, services.migrations.owner, 3)
        cursor.execute("update supabase_migrations.schema_migrations set version = %s where version = %s", (new, old))
        if cursor.rowcount != 1:
            raise Refused(f"the ledger has no {old} any more; not touched.")


def _become(cursor: Any, owner: str | None, lock_timeout: float) -> None:
    if owner:
        cursor.execute(f'set local role "{owner}"')
    cursor.execute(f"set local lock_timeout = '{lock_timeout}s'")


class RebuildIndex(Change):
    name = "migrations.rebuild_index"
    title = "Index {index}: drop the invalid one, and build it again without blocking"
    right = RIGHT
    in_database = True
    final = "an index that was invalid helped nobody"

    def look(self, services: Any, of: Arguments) -> Any:
        found = services.database.rows(INDEX, index=of["index"])
        return found[0] if found else {"valid": None, "definition": None}

    def done(self, now: Any, before: Any) -> bool:
        return now["valid"] is True

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        with services.migrations.database.session(of["patience"]) as session:
            begin_as(session, services.migrations.owner, 0, 0)
            session.execute(f"drop index concurrently if exists {of['index']}")
            session.execute(concurrently(before["definition"]))

    def by_hand(self, of: Arguments, before: Any) -> str:
        return (
            f'psql "$DATABASE_URL" -c "drop index concurrently {of["index"]}" -c "{concurrently(before["definition"])}"'
        )


def concurrently(definition: str) -> str:
    return re.sub(r"^CREATE (UNIQUE )?INDEX ", r"CREATE \1INDEX CONCURRENTLY ", definition)
