"""Supabase's Management API: how the project is, how far back it can be restored, what its database logged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from opskit.errors import Faulty
from opskit.http import Http, Read, documented

READS = (
    Read("GET", "/v1/projects/{ref}", "project_admin_read"),
    Read("GET", "/v1/projects/{ref}/health", "project_admin_read"),
    Read("GET", "/v1/projects/{ref}/database/backups", "database_read"),
    Read("GET", "/v1/projects/{ref}/analytics/endpoints/logs", "analytics_logs_read"),
)
DAY = timedelta(hours=24)  # of logs that one question may span
FAILED = """
    select id, toUnixTimestamp64Milli(timestamp) as ts_ms, source, event_message, log_attributes from logs
    where source = 'postgres_logs' and log_attributes['parsed.sql_state_code'] in ({codes})
    order by ts_ms desc limit 100
"""
MIGRATING = {  # what goes wrong with migrations, by SQLSTATE
    "55P03": "lock-timeout", "57014": "statement timeout", "23505": "unique", "23514": "check", "23502": "not null",
    "23503": "foreign key", "42P07": "exists already", "42701": "exists already", "42710": "exists already",
    "42P17": "policy recursion", "25001": "needs no transaction",
}  # fmt: skip


@dataclass(frozen=True)
class RestorePoint:
    """A state that can be had back, as of `now`."""

    at: datetime
    now: datetime
    any: bool  # any moment can be: this one was chosen

    @property
    def loses(self) -> timedelta:
        """How long a time's writes are lost by it."""
        return self.now - self.at


@documented
class Supabase:
    """One project. Times are aware and in UTC."""

    def __init__(self, http: Http, project: str) -> None:
        self.http = http
        self.project = project

    def about(self) -> dict[str, str]:
        """status, name, database: as the project says of itself."""
        found = self.http.read(f"/v1/projects/{self.project}").body
        return {"ref": found["ref"], "status": found["status"], "database": found["database"]["version"]}

    def restorable(self) -> dict[str, Any]:
        """newest: how recent the newest backup is; pitr: whether any moment can be restored; back_to: since when."""
        found = self.http.read(f"/v1/projects/{self.project}/database/backups").body
        span = found.get("physical_backup_data") or {}
        latest, earliest = (span.get(f"{end}_physical_backup_date_unix") for end in ("latest", "earliest"))
        kept = sorted(one["inserted_at"] for one in found["backups"] if one["status"] == "COMPLETED")
        daily = [datetime.fromisoformat(at).astimezone(UTC) for at in kept]
        moments = [datetime.fromtimestamp(at, UTC) for at in (earliest, latest) if at] or daily
        return {
            "pitr": bool(found["pitr_enabled"]),
            "newest": moments[-1] if moments else None,
            "back_to": moments[0] if moments else None,
        }

    def restore_point(self, before: datetime) -> RestorePoint | None:
        """The latest state before a moment that can be had back; None: there is none."""
        found = self.http.read(f"/v1/projects/{self.project}/database/backups").body
        span, now = found.get("physical_backup_data") or {}, datetime.now(UTC)
        if found["pitr_enabled"] and span:
            first, last = (
                datetime.fromtimestamp(span[f"{end}_physical_backup_date_unix"], UTC) for end in ("earliest", "latest")
            )
            return RestorePoint(min(before, last), now, any=True) if before > first else None
        kept = (datetime.fromisoformat(b["inserted_at"]) for b in found["backups"] if b["status"] == "COMPLETED")
        earlier = [at.astimezone(UTC) for at in kept if at < before]
        return RestorePoint(max(earlier), now, any=False) if earlier else None

    def failures(self, since: datetime) -> pd.DataFrame:
        """What the database refused that migrations run into, newest first: at, sqlstate, kind, message.

        Of the last day at most: older lines are not kept for one question.
        """
        until = datetime.now(UTC)
        span = {"iso_timestamp_start": max(since, until - DAY + timedelta(minutes=1)).isoformat()}
        sql = FAILED.format(codes=", ".join(f"'{code}'" for code in MIGRATING))
        query = {"sql": sql, **span, "iso_timestamp_end": until.isoformat()}
        said = self.http.read(f"/v1/projects/{self.project}/analytics/endpoints/logs", query).body
        if said.get("error"):
            raise Faulty("supabase", f"could not search the logs: {str(said['error'])[:200]}.")
        rows = [(_time(one["ts_ms"]), _code(one), one["event_message"]) for one in said["result"]]
        lines = [(at, code, MIGRATING[code], text) for at, code, text in rows if code in MIGRATING]
        return pd.DataFrame(lines, columns=["at", "sqlstate", "kind", "message"])


def _time(milliseconds: Any) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)


def _code(line: dict[str, Any]) -> str:
    return str((line.get("log_attributes") or {}).get("parsed.sql_state_code") or "")
