"""The statements that the database is busiest with, and how it would go about each: before a migration, and after."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from opskit.database import Database
from opskit.errors import Denied, Faulty

MOST = 20  # statements
NAMED = "opskit_busiest"  # a prepared statement, for a moment: only those tell the types of their values
PLACE = """
    select quote_ident(n.nspname) as schema
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_stat_statements'
"""
BUSIEST = """
    select query as statement, calls, round((total_exec_time / 1000)::numeric, 1)::float as seconds
    from {schema}.pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database())
      and query ~* '^\\s*(select|insert|update|delete|with)\\M' and query !~ 'pg_stat_|pg_catalog\\.'
    order by total_exec_time desc limit {most}
"""


def read(database: Database) -> pd.DataFrame:
    """statement, calls, seconds, plan; empty where the extension is not there."""
    place = database.rows(PLACE)
    if not place:
        return pd.DataFrame([], columns=["statement", "calls", "seconds", "plan"])
    found = database.read(BUSIEST.format(schema=place[0]["schema"], most=MOST))
    return found.assign(plan=[plan(database, text) for text in found.statement])


def changed(database: Database, before: pd.DataFrame) -> pd.DataFrame:
    """statement, calls, before, after: of the same statements those that are gone about otherwise now."""
    after = [plan(database, text) for text in before.statement]
    both = before.rename(columns={"plan": "before"}).assign(after=after)
    return both[both.before != both.after][["statement", "calls", "before", "after"]].reset_index(drop=True)


def plan(database: Database, statement: str) -> str:
    """The steps of its plan, without costs; or why there is none. It is never executed."""
    try:
        (row,) = database.rows(f"explain (format json) {_with_something(database, statement)}")
    except Denied:
        return "not known: this role may not ask for its plan"
    except Faulty as error:
        return f"fails: {error.message.removeprefix('database: ')}"
    return " < ".join(_steps(row["QUERY PLAN"][0]["Plan"]))


def _with_something(database: Database, statement: str) -> str:
    """The statement with something of the right type, which no planner can look into, for each `$1` in it."""
    if not re.search(r"\$\d", statement):
        return statement
    database.rows(f"prepare {NAMED} as {statement}")
    (types,) = database.rows(
        "select parameter_types::text[] as of from pg_prepared_statements where name = %(n)s", n=NAMED
    )
    database.rows(f"deallocate {NAMED}")
    return re.sub(r"\$(\d+)", lambda found: f"(select null::{types['of'][int(found[1]) - 1]})", statement)


def _steps(node: Mapping[str, Any]) -> Iterator[str]:
    parts = (node["Node Type"], node.get("Index Name"), node.get("Relation Name"))
    yield " ".join(str(part) for part in parts if part)
    for child in node.get("Plans", ()):
        value = child.get("Parent Relationship") == "InitPlan" and child["Node Type"] == "Result"
        if not value or "Plans" in child:
            yield from _steps(child)
