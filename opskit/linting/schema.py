"""What a database's own constraints say: which values a column may hold, where a key leads, what only ever grows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from opskit.database import Database
from opskit.services import scratch

COLUMNS = """
    select c.oid::regclass::text as table, a.attname as column, a.attnotnull as filled,
           (select array_agg(e.enumlabel) from pg_enum e where e.enumtypid = a.atttypid) as labels
    from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
    where c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
      and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
"""
CHECKS = """
    select conrelid::regclass::text as table, pg_get_constraintdef(oid) as says from pg_constraint
    where contype = 'c' and convalidated and conrelid <> 0
"""
KEYS = """
    select k.conrelid::regclass::text as table, a.attname as column, k.confrelid::regclass::text as target,
           b.attname as target_column
    from pg_constraint k
    join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
    join pg_attribute b on b.attrelid = k.confrelid and b.attnum = k.confkey[1]
    where k.contype = 'f' and k.convalidated and cardinality(k.conkey) = 1
"""
ONE_OF = re.compile(r"CHECK \(\(\(?\"?(\w+)\"?\)?(?:::text)? = ANY \(\(?ARRAY\[(.*?)\]")
QUOTED = re.compile(r"'((?:[^']|'')*)'")

NEWEST = 18  # of PostgreSQL
Column = tuple[str, str]  # table, column


@dataclass(frozen=True)
class Schema:
    """Facts of one database, to reason with."""

    columns: Mapping[str, set[str]]
    filled: set[Column]  # never null
    allowed: Mapping[Column, frozenset[str]]
    keys: set[tuple[Column, Column]]  # from, to: what stands there always exists
    growing: set[str] = field(default_factory=set)  # tables that get a row with every event, and keep it


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
    filled, allowed = set(), {}
    for row in database.rows(COLUMNS):
        columns.setdefault(row["table"], set()).add(row["column"])
        if row["filled"]:
            filled.add((row["table"], row["column"]))
        if row["labels"]:
            allowed[row["table"], row["column"]] = frozenset(row["labels"])
    for row in database.rows(CHECKS):
        if found := ONE_OF.match(row["says"]):
            values = frozenset(word.replace("''", "'") for word in QUOTED.findall(found[2]))
            allowed[row["table"], found[1]] = values
    keys = {((r["table"], r["column"]), (r["target"], r["target_column"])) for r in database.rows(KEYS)}
    referring = {table for (table, _), _ in keys}
    growing = {t for t in referring if "created_at" in columns[t] and "updated_at" not in columns[t]}
    return Schema(columns, filled, allowed, keys, growing)
