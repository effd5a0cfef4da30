"""The database's own log of its statements, for whoever wants to know what was really asked of it."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

from psycopg import sql

from opskit.sandbox import SandboxError
from opskit.sandbox.postgres import Postgres

LINE = re.compile(r"([\d-]+ [\d:.]+) UTC\|(\d+)\|([^|]*)\|(.*?)\|([A-Z]+):  (.*)", re.DOTALL)  # log_line_prefix
ASKED = re.compile(r"(?:statement|execute [^:]*): (.*)", re.DOTALL)

Statement = dict[str, Any]


class StatementLog:
    """What the server was asked between `begin` and `end`."""

    def __init__(self, database: Postgres) -> None:
        self.database = database
        self._begins = 0
        self._ends: int | None = 0

    def begin(self) -> None:
        self._switch("all")
        self._begins, self._ends = self._size(), None

    def end(self) -> None:
        self._ends = self._size()
        self._switch("none")

    def read(self) -> list[Statement]:
        """Every statement in order: at, session, user, application, sql, and its values as the log writes them."""
        with (self.database.home / "log").open("rb") as log:
            log.seek(self._begins)
            text = log.read(-1 if self._ends is None else self._ends - self._begins).decode(errors="replace")
        found: list[Statement] = []
        for entry in re.split(r"\n(?!\t)", text):  # a line that goes on begins with a tab
            if line := LINE.fullmatch(entry.replace("\n\t", "\n")):
                _note(found, *line.groups())
        return found

    def _size(self) -> int:
        return (self.database.home / "log").stat().st_size

    def _switch(self, which: str) -> None:
        """Takes effect for sessions that are open, too, at their next statement."""
        self.database.start()
        with self.database.connect() as connection:
            connection.execute(sql.SQL("alter system set log_statement = {}").format(sql.Literal(which)))
            connection.execute("select pg_reload_conf()")
        for _ in range(500):
            with self.database.connect() as connection:
                if connection.execute("show log_statement").fetchone() == (which,):
                    return
            time.sleep(0.01)
        raise SandboxError("the database does not take its new setting")


def _note(found: list[Statement], at: str, session: str, user: str, application: str, kind: str, text: str) -> None:
    if kind == "LOG" and (asked := ASKED.fullmatch(text)):
        moment = datetime.fromisoformat(at).replace(tzinfo=UTC).isoformat()
        who = {"at": moment, "session": int(session), "user": user, "application": application}
        found.append({**who, "sql": asked[1], "values": ""})
    elif kind == "DETAIL" and found and found[-1]["session"] == int(session):
        found[-1]["values"] = found[-1]["values"] or text.partition(": ")[2]
