"""A runbook from the template: what `opskit new` writes, what it refuses, and the walk through CONTRIBUTING."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import OPSKIT, REPOSITORY, Opskit, data

from opskit import runbooks, sandbox
from opskit.commands.new import PARTS

NAME = "scheduled-emails"
WALK = re.search(r"^## A new runbook\n.*?```bash\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.S | re.M)
NEWCOMER = yaml.safe_load((REPOSITORY / "tests" / "newcomer.yaml").read_text())


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A copy of this repository, without what is not in git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    root = tmp_path / "whole"
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)
    return root


class Newcomer:
    """Somebody at work in a copy of the repository, with a sandbox of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.surroundings = {
            **os.environ,
            "PYTHONPATH": str(root),  # before the installed package, which is the original
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPSKIT_ROOT": str(root),
            "OPSKIT_STATE": str(root / "state"),
            "OPSKIT_OUTPUTS": str(root / "outputs"),
        }

    def types(self, line: str, expected: int = 0) -> str:
        words = shlex.split(line, comments=True)
        tool = {"opskit": [OPSKIT], "python": [sys.executable]}[words[0]]
        done = subprocess.run(
            [*tool, *words[1:]], cwd=self.root, env=self.surroundings, capture_output=True, text=True, check=False,
            timeout=400,
        )  # fmt: skip
        assert done.returncode == expected, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def newcomer(whole: Path) -> Any:
    found = Newcomer(whole)
    yield found
    found.types("opskit sandbox stop")


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_it_writes_four_files_under_the_new_name(newcomer: Newcomer) -> None:
    before = files(newcomer.root)
    answer = json.loads(newcomer.types(f"opskit new {NAME} --title 'Scheduled e-mails' --priority critical --json"))[
        "data"
    ]
    written = {f"notebooks/{NAME}.ipynb", f"parameters/{NAME}/example.yaml",
               f"opskit/sandbox/scenarios/{NAME}-example.yaml", "tests/test_scheduled_emails.py"}  # fmt: skip
    assert files(newcomer.root) - before == written == {answer[what] for what in PARTS}
    book = runbooks.load(NAME, newcomer.root)
    assert (book.title, book.priority, book.facts["Respond within"]) == ("Scheduled e-mails", "CRITICAL", "15 minutes")
    assert book.facts["Last updated"] == f"{datetime.now(UTC):%Y-%m-%d}"
    for place in written:
        assert "template" not in (newcomer.root / place).read_text().replace("from the template", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["../etc"], "cannot be a runbook's name"),
        (["Scheduled-Emails"], "cannot be a runbook's name"),
        (["scheduled_emails"], "cannot be a runbook's name"),
        (["a" * 51], "at most 50"),
        ([""], "cannot be a runbook's name"),
        (["fine", "--title", "two\nlines"], "cannot be a title"),
        (["fine", "--priority", "SOON"], "SOON"),
        (["runbook-template"], "is taken"),
        (["autosave-incidents"], "is taken"),
        (["endpoint-disabled"], "a scenario is called so"),
        (["plan"], "there is tests/test_plan.py"),
    ],
)
def test_what_is_ill_formed_or_taken_is_refused_before_anything_is_written(
    arguments: list[str], told: str, opskit: Opskit
) -> None:
    before = [files(REPOSITORY / part) for part in ("notebooks", "parameters", "opskit/sandbox/scenarios", "tests")]
    refused = opskit("new", *arguments)
    assert (refused.exit_code, told in refused.output) == (2, True), refused.output
    after = [files(REPOSITORY / part) for part in ("notebooks", "parameters", "opskit/sandbox/scenarios", "tests")]
    assert after == before


def test_a_repository_that_opskit_does_not_run_from_is_refused(repository: Path, opskit: Opskit) -> None:
    refused = opskit("new", NAME, "--json")
    assert refused.exit_code == 2
    assert "opskit runs from" in data(refused)["error"]
    assert not (repository / "notebooks" / f"{NAME}.ipynb").exists()


@pytest.mark.deep
def test_the_walk_through_contributing_works_as_it_stands(newcomer: Newcomer) -> None:
    assert WALK
    lines = WALK[1].strip().splitlines()
    assert len(lines) > 5
    for line in lines:
        newcomer.types(line, expected=3 if line.startswith("opskit run ") else 0)


@pytest.mark.deep
def test_a_newcomers_runbook_keeps_every_rule_and_finds_what_it_claims(newcomer: Newcomer) -> None:
    newcomer.types(f"opskit new {NAME} --title 'Scheduled e-mails' --priority HIGH")
    write(newcomer.root)
    newcomer.types("python scripts/generate.py")
    newcomer.types("python scripts/notebooks.py")
    newcomer.types(f"opskit lint {NAME}")
    newcomer.types(f"python -m ruff check notebooks/{NAME}.ipynb")
    newcomer.types(f"python -m pytest tests/test_runbooks.py -k {NAME}")
    newcomer.types("python -m pytest tests/test_docs.py -k 'command or link or notebook or generated or response'")
    newcomer.types("python -m pytest tests/test_scheduled_emails.py")


def write(root: Path) -> None:
    """What the newcomer wrote, over what the template gave."""
    path = root / "notebooks" / f"{NAME}.ipynb"
    notebook = json.loads(path.read_text())
    given = {cell["id"]: cell for cell in notebook["cells"]}
    notebook["cells"] = [one(cell, given) for cell in NEWCOMER["cells"]]
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    scenarios = root / "opskit" / "sandbox" / "scenarios"
    (scenarios / f"{NAME}-example.yaml").unlink()
    for name, text in NEWCOMER["migrations"].items():
        (scenarios.parent / "schema" / "migrations" / name).write_text(text)
    for name, scenario in NEWCOMER["scenarios"].items():
        (scenarios / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **scenario}, sort_keys=False))


def one(cell: dict[str, str], given: dict[str, Any]) -> dict[str, Any]:
    if "prose" in cell:
        return {"cell_type": "markdown", "id": cell["id"], "metadata": {}, "source": cell["prose"].strip()}
    if "code" in cell:
        bare = {"execution_count": None, "outputs": [], "metadata": {}}
        return {"cell_type": "code", "id": cell["id"], **bare, "source": cell["code"].strip()}
    return given[cell["id"]]


def test_the_templates_scenario_is_shipped_under_its_name() -> None:
    assert f"{runbooks.TEMPLATE}-example" in sandbox.scenarios()
    assert all((REPOSITORY / place).is_file() for place in PARTS.values())
