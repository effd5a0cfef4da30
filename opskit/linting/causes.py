"""Whether the same causes stand everywhere: in the table, in the checks that name them, in what is done about them,
and in the scenarios that rehearse them.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from opskit.checks import HEALTHY, UNKNOWN
from opskit.linting.findings import Finding
from opskit.linting.pages import Cell, Page

Spot = tuple[Cell, int]  # and the line in it
POSITION = 3  # of the cause among what `run.check` takes
NEAR = 0.75


def check(page: Page, rehearsed: Collection[str] | None) -> Iterator[Finding]:
    """`rehearsed`: the causes that a scenario of this runbook rehearses; None where no scenario is to be had."""
    declared, (named, made) = _declared(page), _named(page)
    for cause, (cell, line) in declared.items():
        if cause not in named:
            wrong = f"no check names {cause}."
            yield Finding(page.name, cell.id, line, "cause", wrong, "Add the check, or take out the row.")
        elif rehearsed is not None and cause not in rehearsed:
            remedy = f"Write one: docs/scenarios.md. Its `causes` hold {cause}."
            yield Finding(page.name, cell.id, line, "rehearsal", f"no scenario rehearses {cause}.", remedy)
    for cause, (cell, line) in named.items():
        if cause not in declared:
            wrong = f"{cause} is not in the table of causes."
            yield Finding(page.name, cell.id, line, "cause", wrong, "Say there what gives it away.")
    for cause, (cell, line) in _asked(page):
        nearest = difflib.get_close_matches(cause, [*named, *declared], 1, NEAR)
        if cause in named or cause in (HEALTHY, UNKNOWN) or (made and (cause in declared or not nearest)):
            continue
        remedy = f"The nearest is {nearest[0]}." if nearest else "What waits for it never happens."
        yield Finding(page.name, cell.id, line, "cause", f"no check names {cause}.", remedy)


def rehearsals(folder: Path) -> dict[str, set[str]]:
    """By runbook, the causes that the scenarios of a folder rehearse."""
    import yaml  # noqa: PLC0415  # only where there are scenarios

    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        scenario = yaml.safe_load(path.read_text(encoding="utf-8"))
        found.setdefault(scenario["runbook"], set()).update(scenario.get("causes") or ())
    return found


def _declared(page: Page) -> dict[str, Spot]:
    """Those of the tables of causes."""
    declared: dict[str, Spot] = {}
    for cell in page.markdown():
        within = False
        for number, text in enumerate(cell.text.splitlines(), 1):
            within = bool(re.match(r"\|\s*cause\s*\|", text)) or (within and text.startswith("|"))
            if within and (row := re.match(r"\|\s*`([\w-]+)`", text)):
                declared[row[1]] = (cell, number)
    return declared


def _named(page: Page) -> tuple[dict[str, Spot], bool]:
    """Those that checks name, and whether some are put together only while it runs."""
    named: dict[str, Spot] = {}
    made = False
    for cell, node in _nodes(page):
        for cause in _given(node) if isinstance(node, ast.Call) else ():
            if isinstance(cause, ast.Constant):
                named.setdefault(str(cause.value), (cell, cause.lineno))
            else:
                made = True
    return named, made


def _given(call: ast.Call) -> Iterator[ast.expr]:
    """What a call gives as a cause; also where that is misspelled, which is said of the call."""
    checks = _is_run(call.func, "check")
    for keyword in call.keywords:
        meant = checks and keyword.arg != "because" and difflib.get_close_matches(keyword.arg or "", ["cause"])
        if keyword.arg == "cause" or meant:
            yield keyword.value
    if checks and len(call.args) > POSITION:
        yield call.args[POSITION]


def _asked(page: Page) -> Iterator[tuple[str, Spot]]:
    """Those that a cell asks for: `run.found("…")`, `"…" in run.causes`, and by way of a loop over some."""
    for cell, node in _nodes(page):
        for constant in _asked_by(node, cell):
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                yield constant.value, (cell, constant.lineno)


def _asked_by(node: Any, cell: Cell) -> Iterator[ast.AST]:
    match node:
        case ast.Call(func=func, args=[cause]) if _is_run(func, "found"):
            yield cause
        case ast.Compare(left=left, comparators=others) if any(_is_run(one, "causes") for one in (left, *others)):
            for one in (left, *others):
                yield from ast.walk(one)
        case ast.For(target=target, iter=source, body=body):
            name = target.elts[0] if isinstance(target, ast.Tuple) else target
            if isinstance(name, ast.Name) and any(_asks_for(name.id, one) for part in body for one in ast.walk(part)):
                yield from _each(source, _dictionaries(cell))


def _asks_for(name: str, node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and _is_run(node.func, "found")
        and [one.id for one in node.args if isinstance(one, ast.Name)] == [name]
    )


def _each(source: ast.expr, known: Mapping[str, ast.Dict]) -> Iterator[ast.AST]:
    """What a loop goes through, as far as that stands there: a list, or the keys of a dictionary."""
    match source:
        case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
            yield from elements
        case ast.Dict(keys=keys):
            yield from (key for key in keys if key)
        case ast.Call(func=ast.Attribute(attr="items", value=inner), args=[]):
            yield from _each(inner, known)
        case ast.Name(id=name) if name in known:
            yield from _each(known[name], {})


def _dictionaries(cell: Cell) -> dict[str, ast.Dict]:
    return {
        node.targets[0].id: node.value
        for node in (ast.walk(cell.tree) if cell.tree else ())
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
    }


def _is_run(node: ast.AST, name: str) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="run"), attr=attr):
            return attr == name
    return False


def _nodes(page: Page) -> Iterator[tuple[Cell, ast.AST]]:
    for cell in page.code():
        for node in ast.walk(cell.tree) if cell.tree else ():
            yield cell, node
