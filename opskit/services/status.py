"""Vendors' status pages. They lag, cover whole companies, and some have moved: a hint, never a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from opskit.errors import CannotTell
from opskit.http import Http, Read

READS = (Read("GET", "/api/v2/summary.json", "none"), Read("GET", "/api/v2/incidents.json", "none"))


@dataclass
class StatusPages:
    """The status pages of an environment's vendors."""

    pages: dict[str, Http]

    def all(self) -> pd.DataFrame:
        """vendor, indicator, troubled (components that are not operational); unreadable pages say so."""
        return pd.DataFrame(
            [(vendor, *self._one(http)) for vendor, http in self.pages.items()],
            columns=["vendor", "indicator", "troubled"],
        )

    def incidents(self, *vendors: str) -> pd.DataFrame:
        """What these vendors' pages tell of, newest first: vendor, incident, state, started, ended (NaT: not yet).

        A page that cannot be read tells nothing, and its row says so.
        """
        rows = [row for vendor in vendors if vendor in self.pages for row in self._told(vendor)]
        frame = pd.DataFrame(rows, columns=["vendor", "incident", "state", "started", "ended"])
        for column in ("started", "ended"):
            frame[column] = pd.to_datetime(frame[column], utc=True, format="ISO8601")
        return frame.sort_values("started", ascending=False, ignore_index=True)

    def _told(self, vendor: str) -> list[tuple[Any, ...]]:
        try:
            found = self.pages[vendor].read("/api/v2/incidents.json").body["incidents"]
            return [
                (vendor, i["name"], i["status"], i.get("started_at") or i["created_at"], i.get("resolved_at"))
                for i in found
            ]
        except (CannotTell, KeyError, TypeError):
            return [(vendor, "unreadable", "unreadable", None, None)]

    def _one(self, http: Http) -> tuple[str, str]:
        try:
            page = http.read("/api/v2/summary.json").body
            if not page["components"]:  # a page that was moved elsewhere may be left behind empty
                return "unreadable", ""
            troubled = [c["name"] for c in page["components"] if c["status"] != "operational"]
            return page["status"]["indicator"], ", ".join(troubled)
        except (CannotTell, KeyError, TypeError):
            return "unreadable", ""
