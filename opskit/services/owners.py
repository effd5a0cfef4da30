"""What the owner of a schema finds set when it logs in. `set role` sets none of that, and migrations rest on one thing.

Supabase gives `postgres` a search_path with `extensions` in it: https://supabase.com/docs/guides/database/extensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opskit.database import Session

RIGHT = "membership of the role that owns the schema"
PATH = """
    select substr(setting, 13) as path from pg_db_role_setting s, unnest(s.setconfig) setting
    where s.setrole in (0, (select oid from pg_roles where rolname = %(owner)s))
      and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
      and setting like 'search\\_path=%%'
    order by s.setrole <> 0 desc, s.setdatabase <> 0 desc limit 1
"""


def path(ask: Callable[..., Any], owner: str) -> str:
    """Its search_path, by the role's setting or the database's; empty where nobody set one."""
    return next((str(row["path"]) for row in ask(PATH, owner=owner)), "")


def schemas(ask: Callable[..., Any], owner: str) -> list[str]:
    """Those in which it looks for a name that has none."""
    names = [name.strip().strip('"') for name in (path(ask, owner) or '"$user", public').split(",")]
    return [owner if name == "$user" else name for name in names]


def begin_as(session: Session, owner: str | None, lock_timeout: float, statement_timeout: float) -> None:
    """As the CLI begins each file, with our timeouts; a file may set its own."""
    session.execute("reset all")
    if owner:
        session.execute(f'set role "{owner}"')
        if found := path(session.execute, owner):
            session.execute("select set_config('search_path', %(path)s, false)", path=found)
    session.execute(f"set lock_timeout = '{lock_timeout}s'")
    session.execute(f"set statement_timeout = '{statement_timeout}s'")
