"""How the app reaches its database: as the service role or as a signed-in user, over kept connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from opskit.sandbox.world import World

TIMEOUT = "8s"  # of each statement of a signed-in user
PLAYED_TIMEOUT = "60ms"  # the same, while a past is played in which somebody holds a lock: nobody waits for real
SIGNED_IN = """
    select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true),
           set_config('statement_timeout', %s, true)
"""
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


@contextmanager
def as_user(world: World, user: str) -> Iterator[Connection]:
    """One request of a signed-in user: a transaction of its own, under row-level security."""
    claims = json.dumps({"sub": user, "role": "authenticated"})
    with session(world) as connection, connection.transaction():
        connection.execute(SIGNED_IN, (claims, PLAYED_TIMEOUT if world.clock.playing and world.locks else TIMEOUT))
        yield connection


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
