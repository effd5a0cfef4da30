"""Sentry: errors that the app raised. Database errors and 4xx answers never get there, so silence proves nothing."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from opskit.http import Http, Read, documented

READS = (Read("GET", "/api/0/organizations/{org}/issues/", "event:read"),)


@documented
class Sentry:
    """One Sentry organisation and project."""

    def __init__(self, http: Http, organization: str, project: str | None = None) -> None:
        self.http = http
        self.organization = organization
        self.project = project

    def issues(self, since: datetime, query: str = "is:unresolved") -> pd.DataFrame:
        """Issues seen since a moment, most frequent first: issue, title, where, count, users, first, last."""
        asked = {"query": query, "start": since.isoformat(), "end": _now(), "sort": "freq", "limit": 25}
        found = self.http.read(f"/api/0/organizations/{self.organization}/issues/", asked).body
        rows = [
            (i["shortId"], i["title"], i["culprit"], int(i["count"]), i["userCount"], i["firstSeen"], i["lastSeen"])
            for i in found
        ]
        return pd.DataFrame(rows, columns=["issue", "title", "where", "count", "users", "first", "last"])


def _now() -> str:
    return datetime.now().astimezone().isoformat()
