"""Every kind of rot, looked for in one page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from opskit.database import Database
from opskit.linting import calls, causes, endpoints, links, roles, sql, structure, tools
from opskit.linting.findings import Finding
from opskit.linting.pages import Page
from opskit.linting.schema import Schema
from opskit.linting.tools import Tool


@dataclass(frozen=True)
class Reality:
    """What pages are held against."""

    root: Path
    tools: Mapping[str, Tool]
    rehearsed: Mapping[str, Collection[str]]  # causes by runbook
    contacts: Mapping[str, str] | None = None  # whom one may call, by role; None where that is written nowhere
    database: Database | None = None
    schema: Schema | None = None
    unseen: str = ""  # why there is no database


def lint(page: Page, reality: Reality) -> list[Finding]:
    """What is wrong with it, in the order of its lines."""
    found = [*links.check(page, reality.root), *tools.check(page, reality.tools)]
    found += endpoints.check(page)
    if reality.database and reality.schema:
        found += sql.check(page, reality.database, reality.schema)
    if page.notebook:
        found += [*structure.check(page), *calls.check(page)]
        found += causes.check(page, reality.rehearsed.get(page.path.stem, ()))
        found += roles.check(page, reality.contacts) if reality.contacts is not None else ()
    order = {cell.id: number for number, cell in enumerate(page.cells)}
    return sorted(set(found), key=lambda one: (order.get(one.cell, -1), one))
