"""How the app reaches its database: as the service role, over connections that are kept between requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from opskit.sandbox.world import World

Connection = psycopg.Connection[tuple[Any, ...]]

# Idle connections by address, as in the app's pooler. A played past delivers thousands of events: connecting for
# each would take most of the time.
_idle: dict[str, list[Connection]] = {}


@contextmanager
def session(world: World) -> Iterator[Connection]:
    """A working connection, whose triggers see the moment being played, if one is."""
    idle = _idle.setdefault(world.database.dsn("authenticator"), [])
    connection = _prepared(world, idle)
    try:
        yield connection
    except psycopg.Error:
        if connection.broken:
            raise
        idle.append(connection)
        raise
    idle.append(connection)


def check(world: World) -> None:
    with session(world) as connection:
        connection.execute("select 1 from user_profiles limit 1")


def _prepared(world: World, idle: list[Connection]) -> Connection:
    """An idle connection that still works, or a new one: a restored database has cut the old ones."""
    moment = world.clock.now().isoformat() if world.clock.playing else ""
    while True:
        try:
            kept: Connection | None = idle.pop()
        except IndexError:
            kept = None
        connection = kept or psycopg.connect(world.database.dsn("authenticator"), autocommit=True)
        try:
            if kept is None:
                connection.execute("set application_name = 'app'; set role service_role")
            connection.execute("select set_config('sandbox.now', %s, false)", (moment,))
        except psycopg.OperationalError:
            connection.close()
            if kept is None:
                raise
        else:
            return connection
