"""The company's project at Supabase, apart from its database: backups and logs. `supabase_api` serves it over HTTP."""

from __future__ import annotations

import copy
import random
import string
import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from opskit.sandbox.supabase_api import application

if TYPE_CHECKING:
    from opskit.sandbox.world import World

__all__ = ["Backup", "LogLine", "SupabaseStore", "application", "populate"]

KEPT = 7  # daily backups
FIRST_BACKUP = 814_000_000


@dataclass(frozen=True)
class Backup:
    id: int
    at: datetime
    status: str = "COMPLETED"


@dataclass(frozen=True)
class LogLine:
    id: str
    at: datetime
    source: str
    severity: str  # as the source writes it: ERROR, LOG
    message: str
    attributes: dict[str, str] = field(default_factory=dict)


class SupabaseStore:
    """One project. Copies (`copy.deepcopy`) share nothing but its backups and log lines, which never change."""

    def __init__(self, world: World) -> None:
        self.rng = random.Random(f"supabase {world.seed}")
        self.ref = "".join(self.rng.choices(string.ascii_lowercase, k=20))
        self.organization, self.name, self.region = "quillfolio", "quillfolio", "eu-central-1"
        self.created = datetime.now(UTC) - timedelta(days=900)
        self.status = "ACTIVE_HEALTHY"
        self.pitr_days: int | None = None  # how far back any moment can be restored, where that is paid for
        self.backups: list[Backup] = []
        self.logs: list[LogLine] = []
        self.calls: deque[float] = deque()  # when the Management API was last asked

    def __deepcopy__(self, memo: dict[int, Any]) -> SupabaseStore:
        twin = SupabaseStore.__new__(SupabaseStore)
        twin.__dict__.update(vars(self))
        twin.rng = copy.deepcopy(self.rng)
        twin.backups, twin.logs, twin.calls = list(self.backups), list(self.logs), deque(self.calls)
        return twin

    def dump(self) -> dict[str, Any]:
        """What people can change of it."""
        return {"project": {"status": self.status, "pitr_days": self.pitr_days}}

    def back_up(self, last: datetime) -> None:
        """The daily backups of a week, of which this is the last."""
        moments = [last - timedelta(days=days) for days in reversed(range(KEPT))]
        self.backups = [Backup(FIRST_BACKUP + number, at) for number, at in enumerate(moments)]

    def log(self, at: datetime, message: str, severity: str = "LOG", sqlstate: str = "00000", user: str = "") -> None:
        """The database wrote a line."""
        attributes = {
            "parsed.error_severity": severity,
            "parsed.sql_state_code": sqlstate,
            "parsed.user_name": user,
            "parsed.database_name": "postgres",
        }
        number = uuid.UUID(int=self.rng.getrandbits(128), version=4)
        self.logs.append(LogLine(str(number), at, "postgres_logs", severity, message, attributes))


def populate(world: World) -> None:
    """A week of backups, and a quiet day of log lines."""
    store, now = world.supabase, datetime.now(UTC)
    store.back_up(now - timedelta(seconds=store.rng.uniform(2, 20) * 3600))
    for hours in range(24, 0, -1):
        at = now - timedelta(hours=hours)
        store.log(at, "checkpoint starting: time")
