"""Doctor says which runbooks would fail tonight, and why; of a sandbox in which nothing is amiss, none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support import REPOSITORY, Opskit, data, everything

from opskit import doctor, runbooks
from opskit.linting import tonight
from opskit.sandbox import Sandbox


def told(opskit: Opskit, firm: Sandbox) -> dict[str, list[tuple[bool | None, str]]]:
    """What doctor says of each runbook."""
    found: dict[str, list[tuple[bool | None, str]]] = {}
    for one in data(opskit("doctor", "--environment", firm.name, "--json")):
        if one["what"].startswith("runbook "):
            found.setdefault(one["what"].removeprefix("runbook "), []).append((one["good"], one["said"]))
    return found


def amiss(firm: Sandbox, place: Path, *statements: str) -> None:
    """Change the sandbox's database behind everybody's back."""
    scenario = {"name": "amiss", "title": "Amiss", "runbook": "autosave-incidents", "causes": ["unknown"]}
    path = place / "amiss.yaml"
    path.write_text(yaml.safe_dump({**scenario, "sql": list(statements)}))
    firm.break_with(path)


def test_of_a_sandbox_in_which_nothing_is_amiss_every_runbook_would_work(opskit: Opskit, standing: Sandbox) -> None:
    found = told(opskit, standing)
    assert set(found) == {book.name for book in runbooks.catalogue(REPOSITORY)}
    assert {good for lines in found.values() for good, _ in lines} == {True}, found


def test_a_renamed_column_and_a_revoked_right_are_named_with_the_runbooks_that_need_them(
    opskit: Opskit, firm: Sandbox, tmp_path: Path
) -> None:
    amiss(
        firm,
        tmp_path,
        "alter table autosave_failures rename column failure_type to error_type",
        "revoke select on ai_requests from opskit_read",
        "revoke update on user_profiles from opskit_change",
        "alter table ai_background_tasks alter column created_at type text",
        "alter table documents rename column word_count to words",
    )
    found = told(opskit, firm)
    wrong = {name: [said for good, said in lines if good is False] for name, lines in found.items()}
    assert any("symptoms-failures:" in said and "failure_type" in said for said in wrong["autosave-incidents"])
    unread = "the read role may not select on ai_requests: symptoms-requests, "
    assert any(said.startswith(unread) and said.endswith(" more need it.") for said in wrong["ai-worker-failures"])
    tier = "the change role may not update user_profiles.subscription_tier: profiles.reconcile needs it."
    assert tier in wrong["stripe-webhook-replay"]
    assert "there is no documents.word_count: documents.restore needs it." in wrong["autosave-incidents"]
    assert any("services/tasks" in said and "text" in said for said in wrong["ai-worker-failures"])
    assert wrong["supabase-migration-procedures"] == []
    assert not any("ai_requests" in said for said in wrong["autosave-incidents"])


def test_what_may_be_read_in_part_only_and_a_role_that_is_no_member_are_named(
    opskit: Opskit, firm: Sandbox, tmp_path: Path
) -> None:
    amiss(
        firm,
        tmp_path,
        "revoke select on ai_requests from opskit_read",
        "grant select (id) on ai_requests to opskit_read",
        "revoke postgres from opskit_change",
        "revoke pg_signal_backend from opskit_change",
    )
    found = told(opskit, firm)
    parts = [said for good, said in found["ai-worker-failures"] if good is None]
    assert any(said.startswith("the read role may select some columns of ai_requests only") for said in parts)
    lacking = [said for good, said in found["supabase-migration-procedures"] if good is False]
    assert any(said.startswith("the change role is no member of postgres") for said in lacking), lacking
    assert any(said.startswith("the change role is no member of pg_signal_backend") for said in lacking), lacking


def test_a_value_that_was_renamed_there_is_named_with_the_statements_that_wait_for_it(
    opskit: Opskit, firm: Sandbox, tmp_path: Path
) -> None:
    amiss(
        firm,
        tmp_path,
        "alter table ai_background_tasks drop constraint ai_background_tasks_status_check, alter status drop default",
        "update ai_background_tasks set status = 'waiting' where status = 'queued'",
        "alter table ai_background_tasks add check (status = 'waiting' or status = 'running' or status = 'failed' "
        "or status = 'succeeded')",
        "create type outcome as enum ('succeeded', 'failed', 'timeout', 'rate_limited')",
        "alter table ai_requests alter status drop default, alter status type outcome using status::outcome",
        "alter type outcome rename value 'succeeded' to 'done'",
        # What forbids more than ours, or may hold and may not, is nobody's mistake.
        "alter table documents add check (status in ('complete', 'draft') or word_count >= 0)",
        "alter table documents add constraint fresh check (status = 'complete') not valid",
    )
    found = told(opskit, firm)
    wrong = {name: [said for good, said in lines if good is False] for name, lines in found.items()}
    tasks = "'queued' never holds: ai_background_tasks.status is one of failed, running, succeeded, waiting."
    assert f"services/tasks STUCK: {tasks}" in wrong["ai-worker-failures"]
    assert any('"succeeded"' in said for said in wrong["ai-worker-failures"])
    assert all("tasks" in said or "outcome" in said for said in wrong["ai-worker-failures"]), wrong
    assert {name for name, said in wrong.items() if said} == {"ai-worker-failures"}, wrong


@pytest.mark.deep
def test_what_a_role_would_silently_not_see_is_told_once_for_all_that_it_hits(
    opskit: Opskit, firm: Sandbox, tmp_path: Path
) -> None:
    roles = ("opskit_change", "opskit_read")
    try:
        hidden = [f"alter role {role} nobypassrls" for role in roles]
        amiss(firm, tmp_path, *hidden, "revoke pg_monitor from opskit_read")
        found = told(opskit, firm)
    finally:  # a role belongs to no database, and comes back with none
        seeing = [f"alter role {role} bypassrls" for role in roles]
        amiss(firm, tmp_path, *seeing, "grant pg_monitor to opskit_read")
    hides = "row-level security hides every row of "
    wrong = {name: [said for good, said in lines if good is False] for name, lines in found.items()}
    assert any(said.startswith(hides) and " documents " in said for said in wrong["autosave-incidents"]), wrong
    assert "the read role is no member of pg_monitor." in wrong["autosave-incidents"]
    assert not any("documents" in said or "pg_monitor" in said for said in wrong["stripe-webhook-replay"])
    for name in ("autosave-incidents", "ai-worker-failures", "stripe-webhook-replay"):
        read, change = (said for said in wrong[name] if "row-level security" in said)
        assert read.endswith(" more fail.")
        assert change.endswith(" from the change role, which lacks bypassrls.")


def test_what_cannot_be_reached_is_not_said_to_be_fine(standing: Sandbox) -> None:
    target, services = everything(standing.name)
    services.database.close()
    services.database._address = "postgresql://127.0.0.1:1/nowhere"
    found = list(tonight.tonight(runbooks.catalogue(REPOSITORY)[:1], target, services, services))
    assert {one.good for one in found} == {None}
    assert all(isinstance(one, doctor.Finding) for one in found)


def test_the_services_own_statements_are_among_those_that_are_asked() -> None:
    names = set(tonight.sent(runbooks.load("autosave-incidents", REPOSITORY)))
    assert {"services/documents SEARCH", "services/policies POLICIES"} <= names


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("update (title) on documents", ["the change role may not update documents.title."]),
        ("delete on projects", ["the change role may not delete on projects."]),
        ("update (nothing) on documents; select on documents", ["there is no documents.nothing."]),
        ("select on no_such_table", ["there is no table no_such_table."]),
        ("membership of pg_signal_backend", []),
        ("Webhook Endpoints: Write", []),
    ],
)
def test_a_declared_right_is_held_against_the_change_role(right: str, wrong: list[str], standing: Sandbox) -> None:
    target, services = everything(standing.name)
    found = tonight.Night(target, services, doctor_changing(standing))._may_change(right)
    assert [said for _, said in found] == wrong


def doctor_changing(firm: Sandbox) -> object:
    target, services = everything(firm.name)
    password = services.database._passwords["change"]
    return doctor.connect(doctor._as_changer(target), {"read": {"database": password}}, "opskit/test")
