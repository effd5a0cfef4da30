"""Every scenario of the migrations runbook: it breaks what it says, nothing else, and a right repair heals it.

They lie in `waiting` until the runbook is there; then they are shipped.
"""

from __future__ import annotations

import pytest
from migration_company import FOUND, NAMES, repair

from opskit.sandbox import Sandbox, migrations, scenario

TWINS = [name for name in NAMES if scenario.load(FOUND[name]).twin]
SAMPLED = [pytest.param(name, marks=[pytest.mark.deep] if number % 3 else []) for number, name in enumerate(NAMES)]
CAUSES = {
    "lock-timeout",
    "partial-apply",
    "history-mismatch",
    "drift",
    "constraint-against-data",
    "invalid-index",
    "rls-regression",
    "long-backfill",
    "rollback-needed",
    "wrong-target",
    "file-fails",
    "healthy",
    "unknown",
}

AVERTED = {"migrations-wrong-target", "migrations-file-fails"}  # nothing has happened yet, and nothing must


def test_every_mode_has_its_scenario() -> None:
    assert {cause for found in FOUND.values() for cause in scenario.load(found).causes} == CAUSES


@pytest.mark.parametrize("name", SAMPLED)
def test_it_breaks_what_it_says_and_a_right_repair_heals_it(company: Sandbox, name: str) -> None:
    told = company.break_with(FOUND[name])
    before = company.state()
    assert told["parameters"]["folder"] == str(migrations.place(company.folder))
    assert all(one["ok"] for one in company.healed()) == (name in AVERTED)
    repair(company, name)
    assert [one for one in company.healed() if not one["ok"]] == []
    assert company.changes(before)["stray"] == []


@pytest.mark.parametrize("name", TWINS)
def test_its_twin_withholds_evidence_and_changes_nothing_else(company: Sandbox, name: str) -> None:
    twin = company.break_with(FOUND[name], twin=True)
    assert (twin["causes"], twin["twin"]) == (
        ["wrong-target" if name == "migrations-wrong-target" else "unknown"],
        True,
    )


@pytest.mark.parametrize("name", [name for name in NAMES if "partial" in name or "rls" in name])
def test_a_healed_company_is_as_before(company: Sandbox, name: str) -> None:
    before = company.state()
    company.break_with(FOUND[name])
    company.heal()
    assert company.state() == before
