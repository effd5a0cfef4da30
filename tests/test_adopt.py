"""Notebooks that a person ran: what becomes a record, and what differs from the runbook stands beside it."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from support import SMALL, Opskit, data, events, keep, wrong

from opskit.adopt import edited
from opskit.sandbox import Sandbox

PARAMETERS = 'from opskit.parameters import EnvironmentName\nenvironment: EnvironmentName = "sandbox"  # where'
CHEAT = "run.check = lambda *_, **__: None"


@pytest.fixture
def executed(firm: Sandbox, repository: Path, tmp_path: Path) -> Path:
    """A runbook that plain papermill ran, on an endpoint that was switched off."""
    firm.break_with("endpoint-disabled")
    keep(repository, *SMALL)
    _illustrate(repository / "notebooks" / "small.ipynb")
    path = tmp_path / "executed.ipynb"
    subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar", str(repository / "notebooks" / "small.ipynb"),
         str(path), "-p", "environment", firm.name],
        capture_output=True, check=True, timeout=120, cwd=repository,
    )  # fmt: skip
    return path


def _illustrate(runbook: Path) -> None:
    """How it is done, as our runbooks show it; and a picture that somebody put into the notebook itself."""
    nb = nbformat.read(runbook, as_version=4)
    prose = "Like this.\n\n![How it is done](../docs/lab-apply.png)\n\n![What I saw](attachment:seen.png)"
    seen = {"seen.png": {"image/png": ""}}
    nb.cells.append(nbformat.v4.new_markdown_cell(prose, id="illustrated", attachments=seen))
    nbformat.write(nb, runbook)


def _illustrated(folder: Path) -> str:
    (cell,) = [c for c in nbformat.read(folder / "notebook.ipynb", as_version=4).cells if c.id == "illustrated"]
    return str(cell.source)


def test_a_notebook_that_was_run_by_hand_becomes_a_record(executed: Path, opskit: Opskit) -> None:
    nb = nbformat.read(executed, as_version=4)
    looked = next(cell for cell in nb.cells if "Enabled?" in cell.source)
    looked.source += "\nprint('a second look')"
    nbformat.write(nb, executed)
    sealed = opskit("seal", executed, "--json")
    assert (sealed.exit_code, data(sealed)["outcome"]) == (3, "plan awaits approval"), sealed.output
    folder = Path(data(sealed)["folder"])
    assert wrong(folder) == ()
    assert [event["cells"] for event in events(folder, "edited")] == [[looked.id]]
    assert "+print('a second look')" in (folder / "edits.diff").read_text()
    assert "every cell" not in str(nbformat.read(folder / "notebook.ipynb", as_version=4).metadata)
    again = opskit("seal", executed)
    assert (again.exit_code, "is sealed already" in again.stderr) == (4, True)


def test_an_unedited_notebook_shows_no_difference(executed: Path, opskit: Opskit) -> None:
    folder = Path(data(opskit("seal", executed, "--json"))["folder"])
    assert events(folder, "edited") == events(folder, "disorder") == []
    assert not (folder / "edits.diff").exists()
    assert _illustrated(folder) == "Like this.\n\n![What I saw](attachment:seen.png)"


def test_a_record_shows_what_was_found_and_not_how_it_is_done(
    firm: Sandbox, repository: Path, outputs: Path, opskit: Opskit
) -> None:
    keep(repository, *SMALL)
    _illustrate(repository / "notebooks" / "small.ipynb")
    looked = opskit("run", "small", "--environment", firm.name, "--json")
    assert _illustrated(Path(data(looked)["folder"])) == "Like this.\n\n![What I saw](attachment:seen.png)"


def code(source: str, name: str, *tags: str) -> Any:
    return nbformat.v4.new_code_cell(source, id=name, metadata={"tags": list(tags)})


def insert(cell: Any) -> Callable[[Any], object]:
    return lambda nb: nb.cells.insert(2, cell)


def fill_in(source: str) -> Callable[[Any], object]:
    return lambda nb: nb.cells[0].update(source=source)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda nb: None, []),
        (fill_in(PARAMETERS.replace("sandbox", "live")), []),
        (insert(code('# Parameters\nenvironment = "live"\nsince = "2h"', "given", "injected-parameters")), []),
        (insert(nbformat.v4.new_markdown_cell("# The verdict", id="verdict")), []),
        (insert(code(CHEAT, "verdict")), ["verdict"]),
        (insert(code(CHEAT, "given", "injected-parameters")), ["given"]),
        (insert(code('environment = print("live")', "given", "parameters")), ["given"]),
        (insert(code("from os import environ as environment", "given", "parameters")), ["given"]),
        (insert(code('run.check = "x"', "given", "parameters")), ["given"]),
        (fill_in(PARAMETERS + "\n" + CHEAT), ["parameters"]),
        (lambda nb: nb.cells.pop(2), ["cell-2"]),
    ],
)
def test_only_values_that_were_filled_in_are_no_edits(edit: Callable[[Any], object], told: list[str]) -> None:
    cells = [code(PARAMETERS, "parameters", "parameters"), code("a = 1", "cell-1"), code("b = 2", "cell-2")]
    original = nbformat.v4.new_notebook(cells=cells)
    nb = copy.deepcopy(original)
    edit(nb)
    assert list(edited(nb, original)) == told
