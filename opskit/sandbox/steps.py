"""What was done by hand, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opskit.sandbox.scenario import Step

ROOM = 100  # characters of a statement
HAPPENED = {  # of happenings, those that follow a repair or are one
    "add_chapter": "Writers went on in a new chapter",
    "ask_ai": "Users asked AI for text",
    "ask_ensemble": "Users asked all models at once",
    "change_folder": "Changed the folder of migrations",
    "change_schema": "Ran SQL as the owner of the tables",
    "push": "Pushed the migrations that were pending",
    "save_by_hand": "Writers saved with the button",
    "set_provider": "Changed something at a provider",
    "write": "Writers went on writing",
}


def told(step: Step) -> Iterator[str]:
    """One sentence for each thing that a step did; of variables the names, for values may be secret."""
    if step.lift is not None:
        yield f"What was wrong has ended: {step.lift}."
    if step.env:
        yield f"Set at the hosting: {', '.join(step.env)}."
    if step.redeploy:
        yield "Built the same code again, and deployed it."
    if step.behaviour is not None:
        yield f"Mended the code, and deployed it: {_fields(step.behaviour.model_dump(exclude_unset=True))}."
    if step.rollback:
        yield "Rolled back to the deployment before."
    if step.sql is not None:
        yield f"Ran as superuser: {_line(step.sql)}"
    if step.set_endpoint is not None:
        yield f"Changed the webhook endpoint: {_fields(step.set_endpoint)}."
    for one in step.happenings:
        provider = f": {one.provider}" if hasattr(one, "provider") else ""
        yield f"{HAPPENED.get(one.what, one.what.replace('_', ' ').capitalize())}{provider}."


def _fields(values: dict[str, Any]) -> str:
    return ", ".join(name.replace("_", " ") for name in values)


def _line(statement: str) -> str:
    line = " ".join(statement.split())
    return line if len(line) <= ROOM else f"{line[: ROOM - 1]}…"
