"""The changes that migrations are: a file applied, finished or taken back, a version put right.

All of it is done as the role that owns the schema, with a timeout on locks. The ledger's row is written as the Supabase
CLI writes it, last, and in the transaction of the last statements where they have one.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pglast import ast

from opskit import actions
from opskit.actions import Arguments, Change
from opskit.database import Database, Session
from opskit.errors import Faulty, Refused, ServiceError, Unreachable
from opskit.services import hazards, indexes, owners, statements
from opskit.services.statements import File, Statement

TRIES = 5  # where a lock is not to be had
PAUSE = 2.0  # seconds before the second; each is twice as long as the one before
MARGIN = 60.0  # seconds that a server may be silent beyond its own timeout before its connection is cut
PATIENCE = 4 * 3600.0  # and where it has none: an index of a large table takes its time
LONGEST = 20_000  # characters of a command that people can still type
KEPT = "select exists (select from supabase_migrations.schema_migrations where version = %(version)s) as kept"
ENTERED = """
    select coalesce(statements, '{}') as statements
    from supabase_migrations.schema_migrations where version = %(version)s
"""
NOWHERE, AS_IT_IS, OTHERWISE = "", "as in the file", "with other statements"  # how the ledger has a file
LEAVE = "delete from supabase_migrations.schema_migrations where version = %(version)s"
ENTER = """
    insert into supabase_migrations.schema_migrations (version, name, statements)
    values (%(version)s, %(name)s, %(statements)s)
"""
LEDGER = """
    create schema if not exists supabase_migrations;
    create table if not exists supabase_migrations.schema_migrations
      (version text primary key, statements text[], name text)
"""
LIMITS = """
    select current_setting('lock_timeout') as lock_timeout, current_setting('statement_timeout') as statement_timeout
