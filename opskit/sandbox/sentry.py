"""The company's Sentry: issues, each with its events. `sentry_api` serves them over HTTP.

It receives only what the app raises as Error objects: no database error, no answer below 500. A quiet Sentry proves
nothing.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from opskit.sandbox.sentry_api import application

if TYPE_CHECKING:
    from opskit.sandbox.world import World

__all__ = ["Event", "Issue", "SentryStore", "application"]

NOISE = (  # type, message, culprit, events a day: what an ordinary week brings
    ("ChunkLoadError", "Loading chunk 4821 failed.", "app/workspace/[id]/page", 3.0),
    ("TypeError", "Failed to fetch", "hooks/use-autosave", 2.0),
    ("AbortError", "The user aborted a request.", "app/workspace/[id]/page", 1.0),
    ("RangeError", "Invalid time value", "components/document-history", 0.3),
)
FIRST_ISSUE = 4_100_000_000


@dataclass(frozen=True)
class Event:
    id: str
    at: datetime
    user: str | None


@dataclass
class Issue:
    id: str
    number: int  # in the short id
    kind: str  # the error's type
    message: str
    culprit: str
    level: str = "error"
    status: str = "unresolved"
    substatus: str | None = "new"
    status_details: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)  # oldest first

    @property
    def title(self) -> str:
        return f"{self.kind}: {self.message}"

    @property
    def first_seen(self) -> datetime:
        return self.events[0].at

    @property
    def last_seen(self) -> datetime:
        return self.events[-1].at


class SentryStore:
    """One organisation with one project. Copies (`copy.deepcopy`) share nothing but the events, which never change."""

    def __init__(self, world: World, organization: str = "quillfolio", project: str = "web") -> None:
        self.rng = random.Random(f"sentry {world.seed}")
        self.organization, self.project = organization, project
        self.project_id = str(self.rng.randrange(4_500_000_000_000_000, 4_599_999_999_999_999))
        self.issues: dict[str, Issue] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> SentryStore:
        twin = SentryStore.__new__(SentryStore)
        twin.__dict__.update(vars(self))
        twin.rng = copy.deepcopy(self.rng)
        twin.issues = {}
        for key, issue in self.issues.items():
            twin.issues[key] = copied = copy.copy(issue)
            copied.status_details, copied.events = dict(issue.status_details), list(issue.events)
        return twin

    def all(self) -> list[Issue]:
        """A snapshot: errors keep coming in while somebody reads."""
        return list(self.issues.values())

    def dump(self) -> dict[str, Any]:
        """What people can change of each issue: counts grow by themselves."""
        return {
            "issues": {
                issue.id: {"title": issue.title, "status": issue.status, "status_details": dict(issue.status_details)}
                for issue in self.all()
            }
        }

    def capture(
        self, error_type: str, message: str, culprit: str, at: datetime, user: str | None = None, level: str = "error"
    ) -> Issue:
        """An error was raised. One type in one place is one issue; a resolved one comes back as regressed."""
        issue = next((one for one in self.all() if (one.kind, one.culprit) == (error_type, culprit)), None)
        if issue is None:
            number = len(self.issues) + 1
            issue = Issue(str(FIRST_ISSUE + 7919 * number), number, error_type, message, culprit, level)
            self.issues[issue.id] = issue
        elif issue.status == "resolved":
            issue.status, issue.substatus, issue.status_details = "unresolved", "regressed", {}
        issue.events.append(Event(f"{self.rng.getrandbits(128):032x}", at, user))
        issue.events.sort(key=lambda event: event.at)
        return issue

    def set_status(self, issue: Issue, status: str, details: dict[str, Any]) -> None:
        if status == "resolvedInNextRelease":
            status, details = "resolved", {"inNextRelease": True}
        issue.status, issue.status_details = status, details
        issue.substatus = {"ignored": "archived_until_escalating", "unresolved": "ongoing"}.get(status)


def populate(world: World, days: int = 14) -> None:
    """The noise of two ordinary weeks."""
    store, now = world.sentry, datetime.now(UTC)
    for kind, message, culprit, daily in NOISE:
        for _ in range(max(1, round(daily * days))):
            at = now - timedelta(seconds=store.rng.uniform(600, days * 86400))
            issue = store.capture(kind, message, culprit, at, user=str(store.rng.randrange(1, 400)))
        issue.substatus = "ongoing"
