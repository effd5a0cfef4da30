"""The page of a record: what its notebook shows, under what proves it. What is private stays behind."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opskit import incident, page
from opskit.incident import Record


def of(folder: Path) -> str:
    """A record as one HTML page, whatever became of its run."""
    one = incident.of(folder)
    notebook = _without_private(folder, {"cells": one.cells}) if one.cells else _written(one)
    return page.render(
        {**notebook, **_FORMAT}, f"{one.head['incident']}: {one.name}", list(_facts(one)), list(_warnings(one))
    )


_FORMAT = {"metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def _facts(one: Record) -> Iterator[tuple[str, str]]:
    found, head = one.found, one.head
    yield "Run", f"{one.name} ({head['runbook']}, {one.kind})"
    yield "Incident", head["incident"]
    yield "Environment", head["environment"]
    yield "Began", f"{head['started']}, by {head['operator']}"
    yield "Outcome", f"{found['outcome']}{': ' * bool(found['causes'])}{', '.join(found['causes'])}"
    if one.digest:
        yield "Sealed as", f"{one.digest}, {one.seal}"
        yield "To prove it", f"opskit verify {head['incident']}/{one.name}, in the folder of the records"
    if private := [path.name for path in sorted((one.folder / "private").glob("*"))]:
        yield "Left out", f"private/: {', '.join(private)}"


def _warnings(one: Record) -> Iterator[str]:
    approval = incident.load(one.folder / "approval.json") or {}
    signed_off = one.folder.parent / "approvals" / f"{one.head.get('applies')}.countersigned.json"
    if approval.get("break_glass") and not signed_off.exists():
        yield f"Break-glass, NOT COUNTERSIGNED: {approval['approver']} approved this alone. {approval['break_glass']}"
    if not one.digest:
        yield "This record was never sealed: nothing proves that it is unchanged."
    elif one.trouble:
        yield f"This record is not as it was sealed: {'; '.join(one.trouble)}"
    if one.head["parameters"].get("unmask"):
        yield "This run was told to show e-mail addresses in full: mind to whom you give this page."


def _without_private(folder: Path, notebook: dict[str, Any]) -> dict[str, Any]:
    """A notebook shows its drafts as it makes them; a page that leaves the house says only that there are some."""
    private = {path.name: path.read_text(encoding="utf-8") for path in sorted((folder / "private").glob("*.txt"))}
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        for name, text in private.items():
            if f"private/{name}" in json.dumps(output, ensure_ascii=False):
                output["data"] = {kind: _left_out(page.text(shown), text) for kind, shown in output["data"].items()}
    return notebook


def _left_out(shown: str, text: str) -> str:
    for form in filter(str.strip, (html.escape(text), text)):
        shown = shown.replace(form, "(left out)")
    return shown


def _written(one: Record) -> dict[str, Any]:
    """For a run that had no notebook, such as one that took something back: what it did, as its journal has it."""
    titles = {action.id: action.title for action in one.plan}
    lines = [
        f"- {'taking back, ' * (event['event'] == 'undo.ended')}{event['result']}: "
        f"{page.plain(titles.get(event['action'], event['name']))}"
        for event in one.events
        if event["event"] in ("action.ended", "undo.ended")
    ]
    source = "\n".join([f"# {one.head['runbook']}, {one.kind}", "", "## Changes", "", *(lines or ["None."])])
    return {"cells": [{"cell_type": "markdown", "id": "changes", "metadata": {}, "source": source}]}
