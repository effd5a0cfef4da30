"""The page of a record: what its notebook shows, under what proves it. What is private stays behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opskit import record
from opskit.reports import page
from opskit.reports.incident import Record


def of(one: Record) -> str:
    """A record as one HTML page, whatever became of its run."""
    notebook = {"cells": one.cells} if one.cells else _written(one)
    return page.render(
        {**notebook, **_FORMAT}, f"{one.head['incident']}: {one.name}", list(_facts(one)), list(_warnings(one))
    )


_FORMAT = {"metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def _facts(one: Record) -> Iterator[tuple[str, str]]:
    found, head = one.found, one.head
    yield "Run", f"{one.name} ({head['runbook']}, {f'{one.kind} {one.follows}'.rstrip()})"
    yield "Incident", head["incident"]
    yield "Environment", head["environment"]
    yield "Began", f"{head['started']}, by {head['operator']}"
    yield "Outcome", f"{found['outcome']}{': ' * bool(found['causes'])}{', '.join(found['causes'])}"
    if one.digest:
        yield "Sealed as", f"{one.digest}, {one.seal}"
        yield "To prove it", f"opskit verify {head['incident']}/{one.name}, in the folder of the records"
    if left := Counter(_left_out(path) for path in sorted((one.folder / record.PRIVATE).glob("*"))):
        yield "Left out", f"private/: {', '.join(f'{what} ({count})' for what, count in left.items())}"


def _left_out(path: Path) -> str:
    """What a private file is, in the plural: there is one for each row and for each person."""
    match path.suffix, path.name.partition("-")[0]:
        case ".json", _:
            return "rows as they were before"
        case ".txt", "message" | "page":
            return "messages to people"
    return "other files"


def _warnings(one: Record) -> Iterator[str]:
    if why := one.found["break_glass"]:
        yield f"Break-glass, NOT COUNTERSIGNED: one person alone approved what this run carried out. {why}"
    if not one.digest:
        yield "This record was never sealed: nothing proves that it is unchanged."
    elif one.trouble:
        yield f"This record is not as it was sealed: {one.trouble}"
    if one.edited:
        yield f"This notebook was run by hand, and differs from its runbook in {one.edited}."
    yield from (f"By hand, {note.replace('`', '')}." for note in one.disorder)
    if one.head["parameters"].get("unmask"):
        yield "This run was told to show e-mail addresses in full: mind to whom you give this page."


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
