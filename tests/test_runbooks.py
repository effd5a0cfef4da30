"""Every runbook in the repository: six sections, pinned cells, and nothing said twice differently."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from support import REPOSITORY

from opskit import runbooks
from opskit.errors import BadInput
from opskit.priorities import RESPONSE
from opskit.runbooks import SECTIONS, Runbook

PATHS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
MOST_LINES = 24  # of a code cell: one thought each
ALLOWED = {"opskit", "pandas", *sys.stdlib_module_names}
NAMED_BY_PEOPLE = {"healthy", "unknown"}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


@pytest.fixture
def book(path: Path) -> Runbook:
    return runbooks.load(path.stem, REPOSITORY)


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def section(cells: list[dict[str, Any]], title: str) -> str:
    """The prose of one section."""
    text = "\n".join(source(c) for c in cells if c["cell_type"] == "markdown")
    return re.split(r"^## ", text.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_it_is_a_valid_notebook(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=nbformat.NO_CONVERT))


def test_it_has_the_six_sections_in_order(cells: list[dict[str, Any]]) -> None:
    text = "\n".join(source(c) for c in cells if c["cell_type"] == "markdown")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert tuple(titles[: len(SECTIONS)]) == SECTIONS
    assert set(titles[len(SECTIONS) :]) <= {"Related documents"}


def test_nothing_of_the_templates_guidance_is_left(path: Path, cells: list[dict[str, Any]]) -> None:
    left = [cell["id"] for cell in cells if "**Write here:**" in source(cell)]
    assert bool(left) == (path.stem == runbooks.TEMPLATE), f"still to be written: {left}"


def test_its_title_block_says_how_urgent_it_is_and_whose(book: Runbook) -> None:
    assert book.title
    assert book.priority in RESPONSE
    assert {"Priority", "Respond within", "Owner", "Last updated", "Services"} <= set(book.facts)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", book.facts["Last updated"])
    hours = int(RESPONSE[book.priority].total_seconds() // 3600)
    assert book.facts["Respond within"].startswith(f"{hours} hour" if hours else "15 min")


def test_its_cells_are_pinned_by_readable_unique_names(cells: list[dict[str, Any]]) -> None:
    ids = [cell.get("id") for cell in cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in ids)


def test_cells_are_named_for_their_section(cells: list[dict[str, Any]]) -> None:
    now = ""
    for cell in cells:
        if cell["cell_type"] == "markdown" and (title := re.match(r"## (\w+)", source(cell))):
            now = title[1].lower()
        if now:
            assert cell["id"].split("-")[0] == now


def test_it_is_kept_without_outputs(cells: list[dict[str, Any]]) -> None:
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not [c["id"] for c in code if c["outputs"] or c["execution_count"]]
    assert not [c["id"] for c in cells if set(c["metadata"]) - {"tags"}]


def test_it_declares_its_parameters_in_one_cell_before_it_begins(cells: list[dict[str, Any]], book: Runbook) -> None:
    tagged = [c["id"] for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert tagged == ["parameters"]
    code = [c["id"] for c in cells if c["cell_type"] == "code"]
    assert code[:2] == ["parameters", "begin"]
    assert f'begin("{book.name}")' in source(next(c for c in cells if c["id"] == "begin"))
    fields = book.parameters.model_fields
    assert {"incident", "environment"} <= set(fields)
    assert all(field.description for field in fields.values())


def test_it_imports_only_what_an_engineer_expects(book: Runbook) -> None:
    for tree in book._trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] in ALLOWED


def test_its_cells_are_one_thought_each(cells: list[dict[str, Any]]) -> None:
    long = {c["id"]: source(c).count("\n") + 1 for c in cells if c["cell_type"] == "code"}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}


def test_every_cause_in_its_table_is_named_by_a_check_and_the_other_way_round(
    cells: list[dict[str, Any]], book: Runbook
) -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", section(cells, "Diagnosis"), re.MULTILINE)
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(book.causes)
    assert not set(listed) & NAMED_BY_PEOPLE


def test_every_cause_that_its_cells_ask_for_exists(book: Runbook) -> None:
    asked = {
        node.args[0].value
        for tree in book._trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "found"
        if isinstance(node.args[0], ast.Constant)
    }
    assert asked <= set(book.causes)


def test_its_checks_have_names_of_their_own(book: Runbook) -> None:
    names = [
        node.args[0].value
        for tree in book._trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "check"
        if isinstance(node.args[0], ast.Constant)
    ]
    assert names
    assert len(set(names)) == len(names)


def test_it_shows_its_plan_before_it_applies_once(book: Runbook, cells: list[dict[str, Any]]) -> None:
    code = [source(c).strip() for c in cells if c["cell_type"] == "code"]
    assert code.count("run.apply()") == 1
    assert code[code.index("run.apply()") - 1] == "run.plan"
    assert sum("run.apply(" in text for text in code) == 1
    assert book.calls("plan") <= {"add", "actions"}  # what stands in it already may come first
    assert not any("plan.actions." in text or "plan.actions =" in text for text in code)


def test_its_prevention_is_checked_and_does_not_decide(cells: list[dict[str, Any]]) -> None:
    code = "\n".join(source(c) for c in cells if c["id"].startswith("prevention") and c["cell_type"] == "code")
    checks = re.findall(r"run\.check\(", code)
    assert checks
    assert code.count("required=False") == len(checks)


def test_its_queries_are_literal_and_take_values_as_parameters(book: Runbook) -> None:
    for tree in book._trees():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("read", "rows")
            ):
                assert isinstance(node.args[0], ast.Constant)


# The catalogue.


def test_the_catalogue_lists_every_runbook_once_most_urgent_first() -> None:
    found = runbooks.catalogue(REPOSITORY)
    assert {b.name for b in found} == {p.stem for p in PATHS} - {runbooks.TEMPLATE}
    urgency = list(RESPONSE)
    assert [urgency.index(b.priority) for b in found] == sorted(urgency.index(b.priority) for b in found)


def test_an_unknown_runbook_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"no runbook 'strpe'\. There are: .*stripe-webhook-replay"):
        runbooks.load("strpe", REPOSITORY)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_what_is_no_notebook_is_said_to_be_none(repository: Path, text: str) -> None:
    (repository / "notebooks" / "broken.ipynb").write_text(text)
    with pytest.raises(BadInput, match=r"broken\.ipynb: is not a notebook"):
        runbooks.load("broken", repository)


def test_without_a_parameters_cell_there_are_no_parameters(repository: Path) -> None:
    path = repository / "notebooks" / "stripe-webhook-replay.ipynb"
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        cell["metadata"] = {}
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="needs one cell tagged `parameters`, has 0"):
        _ = runbooks.load("stripe-webhook-replay", repository).parameters
