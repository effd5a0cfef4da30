"""The database's schema as comparable objects: `kind/name` -> fields, as `comparison` knows rows and services."""

from __future__ import annotations

import json
from typing import Any

import psycopg

# Each query: a name, and what is compared. Definitions come from the database itself, so equal ones are equal texts.
KINDS = {
    "schemas": "select nspname::text, json_build_object('owner', nspowner::regrole) from ours",
    "tables": """
        select c.oid::regclass::text, json_build_object(
          'kind', c.relkind, 'owner', c.relowner::regrole, 'row_security', c.relrowsecurity,
          'forced', c.relforcerowsecurity, 'query', case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end)
        from pg_class c join ours on ours.oid = c.relnamespace where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
    """,
    "columns": """
        select c.oid::regclass || '.' || a.attname, json_build_object(
          'type', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
          'default', pg_get_expr(d.adbin, d.adrelid))
        from pg_attribute a join pg_class c on c.oid = a.attrelid join ours on ours.oid = c.relnamespace
        left join pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
        where c.relkind in ('r', 'p', 'f') and a.attnum > 0 and not a.attisdropped
    """,
    "indexes": """
        select i.indexrelid::regclass::text, json_build_object(
          'definition', pg_get_indexdef(i.indexrelid), 'valid', i.indisvalid)
        from pg_index i join pg_class c on c.oid = i.indrelid join ours on ours.oid = c.relnamespace
    """,
    "constraints": """
        select k.conrelid::regclass || '.' || k.conname, json_build_object(
          'definition', pg_get_constraintdef(k.oid), 'validated', k.convalidated)
        from pg_constraint k join ours on ours.oid = k.connamespace where k.conrelid <> 0
    """,
    "policies": """
        select p.polrelid::regclass || '.' || p.polname, json_build_object(
          'command', p.polcmd, 'permissive', p.polpermissive, 'roles', p.polroles::regrole[]::text[],
          'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))
        from pg_policy p
    """,
    "functions": """
        select f.oid::regprocedure::text, json_build_object(
          'owner', f.proowner::regrole, 'definition', 'md5:' || md5(pg_get_functiondef(f.oid)))
        from pg_proc f join ours on ours.oid = f.pronamespace where f.prokind in ('f', 'p')
    """,
    "triggers": """
        select t.tgrelid::regclass || '.' || t.tgname, json_build_object(
          'definition', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled)
        from pg_trigger t where not t.tgisinternal
    """,
    "types": """
        select t.oid::regtype::text, json_build_object(
          'kind', t.typtype, 'labels', array(select enumlabel from pg_enum e where e.enumtypid = t.oid
                                             order by enumsortorder))
        from pg_type t join ours on ours.oid = t.typnamespace where t.typtype in ('e', 'd')
    """,
}
OURS = """
    with ours as (
      select oid, nspname, nspowner from pg_namespace
      where nspname !~ '^pg_' and nspname not in ('information_schema', 'sandbox'))
    {query}
"""


def objects(connection: psycopg.Connection[Any]) -> dict[str, dict[str, Any]]:
    """Everything in the database that a migration makes or changes."""
    found: dict[str, dict[str, Any]] = {}
    for kind, query in KINDS.items():
        for name, fields in connection.execute(OURS.format(query=query).encode()).fetchall():
            found[f"{kind}/{name}"] = fields if isinstance(fields, dict) else json.loads(fields)
    return found
