"""Every scenario of the autosave runbook: it breaks what it says, nothing else, and a right repair heals it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from opskit import sandbox
from opskit.sandbox import Sandbox, scenario

NAMES = [name for name in sandbox.scenarios() if scenario.load(name).runbook == "autosave-incidents"]
SAMPLE = {  # the others, too, are drilled with their runbook
    "autosave-healthy",
    "autosave-network",
    "autosave-false-conflict",
    "autosave-snapshot-cap",
    "autosave-truncation",
    "autosave-silent-zero-row",
    "autosave-trigger-off",
    "autosave-lock",
}
CAUSES = {
    "network",
    "conflict",
    "false-conflict",
    "rls-denial",
    "silent-zero-row",
    "snapshot-cap",
    "broken-trigger",
    "lock",
    "truncation",
    "rate-limited",
    "stale-overwrite",
    "trigger-off",
    "healthy",
    "unknown",
}
# Nothing in these is to be put right by a tool: only their authors know which text is the right one.
HARMLESS = {"autosave-healthy", "autosave-busy", "autosave-conflict", "autosave-stale-overwrite"}

# What an engineer does about each cause, as opskit's own role.
FROM_SNAPSHOT = """
    update documents d set content = s.payload, word_count = s.words from (
      select distinct on (document_id) document_id, payload,
             (select count(*) from regexp_matches(regexp_replace(payload ->> 'html', '<[^>]*>', ' ', 'g'), '\\S+', 'g'))
               as words
      from document_snapshots where payload ->> 'html' <> '' order by document_id, created_at desc) s
    where s.document_id = d.id and d.id = any(%s::uuid[])
"""
PRUNE = """
    delete from document_snapshots where id in (
      select id from (select id, row_number() over (partition by document_id order by created_at desc) as age
                      from document_snapshots where user_id = any(%s::uuid[])) s where age > 10)
"""
BACKFILL = """
    insert into document_versions (document_id, user_id, version_number, title, content, word_count)
    select d.id, d.user_id, 1 + (select count(*) from document_versions v where v.document_id = d.id),
           d.title, d.content, d.word_count
    from documents d where d.id = any(%s::uuid[])
"""
REPAIRED = ("lost_documents", "unsaved_documents", "stuck_documents")
BLOCKERS = """
    select pg_cancel_backend(b), pg_terminate_backend(b) from pg_stat_activity a,
    unnest(pg_blocking_pids(a.pid)) b
