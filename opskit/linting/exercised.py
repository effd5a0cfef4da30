"""The row of a runbook's title block that says when all of its scenarios were last rehearsed, and passed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from datetime import date
from pathlib import Path
from typing import Protocol

ROW = "Last exercised"
BEFORE = re.compile(r"^\|\s*\**Last updated\**\s*\|.*$", re.MULTILINE)
HERE = re.compile(rf"^\|\s*\**{ROW}\**\s*\|.*\n?", re.MULTILINE)


class Rehearsed(Protocol):
    """What is asked of a score."""

    @property
    def scenario(self) -> str: ...
    @property
    def twin(self) -> bool: ...
    @property
    def passed(self) -> bool: ...


def wholly(scores: Collection[Rehearsed], scenarios: Mapping[str, bool]) -> bool:
    """Whether every scenario of a runbook was rehearsed, with its twin where it has one, and passed each time."""
    wanted = {(name, twin) for name, has_twin in scenarios.items() for twin in (False, True)[: 1 + has_twin]}
    passed = {(one.scenario, one.twin) for one in scores if one.passed}
    failed = {(one.scenario, one.twin) for one in scores if not one.passed}
    return bool(wanted) and wanted <= passed - failed


def note(path: Path, day: date) -> None:
    """Write the day into a notebook's title block."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    title = next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    text = HERE.sub("", "".join(title["source"]))
    text = BEFORE.sub(lambda row: f"{row[0]}\n| **{ROW}** | {day.isoformat()} |", text, count=1)
    title["source"] = text.splitlines(keepends=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
