"""What there is: the runbooks, and one of them in detail."""

from __future__ import annotations

import click
from pydantic_core import PydanticUndefined

from opskit import rights, runbooks
from opskit.commands import listing
from opskit.commands.answering import Reply, root, verb


@click.command(name="runbooks")
@verb
def list_runbooks() -> Reply:
    """The catalogue, most urgent first."""
    found = [
        {"runbook": b.name, "title": b.title, "priority": b.priority, **b.facts} for b in runbooks.catalogue(root())
    ]
    columns = ("runbook", "priority", "Respond within", "Owner", "Last updated")
    narrow = (
        (str(book["priority"]), f"{book['runbook']}\n{', '.join(str(book[c]) for c in columns[2:] if book.get(c))}")
        for book in found
    )
    rows = ([str(book.get(column, "")) for column in columns] for book in found)
    table = listing.fitting(columns, rows, ("priority", f"runbook\n{', '.join(columns[2:])}"), narrow)
    return Reply(found, table=table)


@click.command()
@click.argument("runbook")
@verb
def describe(runbook: str) -> Reply:
    """One runbook's parameters, causes, and the rights it needs."""
    book = runbooks.load(runbook, root())
    fields = [
        {
            "name": name,
            "kind": dict(field.json_schema_extra or {})["kind"],  # type: ignore[arg-type]  # we set a dict
            "default": None if field.default is PydanticUndefined else field.default,
            "meaning": field.description,
        }
        for name, field in book.parameters.model_fields.items()
    ]
    needed = rights.needed(book)
    lines = [f"{book.title} ({book.priority})", "", "Parameters"]
    lines += [f"  {f['name']:<14} {f['kind']:<22} {f['default']!r:<12} {f['meaning']}" for f in fields]
    lines += ["", "Causes", "  " + ", ".join(book.causes), "", "Rights"]
    lines += [f"  {access:<7} {service:<9} {right}" for access, service, right in needed]
    data = {"runbook": book.name, "title": book.title, "facts": book.facts, "parameters": fields, "causes": book.causes}
    return Reply({**data, "rights": needed}, "\n".join(lines))
