"""Every scenario of the AI runbook: it breaks what it says, nothing else, and a right repair heals it."""

from __future__ import annotations

import json
import shlex
import subprocess
import urllib.request
from typing import Any

import psycopg
import pytest
import yaml

from opskit import sandbox
from opskit.sandbox import Sandbox, scenario

NAMES = [name for name in sandbox.scenarios() if scenario.load(name).runbook == "ai-worker-failures"]
SAMPLE = {  # the others, too, are drilled with their runbook
    "ai-openai-outage",
    "ai-provider-rate-limit",
    "ai-quota-wrong",
    "ai-timeout",
    "ai-ensemble-only",
    "ai-invalid-key",
    "ai-orphaned-task",
    "ai-long-running-task",
}
CAUSES = {
    "openai-outage",
    "anthropic-outage",
    "deepseek-outage",
    "provider-rate-limit",
    "quota-exhausted",
    "context-limit",
    "ensemble-only",
    "timeout",
    "invalid-key",
    "no-access",
    "invalid-model",
    "orphaned-task",
    "long-running-task",
    "quota-wrong",
    "quality-drop",
    "healthy",
    "unknown",
}
HARMLESS = {"ai-healthy", "ai-quality-drop"}  # nothing in them is to be put right by a tool

# What an engineer does about tasks and counters, as opskit's own role.
FAIL = "update ai_background_tasks set status = 'failed', error = %s where id = any(%s::uuid[])"
FINISH = """
    update ai_background_tasks set status = 'succeeded', result = '{"summary": "Well told."}'
    where id = any(%s::uuid[])
"""
RECOUNT = """
    update user_profiles p set ai_words_used_this_month = (
      select coalesce(sum(words_generated), 0) from ai_usage u where u.user_id = p.id
        and u.created_at >= coalesce(p.subscription_current_period_start, p.ai_words_reset_date))
    where id = any(%s::uuid[])
"""

# What a scenario leaves behind: failed requests of each model, by the beginning of the error.
ERRORS: dict[str, tuple[str, str]] = {
    "ai-openai-outage": ("gpt-5-chat-latest", "503"),
    "ai-anthropic-outage": ("claude-sonnet-4-5-20250929", "529"),
    "ai-deepseek-outage": ("deepseek-chat", "503"),
    "ai-provider-rate-limit": ("claude-sonnet-4-5-20250929", "429"),
    "ai-quota-exhausted": ("gpt-5-chat-latest", "429"),
    "ai-quota-looking-like-pace": ("claude-sonnet-4-5-20250929", "429"),
    "ai-context-limit": ("gpt-5-chat-latest", "400"),
    "ai-no-access": ("gpt-5-chat-latest", "403"),
    "ai-invalid-key": ("claude-sonnet-4-5-20250929", "401"),
    "ai-invalid-model": ("claude-sonnet-4.5", "404"),
}
FAILED = """
    select count(*), count(distinct user_id) from ai_requests
    where status = 'failed' and created_at > now() - interval '1 hour' and selected_model = %s and left(error, 3) = %s
"""


def services(company: Sandbox) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(company.environment.read_text())["services"]
    return found


def secret(held: dict[str, Any]) -> str:
    return subprocess.check_output(shlex.split(held["secret"]["command"]), text=True)


def role(company: Sandbox, access: str) -> psycopg.Connection[Any]:
    place = services(company)["database"]
    held = place[access]
    return psycopg.connect(place["address"], user=held["user"], password=secret(held), autocommit=True)


def hosting(company: Sandbox, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    place = services(company)["vercel"]
    headers = {"Authorization": f"Bearer {secret(place['change'])}", "Content-Type": "application/json"}
    sent = None if body is None else json.dumps(body).encode()
    address = place["address"] + path.replace("{project}", place["project"])
    with urllib.request.urlopen(urllib.request.Request(address, sent, headers, method=method)) as answer:  # noqa: S310
        return json.load(answer)


def reroute(company: Sandbox, to: str) -> None:
    found = hosting(company, "GET", "/v10/projects/{project}/env")["envs"]
    key = next(one["id"] for one in found if one["key"] == "AI_MODEL_ROUTES")
    hosting(company, "PATCH", f"/v9/projects/{{project}}/env/{key}", {"value": f"gpt-5-chat-latest={to}"})


def repair(company: Sandbox, told: dict[str, Any]) -> None:
    company.by_hand()
    groups, causes = told["actors"], told["causes"]
    if causes == ["openai-outage"]:
        reroute(company, "deepseek-chat")
    if causes == ["openai-outage", "quota-exhausted"]:
        reroute(company, "claude-sonnet-4-5-20250929")
    with role(company, "change") as connection:
        if "orphaned-task" in causes:
            connection.execute(FAIL, ["orphaned", groups["orphans_tasks"]])
        if "long-running-task" in causes:
            connection.execute(
                FINISH, [[task for one in ("finished", "incomplete", "watched") for task in groups[f"{one}_tasks"]]]
            )
            for how in ("expired", "cancelled"):
                connection.execute(FAIL, [how, groups[f"{how}_tasks"]])
        if "quota-wrong" in causes:
            connection.execute(RECOUNT, [groups["refused"] + groups["uncounted"]])


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in SAMPLE else pytest.mark.deep) for n in NAMES])
def test_it_breaks_what_it_says_and_a_right_repair_heals_it(company: Sandbox, name: str) -> None:
    told = company.break_with(name)
    before = company.state()
    assert set(told["causes"]) <= CAUSES
    assert all(one["ok"] for one in company.healed()) == (name in HARMLESS)
    if name in ERRORS:
        with role(company, "read") as connection:
            requests, users = connection.execute(FAILED, ERRORS[name]).fetchone() or (0, 0)
        assert requests >= 5 and users >= 2, "too few to be told from noise"
    repair(company, told)
    assert [one for one in company.healed() if not one["ok"]] == []
    if before["database"] is not None:
        assert company.changes(before)["stray"] == []


@pytest.mark.deep
@pytest.mark.parametrize("name", NAMES)
def test_its_twin_withholds_evidence_and_changes_nothing_else(company: Sandbox, name: str) -> None:
    whole = company.break_with(name)
    twin = company.break_with(name, twin=True)
    assert twin["causes"] == ["unknown"]
    assert {k: len(v) for k, v in twin["actors"].items()} == {k: len(v) for k, v in whole["actors"].items()}


def test_all_is_well_in_the_healthy_one(company: Sandbox) -> None:
    """Every model has answered within the hour, nothing is stuck, every counter agrees with its ledger."""
    company.break_with("ai-healthy")
    with role(company, "read") as connection:
        models = connection.execute(
            "select selected_model, count(*) filter (where status = 'succeeded'), count(*) from ai_requests "
            "where created_at > now() - interval '1 hour' group by 1"
        ).fetchall()
        stuck = "select count(*) from ai_background_tasks where status in ('queued', 'running')"
        wrong = """
            select count(*) from user_profiles p where ai_words_used_this_month <> (
              select coalesce(sum(words_generated), 0) from ai_usage u where u.user_id = p.id and u.created_at >=
                case when p.subscription_status in ('active', 'trialing')
                     then coalesce(p.subscription_current_period_start, p.ai_words_reset_date)
                     else p.ai_words_reset_date end)
        """
        assert {model for model, *_ in models} == {"gpt-5-chat-latest", "claude-sonnet-4-5-20250929", "deepseek-chat"}
        assert all(succeeded >= 5 and total - succeeded < 5 for _, succeeded, total in models)
        assert connection.execute(stuck).fetchone() == (0,)
        assert connection.execute(wrong.encode()).fetchone() == (0,)
