"""The shape of the house: who may import whom, and how big a room may be. CONTRIBUTING.md says why."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "opskit"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
SANDBOX = {name for name in MODULES if name.startswith("opskit.sandbox")}
COMMANDS = {name for name in MODULES if name.startswith(("opskit.commands", "opskit.cli"))}
SERVICES = {name for name in MODULES if name.startswith("opskit.services")}
REPORTS = {name for name in MODULES if name.startswith("opskit.reports")}
# A person's own room: working copies, JupyterLab's server, what is noted of the work, and what becomes of it.
LAB = {name for name in MODULES if name.startswith(("opskit.lab", "opskit.adopt"))}
LINTING = {name for name in MODULES if name.startswith("opskit.linting")}  # judges runbooks; no run needs it
CORE = set(MODULES) - SANDBOX - COMMANDS - SERVICES - REPORTS - LAB - LINTING
FLOORS = (  # of the kernel's side, from the ground up
    {"opskit.errors", "opskit.files", "opskit.spelling", "opskit.masking", "opskit.redaction", "opskit.signatures"},
    {"opskit.journal", "opskit.parameters", "opskit.environment", "opskit.http", "opskit.database"},
    {"opskit.actions"},
    SERVICES,
    {"opskit.checks", "opskit.plan", "opskit.approval", "opskit.lock", "opskit.permit"},
    {"opskit.run"},
)
IN_THE_KERNEL = {"opskit.lab", "opskit.lab.hand", "opskit.lab.order"}
KEEPERS = (
    REPORTS
    | LINTING
    | LAB - IN_THE_KERNEL
    | {  # the other side
        f"opskit.{name}" for name in ("runner", "adopt", "record", "scrub", "archive", "commits", "followup", "drill")
    }
)
LONGEST_MODULE = 500
LARGEST_CORE = 4700  # 2,500 before signing, locking, history, spellings, decisions, damaged records, sessions

Import = tuple[str, bool]  # what, and whether at once (not inside a function)


def imports(module: str) -> set[Import]:
    """Everything that a module imports, typing apart: of `opskit` the modules, of others the top-level name."""
    return set(_imports(module, ast.parse(MODULES[module].read_text(encoding="utf-8")), at_once=True))


def _imports(module: str, node: ast.AST, *, at_once: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.Import(names=names):
                yield from ((_known(alias.name), at_once) for alias in names)
            case ast.ImportFrom(level=0, module=str(source), names=names):
                yield from ((_known(f"{source}.{alias.name}"), at_once) for alias in names)
            case ast.ImportFrom():
                pytest.fail(f"{module} imports relatively")
            case _:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from _imports(module, child, at_once=at_once and not inside)


def _known(name: str) -> str:
    """The module of ours that a dotted name reaches, else the top-level name of somebody else's."""
    parts = name.split(".")
    if parts[0] != "opskit":
        return parts[0]
    return next(found for end in range(len(parts), 0, -1) if (found := ".".join(parts[:end])) in MODULES)


GRAPH = {module: imports(module) for module in MODULES}


def importers(name: str) -> set[str]:
    return {module for module, found in GRAPH.items() if name in {what for what, _ in found}}


def reached(start: str) -> set[str]:
    """Everything that importing a module may bring along, sooner or later; itself too."""
    known, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in known:
            known.add(name)
            waiting += [what for what, _ in GRAPH.get(name, ())]
    return known


@pytest.mark.parametrize(
    ("library", "room"),
    [("httpx", "opskit.http"), ("psycopg", "opskit.database"), ("papermill", "opskit.runner")],
)
def test_each_door_to_the_outside_has_one_keeper(library: str, room: str) -> None:
    assert importers(library) - SANDBOX == {room}


def test_the_sandbox_imports_nothing_of_opskit_and_shares_no_client() -> None:
    for module in SANDBOX:
        ours = {what for what, _ in GRAPH[module] if what.startswith("opskit")}
        assert ours <= SANDBOX, f"{module} imports {sorted(ours - SANDBOX)}"
    assert not SANDBOX & (importers("httpx") | importers("stripe"))


def test_only_the_command_line_imports_the_sandbox() -> None:
    for room in SANDBOX:
        outside = importers(room) - SANDBOX
        assert outside <= COMMANDS, f"{sorted(outside - COMMANDS)} imports {room}"


def test_the_kernels_side_never_imports_what_runs_notebooks() -> None:
    brought = reached("opskit.run")
    assert {"opskit.services", "opskit.plan", "opskit.permit"} <= brought  # or this test sees nothing
    assert not brought & {"papermill", "nbclient", "nbformat", "click", *KEEPERS, *COMMANDS}


def test_rooms_rest_on_the_floor_below() -> None:
    for number, floor in enumerate(FLOORS):
        above = set().union(*FLOORS[number + 1 :])
        for room in floor:
            assert room in MODULES
            called = {what for what, early in GRAPH[room] if early} & above
            assert not called, f"{room} calls up to {sorted(called)}"


def test_no_rooms_import_each_other_in_a_circle() -> None:
    at_once = {module: {what for what, early in found if early and what in MODULES} for module, found in GRAPH.items()}
    try:
        TopologicalSorter(at_once).prepare()
    except CycleError as error:
        pytest.fail(f"imported in a circle: {' → '.join(error.args[1])}")


def test_nothing_below_the_command_line_calls_up_to_it() -> None:
    for module in set(MODULES) - COMMANDS:
        assert not {what for what, _ in GRAPH[module]} & COMMANDS, module


def test_services_know_neither_run_nor_runner() -> None:
    for module in SERVICES:
        above = {"opskit.display"}.union(*FLOORS[4:], KEEPERS)
        assert not reached(module) & above, module


def test_no_room_is_too_long_to_read() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: n for module, n in lengths.items() if n > LONGEST_MODULE} == {}


def test_the_core_can_be_held_in_ones_head() -> None:
    """Lines of code of the core, no blanks, comments, docstrings: services, sandbox, reports, lab, linting apart."""
    sizes = {module: lines_of_code(MODULES[module].read_text(encoding="utf-8")) for module in CORE}
    total = sum(sizes.values())
    print(f"\nThe core has {total} lines of code in {len(sizes)} modules (at most {LARGEST_CORE}).")
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert total < LARGEST_CORE, f"{total} lines; the largest: {largest}"


def lines_of_code(source: str) -> int:
    prose = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
        for number in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = (t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in blank)
    return len({number for t in tokens for number in range(t.start[0], t.end[0] + 1)} - prose)
