"""A bad day of a big company: plan mode over 10,000 undelivered events and 100,000 profiles. How big does it grow?"""

from __future__ import annotations

from pathlib import Path

from benchmarks.measuring import Row
from benchmarks.stage import RUNBOOK, living, watched

NAME = "crowd"
SCENARIO = Path(__file__).with_name("crowd.yaml")
EVENTS = 10_000
MOST_KERNEL = 400.0  # MB
MOST_NOTEBOOK = 2.0


def measure(place: Path, rounds: int) -> list[Row]:
    """Once, whatever `rounds` says: sizes do not vary as times do."""
    with living("bench-crowd") as company:
        company.break_with(SCENARIO)
        if not all(one["ok"] for one in company.healed()):
            raise RuntimeError(f"the scenario did not make its crowd: {company.healed()}")
        seconds, peaks, found = watched(RUNBOOK, "-p", "since", "6h", "--environment", company.name, "--incident", NAME)
    if found["actions"] < EVENTS or found["causes"] != ["endpoint-unreachable"]:
        raise RuntimeError(f"the run did not see the crowd: {found}")
    folder = Path(found["folder"])
    record = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [
        Row(NAME, "opskit run", "s", [seconds], note=f"{found['actions']} actions planned"),
        Row(NAME, "peak memory, kernel", "MB", [peaks["kernel"]], limit=MOST_KERNEL),
        Row(NAME, "peak memory, runner", "MB", [peaks["runner"]]),
        Row(NAME, "notebook", "MB", [_megabytes(folder / "notebook.ipynb")], limit=MOST_NOTEBOOK),
        Row(NAME, "whole record", "MB", [record / 1e6], note="the plan and the evidence as files"),
    ]


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
