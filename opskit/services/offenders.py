"""What a rehearsal without rows cannot see: how many rows of the target a migration would be refused for.

Counted on the target, one question for each new constraint, NOT NULL, unique index and cast. What takes too long, or
what an earlier statement may put right, is not proven; it is never called fine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pglast import ast, enums
from pglast.stream import RawStream

from opskit.database import Database
from opskit.errors import CannotTell, ServiceError
from opskit.services.statements import File

COLUMNS = ["file", "line", "table", "asks", "offenders", "why", "query"]
UNPROVEN = {  # where the question cannot be asked
    "42P01": "the target does not have this table yet",
    "42703": "the target does not have this column yet, and an earlier statement adds it",
    "42704": "the target does not have this type yet",
    "42846": "there is no such cast to try",
    "42883": "the target has no such function to ask with",  # an older version, or the migration makes it
    "57014": "counting took too long",
}
SERIAL = ("serial", "serial2", "serial4", "serial8", "bigserial", "smallserial")
INTEGERS = ("int2", "int4", "int8", "smallint", "integer", "bigint")
KNOWN = """
    select pg_get_expr(conbin, conrelid) as test, confrelid::regclass::text as other,
           array(select quote_ident(attname) from unnest(conkey) with ordinality as k (attnum, place)
                 join pg_attribute a on a.attrelid = conrelid and a.attnum = k.attnum order by place) as own,
           array(select quote_ident(attname) from unnest(confkey) with ordinality as k (attnum, place)
                 join pg_attribute a on a.attrelid = confrelid and a.attnum = k.attnum order by place) as keys
    from pg_constraint where conrelid = to_regclass(%(table)s) and conname = %(name)s and contype in ('c', 'f')
"""
KEY = """
    select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
    where i.indrelid = to_regclass(%(table)s) and i.indisprimary order by array_position(i.indkey::int2[], a.attnum)
