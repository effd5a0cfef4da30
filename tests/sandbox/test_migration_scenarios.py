"""Every scenario of the migrations runbook: it breaks what it says, nothing else, and a right repair heals it.

They lie in `waiting` until the runbook is there; then they are shipped.
"""

from __future__ import annotations

import shlex
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from opskit import sandbox
from opskit.sandbox import Sandbox, migrations, scenario

RUNBOOK = "supabase-migration-procedures"
WAITING = {path.stem: str(path) for path in sorted((Path(__file__).parent / "waiting").glob("*.yaml"))}
SHIPPED = {name: name for name in sandbox.scenarios() if scenario.load(name).runbook == RUNBOOK}
FOUND = {**WAITING, **SHIPPED}  # name -> what it is loaded by
NAMES = sorted(FOUND)
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
    "healthy",
    "unknown",
}
SLUGS = "20251103090000"
FINISH = "alter table documents add column tagged_at timestamptz"
REPAIRS = {  # what a tool does, as the owner of the tables, after people have done their part
    "migrations-lock-timeout": ["push"],
    "migrations-healthy": ["push"],
    "migrations-constraint-against-data": ["push"],
    "migrations-history-and-constraint": ["push"],
    "migrations-partial-apply": [FINISH, "enter"],
    "migrations-history-mismatch": [
        "update supabase_migrations.schema_migrations set version = '20251105140000' where version = '20251103090000'"
    ],
    "migrations-invalid-index": [
        "drop index concurrently documents_recent",
        "create index concurrently documents_recent on documents (user_id, updated_at desc)",
    ],
    "migrations-rollback-needed": [
        "alter table document_snapshots rename column body to payload",
        "delete from supabase_migrations.schema_migrations where version = '20251103090000'",
    ],
}
ENDS = {"migrations-lock-timeout": "nightly-export", "migrations-long-backfill": "backfill-slugs"}


def connect(company: Sandbox) -> psycopg.Connection[Any]:
    place = yaml.safe_load(company.environment.read_text())["services"]["database"]
    command = shlex.split(place["change"]["secret"]["command"])
    password = subprocess.check_output(command, text=True)
    return psycopg.connect(place["address"], user=place["change"]["user"], password=password, autocommit=True)


def repair(company: Sandbox, name: str) -> None:
    company.by_hand()
    if name in ENDS:
        company.cut_sessions(ENDS[name])
    for step in REPAIRS.get(name, []):
        with closing(connect(company)) as connection:
            connection.execute(f"set role {migrations.OWNER}")
            if step == "push":
                migrations.push(connection, migrations.read(company.folder))
            elif step == "enter":
                connection.execute(migrations.ENTER, [SLUGS, "document_tags", [FINISH]])
            else:
                connection.execute(step.encode())


def test_every_mode_has_its_scenario() -> None:
    assert {cause for found in FOUND.values() for cause in scenario.load(found).causes} == CAUSES


@pytest.mark.parametrize("name", SAMPLED)
def test_it_breaks_what_it_says_and_a_right_repair_heals_it(company: Sandbox, name: str) -> None:
    told = company.break_with(FOUND[name])
    before = company.state()
    assert told["parameters"]["folder"] == str(migrations.place(company.folder))
    assert all(one["ok"] for one in company.healed()) == (name == "migrations-wrong-target")
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
