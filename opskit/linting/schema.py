"""What a database's own constraints say: which values a column may hold, where a key leads, what only ever grows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pglast.ast
from pglast import parse_sql
from pglast.enums import A_Expr_Kind as Kind
from pglast.enums import BoolExprType, NullTestType
from pglast.parser import ParseError

from opskit.database import Database
from opskit.services import scratch

COLUMNS = """
    select c.oid::regclass::text as table, a.attname as column, a.attnotnull as filled,
           (select array_agg(e.enumlabel) from pg_enum e where e.enumtypid = a.atttypid) as labels,
           t.typname = 'citext' or coalesce(not l.collisdeterministic, false) as folds
    from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
    join pg_type t on t.oid = a.atttypid left join pg_collation l on l.oid = a.attcollation
    where c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
      and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
"""
CHECKS = """
    select conrelid::regclass::text as table, pg_get_expr(conbin, conrelid) as says from pg_constraint
    where contype = 'c' and convalidated and not connoinherit and conrelid <> 0
"""
KEYS = """
    select k.conrelid::regclass::text as table, a.attname as column, k.confrelid::regclass::text as target,
           b.attname as target_column
    from pg_constraint k
    join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
    join pg_attribute b on b.attrelid = k.confrelid and b.attnum = k.confkey[1]
    where k.contype = 'f' and k.convalidated and cardinality(k.conkey) = 1
"""
INDEXED = """
    select i.indrelid::regclass::text as table, a.attname as column
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    where m.amname = 'btree' and i.indpred is null and i.indisvalid
"""
NEWEST = 18  # of PostgreSQL
nodes: Any = pglast.ast  # each part is there where its kind of node has it
Column = tuple[str, str]  # table, column


@dataclass(frozen=True)
class Schema:
    """Facts of one database, to reason with."""

    columns: Mapping[str, set[str]]
    filled: set[Column]  # never null
    allowed: Mapping[Column, frozenset[str]]
    keys: set[tuple[Column, Column]]  # from, to: what stands there always exists
    growing: set[str] = field(default_factory=set)  # tables that get a row with every event, and keep it
    indexed: set[Column] = field(default_factory=set)  # what an index begins with


@contextmanager
def made(scripts: Sequence[str]) -> Iterator[Database]:
    """An empty database in which these have run, gone with this process. Raises CannotTell where none can be made."""
    with scratch.server(scratch.choose(NEWEST)) as server:
        database = server.open("postgres")
        with database.session() as session:
            for script in scripts:
                session.execute(script)
        try:
            yield database
        finally:
            database.close()


def learn(database: Database) -> Schema:
    columns: dict[str, set[str]] = {}
    filled, folding, allowed = set(), set(), {}
    for row in database.rows(COLUMNS):
        column = row["table"], row["column"]
        columns.setdefault(row["table"], set()).add(row["column"])
        if row["filled"]:
            filled.add(column)
        if row["folds"]:  # 'Draft' is 'draft' there
            folding.add(column)
        if row["labels"]:
            allowed[column] = frozenset(row["labels"])
    for row in database.rows(CHECKS):
        for name, values in _allowing(row["says"]):
            column = row["table"], name
            if column not in folding:
                allowed[column] = allowed.get(column, values) & values
    keys = {((r["table"], r["column"]), (r["target"], r["target_column"])) for r in database.rows(KEYS)}
    referring = {table for (table, _), _ in keys}
    growing = {t for t in referring if "created_at" in columns[t] and "updated_at" not in columns[t]}
    indexed = {(row["table"], row["column"]) for row in database.rows(INDEXED)}
    return Schema(columns, filled, allowed, keys, growing, indexed)


def _allowing(check: str) -> Iterator[tuple[str, frozenset[str]]]:
    """(column, the only texts that it may hold), for what a CHECK says of one column wholly."""
    try:
        select: Any = parse_sql(f"select {check}")[0].stmt
    except ParseError:  # a newer server's words: nothing is known of it
        return
    said = select.targetList[0].val
    both = isinstance(said, nodes.BoolExpr) and said.boolop == BoolExprType.AND_EXPR
    for part in said.args if both else [said]:
        if found := _one_of(part):
            yield found


def _one_of(node: Any) -> tuple[str, frozenset[str]] | None:
    match node:
        case nodes.A_Expr(name=[nodes.String(sval="=")], kind=Kind.AEXPR_OP | Kind.AEXPR_OP_ANY, lexpr=left):
            column, values = _bare(left), _texts(node.rexpr)
            if isinstance(column, nodes.ColumnRef) and values:
                return column.fields[-1].sval, values
        case nodes.BoolExpr(boolop=BoolExprType.OR_EXPR, args=args):
            filled = [one for one in args if not _is_null(one)]  # nothing equals null
            found = [_one_of(one) for one in filled]
            named = {one[0] if one else "" for one in found} | {_is_null(one) for one in args if one not in filled}
            if len(named) == 1 and all(found):
                return named.pop(), frozenset().union(*(one[1] for one in found if one))
    return None


def _is_null(node: Any) -> str:
    """The column that has to be null; "" where it is another condition."""
    if isinstance(node, nodes.NullTest) and node.nulltesttype == NullTestType.IS_NULL:
        return str(node.arg.fields[-1].sval) if isinstance(node.arg, nodes.ColumnRef) else "?"
    return ""


def _texts(node: Any) -> frozenset[str]:
    """The texts of a constant, or of an array of nothing else."""
    match _bare(node):
        case nodes.A_Const(val=nodes.String(sval=text)):
            return frozenset([text])
        case nodes.A_ArrayExpr(elements=elements):
            found = [_texts(one) for one in elements or ()]
            return frozenset().union(*found) if all(found) else frozenset()
    return frozenset()


def _bare(node: Any) -> Any:
    """Without casts."""
    while isinstance(node, nodes.TypeCast):
        node = node.arg
    return node
