"""A bad day of a big company: plan mode over 10,000 undelivered events and 100,000 profiles. How big does it grow?"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import Row, Skipped
from benchmarks.stage import FINE, OPSKIT, RUNBOOK, journal, living

NAME = "crowd"
SCENARIO = Path(__file__).with_name("crowd.yaml")
EVENTS = 10_000
MOST_KERNEL = 400.0  # MB
MOST_NOTEBOOK = 2.0


def measure(place: Path, rounds: int) -> list[Row]:
    """Once, whatever `rounds` says: sizes do not vary as times do."""
    if not Path("/proc/self/status").exists():
        raise Skipped("the peak memory of a process is read from /proc, and there is none.")
    with living("bench-crowd") as company:
        company.break_with(SCENARIO)
        if not all(one["ok"] for one in company.healed()):
            raise RuntimeError(f"the scenario did not make its crowd: {company.healed()}")
        seconds, peaks, found = _watched(place, company.name)
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


def _watched(place: Path, environment: str) -> tuple[float, dict[str, float], dict[str, Any]]:
    """Run in plan mode; answers the seconds, the peak memory of both processes, and what the command answered."""
    command = [*OPSKIT, "run", RUNBOOK, "-p", "since", "6h", "--environment", environment]
    begun = time.perf_counter()
    runner = subprocess.Popen(
        [*command, "--incident", NAME, "--json"], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    peaks = {"runner": 0.0, "kernel": 0.0}
    kernel = None
    while runner.poll() is None:
        kernel = kernel or _kernel()
        for name, pid in (("runner", runner.pid), ("kernel", kernel)):
            peaks[name] = max(peaks[name], _peak(pid) if pid else 0.0)
        time.sleep(0.05)
    seconds = time.perf_counter() - begun
    if runner.returncode not in FINE:
        raise RuntimeError(f"opskit run ended with {runner.returncode}")
    return seconds, peaks, json.loads(runner.communicate()[0])["data"]


def _kernel() -> int | None:
    """The kernel's process, as the run's journal names it."""
    for path in Path(os.environ["OPSKIT_OUTPUTS"], NAME).glob("*/journal.jsonl"):
        for event in journal(path.parent):
            if event["event"] == "run.begun":
                return int(event["kernel"])
    return None


def _peak(pid: int) -> float:
    """The most memory that a process has held so far, in MB; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), default=0.0)


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
