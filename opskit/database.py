"""The database. The only module that opens connections to it.

Looking never touches: each read is one statement, sent over the extended protocol (which takes no second one),
inside a transaction that is read-only, and as a role that may only read. Row-level security that would hide rows
is an error here, because a filtered answer looks like a healthy one.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from opskit.errors import CannotTell, Denied, Faulty, Refused, ServiceError, Unreachable

STATEMENT_TIMEOUT = "30s"
LOCK_TIMEOUT = "3s"
IDLE_TIMEOUT = "60s"
SETTINGS = ("statement_timeout", STATEMENT_TIMEOUT), ("lock_timeout", LOCK_TIMEOUT), ("row_security", "off")

SILENCE = 45.0  # seconds after which a server that says nothing is gone: longer than a statement may take

LOST = ("080", "57P", "533", "28P", "280")  # classes of SQLSTATE that mean: there is no session to be had

LOCK = 0x6F70736B6974  # "opskit": one lock for all changes of a database
ENDLESS = [{"n": "idle_in_transaction_session_timeout"}, {"n": "transaction_timeout"}]
HELD = """
    select 1 from pg_locks
    where locktype = 'advisory' and granted and objsubid = 1 and pid = %(backend)s
      and (classid::bigint << 32) | objid::bigint = %(lock)s
"""
HOLDER = """
    select a.application_name, a.xact_start at time zone 'UTC' as xact_start
    from pg_locks l join pg_stat_activity a using (pid)
    where l.locktype = 'advisory' and l.granted and l.objsubid = 1
      and (l.classid::bigint << 32) | l.objid::bigint = %(lock)s
