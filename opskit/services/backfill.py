"""What one UPDATE would do at once, done in batches by key, each a transaction of its own: nobody waits for long.

A row counts as left while it would still be changed, so a batch that is done again does nothing. That is also what an
interrupted backfill rests on, and why an UPDATE that never comes to rest (`n = n + 1`) is refused.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
from pglast import ast
from pglast.stream import RawStream

from opskit.actions import Action, Arguments, Change
from opskit.database import Database, Session
from opskit.errors import BadInput, Faulty, ServiceError
from opskit.services import owners
from opskit.services.statements import File, split

MANY = 10_000  # rows of a table; an UPDATE of fewer may stay in its migration
PASSES = 3  # over the whole table: rows are written behind us, too
SHORT, LONG = 0.5, 2.0  # seconds that a batch should take
SMALLEST = 10  # rows of a batch
TRIES = 6  # of one batch, where a lock is not to be had
AGAIN = ("55P03", "40P01", "57014")  # somebody holds a row, for now
MOST_LAG = 10.0  # seconds that a replica may be behind
MOST_BEHIND = 256 * 1024**2  # bytes of WAL, the same
LOOKS = 5.0  # seconds between two looks at a replica that is behind
PATIENCE = 1800.0  # seconds with one
UNSEEN = "how far replicas are behind cannot be seen by this role"

COUNTED = 100_000  # rows that one statement counts among

Rows = Callable[..., Sequence[Mapping[str, Any]]]  # `rows` of a database, or `execute` of a session
Batch = tuple[str | None, int, int]  # its last key, how many rows it changed, how many sessions waited in the end

COLUMNS = """
    select a.attname as name, quote_ident(a.attname) as quoted, format_type(a.atttypid, a.atttypmod) as type,
           a.attgenerated <> '' as generated,
           a.attnotnull and exists (select from pg_index i where i.indrelid = a.attrelid and i.indisunique
             and i.indisvalid and i.indpred is null and i.indnkeyatts = 1 and i.indkey[0] = a.attnum) as key
    from pg_attribute a where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""
TRIGGERS = """
    select tgname as name from pg_trigger
    where tgrelid = to_regclass(%(table)s) and not tgisinternal and tgenabled <> 'D' and tgtype & 16 <> 0 order by 1
"""
ROWS = "select greatest(reltuples, 0)::bigint as rows from pg_class where oid = to_regclass(%(table)s)"
LIVE = "select n_live_tup as rows from pg_stat_user_tables where relid = to_regclass(%(table)s)"
BEHIND_US = "select count(*)::int as n from pg_stat_activity where pg_backend_pid() = any(pg_blocking_pids(pid))"
LAG = """
    select count(*)::int as replicas, count(replay_lsn)::int as seen,
           coalesce(max(extract(epoch from replay_lag)), 0)::float as seconds,
           coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::float as bytes
    from pg_stat_replication
"""


@dataclass(frozen=True)
class Update:
    """An UPDATE of one table, taken apart."""

    table: str
    alias: str
    sets: tuple[tuple[str, str], ...]  # column, expression
    where: str  # empty: every row


def read(text: str) -> Update:
    """Raises BadInput where it is not one UPDATE of one table with plain columns."""
    try:
        found = [statement.node for statement in split(text, "update") if statement.node is not None]
    except ValueError as error:
        raise BadInput(f"update: {error}.") from None
    if len(found) != 1 or not isinstance(found[0], ast.UpdateStmt):
        raise BadInput("update: give one UPDATE.", "For example: update documents set slug = … where slug is null")
    if (update := taken_apart(found[0])) is None:
        raise BadInput("update: goes in batches only with plain columns, and without FROM, WITH and RETURNING.")
    return update


def taken_apart(node: Any) -> Update | None:
    """None: it cannot go in batches."""
    plain = all(
        not t.indirection and not isinstance(t.val, ast.MultiAssignRef | ast.SetToDefault) for t in node.targetList
    )
    if node.fromClause or node.withClause or node.returningClause or not plain:
        return None
    relation = node.relation
    table = ".".join(_quoted(part) for part in (relation.schemaname, relation.relname) if part)
    sets = tuple((target.name, RawStream()(target.val)) for target in node.targetList)
    where = RawStream()(node.whereClause) if node.whereClause else ""
    alias = relation.alias.aliasname if relation.alias else relation.relname
    return Update(table, _quoted(alias), sets, where)


