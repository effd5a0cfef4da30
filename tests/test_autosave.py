"""A night of lost text, lived through: the cause waits for a person, the text for the cause."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support import Opskit, data, events

from opskit.sandbox import Sandbox


def look(opskit: Opskit, firm: Sandbox) -> tuple[int, Path, list[dict[str, Any]]]:
    """Run the runbook; its exit code, its record, the actions planned."""
    result = opskit("run", "autosave-incidents", "--environment", firm.name, "-p", "since", "24h", "--json")
    folder = Path(data(result)["folder"])
    return result.exit_code, folder, json.loads((folder / "plan.json").read_text())["actions"]


def ended(folder: Path) -> dict[str, set[str]]:
    """How the actions of each name ended at last."""
    found: dict[str, set[str]] = {}
    for event in {e["action"]: e for e in events(folder, "action.ended")}.values():
        found.setdefault(event["name"], set()).add(event["result"])
    return found


def test_first_the_cause_then_the_text(opskit: Opskit, firm: Sandbox) -> None:
    firm.break_with("autosave-truncation")
    _, folder, planned = look(opskit, firm)
    assert next(a["name"] for a in planned if a["manual"]) == "vercel.replace_deployment"
    assert opskit("approve", folder.name, "--type", f"{firm.name} {len(planned)}").exit_code == 0
    applied = opskit("apply", folder.name, "--json")
    assert (applied.exit_code, data(applied)["outcome"]) == (5, "partly applied")
    waiting = ended(Path(data(applied)["folder"]))
    assert waiting["documents.preserve_copies"] == {"done"}
    assert waiting["documents.restore"] == {"waits for a person"}

    firm.by_hand()  # a person rolls back
    resumed = opskit("resume", data(applied)["run"], "--json")
    assert ended(Path(data(resumed)["folder"]))["documents.restore"] == {"done"}

    _, _, again = look(opskit, firm)  # the build that failed is live no longer: no step leads away from the good one
    assert "vercel.replace_deployment" not in [a["name"] for a in again]