"""

Row = dict[str, Any]


class Database:
    """A PostgreSQL database, through one connection for reading and, where allowed, one for changing.

    `read_dsn` and `change_dsn` are libpq connection strings without a password; `passwords` maps "read" and
    "change" to theirs. Without a change password every change is refused.
    """

    def __init__(self, address: str, users: Mapping[str, str | None], passwords: Mapping[str, str], name: str) -> None:
        self._address = address
        self._users = users
        self._passwords = passwords
        self._name = name
        self._open: dict[str, psycopg.Connection[Row]] = {}

    def read(self, sql: str, **values: Any) -> pd.DataFrame:
        """The rows that one statement finds, as a table. Write values as `%(name)s`.

        Raises ServiceError when the database cannot be reached or does not let us see all rows.
        """
        rows, columns = self._read(sql, values)
        return pd.DataFrame([tuple(row.values()) for row in rows], columns=columns)

    def first(self, sql: str, **values: Any) -> pd.Series[Any]:
        """The first row that one statement finds. Raises CannotTell where it finds none, and as `read`."""
        found = self.read(sql, **values)
        if found.empty:
            raise CannotTell("database: there is no such row to look at.")
        return found.iloc[0]

    def rows(self, sql: str, **values: Any) -> list[Row]:
        """The same as plain rows."""
        return self._read(sql, values)[0]

    def _read(self, sql: str, values: Mapping[str, Any]) -> tuple[list[Row], list[str]]:
        reused = "read" in self._open
        try:
            return self._read_once(sql, values)
        except Unreachable:
            if not reused:  # a connection that lay idle may have been cut by a pooler or on the way
                raise
            return self._read_once(sql, values)

    def _read_once(self, sql: str, values: Mapping[str, Any]) -> tuple[list[Row], list[str]]:
        with self._answering("read") as connection:
            # A pipeline forces the extended protocol, and sends the settings without waiting for each answer.
            with connection.pipeline():
                connection.execute("begin read only")
                for name, value in SETTINGS:
                    connection.execute("select set_config(%s, %s, true)", (name, value))
                cursor = connection.execute(sql, values or None)
            rows = cursor.fetchall() if cursor.description else []
            columns = [column.name for column in cursor.description or ()]
            connection.rollback()
        return rows, columns

    def prepare(self, sql: str) -> None:
        """Let the server understand one statement, with `$1` for what is not known yet. Nothing is carried out.

        Raises ServiceError with its `sqlstate`, and with `position`: the character where it stopped, from 1.
        """
        with self._answering("read") as connection:
            connection.execute("begin read only")
            for name, value in SETTINGS:
                connection.execute("select set_config(%s, %s, true)", (name, value))
            result = connection.pgconn.prepare(b"", sql.encode())
            if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result)
            connection.rollback()

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Row]]:
        """A transaction that may change things. Raises Refused where this run may not."""
        if "change" not in self._passwords:
            raise Refused("database: this run holds no credential for changing anything there.")
        with self._answering("change") as connection, connection.transaction(), connection.cursor() as cursor:
            for name, value in SETTINGS:
                cursor.execute("select set_config(%s, %s, true)", (name, value))
            yield cursor

    @contextmanager
    def rehearsal(self) -> Iterator[psycopg.Cursor[Row]]:
        """A transaction that may change things, seen by nobody: it is rolled back, however it ends."""
        with self.transaction() as cursor, cursor.connection.transaction(force_rollback=True):
            yield cursor

    @contextmanager
    def session(self, silence: float | None = None) -> Iterator[Session]:
        """A connection of its own that may change things, for what does not fit into one transaction.

        `silence`: seconds after which it is cut, where one statement may take longer than usual; 0: never.
        """
        if "change" not in self._passwords:
            raise Refused("database: this run holds no credential for changing anything there.")
        try:
            connection = self._connect("change")
        except psycopg.Error as error:
            raise _ours(error) from None
        with closing(connection):
            yield Session(connection, silence)

    def dump(self, program: Path, *options: str) -> str:
        """The definitions of what is in it, as pg_dump writes them: no row of data. Takes ACCESS SHARE locks.

        Raises ServiceError where it could not see everything.
        """
        target = f"--dbname={make_conninfo(self._address, user=self._users['read'] or '')}"
        command = [str(program), "--schema-only", f"--lock-wait-timeout={LOCK_TIMEOUT}", *options, target]
        secret = {"PGPASSWORD": self._passwords["read"], "PGAPPNAME": f"{self._name}/pg_dump"}
        try:
            done = subprocess.run(
                command, env={**os.environ, **secret}, capture_output=True, text=True, timeout=300, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unreachable("database", f"its schema could not be copied: {type(error).__name__}.") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
            raise Faulty("database", f"its schema could not be copied: {said}.")
        return done.stdout

    @contextmanager
    def locked(self, holder: str) -> Iterator[int]:
        """Hold the database's one lock for changes, on a connection of its own; answers that connection's backend.

        An open transaction holds it, so that a transaction-mode pooler leaves us on one backend. It shows as
        `holder` in pg_stat_activity, keeps no snapshot, and ends with this process. Raises Refused where
        somebody else holds it.
        """
        if "change" not in self._passwords:
            raise CannotTell("database: this run holds no credential for changing anything there.")
        try:
            connection = self._connect("change")
        except psycopg.Error as error:
            raise _ours(error) from None
        with closing(connection):
            try:
                backend, got = _try_lock(connection, holder)
                if not got:
                    raise Refused(f"the environment is being changed: {_holder(connection)}.", "Wait until that ended.")
            except psycopg.Error as error:
                raise _ours(error) from None
            try:
                yield backend
            finally:
                with suppress(psycopg.Error):  # else it would be free only some time after the connection is closed
                    connection.execute("rollback")

    def holds_lock(self, backend: int) -> bool:
        """Whether that backend still holds the lock for changes. Raises ServiceError where that cannot be seen."""
        return bool(self.rows(HELD, lock=LOCK, backend=backend))

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    @contextmanager
    def _answering(self, access: str) -> Iterator[psycopg.Connection[Row]]:
        """A connection whose failures come out as ours."""
        try:
            connection = self._connection(access)
            with _impatiently(connection):
                yield connection
        except psycopg.Error as error:
            self._drop(access)
            raise _ours(error) from None

    def _connection(self, access: str) -> psycopg.Connection[Row]:
        if access not in self._open:
            if access not in self._passwords:
                raise CannotTell(f"database: no credential to {access} with.")
            self._open[access] = self._connect(access)
            self._open[access].execute(f"set idle_in_transaction_session_timeout = '{IDLE_TIMEOUT}'")
        return self._open[access]

    def _connect(self, access: str) -> psycopg.Connection[Row]:
        return psycopg.connect(
            self._address,
            autocommit=True,  # each read opens and ends its own transaction
            user=self._users.get(access) or "",
            password=self._passwords[access],
            application_name=self._name,
            connect_timeout=5,
            keepalives_idle=30,  # a peer that is gone is noticed within two minutes, however patient we are
            keepalives_interval=10,
            keepalives_count=6,
            prepare_threshold=None,  # a transaction-mode pooler keeps no prepared statements
            row_factory=dict_row,
        )

    def _drop(self, access: str) -> None:
        """After an error the session's state is anyone's guess: the next read opens another."""
        if connection := self._open.pop(access, None):
            connection.close()


class Session:
    """One connection that sends each statement as it is. Nothing is begun, committed or tried again by itself."""

    def __init__(self, connection: psycopg.Connection[Row], silence: float | None) -> None:
        self._connection = connection
        self.silence = silence  # may be set anew, for what takes longer

    def execute(self, sql: str, **values: Any) -> list[Row]:
        """The rows that a statement finds. Raises ServiceError, with its `sqlstate`."""
        try:
            with _impatiently(self._connection, self.silence):
                cursor = self._connection.execute(sql.encode(), values or None)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise _ours(error) from None

    @property
    def idle(self) -> bool:
        """Whether no transaction is open."""
        return self._connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@contextmanager
def _impatiently(connection: psycopg.Connection[Row], silence: float | None = None) -> Iterator[None]:
    """Cut the connection when the server is silent for too long: its own timeouts are no use where it is stuck, or
    where the network swallows everything.
    """
    if silence == 0:
        yield
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        timer = threading.Timer(silence or SILENCE, line.shutdown, [socket.SHUT_RDWR])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _try_lock(connection: psycopg.Connection[Row], holder: str) -> tuple[int, bool]:
    """(our backend, whether it has the lock now)."""
    connection.execute("begin read only")
    connection.execute("select set_config('application_name', %s, true)", (holder,))
    for timeout in ENDLESS:  # the transaction lies idle for as long as the changes take
        connection.execute(
            "select set_config(%(n)s, '0', true) where current_setting(%(n)s, true) is not null", timeout
        )
    # Without parameters: after a query that has some, the open transaction would keep its snapshot.
    found = connection.execute(
        f"select pg_backend_pid() as backend, pg_try_advisory_xact_lock({LOCK}) as got"
    ).fetchone()
    assert found is not None  # noqa: S101  # this query has one row
    return found["backend"], found["got"]


def _holder(connection: psycopg.Connection[Row]) -> str:
    """Who holds the lock, and since when."""
    found = connection.execute(HOLDER, {"lock": LOCK}).fetchone()
    if found is None:
        return "by somebody who has ended just now"
    who = found["application_name"] or "by a session that this role may not see"
    return f"{who}, since {found['xact_start']:%Y-%m-%d %H:%M:%S} UTC" if found["xact_start"] else who


def _ours(error: psycopg.Error) -> ServiceError:
    found = _named(error)
    found.sqlstate = error.sqlstate
    found.position = int(error.diag.statement_position or 0)
    return found


def _named(error: psycopg.Error) -> ServiceError:
    said = (error.diag.message_primary or str(error)).split("\n")[0]
    match error:
        case psycopg.errors.InsufficientPrivilege() if "row-level security" in said:
            return Denied("database", f"rows are hidden from this role by row-level security ({said}).")
        case psycopg.errors.InsufficientPrivilege():
            return Denied("database", f"{said}.")
        case psycopg.OperationalError() if error.sqlstate is None or error.sqlstate[:3] in LOST:
            return Unreachable("database", f"{said}.")
        case _:
            return Faulty("database", f"{said} (SQLSTATE {error.sqlstate}).")