def in_files(files: Sequence[File]) -> list[tuple[str, int, str, Update]]:
    """(file, line, text, update) of what could go in batches in these files."""
    return [
        (file.path.name, statement.line, statement.head, update)
        for file in files
        for statement in file.statements
        if isinstance(statement.node, ast.UpdateStmt) and (update := taken_apart(statement.node))
    ]


def recommended(database: Database, files: Sequence[File]) -> pd.DataFrame:
    """file, line, statement, rows: of the UPDATEs in these files those that should rather go in batches."""
    told = [(file, line, text, _rows(database, update)) for file, line, text, update in in_files(files)]
    large = [row for row in told if row[3] >= MANY]
    return pd.DataFrame(large, columns=["file", "line", "statement", "rows"])


def _rows(database: Database, update: Update) -> int:
    """About how many rows the table has; one that is not there yet has none."""
    found = [row["rows"] or 0 for sql in (ROWS, LIVE) for row in database.rows(sql, table=update.table)]
    return int(max(found, default=0))


@dataclass(frozen=True)
class Filling:
    """An UPDATE beside the table that it is for, and the SQL of its batches."""

    table: str
    alias: str
    key: str  # quoted, as all names here
    key_type: str
    sets: tuple[tuple[str, str, str], ...]  # column, expression, type
    where: str

    @property
    def left(self) -> str:
        """What is true of a row that would be changed. NULL counts as a value: `is distinct from`, never `<>`."""
        differs = " or ".join(f"{self.alias}.{c} is distinct from ({e})::{kind}" for c, e, kind in self.sets)
        return f"({self.where or 'true'}) and ({differs})"

    @property
    def holds(self) -> str:
        """What is true of a row that holds something where it would be changed: nobody keeps that."""
        return " or ".join(f"{self.alias}.{column} is not null" for column, _, _ in self.sets)

    def page(self, last: str | None) -> str:
        """The next rows by key, behind `last`."""
        behind = f"where {self.alias}.{self.key} > %(last)s::{self.key_type}" if last is not None else ""
        return f"select * from {self._from} {behind} order by {self.alias}.{self.key} limit %(size)s"  # noqa: S608

    def count(self, last: str | None) -> str:
        """Of a page: its last key, how many rows are left, and how many of those hold something."""
        left, holds = _escaped(self.left), self.holds
        return (
            f"with page as ({self.page(last)}) select (select p.{self.key}::text from page p "  # noqa: S608
            f"order by p.{self.key} desc limit 1) as last, count(*) filter (where {left})::int as left, "
            f"count(*) filter (where {left} and ({holds}))::int as holding from page as {self.alias}"
        )

    def end(self, last: str | None) -> str:
        """Of a page, its last key."""
        return f"select p.{self.key}::text as last from ({self.page(last)}) p order by p.{self.key} desc limit 1"  # noqa: S608

    def change(self, last: str | None) -> str:
        """Change what is left of a page that ends with `until`; how many rows that are."""
        row = f"{self.alias}.{self.key}"
        behind = f"{row} > %(last)s::{self.key_type} and" if last is not None else ""
        sets = _escaped(", ".join(f"{column} = {expression}" for column, expression, _ in self.sets))
        return (
            f"with changed as (update {self._from} set {sets} where {behind} "  # noqa: S608
            f"{row} <= %(until)s::{self.key_type} and {_escaped(self.left)} returning 1) "
            "select count(*)::int as count from changed"
        )

    @property
    def by_hand(self) -> str:
        sets = ", ".join(f"{column} = {e}" for column, e, _ in self.sets)
        some = f"select {self.alias}.{self.key} from {self._from} where {self.left} order by 1 limit 1000"  # noqa: S608
        return f"update {self._from} set {sets} where {self.alias}.{self.key} in ({some})"  # noqa: S608

    @property
    def _from(self) -> str:
        return f"{self.table} as {self.alias}"


