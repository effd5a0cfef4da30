"""Indexes that no query uses: what a CONCURRENTLY that failed left, dropped before another attempt, or built again."""

from __future__ import annotations

import re
import shlex
from typing import Any

from pglast import ast

from opskit.actions import Arguments, Change
from opskit.database import Session
from opskit.errors import Faulty, Refused
from opskit.services import owners
from opskit.services.statements import Statement

INDEX = """
    select i.indisvalid as valid, pg_get_indexdef(i.indexrelid) as definition
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid
    join pg_namespace n on n.oid = t.relnamespace
    where format('%%I.%%I', n.nspname, t.relname) = %(table)s and format('%%I.%%I', n.nspname, c.relname) = %(index)s
"""
OF_TABLE = """
    select i.indexrelid::regclass::text as index, i.indisvalid as valid, c.relname as name,
           array(select a.attname from unnest(i.indkey) with ordinality k (number, place)
                 left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                 order by place) as columns
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where i.indrelid = to_regclass(%(table)s) and c.relkind = 'i'
"""
BUILDING = """
    select l.pid from pg_locks l join pg_index i on i.indrelid = l.relation
    where i.indexrelid = to_regclass(%(index)s) and l.mode = 'ShareUpdateExclusiveLock' and l.pid <> pg_backend_pid()
      and l.database = (select oid from pg_database where datname = current_database())
"""  # pg_stat_progress_create_index does not tell this role what others build


def make_room(session: Session, statement: Statement) -> None:
    """Drop what an earlier attempt left. Raises Faulty where that has no name to know it by."""
    left = _invalid(session, statement)
    if left and not statement.node.idxname:
        raise Faulty(
            "database",
            f"index {left[0]} is invalid and has the columns of the one without a name that is to be made: an earlier "
            f"attempt may have left it. A person looks, and drops it: drop index concurrently {left[0]}.",
        )
    for index in left:
        _drop(session, index)


def clear(session: Session, statement: Statement) -> None:
    """Drop what this attempt left, where the next would not know it by its name. None was there before."""
    if isinstance(statement.node, ast.IndexStmt) and not statement.node.idxname:
        for index in _invalid(session, statement):
            _drop(session, index)


def _invalid(session: Session, statement: Statement) -> list[str]:
    """The index that a statement makes, where it is there and no query uses it; by its columns, if it has no name."""
    match statement.node:
        case ast.IndexStmt(idxname=name, relation=ast.RangeVar() as table, indexParams=keys, indexIncludingParams=more):
            columns = [one.name for one in [*(keys or ()), *(more or ())]]  # None: an expression
            found = session.execute(OF_TABLE, table=_quoted(table))
            same = [row for row in found if (row["name"] == name if name else row["columns"] == columns)]
            return [row["index"] for row in same if not row["valid"]]
    return []


def sound(session: Session, statement: Statement) -> None:
    """Raises Faulty where IF NOT EXISTS has silently kept an invalid index."""
    if getattr(statement.node, "if_not_exists", False) and (found := _invalid(session, statement)):
        raise Faulty("database", f"index {found[0]} was there and is invalid; `if not exists` keeps it.")


def _quoted(relation: ast.RangeVar) -> str:
    parts = (part.replace('"', '""') for part in (relation.schemaname, relation.relname) if part)
    return ".".join(f'"{part}"' for part in parts)


def _drop(session: Session, index: str) -> None:
    """Drop an invalid index. Raises Faulty where somebody may still be building it: an attempt of ours that was cut."""
    if found := session.execute(BUILDING, index=index):
        pids = ", ".join(str(row["pid"]) for row in found)
        raise Faulty(
            "database",
            f"index {index} may still be in the making, by session {pids}; not touched. Resume once it ends.",
        )
    session.execute(f"drop index concurrently if exists {index}")


class RebuildIndex(Change):
    name = "migrations.rebuild_index"
    title = "Index {index}: drop the invalid one, and build it again without blocking"
    right = owners.RIGHT
    in_database = True
    final = "an index that was invalid helped nobody"

    def look(self, services: Any, of: Arguments) -> Any:
        found = services.database.rows(INDEX, **_place(of))
        return found[0] if found else {"valid": None, "definition": None}

    def done(self, now: Any, before: Any) -> bool:
        return now["valid"] is True

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        with services.migrations.database.session(of["patience"]) as session:
            owners.begin_as(session, services.migrations.owner, 0, 0)
            session.execute(concurrently(_dropped(session, of)))

    def by_hand(self, of: Arguments, before: Any) -> str:
        made = shlex.quote(concurrently(before["definition"]))
        return f'psql "$DATABASE_URL" -c {shlex.quote(_drop_of(of))} -c {made}'


class DropLeftover(RebuildIndex):
    name = "migrations.drop_leftover"
    title = "Index {index}: drop what a REINDEX CONCURRENTLY left; the index itself is another"

    def done(self, now: Any, before: Any) -> bool:
        return now["valid"] is None

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        with services.migrations.database.session(of["patience"]) as session:
            owners.begin_as(session, services.migrations.owner, 0, 0)
            _dropped(session, of)

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f'psql "$DATABASE_URL" -c {shlex.quote(_drop_of(of))}'


def _place(of: Arguments) -> dict[str, str]:
    """Of which table it is: by its name alone it could be one of another schema, on another search_path."""
    return {"table": of["table"], "index": of["index"]}


def _drop_of(of: Arguments) -> str:
    return f"drop index concurrently {of['index']}"


def _dropped(session: Session, of: Arguments) -> str:
    """Drop an invalid index; its definition, as this session would write it. Raises Refused where it is none now."""
    found = session.execute(INDEX, **_place(of))
    if not found or found[0]["valid"]:
        raise Refused(f"index {of['index']} of {of['table']} is not there any more, or is valid; not touched.")
    _drop(session, of["index"])
    return str(found[0]["definition"])


def concurrently(definition: str) -> str:
    return re.sub(r"^CREATE (UNIQUE )?INDEX ", r"CREATE \1INDEX CONCURRENTLY ", definition)
