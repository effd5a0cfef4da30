"""What was really asked of the company, judged from its own side: by its traffic and its database's log."""

from __future__ import annotations

from typing import Any

from pglast import ast, parse_sql
from pglast.visitors import Visitor

from opskit.http import Read
from opskit.services import app, providers, sentry, status, stripe, supabase, vercel

WEBHOOK = "/api/webhooks/stripe"
READS: dict[str, tuple[Read, ...]] = {
    "stripe": stripe.READS,
    "vercel": vercel.READS,
    "sentry": sentry.READS,
    "supabase": supabase.READS,
    "app": app.reads(WEBHOOK),  # the empty, unsigned POST among them is the one named exception
    "status": tuple(Read(r.method, f"/{{vendor}}{r.path}", r.right) for r in status.READS),
    # A canary costs money, so it is none of what a run does unless its parameters allow that.
    **{name: tuple(read for read in reads if read.method == "GET") for name, reads in providers.READS.items()},
}
ACCESS_SHARE = 1  # as PostgreSQL numbers its modes of locking
OURS = ("opskit_read", "opskit_change")  # the users that opskit logs in as
SOMEBODY = "somebody"
FRAME = ("set idle_in_transaction_session_timeout = '60s'",)  # what a session begins with
# Volatile to PostgreSQL, and harmless: of this transaction only; what a server is called; who waits for whom.
# How large, and whether it is a replica.
HARMLESS = {
    "set_config", "pg_control_system", "pg_blocking_pids", "pg_relation_size", "pg_total_relation_size",
    "pg_is_in_recovery",
}  # fmt: skip

Entry = dict[str, Any]


def ours(traffic: list[Entry]) -> list[Entry]:
    """Every request but Stripe's deliveries to the app."""
    return [entry for entry in traffic if not entry["agent"].startswith("Stripe/")]


def changing(traffic: list[Entry]) -> list[Entry]:
    """The requests that no service has declared to be reads."""
    return [
        entry
        for entry in ours(traffic)
        if not any(read.covers(entry["method"], entry["path"]) for read in READS[entry["service"]])
    ]


def asked(statements: list[Entry]) -> list[Entry]:
    """What opskit's own sessions asked of the database, and not somebody else's that a test opened."""
    return [entry for entry in statements if entry["user"] in OURS and entry["application"] != SOMEBODY]


def writing(statements: list[Entry]) -> list[Entry]:
    """What opskit asked outside a read-only transaction, or that is no plain question."""
    reading: set[int] = set()  # sessions inside a read-only transaction
    found = []
    for entry in asked(statements):
        said = entry["sql"].strip().lower()
        if said == "begin read only":
            reading.add(entry["session"])
        elif said == "rollback":
            reading.discard(entry["session"])
        elif entry["application"].endswith("/pg_dump"):  # a named exception: the schema's copy, for a rehearsal
            found += [] if _copying(entry["sql"]) else [entry]
        elif said not in FRAME and (entry["session"] not in reading or not _question(entry["sql"])):
            found.append(entry)
    return found


def modifying(statements: list[Entry]) -> list[Entry]:
    """What opskit asked that changes rows or tables, whether or not it was let."""
    calm = (ast.SelectStmt, ast.TransactionStmt, ast.VariableSetStmt, ast.VariableShowStmt)
    return [
        entry
        for entry in asked(statements)
        if any(not isinstance(raw.stmt, calm) or _trouble(raw.stmt) for raw in parse_sql(entry["sql"]))
    ]


def _trouble(statement: Any) -> list[str]:
    looked = _Look()
    looked(statement)
    return looked.trouble


def _question(sql: str) -> bool:
    """Whether it is one select that locks nothing and keeps nothing, its parts included."""
    statements = [raw.stmt for raw in parse_sql(sql)]
    return len(statements) == 1 and isinstance(statements[0], ast.SelectStmt) and not _trouble(statements[0])


def _copying(sql: str) -> bool:
    """Whether it reads definitions: questions, settings of its own, and locks that let everybody write."""
    calm = (ast.SelectStmt, ast.TransactionStmt, ast.VariableSetStmt, ast.ExecuteStmt)
    for raw in parse_sql(sql):
        match raw.stmt:
            case ast.LockStmt(mode=mode):
                if mode != ACCESS_SHARE:
                    return False
            case ast.PrepareStmt(query=query):
                if not isinstance(query, ast.SelectStmt) or _trouble(query):
                    return False
            case statement:
                if not isinstance(statement, calm) or _trouble(statement):
                    return False
    return True


class _Look(Visitor):  # type: ignore[misc]  # pglast has no types
    def __init__(self) -> None:
        self.trouble: list[str] = []
        self.functions: set[str] = set()

    def visit_FuncCall(self, _: Any, node: Any) -> None:  # noqa: N802
        self.functions.add(node.funcname[-1].sval)

    def visit_LockingClause(self, *_: Any) -> None:  # noqa: N802
        self.trouble.append("locks")

    def visit_IntoClause(self, *_: Any) -> None:  # noqa: N802
        self.trouble.append("keeps")

    def visit_UpdateStmt(self, *_: Any) -> None:  # noqa: N802
        self.trouble.append("updates")

    visit_DeleteStmt = visit_InsertStmt = visit_MergeStmt = visit_UpdateStmt  # noqa: N815


def functions(statements: list[Entry]) -> set[str]:
    """The functions that opskit called in the database, apart from those known to be harmless."""
    looked = _Look()
    for entry in asked(statements):
        for raw in parse_sql(entry["sql"]):
            looked(raw.stmt)
    return looked.functions - HARMLESS
