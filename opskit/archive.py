"""The archive: a folder of records, found again by incident and run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opskit import journal, plan, record
from opskit.errors import BadInput
from opskit.outcome import Outcome, classify

REHEARSALS = ("drill-", "demo-")  # incidents that are not


class Archive:
    """The records below one folder, one folder per incident and run."""

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs

    def runs(self) -> list[Path]:
        """Every run's folder, newest first."""
        found = [path.parent for path in self.outputs.glob("*/*/run.json")]
        return sorted(found, key=lambda folder: folder.name, reverse=True)

    def find(self, name: str, applied: bool = False) -> Path:
        """The run of that id, of an unambiguous prefix of it, or the `last` one. Raises BadInput otherwise.

        `last` passes over rehearsals; with `applied`, over runs that carried out no plan.
        """
        runs = self.runs()
        if name == "last":
            serious = [run for run in runs if not run.parent.name.startswith(REHEARSALS)]
            if candidates := [run for run in serious if not applied or approved(run) is not None]:
                return candidates[0]
        found = [folder for folder in runs if name and folder.name.startswith(name)]
        exact = [folder for folder in found if folder.name == name]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if found:
            raise BadInput(
                f"{name!r} means {len(found)} runs: {', '.join(f.name for f in found[:5])}.", "Give more of it."
            )
        raise BadInput(f"there is no run {name!r} in {self.outputs}.", "`opskit history` lists them.")

    def applied_by(self, folder: Path) -> Path | None:
        """The run that carried out the plan of this one, if one began to."""
        for run in self.runs():
            if about(run).get("applies") == folder.name and any(
                event["event"] == "action.ended" or event["event"] == "action.begun"
                for event in journal.read(run / record.JOURNAL)
            ):
                return run
        return None

    def undone_by(self, folder: Path) -> Path | None:
        """The run that took back what this one did, if one did."""
        return next((run for run in self.runs() if about(run).get("undoes") == folder.name), None)

    def approval(self, folder: Path) -> Path:
        """Where the approval of a run's plan is kept: beside the record, which is sealed."""
        return folder.parent / "approvals" / f"{folder.name}.json"

    def summaries(self) -> Iterator[dict[str, Any]]:
        """One line for each run, newest first."""
        for folder in self.runs():
            yield summary(folder)


def about(folder: Path) -> dict[str, Any]:
    """Who ran what: the head of a record."""
    try:
        found: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(f"{folder}: is not a run.") from None
    return found


def summary(folder: Path) -> dict[str, Any]:
    """What a run was about, what it found and how it ended."""
    head = about(folder)
    events = list(journal.read(folder / record.JOURNAL))
    ended = next((e for e in events if e["event"] == "run.ended"), None)
    proposed = next((e for e in reversed(events) if e["event"] == "plan"), {})
    results = [e for e in events if e["event"] == "action.ended"]
    return {
        "run": head["run"],
        "incident": head["incident"],
        "runbook": head["runbook"],
        "environment": head["environment"],
        "operator": head["operator"],
        "started": head["started"],
        "outcome": ended["outcome"] if ended else outcome(folder, events),
        "causes": proposed.get("causes", []),
        "actions": proposed.get("actions", 0) if (planned := approved(folder)) is None else planned,
        "removals": proposed.get("removals", 0),
        "done": len({e["action"] for e in results if e["result"] in ("done", "already so")}),
        "sealed": (folder / record.MANIFEST).exists(),
        "folder": str(folder),
    }


def outcome(folder: Path, events: list[journal.Event]) -> str:
    """How a run ended that nobody has classified: it is under way by hand, or its process died."""
    if not any(e["event"] == "run.accepted" for e in events):
        return "unsealed"
    return Outcome.LOST if not any(e["event"] == "run.ended" for e in events) else classify(events, approved(folder))


def approved(folder: Path) -> int | None:
    """How many actions a run was to carry out; None where it was only to look."""
    return len(plan.load(folder / "plan.json")) if (folder / "approval.json").exists() else None


def reasons(folder: Path) -> list[str]:
    """Why a run was refused or failed, in its journal's words."""
    events = journal.read(folder / record.JOURNAL)
    return list(dict.fromkeys(e["why"] for e in events if e["event"] in ("refused", "failed")))


def open_questions(folder: Path) -> list[str]:
    """The questions that a run could not answer, with the reason."""
    last = {e["name"]: e for e in journal.read(folder / record.JOURNAL) if e["event"] == "check"}
    return [f"{e['question']}? {e['because']}" for e in last.values() if e["answer"] == "unknown" and e["required"]]


def planned(folder: Path) -> list[str]:
    """What a run planned, in words."""
    path = folder / "plan.json"
    return [action.title for action in plan.load(path)] if path.exists() else []


def verdict(folder: Path) -> str:
    """What came of a run, in Markdown."""
    found = summary(folder)
    done = (
        f"{found['done']} of {found['actions']} actions" if approved(folder) else f"{found['actions']} actions planned"
    )
    lines = [
        f"> **{found['outcome'].capitalize()}**: {', '.join(found['causes']) or 'no cause'}; {done}.",
        f"> Run `{found['run']}` of incident `{found['incident']}` on **{found['environment']}**, "
        f"by {found['operator']}, {found['started']}.",
        *(f"> - open: {question}" for question in open_questions(folder)),
        *(f"> - why: {why}" for why in reasons(folder)),
    ]
    return "\n>\n".join(lines[:2]) + "".join(f"\n{line}" for line in ([">", *lines[2:]] if lines[2:] else []))
