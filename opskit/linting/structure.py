"""Whether a notebook is a runbook: sections, title block, cells, imports, steps by hand."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cache
from itertools import pairwise
from typing import Any, get_type_hints

from opskit import parameters, runbooks
from opskit.errors import BadInput
from opskit.linting import cells
from opskit.linting.exercised import ROW
from opskit.linting.findings import Finding
from opskit.linting.pages import BY_HAND, Cell, Page
from opskit.priorities import RESPONSE
from opskit.services import Services

STEPS = ("Symptoms", "Impact", "Diagnosis", "Resolution")
LIBRARIES = {"collections", "contextlib", "datetime", "functools", "itertools", "json", "math", "re", "statistics",
             "time", "typing", "numpy", "pandas", "opskit"}  # fmt: skip
SPAN = {"minute": 60, "hour": 3600, "day": 86400}


def check(page: Page) -> Iterator[Finding]:
    for look in (_sections, _title, _cells, _imports, _members, _steps, _parameters):
        yield from look(page)


def found(page: Page, cell: Cell | None, line: int, rule: str, wrong: str, remedy: str = "") -> Finding:
    return Finding(page.name, cell.id if cell else "", line, rule, wrong, remedy)


def _sections(page: Page) -> Iterator[Finding]:
    heads = [
        (cell, line, text)
        for cell in page.markdown()
        for line, text in _headings(cell)
        if text in runbooks.SECTIONS or text == "Related documents"
    ]
    wanted = (*runbooks.SECTIONS, "Related documents")
    last = page.cells[-1] if page.cells else None
    for name in wanted:
        if name not in [text for *_, text in heads]:
            yield found(page, last, 1, "section", f"there is no section {name}.", f"Add a heading `## {name}`.")
    place = -1
    for cell, line, text in heads:
        if wanted.index(text) <= place:
            yield found(page, cell, line, "section", f"{text} is out of order.", f"The order is {', '.join(wanted)}.")
        place = max(place, wanted.index(text))
    related = next((cell for cell, _, text in heads if text == "Related documents"), None)
    if related and "](" not in related.text:
        yield found(page, related, 1, "section", "Related documents names none.", "Link what one needs beside this.")


def _headings(cell: Cell) -> Iterator[tuple[int, str]]:
    for opening, inline in pairwise(cell.tokens):
        if opening.type == "heading_open" and opening.tag == "h2" and opening.map:
            yield cell.first + opening.map[0], inline.content.strip()


def _title(page: Page) -> Iterator[Finding]:
    cell = next(page.markdown(), None)
    if cell is None or not re.match(r"# \S", cell.text):
        yield found(page, cell, 1, "title", "the first cell has no title.", "Begin with `# What goes wrong`.")
        return
    facts: dict[str, tuple[int, str]] = {}
    for number, text in enumerate(cell.text.splitlines(), 1):
        if row := re.match(r"\|\s*\**([^|*]+?)\**\s*\|\s*(.+?)\s*\|$", text):
            facts[row[1]] = (number, row[2].strip("* "))
    for name in ("Priority", "Respond within", "Owner", "Last updated"):
        if name not in facts:
            yield found(page, cell, 1, "title", f"the title block does not say: {name}.", "Add a row to its table.")
    for name, (line, said) in facts.items():
        if wrong := _untrue(name, said, facts.get("Priority", (0, ""))[1].upper()):
            yield found(page, cell, line, "title", wrong)
    (line, rehearsed), (_, updated) = facts.get(ROW, (0, "")), facts.get("Last updated", (0, ""))
    if rehearsed and rehearsed < updated:
        wrong = f"it was updated on {updated}, after it was exercised on {rehearsed}."
        yield found(page, cell, line, "title", wrong, f"Run: opskit drill {page.path.stem} --note")


def _untrue(name: str, said: str, priority: str) -> str:
    """What is wrong with a row of the title block, if anything."""
    if name == "Priority" and said.upper() not in RESPONSE:
        return f"there is no priority {said}: there are {', '.join(RESPONSE)}."
    if name == "Respond within" and priority in RESPONSE:
        time = re.fullmatch(r"(\d+) (minute|hour|day)s?", said)
        within = RESPONSE[priority].total_seconds()
        if not time or int(time[1]) * SPAN[time[2]] != within:
            return f"{priority} is answered within {within / 60:.0f} minutes, not {said}."
    if name in ("Last updated", ROW):
        try:
            if date.fromisoformat(said) > datetime.now(UTC).date():
                return f"{name} lies in the future."
        except ValueError:
            return f"{name} is no date such as 2026-11-28: {said}."
    return ""


def _cells(page: Page) -> Iterator[Finding]:
    """Names for people, nothing that a session left behind, and code that can be read."""
    for number, rule, wrong in cells.unclean(page.raw):
        yield found(page, page.cells[number - 1], 1, rule, wrong, cells.FIX if rule == "outputs" else "")
    for cell in page.cells:
        if cell.kind == "code" and cell.tree is None:
            yield from _unreadable(page, cell)


def _unreadable(page: Page, cell: Cell) -> Iterator[Finding]:
    if magic := re.search(r"^\s*[%!].*", cell.text, re.MULTILINE):
        line = cell.text.count("\n", 0, magic.start()) + 1
        remedy = "A change is an action in opskit/services, a look one of their reads."
        yield found(page, cell, line, "magic", f"{magic[0].strip()[:40]} leaves opskit's care.", remedy)
        return
    try:
        ast.parse(cell.text)
    except SyntaxError as error:
        yield found(page, cell, error.lineno or 1, "python", f"is no Python: {error.msg}.")


def _imports(page: Page) -> Iterator[Finding]:
    for cell, node in _nodes(page):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            for name in names:
                if name.partition(".")[0] not in LIBRARIES:
                    wrong = f"imports {name}, which reaches past opskit."
                    yield found(page, cell, node.lineno, "import", wrong, "Use what `run` offers.")
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("opskit"):
                for alias in node.names:
                    if not _there(str(node.module), alias.name):
                        wrong = f"{node.module} has no {alias.name}."
                        yield found(page, cell, node.lineno, "import", wrong, "See what it is called now.")


@cache
def _there(module: str, name: str) -> bool:
    try:
        if hasattr(importlib.import_module(module), name):
            return True
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return False
    return True


@cache
def services() -> dict[str, list[type[Any]]]:
    """The services of a run by name, and what each may be."""
    return {
        name: [one for one in (hint, *getattr(hint, "__args__", ())) if inspect.isclass(one)]
        for name, hint in get_type_hints(Services).items()
    }


def _members(page: Page) -> Iterator[Finding]:
    """`run.stripe.endpoint`: is there such a service, and such a verb of it?"""
    from opskit.run import Run  # noqa: PLC0415  # it brings pandas along, which not everybody who lints needs

    known = services()
    for cell, node in _nodes(page):
        match node:
            case ast.Attribute(value=ast.Name(id="run"), attr=name) if name not in known and not _has(Run, name):
                yield found(page, cell, node.lineno, "verb", f"a run has no {name}.")
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="run"), attr=service), attr=verb) if known.get(
                service
            ):
                if not any(_has(face, verb) for face in known[service]):
                    wrong = f"run.{service} has no {verb}."
                    yield found(page, cell, node.lineno, "verb", wrong, "See `opskit describe` and opskit/services.")


def _has(face: type[Any], verb: str) -> bool:
    if verb.startswith("_"):
        return False
    return hasattr(face, verb) or f"self.{verb}" in inspect.getsource(face)


def _steps(page: Page) -> Iterator[Finding]:
    """What looks at a service, or plans a change there, says how to do the same by hand."""
    about, served = None, True
    for cell in page.cells:
        if cell.kind == "markdown":
            about, served = cell, bool(BY_HAND.search(cell.text))
        elif cell.section in STEPS and not served and about is not None and (used := _used(cell)):
            wrong = f"there is no “by hand” for run.{used}."
            yield found(page, cell, 1, "by-hand", wrong, f"Say in {about.id} what to type when Python does not work.")
            served = True


def _used(cell: Cell) -> str:
    """The first verb of a service that it calls."""
    known = services()
    for node in ast.walk(cell.tree) if cell.tree else ():
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(value=ast.Name(id="run"), attr=name), attr=verb)) if (
                name in known
            ):
                return f"{name}.{verb}"
    return ""


def _parameters(page: Page) -> Iterator[Finding]:
    tagged = [cell for cell in page.code() if "parameters" in cell.tags]
    if len(tagged) != 1:
        wrong = f"one cell must be tagged `parameters`, not {len(tagged)}."
        yield found(page, tagged[1] if tagged else None, 1, "parameters", wrong)
        return
    try:
        declared = parameters.declared(tagged[0].text)
    except BadInput as error:
        yield found(page, tagged[0], 1, "parameters", str(error))
        return
    for name, field in declared.model_fields.items():
        if not field.description:
            line = next((n for n, t in enumerate(tagged[0].text.splitlines(), 1) if t.startswith(name)), 1)
            yield found(
                page, tagged[0], line, "parameters", f"{name} is not described.", "Say in a comment what it is."
            )


def _nodes(page: Page) -> Iterator[tuple[Cell, Any]]:
    for cell in page.code():
        for node in ast.walk(cell.tree) if cell.tree else ():
            yield cell, node
