"""Whom row-level security lets do what with a row, tried on a scratch copy of a schema.

A row is made that belongs to one user; its owner, a stranger and somebody without a session then try to read and
change it. Only a scratch database is used: all of it is undone there, and none of it is real.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from opskit.database import Session
from opskit.errors import ServiceError

OWNER, STRANGER = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
WHO = {"owner": ("authenticated", OWNER), "stranger": ("authenticated", STRANGER), "anonymous": ("anon", None)}
KIND = "access to "
WORDS_FOR = {True: "allowed", False: "denied"}
COLUMNS = ["table", "command", "who", "allowed"]
# Tables whose rows belong to somebody: by a column of the usual names, or by their own key.
OWNED = """
    select c.oid::regclass::text as table, quote_ident(a.attname) as column,
           (select quote_ident(attname) from pg_attribute o where o.attrelid = c.oid and o.attnum > 0
            and not o.attisdropped and o.attgenerated = '' and o.attidentity <> 'a' order by o.attnum limit 1) as first
    from pg_class c join pg_attribute a on a.attrelid = c.oid and not a.attisdropped and a.atttypid = 'uuid'::regtype
    where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace
      and (a.attname in ('user_id', 'owner_id', 'author_id', 'created_by')
           or exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'f'
                      and k.confrelid = to_regclass('auth.users') and k.conkey = array[a.attnum]))
    order by 1, a.attname <> 'user_id', 2
"""
KEYS = """
    select quote_ident(a.attname) as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as required,
           coalesce(i.indisprimary, false) as key,
           (select quote_literal(enumlabel) from pg_enum where enumtypid = a.atttypid order by enumsortorder limit 1)
             as label
    from pg_attribute a left join pg_index i on i.indrelid = a.attrelid and i.indisprimary and a.attnum = any(i.indkey)
    where a.attrelid = %(table)s::regclass and a.attnum > 0 and not a.attisdropped
"""
# A partition is tried by itself, as the API can reach it; what had partitions gets one for every row.
LOOSE = """
    select format('alter table %%s detach partition %%s', inhparent::regclass, inhrelid::regclass) as sql
    from pg_inherits join pg_class c on c.oid = inhrelid and c.relispartition
    where %(table)s::regclass in (inhparent, inhrelid)
    union all
    select format('create table public.opskit_every_row partition of %%s %%s', partrelid::regclass,
                  case partstrat when 'h' then 'for values with (modulus 1, remainder 0)' else 'default' end)
    from pg_partitioned_table where partrelid = %(table)s::regclass
    order by 1
"""
CHECKS = """
    select quote_ident(conname) as name from pg_constraint where conrelid = %(table)s::regclass and contype = 'c'
"""
TRY = """
    create or replace function pg_temp.got_through(insert text, command text, role text, claims text) returns boolean
    language plpgsql as $$
    declare
      rows bigint := 1;
    begin
      begin  -- where the row cannot be made at all, nobody is denied anything
        execute insert;
        if command = '' then
          raise sqlstate 'OPSKT';
        end if;
      exception when sqlstate 'OPSKT' then
        null;
      when others then
        return null;
      end;
      perform set_config('request.jwt.claims', claims, true);
      perform set_config('role', role, true);
      if command = '' then
        execute insert;
      else
        execute command;
        get diagnostics rows = row_count;
      end if;
      raise sqlstate 'OPSKT' using message = rows;  -- so that nothing of it stays
    exception when others then
      return sqlstate = 'OPSKT' and sqlerrm <> '0';  -- a denial is either an error or no row
    end $$
"""
TRIES = """
    select command, who, pg_temp.got_through(%(insert)s, sql, role, claims) as allowed
    from unnest(%(commands)s::text[], %(statements)s::text[]) with ordinality as c (command, sql, first),
         unnest(%(who)s::text[], %(roles)s::text[], %(claims)s::text[]) with ordinality as w (who, role, claims, second)
    order by first, second
"""
WORDS = """
    select i.indexrelid::regclass::text as name from pg_index i join pg_opclass o on o.oid = any(i.indclass)
    where i.indrelid = %(table)s::regclass and o.opcname in ('gin_trgm_ops', 'gist_trgm_ops')
