"""What would take a migration back, statement by statement, and what of the data that would destroy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pglast import ast, enums

from opskit.services.statements import File, Statement

KIND = enums.AlterTableType
OBJECT = enums.ObjectType


@dataclass(frozen=True)
class Reverse:
    """The way back of one statement. `sql` None: none is known. `destroys`: what goes with it."""

    line: int
    statement: str
    sql: str | None
    destroys: str = ""


def reverse(file: File) -> list[Reverse]:
    """The way back of a file, last statement first."""
    return [_of(statement) for statement in reversed(file.statements) if statement.node is not None]


def lossless(steps: Sequence[Reverse]) -> bool:
    """Whether all of it can be taken back, and nothing is lost by that."""
    return bool(steps) and all(step.sql is not None and not step.destroys for step in steps)


def _of(statement: Statement) -> Reverse:
    sql, destroys = _way_back(statement.node)
    return Reverse(statement.line, statement.head, sql, destroys)


def _way_back(node: Any) -> tuple[str | None, str]:
    it: Any = node
    match node:
        case ast.VariableSetStmt() | ast.CommentStmt() | ast.SelectStmt():
            return "", ""
        case ast.RenameStmt(renameType=OBJECT.OBJECT_COLUMN):
            table = _name(it.relation)
            return f"alter table {table} rename column {_q(it.newname)} to {_q(it.subname)}", ""
        case ast.RenameStmt(renameType=OBJECT.OBJECT_TABLE):
            schema = f"{_q(it.relation.schemaname)}." if it.relation.schemaname else ""
            return f"alter table {schema}{_q(it.newname)} rename to {_q(it.relation.relname)}", ""
        case ast.CreateStmt():
            return f"drop table {_name(it.relation)}", "every row written into it since"
        case ast.IndexStmt() if it.idxname:
            return f"drop index {_q(it.idxname)}", ""
        case ast.CreatePolicyStmt():
            return f"drop policy {_q(it.policy_name)} on {_name(it.table)}", ""
        case ast.AlterTableStmt(cmds=(command,)):
            return _of_command(_name(it.relation), command)
    return None, ""


def _of_command(table: str, command: Any) -> tuple[str | None, str]:
    match command.subtype:
        case KIND.AT_AddColumn:
            return f"alter table {table} drop column {_q(command.def_.colname)}", "what was written into the column"
        case KIND.AT_AddConstraint if command.def_.conname:
            return f"alter table {table} drop constraint {_q(command.def_.conname)}", ""
        case KIND.AT_SetNotNull:
            return f"alter table {table} alter column {_q(command.name)} drop not null", ""
        case KIND.AT_EnableRowSecurity:
            return f"alter table {table} disable row level security", "the protection of its rows"
    return None, ""


def _name(relation: Any) -> str:
    return ".".join(_q(part) for part in (relation.schemaname, relation.relname) if part)


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
