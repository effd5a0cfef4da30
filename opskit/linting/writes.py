"""Whether a statement changes something. What is harmless is named here; everything else is not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pglast.ast
from pglast.enums import TransactionStmtKind as Transaction
from pglast.visitors import Visitor

from opskit.linting.inner import carried_out

nodes: Any = pglast.ast
CHANGING = (nodes.InsertStmt, nodes.UpdateStmt, nodes.DeleteStmt, nodes.MergeStmt)  # also within others
HARMLESS = (
    nodes.SelectStmt, nodes.ExplainStmt, nodes.VariableSetStmt, nodes.VariableShowStmt, nodes.PrepareStmt,
    nodes.ExecuteStmt, nodes.DeallocateStmt, nodes.ListenStmt, nodes.UnlistenStmt, nodes.DeclareCursorStmt,
    nodes.FetchStmt, nodes.ClosePortalStmt, nodes.DiscardStmt, nodes.ConstraintsSetStmt, nodes.LoadStmt, *CHANGING,
)  # fmt: skip
FINAL = {  # what outlasts the session
    Transaction.TRANS_STMT_PREPARE, Transaction.TRANS_STMT_COMMIT_PREPARED, Transaction.TRANS_STMT_ROLLBACK_PREPARED,
}  # fmt: skip
UNDONE = re.compile(  # functions whose effect a ROLLBACK takes back
    r"lo_(creat|create|export|from_bytea|import|put|truncate|truncate64|unlink)|lowrite|pg_notify|dblink_exec|"
    r"cron\.(schedule|schedule_in_database|unschedule|alter_job)|vault\.(create|update)_secret|net\.http_\w+|"
    r"pg_(clear|restore)_(relation|attribute)_stats"
)
LASTING = re.compile(  # and those that have done it
    r"pg_(terminate|cancel)_backend|nextval|setval|pg_reload_conf|pg_rotate_logfile|pg_promote|pg_switch_wal|"
    r"pg_stat_reset\w*|pg_stat_statements_reset|pg_(create|copy|drop)_\w*slot|pg_replication_slot_advance|"
    r"pg_sync_replication_slots|pg_logical_slot_get_\w*changes|pg_logical_emit_message|pg_create_restore_point|"
    r"pg_replication_origin_(advance|create|drop)|pg_wal_replay_(pause|resume)|pg_backup_(start|stop)|"
    r"pg_import_system_collations|pg_file_(write|unlink|rename|sync)|brin_(de)?summarize\w*|gin_clean_pending_list"
)


@dataclass(frozen=True)
class Write:
    """What would change, in a word, and whether it stays so after a ROLLBACK."""

    what: str
    lasting: bool = False


def writes(statement: Any, temporary: Collection[str] = ()) -> Write | None:
    """What it would change; None where it only looks. These tables are of the session's own, and nobody else's."""
    if isinstance(statement, nodes.ExplainStmt) and not carried_out(statement):
        return None
    if not _harmless(statement) and not _own(statement, temporary):
        return Write(_called(statement))
    found: list[Write] = []

    class Writes(Visitor):
        def visit(self, _: Any, node: Any) -> None:
            found.extend(_done_by(node, temporary))

    Writes()(statement)
    return max(found, key=lambda one: one.lasting) if found else None


def _harmless(statement: Any) -> bool:
    if isinstance(statement, nodes.TransactionStmt):
        return statement.kind not in FINAL
    if isinstance(statement, nodes.CopyStmt):
        return not statement.is_from and not statement.is_program
    return isinstance(statement, HARMLESS)


def _done_by(node: Any, temporary: Collection[str]) -> Iterator[Write]:
    """What one part of a statement does."""
    if isinstance(node, CHANGING) and not _own(node, temporary):
        yield Write(_called(node))
    elif isinstance(node, nodes.FuncCall):
        names = [part.sval for part in node.funcname]
        spelled = (names[-1], ".".join(names[-2:]))
        lasting = any(LASTING.fullmatch(name) for name in spelled)
        if lasting or any(UNDONE.fullmatch(name) for name in spelled):
            yield Write(names[-1], lasting)
    elif isinstance(node, nodes.SelectStmt) and node.lockingClause:
        yield Write("SELECT … FOR UPDATE")
    elif isinstance(node, nodes.SelectStmt) and node.intoClause and not _owned(node.intoClause.rel, temporary):
        yield Write("SELECT INTO")


def _own(statement: Any, temporary: Collection[str]) -> bool:
    """Whether it is about temporary tables alone."""
    about = [getattr(statement, part, None) for part in ("relation", "view", "sequence")]
    about.append(getattr(getattr(statement, "into", None), "rel", None))
    several = [*(getattr(statement, "relations", None) or ()), *(getattr(statement, "rels", None) or ())]
    about += [getattr(one, "relation", one) for one in several]
    relations = [one for one in about if isinstance(one, nodes.RangeVar)]
    if isinstance(statement, nodes.DropStmt):
        dropped = [name[-1] if isinstance(name, tuple) else name for name in statement.objects]
        return all(isinstance(name, nodes.String) and name.sval in temporary for name in dropped)
    return bool(relations) and all(_owned(one, temporary) for one in relations)


def _owned(relation: Any, temporary: Collection[str]) -> bool:
    return relation.relpersistence == "t" or relation.schemaname == "pg_temp" or relation.relname in temporary


def _called(node: Any) -> str:
    """CreateTableAsStmt → CREATE TABLE AS."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__.removesuffix("Stmt")).upper()
