"""What a schema is made of, object by object, and how two differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from opskit.actions import digest

Catalog = dict[tuple[str, str], str]  # (kind, name) -> its definition
Shape = dict[str, str]  # the same in few letters: "kind name" -> of the digest of its definition

# Schemas that the platform keeps, not the team.
PLATFORM = (
    "auth", "storage", "extensions", "realtime", "vault", "graphql", "graphql_public", "net", "cron", "pgsodium",
    "pgbouncer", "supabase_functions", "supabase_migrations", "_realtime", "_analytics", "information_schema",
)  # fmt: skip
# What is written of an object depends on the search_path of whoever asks: on none, every name has its schema.
OBJECTS = """
    with fixed as materialized (select set_config('search_path', '', true)),
    own as (
      select n.oid, n.nspname from fixed, pg_namespace n
      where n.nspname !~ '^pg_' and n.nspname <> all(%(platform)s)),
    relation as (
      select c.*, own.nspname || '.' || c.relname as name from pg_class c join own on own.oid = c.relnamespace
      where not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e'))
    select 'table' as kind, name,
           relkind::text || case when relrowsecurity then ', row-level security' else '' end as definition
    from relation where relkind in ('r', 'p', 'v', 'm', 'f')
    union all
    select 'view', name, pg_get_viewdef(oid) from relation where relkind in ('v', 'm')
    union all
    select 'column', r.name || '.' || a.attname, format_type(a.atttypid, a.atttypmod)
      || case when a.attnotnull then ' not null' else '' end
      || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
    from relation r join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum where r.relkind in ('r', 'p', 'f')
    union all
    select 'index', r.name, pg_get_indexdef(r.oid) from relation r join pg_index i on i.indexrelid = r.oid
    where i.indisvalid or r.relname !~ '_cc(new|old)[0-9]*$'  -- left by a REINDEX CONCURRENTLY: nobody's wish
    union all
    select 'constraint', r.name || '.' || k.conname, pg_get_constraintdef(k.oid)
    from relation r join pg_constraint k on k.conrelid = r.oid and k.contype in ('c', 'f', 'p', 'u', 'x')
    union all
    select 'policy', r.name || '.' || p.polname, concat_ws(' ', p.polcmd, p.polpermissive, p.polroles::regrole[],
      'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))
    from relation r join pg_policy p on p.polrelid = r.oid
    union all
    select 'trigger', r.name || '.' || t.tgname, t.tgenabled::text || ' ' || pg_get_triggerdef(t.oid)
    from relation r join pg_trigger t on t.tgrelid = r.oid and not t.tgisinternal
    union all
    select 'function', own.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
      pg_get_functiondef(p.oid)
    from pg_proc p join own on own.oid = p.pronamespace where p.prokind in ('f', 'p')
      and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
    union all
    select 'type', own.nspname || '.' || t.typname, string_agg(e.enumlabel, ', ' order by e.enumsortorder)
    from pg_type t join own on own.oid = t.typnamespace join pg_enum e on e.enumtypid = t.oid group by 2
"""

FUNCTIONS = """
    with fixed as materialized (select set_config('search_path', '', true))
    select p.proname as called, n.nspname || '.' || p.proname as place, pg_get_functiondef(p.oid) as definition
    from fixed, pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where p.prokind in ('f', 'p') and n.nspname !~ '^pg_' and n.nspname <> all(%(platform)s)
      and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
    order by 2, 3
"""

Rows = Callable[..., Iterable[Mapping[str, Any]]]  # `rows` of a database, or `execute` of a session


def read(rows: Rows) -> Catalog:
    """Everything that the team's schemas hold."""
    found = rows(OBJECTS, platform=list(PLATFORM))
    return {(row["kind"], row["name"]): str(row["definition"]) for row in found}


def functions(rows: Rows) -> Iterable[Mapping[str, Any]]:
    """called, place, definition: of each of the team's own."""
    return rows(FUNCTIONS, platform=list(PLATFORM))


def shape(found: Catalog) -> Shape:
    """Enough to tell of each object whether it is still the same."""
    return {f"{kind} {name}": digest(definition)[7:19] for (kind, name), definition in found.items()}


def difference(expected: Catalog, found: Catalog) -> pd.DataFrame:
    """kind, name, how (missing, unexpected, other), for the schemas that `expected` knows, and public."""
    schemas = {name.split(".")[0] for _, name in expected} | {"public"}
    rows = [
        (kind, name, _how((kind, name), expected, found))
        for kind, name in sorted(expected.keys() | found.keys())
        if name.split(".")[0] in schemas and expected.get((kind, name)) != found.get((kind, name))
    ]
    return pd.DataFrame(rows, columns=["kind", "name", "how"])


def _how(key: tuple[str, str], expected: Catalog, found: Catalog) -> str:
    return "missing" if key not in found else "unexpected" if key not in expected else "other"