def _escaped(sql: str) -> str:
    """As it has to be written where a statement takes values."""
    return sql.replace("%", "%%")


def left(rows: Rows, filling: Filling) -> tuple[int, int]:
    """How many rows are left, and how many of them hold something that will be lost. Counted page by page, so that
    no statement takes long."""
    last, total, holding = None, 0, 0
    while True:
        (found,) = rows(filling.count(last), last=last, size=COUNTED)
        total, holding = total + found["left"], holding + found["holding"]
        if found["last"] is None:
            return total, holding
        last = found["last"]


def prepare(database: Database, update: Update, key: str) -> Filling:
    """An UPDATE ready to go in batches by `key`. Raises BadInput where its table, its columns or its key do not do."""
    columns = {row["name"]: row for row in database.rows(COLUMNS, table=update.table)}
    if not columns:
        raise BadInput(f"update: there is no table {update.table} on the target.")
    if missing := [column for column, _ in update.sets if column not in columns or columns[column]["generated"]]:
        raise BadInput(f"update: {update.table} has no column {missing[0]} that can be set.")
    keys = [name for name, row in columns.items() if row["key"]]
    if key not in keys:
        raise BadInput(
            f"key: {key!r} of {update.table} is not a unique column without NULL; rows would be left out.",
            f"There: {', '.join(keys) or 'none; add one first'}.",
        )
    if key in [column for column, _ in update.sets]:
        raise BadInput(f"key: {key!r} is changed by the UPDATE itself; take another.")
    sets = tuple((columns[c]["quoted"], expression, columns[c]["type"]) for c, expression in update.sets)
    filling = Filling(update.table, update.alias, columns[key]["quoted"], columns[key]["type"], sets, update.where)
    if database.rows(_unsettled(filling, [row["quoted"] for row in columns.values()]))[0]["count"]:
        raise BadInput(
            "update: a row would be changed again after it was changed, so a batch that is repeated does harm.",
            "Give it a WHERE that is false of a row that is done.",
        )
    return filling


def _unsettled(filling: Filling, columns: Sequence[str]) -> str:
    """How many of the first rows would be left after they are done: their new values, asked again."""
    new = {column: f"({expression})::{kind} as {column}" for column, expression, kind in filling.sets}
    shown = ", ".join(new.get(column, f"{filling.alias}.{column}") for column in columns)
    done = f"select {shown} from {filling.table} as {filling.alias} where {filling.left} limit 1000"  # noqa: S608
    return f"select count(*)::int as count from ({done}) as {filling.alias} where {filling.left}"  # noqa: S608


def triggers(database: Database, filling: Filling) -> list[str]:
    """What fires for each row."""
    return [row["name"] for row in database.rows(TRIGGERS, table=filling.table)]


@dataclass(frozen=True)
class Reached:
    """How far a backfill is: what it goes on from."""

    last: str | None = None  # the key of the last row that was looked at, in this pass
    rows: int = 0
    batches: int = 0
    held_up: float = 0.0  # seconds, by replicas and by others that waited for us
    note: str = ""

    def told(self) -> dict[str, Any]:
        said = f"{self.rows} rows in {self.batches} batches"
        rested = f"rested for {self.held_up:.0f} s" if self.held_up >= 1 else ""
        return {**asdict(self), "said": "; ".join(part for part in (said, rested, self.note) if part)}


Reaching = Generator[Reached, None, Reached]


class Fill(Change):
    name = "migrations.fill"
    title = "Fill {columns} of {named} in batches by {by}: {left} rows{fires}"
    right = owners.RIGHT
    in_database = True
    final = "what stood in the rows before is not kept"

    def look(self, services: Any, of: Arguments) -> Any:
        return {"left": left(services.database.rows, _of(of))[0]}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["left"] == 0)

    def steps(self, services: Any, of: Arguments, before: Any, key: str, reached: Any) -> Iterator[Any]:
        told = {name: value for name, value in (reached or {}).items() if name != "said"}
        with services.migrations.database.session(of["statement_timeout"] + 60.0) as session:
            owners.begin_as(session, services.migrations.owner, of["lock_timeout"], of["statement_timeout"])
            session.execute("set row_security = off")  # rows that are hidden are an error, not done
            for at in fill(session, services.database.rows, _of(of), of["batch"], Reached(**told)):
                yield at.told()

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f'psql "$DATABASE_URL" -c {shlex.quote(_of(of).by_hand)}  # again, until it says UPDATE 0'


