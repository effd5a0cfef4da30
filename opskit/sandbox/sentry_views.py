"""How Sentry's API shows what the store holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opskit.sandbox.sentry import Event, Issue, SentryStore

JSON = dict[str, Any]


def short_id(store: SentryStore, issue: Issue) -> str:
    return f"{store.project.upper()}-{issue.number}"


def moment(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def counts(events: Iterable[Event], since: datetime, until: datetime, step: float) -> list[tuple[int, int]]:
    """Events in each interval of the span: its start in seconds, and how many."""
    found = Counter(int(event.at.timestamp() // step * step) for event in events if since <= event.at <= until)
    first, last = int(since.timestamp() // step * step), int(until.timestamp())
    return [(start, found[start]) for start in range(first, last + 1, int(step))]


def _project(store: SentryStore) -> JSON:
    return {"id": store.project_id, "name": store.project, "slug": store.project, "platform": "javascript-nextjs"}


def _common(store: SentryStore, issue: Issue, now: datetime) -> JSON:
    users = len({event.user for event in issue.events if event.user})
    seen = {"firstSeen": moment(issue.first_seen), "lastSeen": moment(issue.last_seen)}
    day = [list(pair) for pair in counts(issue.events, now - timedelta(hours=24), now, 3600)]
    return {
        "id": issue.id,
        "shareId": None,
        "shortId": short_id(store, issue),
        "title": issue.title,
        "culprit": issue.culprit,
        "permalink": f"https://{store.organization}.sentry.io/issues/{issue.id}/",
        "logger": None,
        "level": issue.level,
        "status": issue.status,
        "statusDetails": issue.status_details,
        "substatus": issue.substatus,
        "isPublic": False,
        "platform": "javascript",
        "priority": "high",
        "priorityLockedAt": None,
        "seerFixabilityScore": None,
        "seerAutofixLastTriggered": None,
        "seerExplorerAutofixLastTriggered": None,
        "project": _project(store),
        "type": "error",
        "issueType": "error",
        "issueCategory": "error",
        "metadata": {"type": issue.kind, "value": issue.message},
        "numComments": 0,
        "assignedTo": None,
        "isBookmarked": False,
        "isSubscribed": False,
        "subscriptionDetails": None,
        "hasSeen": False,
        "annotations": [],
        "isUnhandled": False,
        "count": str(len(issue.events)),  # a string, unlike userCount
        "userCount": users,
        **seen,
        "stats": {"24h": day},
        "integrationIssues": [],
        "sentryAppIssues": [],
        "latestEventHasAttachments": False,
    }


def issue(store: SentryStore, one: Issue, now: datetime) -> JSON:
    """As a list shows it."""
    shown = _common(store, one, now)
    lifetime = {name: shown[name] for name in ("count", "userCount", "firstSeen", "lastSeen")}
    return {
        **shown,
        "lifetime": {**lifetime, "stats": None},
        "inbox": {"reason": 0, "reason_details": None, "date_added": shown["firstSeen"]},
        "owners": {"type": "ownershipRule", "owner": "team:1", "date_added": shown["firstSeen"]},
        "filtered": None,
        "sessionCount": 0,
        "matchingEventId": None,
        "matchingEventEnvironment": None,
        "derivedData": {
            "blocker": "none",
            "hasOpenFixPr": False,
            "hasRootCause": False,
            "isAssigned": False,
            "lastCompletedAutofixStep": "none",
            "lastProgressedAt": None,
            "progress": "none",
            "status": "open",
            "viewCount": 0,
        },
    }


def issue_details(store: SentryStore, one: Issue, now: datetime) -> JSON:
    shown = _common(store, one, now)
    first = {"data": {}, "dateCreated": shown["firstSeen"], "id": "0", "type": "first_seen", "user": None}
    return {
        **shown,
        "inbox": None,
        "owners": None,
        "activity": [first],
        "seenBy": [],
        "participants": [],
        "userReportCount": 0,
        "firstRelease": None,
        "lastRelease": None,
        "tags": [],
    }


def event(store: SentryStore, one: Issue, happened: Event, full: bool) -> JSON:
    tags = {"environment": "production", "level": one.level, "server_name": "lambda"}
    shown: JSON = {
        "id": happened.id,
        "eventID": happened.id,
        "groupID": one.id,
        "projectID": store.project_id,
        "event.type": "error",
        "title": one.title,
        "message": "",
        "culprit": one.culprit,
        "location": None,
        "platform": "javascript",
        "dateCreated": moment(happened.at),
        "crashFile": None,
        "metadata": {"type": one.kind, "value": one.message},
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
        "user": _user(happened.user) if happened.user else None,
    }
    if full:
        exception = {"values": [{"type": one.kind, "value": one.message, "stacktrace": None}]}
        shown["entries"] = [{"type": "exception", "data": exception}]
        shown["dateReceived"] = shown["dateCreated"]
    return shown


def _user(key: str) -> JSON:
    return {
        "id": key,
        "email": None,
        "username": None,
        "ip_address": None,
        "name": None,
        "geo": None,
        "data": None,
    }