"""
KIND = enums.AlterTableType
CONSTRAINT = enums.ConstrType
Question = tuple[str, str, str]  # table, what it asks for, the rows that do not have it


def count(database: Database, files: Sequence[File]) -> pd.DataFrame:
    """file, line, table, asks, offenders (None: not proven), why, query; for what these files ask of rows."""
    so_far = SoFar()
    rows: list[tuple[Any, ...]] = []
    for file in files:
        for statement in file.statements:
            for table, asks, query in _questions(database, statement.node, so_far):
                if not so_far.is_empty(table):
                    shown = table.replace('"', "")
                    rows.append(
                        (file.path.name, statement.line, shown, asks, *_counted(database, query, table, so_far), query)
                    )
            so_far.note(statement.node)
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object)  # or None would become NaN, which is true


@dataclass
class SoFar:
    """What earlier statements of these files have done, and the target does not know yet."""

    made: set[str] = field(default_factory=set)  # tables
    written: set[str] = field(default_factory=set)  # tables whose rows they change by what is in other rows
    unchecked: dict[tuple[str, str], Any] = field(default_factory=dict)  # constraints added NOT VALID

    def note(self, node: Any) -> None:
        it: Any = node
        match node:
            case ast.CreateStmt(if_not_exists=False):
                self.made.add(_table(it.relation))
            case ast.CreateTableAsStmt(into=ast.IntoClause(rel=table)):
                self.made.add(_table(table))
                self.written.add(_table(table))
            case ast.InsertStmt(selectStmt=ast.SelectStmt(valuesLists=[*_])) if _table(it.relation) in self.made:
                pass  # the rehearsal has seen these very rows
            case ast.UpdateStmt() | ast.DeleteStmt() | ast.InsertStmt():
                self.written.add(_table(it.relation))
            case ast.AlterTableStmt():
                for command in it.cmds:
                    if command.subtype == KIND.AT_AddConstraint and command.def_.skip_validation:
                        self.unchecked[_table(it.relation), command.def_.conname] = command.def_

    def is_empty(self, table: str) -> bool:
        """Whether a table holds nothing that a rehearsal without rows would not have seen."""
        return table in self.made and table not in self.written


def again(database: Database, query: str) -> int:
    """The same count now. Raises CannotTell where it cannot be had."""
    return int(database.rows(query)[0]["count"])


def _counted(database: Database, query: str, table: str, so_far: SoFar) -> tuple[int | None, str]:
    if not query:
        return None, "not proven: nobody counted, the question is too intricate"
    try:
        found = again(database, query)
    except ServiceError as error:
        if error.sqlstate in UNPROVEN:
            return None, f"not proven: {UNPROVEN[error.sqlstate]}"
        raise
    if found and table in so_far.written:
        return None, f"not proven: {found} now, and an earlier statement changes rows there"
    return found, ""


def _questions(database: Database, node: Any, so_far: SoFar) -> Iterator[Question]:
    it: Any = node
    match node:
        case ast.IndexStmt(unique=True):
            columns = [_quoted(p.name) if p.name else f"({RawStream()(p.expr)})" for p in it.indexParams]
            yield _repeated(_table(it.relation), columns, it.nulls_not_distinct, it.whereClause)
        case ast.AlterTableStmt():
            for command in it.cmds:
                yield from _of_command(database, _table(it.relation), command, so_far)
        case ast.AlterDomainStmt(subtype="O" | "C" | "V"):  # not null, a constraint, its validation
            yield ".".join(_quoted(part.sval) for part in it.typeName), "a rule of this domain", ""


def _of_command(database: Database, table: str, command: Any, so_far: SoFar) -> Iterator[Question]:
    name = _quoted(command.name) if command.name else ""
    match command.subtype:
        case KIND.AT_SetNotNull:
            yield table, f"{name} not null", _where(table, f"{name} is null")
        case KIND.AT_AddColumn:
            yield from _of_column(table, command.def_)
        case KIND.AT_AlterColumnType:
            yield _of_cast(table, name, command.def_)
        case KIND.AT_AddConstraint if not command.def_.skip_validation:
            yield from _of_constraint(database, table, command.def_)
        case KIND.AT_ValidateConstraint if known := so_far.unchecked.get((table, command.name)):
            yield from _of_constraint(database, table, known)
        case KIND.AT_ValidateConstraint:
            yield from _of_known(database, table, command.name)


def _of_column(table: str, column: Any) -> Iterator[Question]:
    """A new column is empty in every row there is, or holds its default."""
    kinds = {constraint.contype for constraint in column.constraints or ()}
    name = _quoted(column.colname)
    filled = bool(kinds & {CONSTRAINT.CONSTR_DEFAULT, CONSTRAINT.CONSTR_GENERATED, CONSTRAINT.CONSTR_IDENTITY})
    filled = filled or column.typeName.names[-1].sval in SERIAL
    if not filled and kinds & {CONSTRAINT.CONSTR_NOTNULL, CONSTRAINT.CONSTR_PRIMARY}:
        yield table, f"{name} not null", _where(table, "true")
    if kinds & {CONSTRAINT.CONSTR_DEFAULT} and kinds & {
        CONSTRAINT.CONSTR_UNIQUE,
        CONSTRAINT.CONSTR_CHECK,
        CONSTRAINT.CONSTR_FOREIGN,
    }:
        yield table, f"a rule of {name}, which every row has the default of", ""


def _of_cast(table: str, name: str, column: Any) -> Question:
    kind = RawStream()(column.typeName)
    asks = f"{name} as {kind}"
    if column.raw_default:  # USING
        return table, asks, ""
    whole = column.typeName.names[-1].sval in INTEGERS  # these are rounded
    text = f"{name}::text"
    if whole:
        text = f"case when pg_input_is_valid({text}, 'numeric') then round({text}::numeric)::text else {text} end"
    return table, asks, _where(table, f"{name} is not null and not pg_input_is_valid({text}, '{kind}')")


def _of_constraint(database: Database, table: str, constraint: Any) -> Iterator[Question]:
    match constraint.contype:
        case CONSTRAINT.CONSTR_CHECK:
            test = RawStream()(constraint.raw_expr)
            yield table, f"check ({test})", _where(table, f"not ({test})")
        case CONSTRAINT.CONSTR_UNIQUE | CONSTRAINT.CONSTR_PRIMARY if constraint.keys:
            keys = [_quoted(key.sval) for key in constraint.keys]
            yield _repeated(table, keys, constraint.nulls_not_distinct)
            if constraint.contype == CONSTRAINT.CONSTR_PRIMARY:
                names = ", ".join(keys)
                yield table, f"{names} not null", _where(table, " or ".join(f"{key} is null" for key in keys))
        case CONSTRAINT.CONSTR_EXCLUSION:
            yield table, f"no row in the way of another by {constraint.conname or 'an exclusion'}", ""
        case CONSTRAINT.CONSTR_FOREIGN:
            other = _table(constraint.pktable)
            own = [_quoted(key.sval) for key in constraint.fk_attrs]
            keys = [_quoted(k.sval) for k in constraint.pk_attrs or ()] or _key(database, other)
            yield _without_other(table, own, other, keys)


def _of_known(database: Database, table: str, name: str) -> Iterator[Question]:
    """A constraint that the target has, not validated yet."""
    known = database.rows(KNOWN, table=table, name=name)
    if not known:
        yield table, f"what {name} asks for", ""
    for row in known:
        if row["test"]:
            yield table, f"check {row['test']}", _where(table, f"not {row['test']}")
        elif row["own"]:
            yield _without_other(table, row["own"], row["other"], row["keys"])


def _without_other(table: str, own: Sequence[str], other: str, keys: Sequence[str]) -> Question:
    """Rows that refer to none of the other table."""
    pairs = " and ".join(f"o.{k} = t.{c}" for k, c in zip(keys, own, strict=False))
    given = " and ".join(f"t.{c} is not null" for c in own)
    test = f"{given} and not exists (select from {other} o where {pairs})"  # parsed names
    return table, f"a row in {other} for {', '.join(own)}", _where(f"{table} t", test) if pairs else ""


def _repeated(table: str, columns: list[str], null_too: bool, predicate: Any = None) -> Question:
    given = "true" if null_too else " and ".join(f"{c} is not null" for c in columns)
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
    schema = relation.schemaname if relation.schemaname != "public" else None
    return ".".join(_quoted(part) for part in (schema, relation.relname) if part)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
