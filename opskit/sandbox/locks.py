"""Sessions that hold a lock in the real database, and those that wait behind them, until they are ended."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from opskit.sandbox.world import World

BECOME = "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)"
TOUCH = "update documents set content = content where id = any(%s::uuid[])"


class Locks:
    """What a scenario holds. True while there is anything."""

    def __init__(self) -> None:
        self._sessions: list[psycopg.Connection[Any]] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    def __bool__(self) -> bool:
        return bool(self._sessions)

    def hold(self, world: World, statement: str, then: str | None, application: str) -> None:
        """Begin a transaction, take what the statement locks, and keep it: idle, or busy with another statement."""
        session = self._connect(world, "maintenance", application)
        session.execute(statement.encode())
        if then is not None:
            self._start(_busy, session, then)

    def wait(self, world: World, claims: str, documents: list[str]) -> None:
        """A user's save that is held up, and tried again each time it is given up on.

        What gets through in the end is taken back: whoever compares the company before and after sees no difference.
        """
        self._start(_save, self._connect(world, "authenticator", "app"), claims, documents, self._ended)

    def release(self) -> None:
        self._ended.set()
        for session in self._sessions:
            with suppress(psycopg.Error):
                session.cancel()
        for thread in self._threads:
            thread.join(5)
        for session in self._sessions:
            session.close()
        self._sessions, self._threads, self._ended = [], [], threading.Event()

    def _connect(self, world: World, role: str, application: str) -> psycopg.Connection[Any]:
        session = psycopg.connect(world.database.dsn(role), application_name=application)
        self._sessions.append(session)
        return session

    def _start(self, work: Any, *given: Any) -> None:
        thread = threading.Thread(target=work, args=given, name="lock", daemon=True)
        self._threads.append(thread)
        thread.start()


def _busy(session: psycopg.Connection[Any], statement: str) -> None:
    with suppress(psycopg.Error):  # canceled, or ended
        session.execute(statement.encode())


def _save(session: psycopg.Connection[Any], claims: str, documents: list[str], ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            session.execute(BECOME, [claims])
            session.execute(TOUCH, [documents])
        except psycopg.errors.QueryCanceled:
            session.rollback()
            continue
        except psycopg.Error:
            return
        session.rollback()
        return
