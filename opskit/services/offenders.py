"""What a rehearsal without rows cannot see: how many rows of the target a migration would be refused for.

Counted on the target, one question for each new constraint, NOT NULL, unique index and cast. What takes too long, or
what an earlier statement may put right, is not proven; it is never called fine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from pglast import ast, enums
from pglast.stream import RawStream

from opskit.database import Database
from opskit.errors import CannotTell, ServiceError
from opskit.services.statements import File, Statement

COLUMNS = ["file", "line", "table", "asks", "offenders", "why", "query"]
NEW = ("42P01", "42703", "42704")  # a table, column or type that the target does not have yet
KEY = """
    select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
    where i.indrelid = to_regclass(%(table)s) and i.indisprimary order by array_position(i.indkey::int2[], a.attnum)
"""
KIND = enums.AlterTableType
CONSTRAINT = enums.ConstrType
Question = tuple[str, str, str]  # table, what it asks for, the rows that do not have it


def count(database: Database, files: Sequence[File]) -> pd.DataFrame:
    """file, line, table, asks, offenders (None: not proven), why, query; for what these files ask of rows."""
    written: set[str] = set()  # tables whose rows an earlier statement changes
    rows: list[tuple[Any, ...]] = []
    for file in files:
        for statement in file.statements:
            for table, asks, query in _questions(database, statement.node):
                found, why = _counted(database, query, table in written)
                if why != "new":
                    shown = table.replace('"', "")
                    rows.append((file.path.name, statement.line, shown, asks, found, why, query))
            written |= _writes(statement)
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object)  # or None would become NaN, which is true


def again(database: Database, query: str) -> int:
    """The same count now. Raises CannotTell where it cannot be had."""
    return int(database.rows(query)[0]["count"])


def _counted(database: Database, query: str, written: bool) -> tuple[int | None, str]:
    if not query:
        return None, "not proven: nobody counted, the question is too intricate"
    try:
        found = again(database, query)
    except ServiceError as error:
        if error.sqlstate in NEW:
            return 0, "new"
        if error.sqlstate == "42883":  # older versions cannot try a cast; or the migration makes it
            return None, "not proven: the target has no such function to ask with"
        if error.sqlstate == "57014":
            return None, "not proven: counting took too long"
        raise
    if found and written:
        return None, f"not proven: {found} now, and an earlier statement changes rows there"
    return found, ""


def _writes(statement: Statement) -> set[str]:
    match statement.node:
        case ast.UpdateStmt() | ast.DeleteStmt() | ast.InsertStmt():
            return {_table(statement.node.relation)}
    return set()


def _questions(database: Database, node: Any) -> Iterator[Question]:
    it: Any = node
    match node:
        case ast.IndexStmt(unique=True) if all(p.name for p in it.indexParams):
            columns = [_quoted(p.name) for p in it.indexParams]
            yield _repeated(_table(it.relation), columns, it.whereClause)
        case ast.AlterTableStmt():
            for command in it.cmds:
                yield from _of_command(database, _table(it.relation), command)


def _of_command(database: Database, table: str, command: Any) -> Iterator[Question]:
    name = _quoted(command.name) if command.name else ""
    match command.subtype:
        case KIND.AT_SetNotNull:
            yield table, f"{name} not null", _where(table, f"{name} is null")
        case KIND.AT_AlterColumnType if not command.def_.raw_default:
            kind = RawStream()(command.def_.typeName)
            test = f"{name} is not null and not pg_input_is_valid({name}::text, '{kind}')"
            yield table, f"{name} as {kind}", _where(table, test)
        case KIND.AT_AddConstraint if not command.def_.skip_validation:
            yield from _of_constraint(database, table, command.def_)
        case KIND.AT_ValidateConstraint:
            yield from _of_known(database, table, command.name)


def _of_constraint(database: Database, table: str, constraint: Any) -> Iterator[Question]:
    match constraint.contype:
        case CONSTRAINT.CONSTR_CHECK:
            test = RawStream()(constraint.raw_expr)
            yield table, f"check ({test})", _where(table, f"not ({test})")
        case CONSTRAINT.CONSTR_UNIQUE | CONSTRAINT.CONSTR_PRIMARY if constraint.keys:
            yield _repeated(table, [_quoted(key.sval) for key in constraint.keys])
        case CONSTRAINT.CONSTR_FOREIGN:
            other = _table(constraint.pktable)
            own = [_quoted(key.sval) for key in constraint.fk_attrs]
            keys = [_quoted(k.sval) for k in constraint.pk_attrs or ()] or _key(database, other)
            pairs = " and ".join(f"o.{k} = t.{c}" for k, c in zip(keys, own, strict=False))
            given = " and ".join(f"t.{c} is not null" for c in own)
            test = f"{given} and not exists (select from {other} o where {pairs})"  # parsed names
            yield table, f"a row in {other} for {', '.join(own)}", _where(f"{table} t", test) if pairs else ""


def _of_known(database: Database, table: str, name: str) -> Iterator[Question]:
    """A constraint that the target has, not validated yet."""
    sql = """select pg_get_expr(conbin, conrelid) as test from pg_constraint
             where conrelid = to_regclass(%(table)s) and conname = %(name)s and contype = 'c' and not convalidated"""
    for row in database.rows(sql, table=table, name=name):
        yield table, f"check {row['test']}", _where(table, f"not {row['test']}")


def _repeated(table: str, columns: list[str], predicate: Any = None) -> Question:
    given = " and ".join(f"{c} is not null" for c in columns)
    where = f"{given} and ({RawStream()(predicate)})" if predicate else given
    names = ", ".join(columns)
    twice = f"select from {table} where {where} group by {names} having count(*) > 1"  # parsed names
    return table, f"{names} unique", f"select count(*) as count from ({twice}) repeated"  # noqa: S608


def _where(table: str, test: str) -> str:
    return f"select count(*) as count from {table} where {test}"  # noqa: S608  # parsed names and expressions


def _key(database: Database, table: str) -> list[str]:
    try:
        return [_quoted(row["attname"]) for row in database.rows(KEY, table=table)]
    except CannotTell:
        return []


def _table(relation: Any) -> str:
    return ".".join(_quoted(part) for part in (relation.schemaname, relation.relname) if part)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