"""
SAMPLES = {  # of key columns; another type takes its default, or the table cannot be tried
    "uuid": "gen_random_uuid()", "text": "''", "integer": "1", "bigint": "1", "smallint": "1", "date": "now()",
    "timestamp with time zone": "now()", "character varying": "''", "character": "''", "numeric": "1",
}  # fmt: skip


def matrix(session: Session) -> pd.DataFrame:
    """table, command, who, allowed (None: could not be tried), for every table in public whose rows have owners."""
    seen: dict[str, tuple[str, str]] = {}
    for row in session.execute(OWNED):
        seen.setdefault(row["table"], (row["column"], row["first"]))
    session.execute(TRY)
    rows = [line for table, (column, first) in seen.items() for line in _of_table(session, table, column, first)]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"allowed": object})


def _of_table(session: Session, table: str, column: str, first: str) -> list[tuple[str, str, str, bool | None]]:
    commands = {
        "select": f"select 1 from {table}",  # noqa: S608  # names come from the catalogue, quoted
        "insert": "",
        "update": f"update {table} set {first} = {first}",  # noqa: S608
        "delete": f"delete from {table}",  # noqa: S608
    }
    claims = [json.dumps({"sub": user, "role": role} if user else {"role": role}) for role, user in WHO.values()]
    session.execute("begin")
    try:
        insert = _prepare(session, table, column)
        found = session.execute(
            TRIES, insert=insert, commands=list(commands), statements=list(commands.values()), who=list(WHO),
            roles=[role for role, _ in WHO.values()], claims=claims,
        )  # fmt: skip
        return [(table, row["command"], row["who"], row["allowed"]) for row in found]
    except ServiceError:  # a table that takes no row of ours
        return [(table, command, who, None) for command in commands for who in WHO]
    finally:
        session.execute("rollback")


def _prepare(session: Session, table: str, column: str) -> str:
    """Make the table take a row that holds little more than its owner; the statement that adds one."""
    session.execute("set local session_replication_role = replica")  # no triggers, no foreign keys
    columns = session.execute(KEYS, table=table)
    for row in session.execute(LOOSE, table=table):
        session.execute(row["sql"])
    session.execute(f"delete from {table}")  # noqa: S608  # what a migration put there is not this owner's row
    for row in session.execute(CHECKS, table=table):
        session.execute(f"alter table {table} drop constraint {row['name']}")
    for row in session.execute(WORDS, table=table):  # what stands in for such an index takes no row
        session.execute(f"drop index {row['name']}")
    for row in columns:
        if row["required"] and not row["key"]:
            session.execute(f"alter table {table} alter column {row['name']} drop not null")
    filled = {row["name"]: row["label"] or _sample(row["type"]) for row in columns if row["key"]}
    filled[column] = f"'{OWNER}'"
    names, values = ", ".join(filled), ", ".join(filled.values())
    return f"insert into {table} ({names}) overriding system value values ({values})"  # noqa: S608  # as above


def _sample(kind: str) -> str:
    return SAMPLES.get(kind.partition("(")[0], "default")


def told(found: pd.DataFrame) -> dict[str, str]:
    """The same in words, each answer by what it is about."""
    rows: Any = found.itertuples()
    return {
        f"{KIND}public.{row.table}, {row.command} by {row.who}": WORDS_FOR.get(row.allowed, "not to be tried")
        for row in rows
    }


def exposed(found: pd.DataFrame, meant: Sequence[str] = ()) -> pd.DataFrame:
    """Where somebody else than its owner gets at a row, and that is not `meant`."""
    reached = found[(found.who != "owner") & (found.allowed == True)]  # noqa: E712  # None is a third answer
    return reached[~intended(reached, meant)]


def intended(found: pd.DataFrame, meant: Sequence[str]) -> pd.Series[bool]:
    """Which of these the team means: `public.TABLE COMMAND`, by anybody, or with `by` and who."""
    pairs = "public." + found.table.astype(str) + " " + found.command.astype(str)
    return pairs.isin(meant) | (pairs + " by " + found.who.astype(str)).isin(meant)


def outdated(found: pd.DataFrame, meant: Sequence[str]) -> list[str]:
    """What is said to be meant and is not open: the table was renamed, or closed. One that comes would be open."""
    reached = found[(found.who != "owner") & (found.allowed != False)]  # noqa: E712  # what could not be tried may be
    return [one for one in meant if not intended(reached, [one]).any()]


def changed(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """What is allowed after and was not before, or the other way round; a new table was closed before."""
    both = before.merge(after, on=COLUMNS[:3], how="right", suffixes=("_before", "_after"))
    return both[both.allowed_before.where(both.allowed_before.notna(), False) != both.allowed_after]
