"""How the app asks AI, habits and all, against a real database; each trap for itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.rows import dict_row

from opskit.sandbox import app, app_ai, app_session, happenings, providers, vercel, writing
from opskit.sandbox.app_call import Answer
from opskit.sandbox.postgres import Postgres
from opskit.sandbox.sentry import SentryStore
from opskit.sandbox.stripe import StripeStore
from opskit.sandbox.vercel import VercelStore
from opskit.sandbox.world import Fault, World

USER = "7d1f4a9e-0000-4000-8000-000000000001"
FREE = "7d1f4a9e-0000-4000-8000-000000000002"
ROWS = f"""
    insert into auth.users (id, email) values ('{USER}', 'ada@example.com'), ('{FREE}', 'eve@example.com');
    update user_profiles set subscription_tier = 'hobbyist', ai_words_reset_date = now() - interval '9 days'
    where id = '{USER}'
"""
GPT, CLAUDE, DEEPSEEK = "gpt-5-chat-latest", "claude-sonnet-4-5-20250929", "deepseek-chat"


@pytest.fixture
def world(database: Postgres) -> World:
    world = World(1, database, addresses={"app": "http://127.0.0.1:1"})
    world.secrets.update(webhook="whsec_x", jwt="j" * 32)
    world.stripe, world.vercel, world.sentry = StripeStore(world), VercelStore(world), SentryStore(world)
    vercel.populate(world)
    world.providers = providers.found(world)
    return world


def send(
    world: World, path: str, body: dict[str, Any], user: str = USER, method: str = "POST", address: str = "198.51.100.7"
) -> Answer:
    headers = {"Authorization": f"Bearer {app_session.token(world, user)}"}
    return app.receive(world, method, path, headers, json.dumps(body).encode(), address)


def ask(world: World, command: str = "rewrite", user: str = USER, **asked: Any) -> Answer:
    return send(world, app_ai.GENERATE, {"command": command, "prompt": "Once upon a time", **asked}, user)


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


def rows(world: World, query: str) -> list[dict[str, Any]]:
    with world.database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode()).fetchall()


def last_log(world: World) -> vercel.RequestLog:
    return world.vercel.requests[-1]


def operation(world: World) -> str:
    return str(json.loads(last_log(world).lines[-1].message)["context"]["operation"])


@pytest.mark.parametrize(("command", "model"), writing.MODELS.items())
def test_the_router_picks_a_model_for_each_command(world: World, command: str, model: str) -> None:
    assert json.loads(ask(world, command).body)["model"] == model
    (row,) = rows(world, "select * from ai_requests")
    assert (row["selected_model"], row["status"], row["error"]) == (model, "succeeded", None)
    assert operation(world) == f"ai:{command}"


def test_success_is_counted_in_ledger_and_counter_alike(world: World) -> None:
    words = len(json.loads(ask(world).body)["content"].split())
    assert rows(world, "select words_generated from ai_usage") == [{"words_generated": words}]
    counter = rows(world, f"select ai_words_used_this_month as n from user_profiles where id = '{USER}'")
    assert counter == [{"n": words}]


REFUSALS: list[tuple[str, str, str]] = [
    ("openai", "funded", "429 You exceeded your current quota, please check your plan and billing details."),
    ("openai", "keys", "401 Incorrect API key provided: "),
    ("anthropic", "keys", '401 {"type": "error", "error": {"type": "authentication_error"'),
    ("anthropic", "funded", '402 {"type": "error", "error": {"type": "billing_error"'),
    ("deepseek", "funded", "402 Insufficient Balance"),
    ("deepseek", "keys", "401 Authentication Fails"),
    ("openai", "retired", f"404 The model `{GPT}` does not exist"),
    ("anthropic", "retired", '404 {"type": "error", "error": {"type": "not_found_error"'),
]
COMMANDS = {"openai": ("rewrite", GPT), "anthropic": ("continue", CLAUDE), "deepseek": ("shorten", DEEPSEEK)}


@pytest.mark.parametrize(("name", "what", "error"), REFUSALS)
def test_a_refusal_is_kept_as_the_library_prints_it_and_costs_no_quota(
    world: World, name: str, what: str, error: str
) -> None:
    command, model = COMMANDS[name]
    wrong = {"funded": False, "keys": set(), "retired": {model}}
    setattr(world.providers[name], what, wrong[what])
    assert code(ask(world, command)) == (500, "AI_ERROR")
    (row,) = rows(world, "select status, error, completion_tokens from ai_requests")
    assert row["status"] == "failed"
    assert row["error"].startswith(error)
    assert rows(world, "select * from ai_usage") == []


def test_a_connection_that_is_cut_has_no_status(world: World) -> None:
    world.faults.add(Fault("openai", reset=True))
    ask(world)
    assert [row["error"] for row in rows(world, "select error from ai_requests")] == ["Connection error."]


def test_pace_is_refused_and_told_by_its_words(world: World) -> None:
    world.providers["anthropic"].per_minute = 1
    ask(world, "continue")
    ask(world, "continue")
    (row,) = rows(world, "select error from ai_requests where status = 'failed'")
    assert row["error"].startswith("429")
    assert "rate_limit_error" in row["error"]


def test_a_killed_function_leaves_a_504_and_no_row(world: World) -> None:
    world.faults.add(Fault("openai", delay=75))
    assert ask(world).status == 504
    assert (last_log(world).status, last_log(world).lines) == (504, ())
    assert rows(world, "select * from ai_requests") == []


def test_models_that_think_too_long_are_killed_too(world: World) -> None:
    world.vercel.live().behaviour["thinking_seconds"] = 60
    assert ask(world).status == 504
    assert rows(world, "select * from ai_requests") == []


def test_a_long_prompt_is_refused_by_the_app_and_one_made_long_by_the_provider(world: World) -> None:
    assert code(ask(world, prompt="x" * 50_001)) == (422, "PROMPT_TOO_LONG")
    assert rows(world, "select * from ai_requests") == []
    world.vercel.live().behaviour["sends_along"] = 700_000
    ask(world)
    (row,) = rows(world, "select error from ai_requests")
    assert row["error"].startswith("400 This model's maximum context length is 128000 tokens")


def test_a_routing_variable_leads_elsewhere_once_it_is_built_and_not_whoever_insists(world: World) -> None:
    world.vercel.set_variable("AI_MODEL_ROUTES", f"{GPT}={DEEPSEEK}")
    assert json.loads(ask(world).body)["model"] == GPT, "what runs does not see it"
    world.vercel.redeploy(world.vercel.production)
    assert json.loads(ask(world).body)["model"] == DEEPSEEK
    assert json.loads(ask(world, model=GPT).body)["model"] == GPT


def test_free_users_may_not_use_gpt(world: World) -> None:
    assert json.loads(ask(world, user=FREE).body)["model"] == DEEPSEEK
    assert code(ask(world, user=FREE, model=GPT)) == (403, "MODEL_NOT_AVAILABLE")


QUOTAS = [
    (f"update user_profiles set ai_words_used_this_month = 100000 where id = '{USER}'", "AI_WORD_LIMIT_EXCEEDED"),
    ("update subscription_tier_limits set ai_requests_per_month = 0", "AI_REQUEST_LIMIT_EXCEEDED"),
]


@pytest.mark.parametrize(("spent", "expected"), QUOTAS)
def test_our_own_quotas_have_codes_of_their_own(world: World, spent: str, expected: str) -> None:
    with world.database.connect() as connection:
        connection.execute(spent.encode())
    assert code(ask(world)) == (429, expected)
    assert rows(world, "select * from ai_requests") == []
    assert operation(world) == "ai:rewrite"


def test_our_own_pace_has_a_code_and_ends_with_the_instance(world: World) -> None:
    answers = [ask(world).status for _ in range(app_ai.BURST)]
    assert answers == [200] * app_ai.BURST
    assert code(ask(world)) == (429, "RATE_LIMIT_EXCEEDED")
    assert operation(world) == "rate_limit:exceeded"
    world.vercel.redeploy(world.vercel.production)
    assert ask(world).status == 200


def test_who_does_not_pay_is_told_so(world: World) -> None:
    with world.database.connect() as connection:
        connection.execute("update user_profiles set subscription_status = 'past_due'")
    assert code(ask(world)) == (402, "SUBSCRIPTION_REQUIRED")


def test_without_a_session_nothing_is_asked(world: World) -> None:
    said = app.receive(world, "POST", app_ai.GENERATE, {}, b"{}", "198.51.100.7")
    assert code(said) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("path", app_ai.TOGETHER)
def test_one_provider_takes_ensemble_with_it(world: World, path: str) -> None:
    assert send(world, path, {"prompt": "Hello"}).status == 200
    world.faults.add(Fault("deepseek", status=503))
    assert send(world, path, {"prompt": "Hello"}).status == 500
    assert operation(world) == f"ai:{path.rpartition('/')[2]}"
    assert rows(world, "select * from ai_requests") == [], "only generate leaves a row"
    assert ask(world).status == 200


def start(world: World) -> tuple[int, dict[str, Any]]:
    said = send(world, app_ai.TASK, {"taskType": "manuscript_analysis", "prompt": "All of it"})
    (row,) = rows(world, "select id::text, status, provider_response_id as response, error from ai_background_tasks")
    return said.status, row


def poll(world: World, task: str) -> int:
    return send(world, app_ai.TASK, {"taskId": task}, method="PATCH").status


def test_a_task_is_started_and_fetched_once_it_is_done(world: World) -> None:
    status, task = start(world)
    assert (status, task["status"]) == (202, "running")
    assert poll(world, task["id"]) == 200
    assert rows(world, "select status from ai_background_tasks") == [{"status": "running"}]
    world.clock.play(datetime.now(UTC) + timedelta(seconds=31))
    assert poll(world, task["id"]) == 200
    (row,) = rows(world, "select status, result from ai_background_tasks")
    assert row["status"] == "succeeded"
    assert row["result"]["summary"]
    assert len(rows(world, "select * from ai_usage")) == 1
    assert operation(world) == "background_task:patch"


def test_a_task_that_is_killed_while_it_is_sent_stays_queued_and_no_polling_ends_it(world: World) -> None:
    world.faults.add(Fault("openai", "/v1/responses", delay=75))
    status, task = start(world)
    assert (status, task["status"], task["response"]) == (504, "queued", None)
    assert poll(world, task["id"]) == 200
    assert rows(world, "select status from ai_background_tasks") == [{"status": "queued"}]


@pytest.mark.parametrize("outcome", ["incomplete", "cancelled"])
def test_what_ended_otherwise_runs_for_ever(world: World, outcome: str) -> None:
    _, task = start(world)
    world.providers["openai"].responses[task["response"]].outcome = outcome
    world.clock.play(datetime.now(UTC) + timedelta(minutes=2))
    assert poll(world, task["id"]) == 200
    assert rows(world, "select status from ai_background_tasks") == [{"status": "running"}]


def test_a_result_is_gone_after_ten_minutes_and_the_task_runs_on(world: World) -> None:
    _, task = start(world)
    world.clock.play(datetime.now(UTC) + timedelta(minutes=11))
    assert poll(world, task["id"]) == 500
    assert rows(world, "select status from ai_background_tasks") == [{"status": "running"}]


def test_a_refused_task_has_failed(world: World) -> None:
    world.providers["openai"].funded = False
    status, task = start(world)
    assert (status, task["status"]) == (500, "failed")
    assert task["error"].startswith("429 You exceeded")
    assert operation(world) == "background_task:post"


def test_without_a_database_every_route_says_so(world: World) -> None:
    world.database.stop()
    assert code(ask(world)) == (500, "INTERNAL_ERROR")
    assert operation(world) == "ai:rewrite"


# Happenings


def play(world: World, *told: dict[str, Any]) -> None:
    for one in told:
        happenings.schedule(world, one, world.rng)
    world.play_past()


@pytest.mark.parametrize(
    ("became", "minutes", "status", "said"),
    [
        ("finished", 5, "running", "completed"),
        ("incomplete", 5, "running", "incomplete"),
        ("cancelled", 5, "running", "cancelled"),
        ("finished", 30, "running", None),  # what ends is kept for ten minutes
        ("running", 30, "running", "in_progress"),
        ("expired", 30, "running", None),
        ("fetched", 30, "succeeded", None),
        ("killed", 30, "queued", None),
    ],
)
def test_what_became_of_a_task(world: World, became: str, minutes: int, status: str, said: str | None) -> None:
    play(world, {"what": "start_task", "became": became, "when": f"{minutes} minutes ago"})
    (row,) = rows(world, "select id::text, status, provider_response_id as response from ai_background_tasks")
    assert (row["status"], world.actors["start_task_tasks"]) == (status, [row["id"]])
    assert (row["response"] is None) == (became == "killed")
    if row["response"]:
        key = {"Authorization": f"Bearer {world.secrets['openai_read']}"}
        found = providers.receive(world, "openai", "GET", f"/v1/responses/{row['response']}", key, b"")
        assert json.loads(found.body).get("status") == said
        assert (found.status == 404) == (said is None)


def test_a_lost_count_leaves_the_ledger(world: World) -> None:
    play(world, {"what": "lose_count", "words": 700, "when": "1 minute ago"})
    assert rows(world, f"select ai_words_used_this_month as n from user_profiles where id = '{USER}'") == [{"n": 700}]
    assert rows(world, "select * from ai_usage") == []


def test_a_revoked_key_is_refused_until_a_new_one_is_built(world: World) -> None:
    play(world, {"what": "set_provider", "provider": "anthropic", "revoke_key": True, "new_key": True})
    assert code(ask(world, "continue")) == (500, "AI_ERROR")
    world.vercel.set_variable("ANTHROPIC_API_KEY", world.secrets["anthropic_key"])
    world.vercel.redeploy(world.vercel.production)
    assert ask(world, "continue").status == 200


def test_more_users_than_there_are_is_an_error(world: World) -> None:
    with pytest.raises(ValueError, match="2 users are wanted, and only 1 may ask"):
        happenings.schedule(world, {"what": "ask_ai", "count": 2}, world.rng)