def planned(database: Database, filling: Filling, of: Arguments) -> Action:
    """Fill what is left. Whatever held something before has to be agreed to by name."""
    total, holding = left(database.rows, filling)
    fires = triggers(database, filling)
    words = {
        "columns": _plain(", ".join(column for column, _, _ in filling.sets)),
        "named": _plain(filling.table),
        "by": _plain(filling.key),
        "left": f"{total:,}",
        "fires": f", each of which fires {', '.join(fires)}" if fires else "",
    }
    return Fill().plan({**asdict(filling), **of}, None, holding > 0, **words)


def _plain(name: str) -> str:
    return name.replace('"', "")


def _of(of: Arguments) -> Filling:
    sets = tuple((column, expression, kind) for column, expression, kind in of["sets"])
    return Filling(of["table"], of["alias"], of["key"], of["key_type"], sets, of["where"])


def fill(session: Session, look: Rows, filling: Filling, batch: int, at: Reached) -> Iterator[Reached]:
    """Go over the table until no row is left; after each batch that is committed, how far that is.

    `look` asks as whoever may see how far replicas are; the owner of the rows need not.
    """
    for _ in range(PASSES):
        at = yield from _once_over(session, look, filling, batch, at)
        if left(session.execute, filling)[0] == 0:
            return
        at = replace(at, last=None)


def _once_over(session: Session, look: Rows, filling: Filling, batch: int, at: Reached) -> Reaching:
    size = batch
    while True:
        began = time.monotonic()
        last, changed, waiting = _patiently(session, filling, at.last, size)
        if last is None:
            return at
        spent = time.monotonic() - began
        at = replace(at, last=last, rows=at.rows + changed, batches=at.batches + 1)
        yield at
        if waiting or spent > LONG:
            size = max(size // 2, SMALLEST)
        elif spent < SHORT:
            size = min(size * 2, batch * 10)
        if waiting:  # those who waited come first
            time.sleep(spent)
            at = replace(at, held_up=at.held_up + spent)
        at = yield from _let_replicas_follow(look, at)


def _patiently(session: Session, filling: Filling, last: str | None, size: int) -> Batch:
    for number in range(TRIES):
        try:
            return _together(session, filling, last, size)
        except ServiceError as error:
            if error.sqlstate not in AGAIN or number == TRIES - 1:
                raise
        time.sleep(2**number / 4)
        size = max(size // 2, SMALLEST)
    raise AssertionError  # the last try returns or raises


def _together(session: Session, filling: Filling, last: str | None, size: int) -> Batch:
    session.execute("begin")
    try:
        found = session.execute(filling.end(last), last=last, size=size)
        until = found[0]["last"] if found else None
        changed = session.execute(filling.change(last), last=last, until=until)[0]["count"] if until else 0
        waiting = session.execute(BEHIND_US)[0]["n"]
        session.execute("commit")
    except ServiceError:
        if not session.idle:
            session.execute("rollback")
        raise
    return until, changed, waiting


def _let_replicas_follow(look: Rows, at: Reached) -> Reaching:
    """Wait while a replica is behind; where that cannot be seen, say so."""
    deadline = time.monotonic() + PATIENCE
    while True:
        (now,) = look(LAG)
        behind = f"a replica is {now['seconds']:.0f} s and {now['bytes'] / 1024**2:.0f} MB behind"
        if now["seconds"] <= MOST_LAG and now["bytes"] <= MOST_BEHIND:
            return replace(at, note=UNSEEN if now["replicas"] > now["seen"] else "")
        if time.monotonic() > deadline:
            raise Faulty("database", f"{behind}, and stays so; stopped there.")
        at = replace(at, held_up=at.held_up + LOOKS, note=behind)
        yield at
        time.sleep(LOOKS)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
