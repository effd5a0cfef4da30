"""Looking with the autosave runbook where a look cannot tell: it says so, and calls nothing healthy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import answers, everything, stronger

from opskit import plan
from opskit.commands.runs import look
from opskit.outcome import Outcome
from opskit.sandbox import Sandbox

THROUGH_PROJECTS = """
    alter policy own_select on documents using (user_id = (select auth.uid()) or exists (
      select from projects p where p.id = project_id and p.user_id = (select auth.uid())))
"""
BROUGHT_BACK = """
    update documents d set content = (
      select payload from document_snapshots s where s.document_id = d.id order by length(payload::text) desc limit 1)
    where d.id = any(%(ids)s::uuid[])
"""
MANY_LOSSES = """
    with new as (
      insert into documents (project_id, user_id, title, content, updated_at)
      select project_id, user_id, 'One of many', '{"html": "<p>an old text</p>"}', now() - interval '1 hour'
      from (select * from documents limit 1) d, generate_series(1, 520) returning id, user_id)
    insert into document_snapshots (document_id, user_id, autosave_hash, payload, created_at)
    select id, user_id, '', '{"html": "<p>a newer text</p>"}', now() - interval '2 minutes' from new
"""


def again(firm: Sandbox, **given: Any) -> tuple[Outcome, dict[str, dict[str, Any]], list[str]]:
    """The outcome, what the checks answered, the names of the actions planned."""
    folder, outcome = look("autosave-incidents", {"environment": firm.name, **given})
    return outcome, answers(folder), [action.name for action in plan.load(folder / "plan.json")]


def test_a_policy_that_reads_another_table_is_left_open(firm: Sandbox, tmp_path: Path) -> None:
    firm.break_with(stronger("autosave-busy", tmp_path, sql=[THROUGH_PROJECTS]))
    outcome, found, planned = again(firm)
    assert [found[name]["answer"] for name in ("owners-let-in", "strangers-kept-out")] == ["unknown", "unknown"]
    assert (outcome, planned) == (Outcome.UNKNOWN, [])


@pytest.mark.deep
def test_one_document_is_looked_at_and_nothing_is_said_of_others(firm: Sandbox) -> None:
    _, found, planned = again(firm, document="00000000-0000-4000-8000-000000000000")
    assert (found["document-there"]["answer"], planned) == ("unknown", [])
    told = firm.break_with("autosave-truncation")
    one, *others = told["actors"]["lost_documents"]
    outcome, found, planned = again(firm, document=one)
    assert (outcome, planned.count("documents.restore")) == (Outcome.PLANNED, 1)
    assert found["every-loss-in-hand"]["answer"] == "unknown"
    assert found["text-kept-whole"]["answer"] == "no"
    assert "on 0 documents that show no loss" in found["text-kept-whole"]["because"]
    with everything(firm.name)[1].database.transaction() as cursor:
        cursor.execute(BROUGHT_BACK, {"ids": [one]})
    _, found, planned = again(firm, document=one)
    assert found["nothing-lost"]["answer"] == "unknown"
    assert "others were not asked about" in found["nothing-lost"]["because"]
    assert "documents.restore" not in planned
    assert others


@pytest.mark.deep
def test_a_sanitiser_that_failed_is_not_forgotten_because_a_person_put_the_text_back(firm: Sandbox) -> None:
    told = firm.break_with("autosave-truncation")
    ids = [*told["actors"]["lost_documents"], *told["actors"]["at_work_documents"]]
    with everything(firm.name)[1].database.transaction() as cursor:
        cursor.execute(BROUGHT_BACK, {"ids": ids})
    _, found, planned = again(firm)
    assert found["text-kept-whole"]["answer"] == "unknown"
    assert f"on {len(ids)} documents that show no loss" in found["text-kept-whole"]["because"]
    assert "documents.restore" not in planned


@pytest.mark.deep
def test_losses_beyond_what_one_run_deals_with_are_counted(firm: Sandbox, tmp_path: Path) -> None:
    firm.break_with(stronger("autosave-busy", tmp_path, sql=["set session_replication_role = replica", MANY_LOSSES]))
    outcome, found, _ = again(firm)
    assert found["every-loss-in-hand"]["answer"] == "unknown"
    assert found["every-loss-in-hand"]["because"].startswith("20 documents get no plan")
    assert outcome is not Outcome.HEALTHY
