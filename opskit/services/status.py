"""Vendors' status pages. They lag, cover whole companies and sometimes answer with HTML: a hint, never a verdict."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from opskit.errors import CannotTell
from opskit.http import Http, Read

READS = (Read("GET", "/api/v2/summary.json", "none"),)


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

    def _one(self, http: Http) -> tuple[str, str]:
        try:
            page = http.read("/api/v2/summary.json").body
            troubled = [c["name"] for c in page["components"] if c["status"] != "operational"]
            return page["status"]["indicator"], ", ".join(troubled)
        except (CannotTell, KeyError, TypeError):
            return "unreadable", ""
