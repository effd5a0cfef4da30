"""The whole company as comparable data, and what differs between two such states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from psycopg import sql

from opskit.sandbox import catalog, migrations, providers
from opskit.sandbox.scenario import ObjectTouch, TableTouch
from opskit.sandbox.world import World

State = dict[str, Any]
Row = dict[str, Any]
LONG = 120  # characters; longer values are compared by their digest

TABLES = """
    select c.oid::regclass::text,
      array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality as k (number, position)
            join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number order by position) as key,
      array(select a.attname::text from pg_attribute a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as columns
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    join pg_index i on i.indrelid = c.oid and i.indisprimary
    where c.relkind = 'r' and n.nspname in ('public', 'auth', 'supabase_migrations') order by 1
"""
# The database shortens, and makes the one JSON of it all: it does that several times faster than we would.
ROWS = (
    "select coalesce(json_object_agg(concat_ws('/', {key}), json_build_object({columns})), '{{}}')::text from {table}"
)
VALUE = """
    case when length({column}::text) > {long} then to_json('md5:' || md5({column}::text)) else to_json({column}) end
"""


def state(world: World, folder: Path) -> State:
    """Every row of every table by its key, the schema, each service's objects, and the files of the migrations folder.

    A database that is down is told as None.
    """
    services = {
        "stripe": world.stripe.dump(),
        "vercel": world.vercel.dump(),
        "sentry": world.sentry.dump(),
        "supabase": world.supabase.dump(),
        "providers": providers.dump(world),
    }
    files = {name: {"text": text} for name, text in migrations.read(folder).items()}
    rows, schema = _database(world) if world.database.running else (None, None)
    objects = {name: _objects(dump) for name, dump in services.items()}
    return {"database": rows, "schema": schema, "folder": files, **objects}


def _database(world: World) -> tuple[dict[str, dict[str, Row]], dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    with world.database.connect() as connection:
        for table, key, columns in connection.execute(TABLES).fetchall():
            ((rows,),) = connection.execute(_query(table, key, columns)).fetchall()
            found[table] = json.loads(rows)
        return found, catalog.objects(connection)


def _query(table: str, key: Sequence[str], columns: Sequence[str]) -> sql.Composed:
    values = [
        sql.SQL("{}, ").format(name) + sql.SQL(VALUE).format(column=sql.Identifier(name), long=LONG) for name in columns
    ]
    return sql.SQL(ROWS).format(
        key=sql.SQL(", ").join(map(sql.Identifier, key)), columns=sql.SQL(", ").join(values), table=sql.SQL(table)
    )


def _objects(dump: dict[str, Any]) -> dict[str, Row]:
    """A service's state as `kind/id` -> fields; what has no id stands under its kind alone."""
    found: dict[str, Row] = {}
    for kind, value in dump.items():
        members: dict[str, Any] = {}
        if isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()):
            members = value
        elif isinstance(value, list) and all(isinstance(one, dict) and "id" in one for one in value):
            members = {one["id"]: one for one in value}
        else:
            found[kind] = value if isinstance(value, dict) else {"value": value}
        found |= {f"{kind}/{key}": one for key, one in members.items()}
    return found


def resolved(touches: Sequence[TableTouch | ObjectTouch], actors: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The scenario's touches, with groups as ids: `place`, `keys`, `where`, `fields`; two of them may hold * and ?."""
    found: list[dict[str, Any]] = []
    for touch in touches:
        if isinstance(touch, ObjectTouch):
            found.append({"place": touch.service, "keys": [touch.object], "fields": touch.fields, "where": {}})
        else:
            keys = touch.keys if isinstance(touch.keys, list) else actors.get(touch.keys, [touch.keys])
            where = {column: actors.get(group, []) for column, group in touch.where.items()}
            found.append({"place": touch.table, "keys": keys, "fields": touch.columns, "where": where})
    return found


def changes(before: State, after: State, allowed: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Each row or object that differs, in what; `allowed` by the touches, or `stray`."""
    found: dict[str, list[dict[str, Any]]] = {"allowed": [], "stray": []}
    for place, key, old, new in _different(before, after):
        names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        fields = {name: {"before": old.get(name), "after": new.get(name)} for name in names}
        kind = "changed" if old and new else "added" if new else "removed"
        permitted = _permitted(place, key, names, [touch for touch in allowed if _among(touch, old or new)])
        for verdict, part in (("allowed", permitted), ("stray", [n for n in names if n not in permitted])):
            if part:
                entry = {"place": place, "key": key, "kind": kind, "fields": {name: fields[name] for name in part}}
                found[verdict].append(entry)
    return found


def _among(touch: dict[str, Any], row: Row) -> bool:
    return all(row.get(column) in members for column, members in touch["where"].items())


def _permitted(place: str, key: str, names: list[str], allowed: Sequence[dict[str, Any]]) -> list[str]:
    """A row that may be touched also gets a new `updated_at`."""
    patterns = [
        pattern
        for touch in allowed
        if touch["place"] == place and any(fnmatchcase(key, one) for one in touch["keys"])
        for pattern in touch["fields"]
    ]
    return [n for n in names if patterns and (n == "updated_at" or any(fnmatchcase(n, p) for p in patterns))]


def _different(before: State, after: State) -> Iterator[tuple[str, str, Row, Row]]:
    seen = before["database"] is not None and after["database"] is not None  # a database that was down shows nothing
    old, new = _places(before, seen), _places(after, seen)
    for place in sorted({*old, *new}):
        were, are = old.get(place, {}), new.get(place, {})
        for key in sorted({*were, *are}):
            if were.get(key) != are.get(key):
                yield place, key, were.get(key, {}), are.get(key, {})


def _places(state: State, tables: bool) -> dict[str, dict[str, Row]]:
    others = {name: objects for name, objects in state.items() if name not in ("database", "schema")}
    return {**state["database"], "schema": state["schema"], **others} if tables else others
