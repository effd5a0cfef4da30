"""Who waits for whom in the database, and how to end it: cancel first, terminate only what cancelling cannot reach.

Never a migration, which would leave its work half done, and never a replication sender: seen when it is planned, and
again just before it is done.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import pandas as pd
from pglast import parser

from opskit.actions import Action, Arguments, Change
from opskit.database import Database
from opskit.errors import CannotTell, Refused

# A table's whole lock is what a migration takes, whatever it says last.
WHOLE = """exists (select from pg_locks l where l.pid = b.pid and l.granted and l.locktype = 'relation'
           and l.mode = 'AccessExclusiveLock')"""
# A migration that only moves data takes none; what shows it is its name, its role, or the ledger that it writes in.
LEDGER = """exists (select from pg_locks l join pg_class c on c.oid = l.relation where l.pid = b.pid and l.granted
            and l.locktype = 'relation' and c.relname ~ 'migration')"""
LEAST = timedelta(seconds=2)  # shorter waits are an ordinary evening
# An advisory lock is the app's own queue.
CHAINS = """
    with waiting as (
      select a.pid, unnest(pg_blocking_pids(a.pid)) as blocker, l.waitstart as since
      from pg_stat_activity a join pg_locks l on l.pid = a.pid and not l.granted
      where l.locktype <> 'advisory'
    )
    select b.pid, b.usename as role, b.application_name as application, b.backend_type, b.state,
           b.backend_start::text as backend_start, now() - b.xact_start as open_for, b.query,
           {whole} as whole, {ledger} as ledger,
           count(distinct w.pid)::int as waiting, coalesce(max(now() - w.since), interval '0') as longest_wait
    from waiting w join pg_stat_activity b on b.pid = w.blocker
    where cardinality(pg_blocking_pids(b.pid)) = 0
    group by b.pid, b.usename, b.application_name, b.backend_type, b.state, b.backend_start, b.xact_start, b.query
    order by waiting desc
""".replace("{whole}", WHOLE).replace("{ledger}", LEDGER)
ONE = """
    select b.backend_start::text as backend_start, b.state, b.backend_type, b.query, b.usename as role,
           b.application_name as application, {whole} as whole, {ledger} as ledger,
           (select count(*)::int from pg_stat_activity w where %(pid)s = any(pg_blocking_pids(w.pid))) as blocks
    from pg_stat_activity b where b.pid = %(pid)s
""".replace("{whole}", WHOLE).replace("{ledger}", LEDGER)
MIGRATION = r"\b(?:alter|create|drop|reindex|vacuum|cluster|truncate|refresh)\b|schema_migrations"
MIGRATOR = r"migrat|supabase (?:cli|db)|supabase_admin|flyway|liquibase|alembic|prisma|knex|drizzle|sqitch"


VALUES = {"SCONST", "USCONST", "BCONST", "XCONST", "ICONST", "FCONST"}
COMMENTS = {"SQL_COMMENT", "C_COMMENT"}
SHOWN = 200  # characters of a query


def spared(session: Mapping[str, Any]) -> str:
    """Why a session must be left to its owner; empty: it need not be."""
    if session["backend_type"] == "walsender":
        return "replication"
    if re.search(MIGRATION, (session["query"] or "").lower()):
        return "a migration"
    if session["ledger"] or re.search(MIGRATOR, f"{session['role']} {session['application']}".lower()):
        return "a migration"
    if session["state"] != "active" and not str(session["state"]).startswith("idle in transaction"):
        return "neither at work nor in a transaction"
    return "the holder of a whole table" if session["whole"] else ""


def without_values(query: str) -> str:
    """A query's beginning with `?` for each value, without comments: what people wrote stands in those.

    The server cuts long queries off; a value that does not end is left out with what follows.
    """
    try:
        tokens, rest = parser.scan(query), ""
    except parser.ParseError as error:
        query, rest = query[: error.args[1] or 0], "…"
        tokens = parser.scan(query)
    for token in reversed(tokens):
        if token.name in VALUES | COMMENTS:
            query = query[: token.start] + ("?" if token.name in VALUES else " ") + query[token.end + 1 :]
    text = " ".join(query.split()) + rest
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


@dataclass
class Sessions:
    """The database's sessions."""

    database: Database

    def blockers(self) -> pd.DataFrame:
        """The heads of the queues that wait for a while; `spared`: why one must be left to its owner.

        Where somebody waits for less, it looks twice: a save that gives up and comes again has never waited for long.
        """
        columns = [
            "pid",
            "role",
            "application",
            "backend_type",
            "state",
            "backend_start",
            "open_for",
            "query",
            "waiting",
            "longest_wait",
        ]
        rows = self.database.rows(CHAINS)
        if any(row["longest_wait"] < LEAST for row in rows):
            first = {(row["pid"], row["backend_start"]) for row in rows}
            time.sleep(LEAST.total_seconds())
            rows = [row for row in self.database.rows(CHAINS) if (row["pid"], row["backend_start"]) in first]
        found = pd.DataFrame([row | {"query": without_values(row["query"] or "")} for row in rows], columns=columns)
        return found.assign(spared=pd.Series([spared(row) for row in rows], dtype=object))

    # Of a row of `blockers`.

    def cancel(self, session: Any) -> Action:
        """End what a session is doing now."""
        return Cancel().plan(_named(session), {"blocking": True}, who=_who(session))

    def terminate(self, session: Any) -> Action:
        """End a session."""
        return Terminate().plan(_named(session), {"blocking": True}, who=_who(session))

    def ask_owner(self, session: Any, why: str) -> Action:
        """Have its owner end a session that we must not touch."""
        return AskOwner().plan({**_named(session), "why": why}, {"blocking": True}, who=_who(session))


