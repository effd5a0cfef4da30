"""The least rights that a runbook needs, worked out from its cells and the services' own declarations."""

from __future__ import annotations

import inspect
import re
from types import ModuleType
from typing import Any

from pglast import parse_sql
from pglast.visitors import Visitor

from opskit.actions import Change
from opskit.runbooks import Runbook
from opskit.services import (
    documents,
    migrations,
    policies,
    profiles,
    providers,
    restoring,
    sentry,
    sessions,
    snapshots,
    stripe,
    supabase,
    tasks,
    vercel,
    versioning,
)

MODULES: dict[str, tuple[ModuleType, type[Any]]] = {
    "stripe": (stripe, stripe.Stripe),
    "vercel": (vercel, vercel.Vercel),
    "sentry": (sentry, sentry.Sentry),
    "supabase": (supabase, supabase.Supabase),
}

# Services that are the database, and what their verbs read there.
TABLES: dict[str, tuple[str, ...]] = {
    "profiles": (profiles.PAYING, profiles.OWNERS, profiles.WORDS),
    "documents": (documents.SEARCH, restoring.EVERYTHING, versioning.UNVERSIONED, snapshots.FULL),
    "policies": (policies.POLICIES, policies.STANDING),
    "sessions": (sessions.CHAINS,),
    "migrations": (migrations.LEDGER, migrations.INVALID, migrations.OPEN, migrations.SIZES),
    "tasks": (tasks.STUCK, tasks.ONE, tasks.LATEST),
}
VERBS = {"snapshots.prune": "documents.prune_snapshots"}  # changes that another name plans


def needed(book: Runbook) -> list[tuple[str, str, str]]:
    """(plan or apply, service, right), for everything that the runbook's cells may look at or plan."""
    reads = [("plan", service, right) for service in MODULES for right in _reads(service, book)]
    tables = [("plan", "database", f"select on {table}") for table in _tables(book)]
    if any("pg_stat_" in right for *_, right in tables):
        tables.append(("plan", "database", "membership of pg_monitor"))  # or what others run is hidden, row by row
    if book.calls("providers"):
        reads += [("plan", name, route.right) for name, routes in providers.READS.items() for route in routes]
    changes = [("apply", *right) for right in _changes(book)]
    return [
        *tables,
        *dict.fromkeys(reads),
        *changes,
        ("plan", "database", "bypassrls, or a policy that shows every row"),
    ]


def _reads(service: str, book: Runbook) -> list[str]:
    """Rights of the routes that the used verbs of a service reach, directly or through its other verbs."""
    module, face = MODULES[service]
    used = book.calls(service) | {"account", "project_id"}  # `begin` compares the pins
    if service == "stripe" and book.calls("profiles"):
        used |= {"subscriptions", "customer"}  # profiles are read beside Stripe
    sources = "".join(source(face, verb) for verb in reached(face, used))
    routes = [r for r in module.READS if re.search(_shape(r.path), sources)]
    return list(dict.fromkeys(r.right for r in routes))


def _shape(path: str) -> str:
    """A route as it looks in an f-string: placeholders are expressions."""
    return re.sub(r"\\{\w+\\}", r"\\{[^}]+\\}", re.escape(path)) + r"[\"']"


def reached(face: type[Any], used: set[str]) -> set[str]:
    """These verbs of a service, and those that they call."""
    known: set[str] = set()
    while used - known:
        verb = (used - known).pop()
        known.add(verb)
        used = used | set(re.findall(r"self\.(\w+)\(", source(face, verb)))
    return known


def source(face: type[Any], verb: str) -> str:
    """How a verb is written."""
    member = inspect.getattr_static(face, verb, None)
    return inspect.getsource(inspect.unwrap(member)) if inspect.isfunction(member) else ""


def _tables(book: Runbook) -> list[str]:
    found: list[str] = []
    for service, queries in TABLES.items():
        if book.calls(service):
            found += [table for sql in queries for table in tables_in(sql)]
    found += [table for sql in book.queries() for table in tables_in(sql)]
    return sorted(set(found))


def tables_in(sql: str) -> list[str]:
    """The tables that a statement reads, by PostgreSQL's own parser."""
    numbered = re.sub(r"%\(\w+\)s", "$1", sql)
    named: list[str] = []
    common: list[str] = []

    class Tables(Visitor):
        def visit_RangeVar(self, _: Any, node: Any) -> None:  # noqa: N802  # pglast names it
            named.append(f"{node.schemaname}.{node.relname}" if node.schemaname else node.relname)

        def visit_CommonTableExpr(self, _: Any, node: Any) -> None:  # noqa: N802
            common.append(node.ctename)

    Tables()(parse_sql(numbered))
    return [name for name in dict.fromkeys(named) if name not in common]


def _changes(book: Runbook) -> list[tuple[str, str]]:
    """(service, right) of every change that the runbook's cells may plan."""
    found = [(VERBS.get(c.name, c.name).partition("."), c.right) for c in Change.known.values() if c.right]
    rights = [
        ("database" if service in TABLES else service, right)
        for (service, _, verb), right in found
        if verb in book.calls(service) or (service == "tasks" and "settle" in book.calls(service))
    ]
    return list(dict.fromkeys(rights))
