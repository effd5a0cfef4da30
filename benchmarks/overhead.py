"""What a record costs: `opskit run` against bare papermill, on the same notebook and the same healthy company."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measuring import Row, in_turns
from benchmarks.stage import OPSKIT, RUNBOOK, living, timed

NAME = "run"


def measure(place: Path, rounds: int) -> list[Row]:
    with living("bench-run") as company:
        ours = [*OPSKIT, "run", RUNBOOK, "--environment", company.name]
        notebook = str(place / "notebooks" / f"{RUNBOOK}.ipynb")
        bare = [sys.executable, "-m", "papermill", notebook, str(place / "bare.ipynb"), "--no-progress-bar"]
        bare += ["-p", "environment", company.name]
        timed(bare)  # once for nobody: what must be read from the disk is read now
        found = in_turns(rounds, {"opskit run": lambda: timed(ours), "papermill": lambda: timed(bare)})
    note = "the same, with parameters checked first, and a journal and a sealed record kept"
    return [
        Row(NAME, "opskit run", "s", found["opskit run"], rival="papermill", note=note),
        Row(NAME, "papermill", "s", found["papermill"]),
    ]