def _named(session: Any) -> dict[str, Any]:
    return {"pid": session.pid, "backend_start": session.backend_start}


def _who(session: Any) -> str:
    """Role, application, age and the start of the query: enough to know whom to ask."""
    age = "" if pd.isna(session.open_for) else f", open for {int(session.open_for.total_seconds() // 60)} min"
    query = " ".join(str(session.query).split())[:60]
    return f"{session.role}, {session.application or 'no application'}{age}: “{query}”"


class Blocking:
    """What these have in common: done is when nobody waits for that session any more."""

    function: ClassVar[str] = ""
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        rows = services.database.rows(ONE, pid=of["pid"])
        there = [row for row in rows if row["backend_start"] == of["backend_start"]]  # pids are used again
        return {"blocking": bool(there and there[0]["blocks"])}

    def done(self, now: Any, before: Any) -> bool:
        return not now["blocking"]

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        rows = services.database.rows(ONE, pid=of["pid"])
        if not rows or rows[0]["backend_start"] != of["backend_start"]:
            raise Refused(f"session {of['pid']} is another one by now; not touched.")
        if why := spared(rows[0]):
            raise Refused(f"session {of['pid']} is {why} by now; not touched.")
        if rows[0]["backend_type"] != "client backend":
            raise Refused(f"session {of['pid']} is a {rows[0]['backend_type']}; not touched.")
        if not rows[0]["blocks"]:
            raise Refused(f"nobody waits for session {of['pid']} any more; not touched.")
        with services.database.transaction() as cursor:
            found = cursor.execute(f"select {self.function}(%(pid)s) as told", of).fetchone()
            if not found["told"]:
                raise CannotTell(f"database: session {of['pid']} could not be told to stop.")

    def by_hand(self, of: Arguments, before: Any) -> str:
        where = f"pid = {of['pid']} and backend_start = '{of['backend_start']}' and backend_type = 'client backend'"
        # Postgres spells a word's edge \y.
        where += f" and not {' '.join(WHOLE.split())} and query !~* '{MIGRATION.replace(chr(92) + 'b', chr(92) + 'y')}'"
        where += f" and not {' '.join(LEDGER.split())} and concat(usename, ' ', application_name) !~* '{MIGRATOR}'"
        where += f" and exists (select from pg_stat_activity w where {of['pid']} = any(pg_blocking_pids(w.pid)))"
        return f'psql "$DATABASE_URL" -c "select {self.function}(pid) from pg_stat_activity b where {where}"'  # noqa: S608


class Cancel(Blocking, Change):
    name = "sessions.cancel"
    title = "Cancel what session {pid} is doing, for others wait behind it ({who})"
    right = "membership of pg_signal_backend"
    function = "pg_cancel_backend"
    settles = 4.0
    final = "what it was doing was rolled back; its owner can begin again"


class Terminate(Blocking, Change):
    name = "sessions.terminate"
    title = "Terminate session {pid}, if others still wait behind it; cannot be undone ({who})"
    right = "membership of pg_signal_backend"
    function = "pg_terminate_backend"
    settles = 6.0
    final = "the session is gone, and what it had not committed is rolled back"


class AskOwner(Blocking, Change):
    name = "sessions.ask_owner"
    title = "By hand: ask whoever runs session {pid} to end it: {why} ({who})"
    manual = True

    def by_hand(self, of: Arguments, before: Any) -> str:
        command = f"select * from pg_stat_activity where pid = {of['pid']}"  # noqa: S608  # for a person to run
        return f'psql "$DATABASE_URL" -c "{command}"'
