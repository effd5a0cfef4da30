"""What would take a migration back, statement by statement, and what of the data that would destroy.

Rows that it would destroy are kept first, in a table of a schema that only its owner enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pglast import ast, enums

from opskit.services.statements import File, Statement

KIND = enums.AlterTableType
OBJECT = enums.ObjectType


KEEPING = "opskit_kept"  # the schema
KEY = """
    select array_agg(quote_ident(a.attname) order by array_position(i.indkey::int2[], a.attnum)) as columns
    from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
    where i.indrelid = to_regclass(%(table)s) and i.indisprimary
"""


@dataclass(frozen=True)
class Lost:
    """Rows that a way back would destroy: those of a whole table, or what one column holds."""

    table: str  # quoted, as all names here
    column: str = ""


@dataclass(frozen=True)
class Reverse:
    """The way back of one statement. `sql` None: none is known. `destroys`: what goes with it; `lost`: rows of that."""

    line: int
    statement: str
    sql: str | None
    destroys: str = ""
    lost: Lost | None = None

    @property
    def possible(self) -> bool:
        """Whether it can be taken back, and what goes with it can be kept."""
        return self.sql is not None and bool(self.lost or not self.destroys)


def reverse(file: File) -> list[Reverse]:
    """The way back of a file, last statement first. What was done to a table that the file made goes with the table."""
    real = [statement for statement in file.statements if statement.node is not None]
    made = {_name(s.node.relation) for s in real if isinstance(s.node, ast.CreateStmt) and not s.node.if_not_exists}
    return [
        Reverse(s.line, s.head, "") if _table(s.node) in made and not isinstance(s.node, ast.CreateStmt) else _of(s)
        for s in reversed(real)
    ]


def lossless(steps: Sequence[Reverse]) -> bool:
    """Whether all of it can be taken back, and nothing is lost by that."""
    return bool(steps) and all(step.sql is not None and not step.destroys for step in steps)


def possible(steps: Sequence[Reverse]) -> bool:
    """Whether all of it can be taken back, once what goes with it is kept."""
    return bool(steps) and all(step.possible for step in steps)


def lost(steps: Sequence[Reverse]) -> list[Lost]:
    """What has to be kept first. Of a table that goes as a whole, its columns need not be kept apart."""
    found = list(dict.fromkeys(step.lost for step in steps if step.lost))
    whole = {one.table for one in found if not one.column}
    return [one for one in found if not one.column or one.table not in whole]


def kept_as(version: str, one: Lost) -> str:
    """The table in which it is kept."""
    name = "_".join(part.replace('"', "").replace(".", "_") for part in (one.table, one.column) if part)
    return f"{KEEPING}.{_q(f'v{version}_{name}'[:63])}"


def rows_of(one: Lost, key: Sequence[str]) -> str:
    """The query for what is to be kept: all columns of a table, or a column beside its table's key."""
    if not one.column or not key:
        return f"select * from {one.table}"  # noqa: S608  # parsed names
    return f"select {', '.join(key)}, {one.column} from {one.table} where {one.column} is not null"  # noqa: S608


def _table(node: Any) -> str:
    """The table that a statement is about; empty where it is about none."""
    relation = getattr(node, "relation", None) or getattr(node, "table", None)
    return _name(relation) if isinstance(relation, ast.RangeVar) else ""


def _of(statement: Statement) -> Reverse:
    sql, destroys, gone = _way_back(statement.node)
    return Reverse(statement.line, statement.head, sql, destroys, gone)


def _way_back(node: Any) -> tuple[str | None, str, Lost | None]:
    it: Any = node
    match node:
        case ast.CreateStmt(if_not_exists=True) | ast.IndexStmt(if_not_exists=True):
            return None, "", None  # it may have been there before
        case ast.CreateStmt():
            return f"drop table {_name(it.relation)}", "every row written into it since", Lost(_name(it.relation))
        case ast.AlterTableStmt(cmds=(command,)):
            return _of_command(_name(it.relation), command)
    return _without_loss(node), "", None


def _without_loss(node: Any) -> str | None:
    it: Any = node
    match node:
        case ast.VariableSetStmt() | ast.CommentStmt() | ast.SelectStmt():
            return ""
        case ast.RenameStmt(renameType=OBJECT.OBJECT_COLUMN):
            return f"alter table {_name(it.relation)} rename column {_q(it.newname)} to {_q(it.subname)}"
        case ast.RenameStmt(renameType=OBJECT.OBJECT_TABLE):
            return f"alter table {_in_schema(it.relation, it.newname)} rename to {_q(it.relation.relname)}"
        case ast.IndexStmt() if it.idxname:
            return f"drop index {_in_schema(it.relation, it.idxname)}"
        case ast.CreatePolicyStmt():
            return f"drop policy {_q(it.policy_name)} on {_name(it.table)}"
    return None


def _of_command(table: str, command: Any) -> tuple[str | None, str, Lost | None]:
    match command.subtype:
        case KIND.AT_AddColumn if not command.missing_ok:  # or it may have been there before
            column = _q(command.def_.colname)
            return f"alter table {table} drop column {column}", "what was written into the column", Lost(table, column)
        case KIND.AT_AddConstraint if command.def_.conname:
            return f"alter table {table} drop constraint {_q(command.def_.conname)}", "", None
        case KIND.AT_SetNotNull:
            return f"alter table {table} alter column {_q(command.name)} drop not null", "", None
        case KIND.AT_EnableRowSecurity:
            return f"alter table {table} disable row level security", "the protection of its rows", None
    return None, "", None


def _name(relation: Any) -> str:
    return ".".join(_q(part) for part in (relation.schemaname, relation.relname) if part)


def _in_schema(relation: Any, name: str) -> str:
    """Something that is in the same schema as a table."""
    return ".".join(_q(part) for part in (relation.schemaname, name) if part)


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