"""


def role(company: Sandbox, access: str) -> psycopg.Connection[Any]:
    place = yaml.safe_load(company.environment.read_text())["services"]["database"]
    held = place[access]
    word = subprocess.check_output(shlex.split(held["secret"]["command"]), text=True)
    return psycopg.connect(place["address"], user=held["user"], password=word, autocommit=True)


def repair(company: Sandbox, told: dict[str, Any]) -> None:
    company.by_hand()
    groups = told["actors"]
    with role(company, "change") as connection:
        for cause in told["causes"]:
            if cause in ("truncation", "silent-zero-row", "broken-trigger"):
                (documents,) = (groups[one] for one in REPAIRED if one in groups)
                connection.execute(FROM_SNAPSHOT.encode(), [documents])
            elif cause == "snapshot-cap":
                connection.execute(PRUNE, [groups["full"]])
            elif cause == "trigger-off":
                connection.execute(BACKFILL, [groups["unversioned_documents"]])
            elif cause == "lock":
                connection.execute(BLOCKERS)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in SAMPLE else pytest.mark.deep) for n in NAMES])
def test_it_breaks_what_it_says_and_a_right_repair_heals_it(company: Sandbox, name: str) -> None:
    told = company.break_with(name)
    before = company.state()
    assert set(told["causes"]) <= CAUSES
    assert all(one["ok"] for one in company.healed()) == (name in HARMLESS)
    repair(company, told)
    assert [one for one in company.healed() if not one["ok"]] == []
    assert company.changes(before)["stray"] == []


@pytest.mark.deep
@pytest.mark.parametrize("name", NAMES)
def test_its_twin_withholds_evidence_and_changes_nothing_else(company: Sandbox, name: str) -> None:
    whole = company.break_with(name)
    twin = company.break_with(name, twin=True)
    assert twin["causes"] == ["unknown"]
    assert {k: len(v) for k, v in twin["actors"].items()} == {k: len(v) for k, v in whole["actors"].items()}


HIDDEN: list[tuple[str, str]] = [
    ("autosave-trigger-off", "select tgenabled from pg_trigger"),
    ("autosave-rls-denial", "select * from pg_policies"),
    ("autosave-silent-zero-row", "select * from pg_policy"),
    ("autosave-broken-trigger", "select prosrc from pg_proc"),
    ("autosave-snapshot-cap", "select * from subscription_tier_limits"),
    ("autosave-lock", "select pg_blocking_pids(pid) from pg_stat_activity"),
]


@pytest.mark.parametrize(("name", "query"), HIDDEN)
def test_what_decides_is_hidden_in_the_twin_and_there_again_once_healed(
    company: Sandbox, name: str, query: str
) -> None:
    company.break_with(name, twin=True)
    with role(company, "read") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(query.encode())
    company.heal()
    with role(company, "read") as connection:
        assert connection.execute(query.encode()).fetchone() is not None


LEFT = (
    "select tgname from pg_trigger where not tgisinternal and tgenabled <> 'O'",
    "select pid from pg_stat_activity where application_name = 'psql'",
    "select policyname from pg_policies where qual like '%workspace%'",
)


@pytest.mark.parametrize("name", ["autosave-lock", "autosave-trigger-off", "autosave-rls-denial"])
def test_a_healed_company_is_as_before(company: Sandbox, name: str) -> None:
    before = company.state()
    company.break_with(name)
    company.heal()
    assert company.state() == before
    with role(company, "read") as connection:
        for query in LEFT:
            assert connection.execute(query.encode()).fetchall() == []


def test_a_lock_lives_on_in_the_present_until_its_session_ends(company: Sandbox) -> None:
    chain = (
        "select a.pid, pg_blocking_pids(a.pid) from pg_stat_activity a where cardinality(pg_blocking_pids(a.pid)) > 0"
    )
    told = company.break_with("autosave-lock")
    with role(company, "change") as connection:
        found = connection.execute(chain).fetchall()
        assert len(found) == len(told["actors"]["waiting"])
        (holder,) = {pid for _, pids in found for pid in pids}
        state = "select state, usename, application_name from pg_stat_activity where pid = %s"
        assert connection.execute(state, [holder]).fetchone() == ("idle in transaction", "maintenance", "psql")
        connection.execute("select pg_cancel_backend(%s)", [holder])
        assert connection.execute(chain).fetchall(), "whoever idles cannot be canceled"
        assert connection.execute("select pg_terminate_backend(%s, 5000)", [holder]).fetchone() == (True,)
    assert [one["ok"] for one in company.healed()] == [True]


def test_a_busy_holder_lets_go_when_it_is_canceled(company: Sandbox) -> None:
    company.break_with("autosave-lock-running")
    with role(company, "change") as connection:
        connection.execute(
            "select pg_cancel_backend(pid) from pg_stat_activity where application_name = 'recount-words'"
        )
    assert [one["ok"] for one in company.healed()] == [True]


def test_new_rows_are_allowed_or_stray_by_what_they_belong_to(company: Sandbox) -> None:
    told = company.break_with("autosave-truncation")
    before = company.state()
    lost, other = told["actors"]["lost_documents"][0], told["actors"]["authors_documents"][0]
    with role(company, "change") as connection:
        connection.execute(BACKFILL, [[lost, other]])
    found = company.changes(before)
    assert [one["fields"]["document_id"]["after"] for one in found["allowed"]] == [lost]
    assert [one["fields"]["document_id"]["after"] for one in found["stray"]] == [other]


def test_parameters_name_a_writer_and_a_document(company: Sandbox, tmp_path: Path) -> None:
    told = yaml.safe_load((sandbox.SCENARIOS / "autosave-conflict.yaml").read_text())
    told["parameters"] = {"document": "${document.torn}", "user": "${user.torn}"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(told))
    found = company.break_with(tmp_path / "mine.yaml")
    assert found["parameters"] == {
        "document": found["actors"]["torn_documents"][0],
        "user": found["actors"]["torn"][0],
    }
    told["parameters"] = {"document": "${document.nobody}"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(sandbox.SandboxError, match="nobody is known by the name"):
        company.break_with(tmp_path / "mine.yaml")