"""
TIMEOUT = "select setting::float / 1000 as seconds from pg_settings where name = 'statement_timeout'"


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
    right = owners.RIGHT
    in_database = True
    final = "a migration is taken back by another one, forward: see the runbook's rollback"

    def look(self, services: Any, of: Arguments) -> Any:
        file, entered = read(of), NOWHERE
        if there := kept(services.database, of["version"]):
            texts = services.database.rows(ENTERED, version=of["version"])[0]["statements"]
            entered = AS_IT_IS if file and not file.trouble and statements.same(file, texts) else OTHERWISE
        return {"in_ledger": there, "file": digest(file), "entered": entered}

    def done(self, now: Any, before: Any) -> bool:
        """Another file of the same version is not this one, nor is this one as somebody has edited it since."""
        return bool(now["entered"] == AS_IT_IS and now["file"] == before["file"])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        for _ in self.steps(services, of, before, key, None):
            pass

    def steps(self, services: Any, of: Arguments, before: Any, key: str, reached: Any) -> Iterator[Any]:
        file = planned(of, before["file"])
        with services.migrations.database.session(of["statement_timeout"] + MARGIN) as session:
            owners.begin_as(session, services.migrations.owner, of["lock_timeout"], of["statement_timeout"])
            session.execute(LEDGER if not _has_ledger(session) else "select 1")
            yield from send(session, file, of.get("statements"), behind(reached))

    def unseen(self, of: Arguments, reached: Any) -> str:
        file = read(of)
        if file is not None and len(pieces(file, of.get("statements"), behind(reached))) == 1:
            return ""  # its end and the ledger's row are of one transaction, so the ledger tells
        return f"it was begun, and which of its statements are committed was not seen; known: {behind(reached)}"

    def by_hand(self, of: Arguments, before: Any) -> str:
        return "supabase db push --linked --yes"


class Finish(Apply):
    name = "migrations.finish_file"
    title = "Finish {version}_{name}.sql: statements {left}, then the ledger"

    def by_hand(self, of: Arguments, before: Any) -> str:
        """One `-c` each: the file holds more than what is to be sent, and CONCURRENTLY is in no transaction."""
        repair = f"supabase migration repair --linked --status applied {of['version']}"
        file, psql = read(of), 'psql "$DATABASE_URL" -v ON_ERROR_STOP=1'
        sent = "".join(f" -c {shlex.quote(s.bare)}" for s in rest(file, of["statements"]).statements) if file else ""
        if len(sent) > LONGEST:
            return f'cp {shlex.quote(of["path"])} rest.sql && "$EDITOR" rest.sql && {psql} -f rest.sql && {repair}'
        return f"{psql}{sent} && {repair}" if sent else repair


def in_doubt(file: File, there: Sequence[bool | None]) -> list[Statement]:
    """The statements of which nobody sees whether they were done, and which may do harm the second time.

    Where a file also takes away or renames, a name may be of something else by then.
    """
    moves = any(isinstance(s.node, ast.DropStmt | ast.RenameStmt | ast.AlterObjectSchemaStmt) for s in file.statements)
    unseen = [statement for statement, known in zip(file.statements, there, strict=True) if known is None]
    return [s for s in unseen if not (s.node is None or s.sets or (s.repeatable and not moves))]


def rest(file: File, left: list[int]) -> File:
    """The file with only what is left of it to be sent."""
    return replace(file, statements=tuple(statement for piece in pieces(file, left, []) for statement in piece))


def behind(reached: Any) -> list[int]:
    """The statements that are over: committed, or rolled back by the file itself. They are never sent again."""
    return list(reached["statements"]) if reached else []


def pieces(file: File, only: list[int] | None, over: list[int]) -> list[list[Statement]]:
    """What is still to be sent, cut into what is committed together; the last, which may hold nothing, with the row.

    `only` these statements, where given. A SET holds for what comes after it, so it is sent again in each session.
    """
    found: list[list[Statement]] = [[]]
    for statement in file.statements:
        due = statement.number not in over and (only is None or statement.number in only)
        if statement.node is None or not (due or statement.sets):
            continue
        if statement.alone and found[-1]:
            found.append([])
        found[-1].append(statement)
        if statement.alone or statement.closes:
            found.append([])
    return found


def send(session: Session, file: File, only: list[int] | None, over: list[int]) -> Iterator[Any]:
    """Send what is left as the CLI does, then the ledger's row; after each commit but the last, what is over.

    Raises Faulty saying what stays of a failure, and Unreachable where nobody saw that.
    """
    row = {"version": file.version, "name": file.name, "statements": file.texts}
    todo = pieces(file, only, over)
    for number, piece in enumerate(todo, 1):
        last = number == len(todo)
        try:
            if piece and piece[0].alone:
                _by_itself(session, piece[0])
            else:
                _patiently(session, piece, row if last else None)
        except ServiceError as error:
            raise _telling(error, file, piece, over) from None
        over = sorted({*over, *(statement.number for statement in piece)})
        if not last:
            yield {"statements": over, "said": f"statements {over} of {len(file.statements)} are behind it"}


def _telling(error: ServiceError, file: File, piece: list[Statement], over: list[int]) -> ServiceError:
    """The same with what stays of the file. An answer that did not come says nothing of the piece that was sent."""
    kept = [number for number in over if number not in _given_up(file)]
    stays = f" Statements {kept} are committed; the ledger has no row." if kept else ""
    alone = bool(piece) and piece[0].alone
    if isinstance(error, Unreachable):
        stays += f" Whether statements {[statement.number for statement in piece]} still take effect was not seen."
    elif alone:
        stays += f" Of statement {piece[0].number} something half-built may stay, such as an invalid index."
    elif not stays:
        stays = " Nothing of it stays." if file.together else " Nothing of this attempt stays."
    kind = Unreachable if isinstance(error, Unreachable) else Faulty
    told = kind("database", error.message.removeprefix("database: ") + stays)
    told.sqlstate = error.sqlstate
    return told


def _given_up(file: File) -> set[int]:
    """The statements that the file rolls back itself."""
    ends = (piece for piece in pieces(file, None, []) if piece and piece[-1].rolls_back)
    return {statement.number for piece in ends for statement in piece}


def _patiently(session: Session, piece: list[Statement], row: Any) -> None:
    """One transaction; where it does not get a lock it is rolled back, and tried again a little later.

    It holds nothing that commits before its end, so nothing of it is done twice.
    """
    for number in range(TRIES):
        try:
            return _together(session, piece, row)
        except ServiceError as error:
            if error.sqlstate != "55P03" or number == TRIES - 1:
                raise
        time.sleep(PAUSE * 2**number)
    return None


def _together(session: Session, piece: list[Statement], row: Any) -> None:
    if session.idle:  # it is not behind COMMIT AND CHAIN
        session.execute("begin")
    try:
        _listen(session)
        for statement in piece:
            session.execute(statement.text)
            indexes.sound(session, statement)
            if "statement_timeout" in statement.text.lower():
                _listen(session)
        if row:
            session.execute(ENTER, **row)
        if not (piece and piece[-1].closes):
            session.execute("commit")
    except ServiceError:
        with suppress(ServiceError):  # where there is no connection any more the server does it
            session.execute("rollback")
        raise


def _listen(session: Session) -> None:
    """Listen for as long as a statement may take now; a file may set its own timeout."""
    seconds = session.execute(TIMEOUT)[0]["seconds"]
    session.silence = seconds + MARGIN if seconds else PATIENCE


def _by_itself(session: Session, statement: Statement) -> None:
    """What no transaction holds: no timeout on locks, which would leave an invalid index behind. One that an earlier
    attempt left is dropped before. What shuts everybody out does not wait for that without an end."""
    (limits,) = session.execute(LIMITS)
    if not hazards.rewrites(statement.node):
        session.execute("set lock_timeout = 0")
    session.execute("set statement_timeout = 0")
    _listen(session)
    indexes.make_room(session, statement)
    try:
        session.execute(statement.text)
    except Faulty:
        with suppress(ServiceError):  # it is told that something may stay
            indexes.clear(session, statement)
        raise
    for name, limit in limits.items():
        session.execute(f"set {name} = '{limit}'")


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
    right = owners.RIGHT
    in_database = True
    final = "the copy stays until people drop it"

    def look(self, services: Any, of: Arguments) -> Any:
        return {"kept": _is_kept(services.database, of["kept"])}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["kept"])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        schema = of["kept"].partition(".")[0]
        with services.migrations.database.session(of["patience"] + MARGIN) as session:
            owners.begin_as(session, services.migrations.owner, 3, of["patience"])
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
    right = owners.RIGHT
    in_database = True
    final = "apply the migration again, once the app knows it; what was kept is in its table"

    def look(self, services: Any, of: Arguments) -> Any:
        return {"in_ledger": kept(services.database, of["version"])}

    def done(self, now: Any, before: Any) -> bool:
        return not now["in_ledger"]

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        if missing := [one["kept"] for one in of["lost"] if not _is_kept(services.database, one["kept"])]:
            raise Refused(f"what would be lost was not kept in {', '.join(missing)}; not taken back.")
        with services.migrations.database.session(of["statement_timeout"] + MARGIN) as session:
            owners.begin_as(session, services.migrations.owner, of["lock_timeout"], of["statement_timeout"])
            session.execute("set row_security = off")
            session.execute("begin")  # what is not committed goes with the session
            for one in of["lost"]:
                session.execute(f"lock table {one['table']} in share row exclusive mode")
                session.execute(_late(one))
            for sql in of["sql"]:
                session.execute(sql)
            session.execute(LEAVE, version=of["version"])
            session.execute("commit")

    def by_hand(self, of: Arguments, before: Any) -> str:
        repair = f"supabase migration repair --linked --status reverted {of['version']}"
        return f'psql "$DATABASE_URL" -1 -c {shlex.quote("; ".join(of["sql"]))} && {repair}'


def _late(one: dict[str, Any]) -> str:
    """Keep what was written since, too, while nobody can write more. Rows are found by key, where there is one."""
    same = "".join(f"k.{column} = now.{column} and " for column in one["key"])
    return (
        f"insert into {one['kept']} select now.* from ({one['query']}) now "  # noqa: S608  # parsed names
        f"where not exists (select from {one['kept']} k where {same}k::text = now::text)"
    )


class Renumber(Change):
    name = "migrations.renumber"
    title = "Ledger: {old} is called {new} now; its statements are the same"
    right = owners.RIGHT
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
