"""What the app does with AI: one model for a command, three at once for ensemble and blend, tasks in the background.

With the habits of the real one: only generate leaves a row for a request, and none where the hosting kills it; quotas
and counters know of successes alone; one provider's failure takes ensemble with it; a task that was killed before the
provider gave it an id stays queued for ever, and so does one, running, that ended there without being completed.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import psycopg
from psycopg.types.json import Jsonb

from opskit.sandbox import app_database, app_models, app_session, writing
from opskit.sandbox.app_call import JSON, Answer, Call, answer, limited, refusal
from opskit.sandbox.app_models import Killed, ModelError, Text

if TYPE_CHECKING:
    from opskit.sandbox.world import World

GENERATE, TASK = "/api/ai/generate", "/api/ai/background-task"
TOGETHER = ("/api/ai/ensemble", "/api/ai/blend")
REQUESTS_PER_HOUR = 50  # for each user, and for each address
BURST = 30  # generate: 20 a minute, and ten at once
TOGETHER_PER_MINUTE = 4  # three, and one at once
LONGEST = 50_000  # characters of a prompt
WORDS_A_MONTH = {"free": 25_000, "hobbyist": 100_000, "professional": 500_000, "studio": 2_000_000}
BLENDED = "blend(lib/ai/ensemble)"

PROFILE = """
    select p.subscription_tier, p.ai_words_used_this_month, l.ai_requests_per_month,
           p.subscription_status in ('active', 'trialing')
             and coalesce(p.subscription_current_period_end > %(now)s, true),
           (select count(*) from ai_usage u where u.user_id = p.id
              and u.created_at >= date_trunc('month', %(now)s at time zone 'utc') at time zone 'utc')
    from user_profiles p left join subscription_tier_limits l on l.tier = p.subscription_tier where p.id = %(user)s
"""
REQUEST = """
    insert into ai_requests (user_id, requested_model, selected_model, command, intent, prompt_preview, latency_ms,
      prompt_tokens, completion_tokens, status, error, routing_metadata, created_at)
    values (%(user)s, %(requested)s, %(model)s, %(command)s, %(command)s, %(preview)s, %(latency)s, %(prompt)s,
      %(completion)s, %(status)s, %(error)s, %(routing)s, %(now)s) returning id
"""
USE = """
    insert into ai_usage (user_id, request_id, model, words_generated, created_at) values (%s, %s, %s, %s, %s)
"""
COUNT = "update user_profiles set ai_words_used_this_month = ai_words_used_this_month + %s where id = %s"
QUEUE = """
    insert into ai_background_tasks (user_id, task_type, status, created_at, updated_at)
    values (%s, %s, 'queued', %s, %s) returning id
"""
FIND_TASK = "select status, provider_response_id from ai_background_tasks where id = %s and user_id = %s"
SET_TASK = """
    update ai_background_tasks set status = %s, provider_response_id = coalesce(%s, provider_response_id),
      result = %s, error = %s where id = %s
"""


def routed(call: Call, method: str, path: str, address: str) -> Answer | None:
    """The answer of an AI route; None: there is no such route."""
    if path not in (GENERATE, TASK, *TOGETHER):
        return None
    user = app_session.user(call)
    if user is None:
        return refusal(401, "Unauthorized", "UNAUTHORIZED")
    callers = (address,) if path == GENERATE else (address, user)
    for caller in callers:
        if refused := limited(call, "ai", caller, REQUESTS_PER_HOUR):
            return refused
    if method != "POST" and (path, method) != (TASK, "PATCH"):
        return refusal(405, "Method not allowed", "METHOD_NOT_ALLOWED")
    asked = _asked(call)
    try:
        return _answered(call, user, method, path, asked)
    except psycopg.Error:
        what = asked.get("command") if path == GENERATE else path.rpartition("/")[2]
        operation = f"background_task:{method.lower()}" if path == TASK else f"ai:{what}"
        call.log("error", operation, "Database error", userId=user)
        return refusal(500, "Something went wrong", "INTERNAL_ERROR")
    except Killed:  # and whatever it printed is lost with it
        call.lines.clear()
        text = "An error occurred with your deployment\n\nFUNCTION_INVOCATION_TIMEOUT\n"
        return Answer(504, text.encode(), {"content-type": "text/plain"})


def _answered(call: Call, user: str, method: str, path: str, asked: JSON) -> Answer:
    if path == GENERATE:
        return _generate(call, user, asked)
    if path in TOGETHER:
        return _together(call, user, asked, path.rpartition("/")[2])
    return _start_task(call, user, asked) if method == "POST" else _poll_task(call, user, asked)


def _asked(call: Call) -> JSON:
    try:
        asked = json.loads(call.body or b"{}")
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}


# One model


def _generate(call: Call, user: str, asked: JSON) -> Answer:
    command, prompt = str(asked.get("command")), str(asked.get("prompt", ""))
    if command not in writing.MODELS:
        return refusal(400, "Invalid request", "VALIDATION_ERROR")
    if len(prompt) > LONGEST:
        return refusal(422, f"Prompt is longer than {LONGEST} characters", "PROMPT_TOO_LONG")
    if refused := limited(call, "generate", user, BURST, seconds=60):
        return refused
    tier, refused = _allowed(call, user, f"ai:{command}")
    if refused:
        return refused
    requested = str(asked.get("model") or "auto")
    model = requested if requested != "auto" else app_models.routed(call, command, tier)
    if tier == "free" and app_models.provider_of(model) == "openai":
        return refusal(403, "This model is not part of your plan", "MODEL_NOT_AVAILABLE")
    latency = call.world.rng.randint(900, 9000) + 1000 * call.deployment.behaviour["thinking_seconds"]
    if latency > 1000 * app_models.FUNCTION_SECONDS:
        raise Killed
    row: JSON = {"requested": requested, "model": model, "command": command, "preview": prompt[:200]}
    row |= {"user": user, "latency": latency, "routing": Jsonb({"reason": "intent"}), "now": call.world.clock.now()}
    try:
        text = app_models.write(call, model, prompt + _context(call))
    except ModelError as error:
        _keep(call, {**row, "status": "failed", "error": str(error), "prompt": None, "completion": None})
        call.log("error", f"ai:{command}", "AI generation failed", userId=user, model=model, error=str(error))
        return refusal(500, "AI generation failed", "AI_ERROR")
    tokens = {"prompt": text.prompt_tokens, "completion": text.completion_tokens}
    key = _keep(call, {**row, **tokens, "status": "succeeded", "error": None})
    _count(call, user, key, model, text)
    call.log("info", f"ai:{command}", "AI generation", userId=user, model=model, latencyMs=latency)
    return answer(200, {"content": text.words, "model": model})


def _context(call: Call) -> str:
    """What a build sends along with every prompt: nothing, or the whole manuscript."""
    return writing.manuscript(call.deployment.behaviour["sends_along"])


def _allowed(call: Call, user: str, operation: str) -> tuple[str, Answer | None]:
    """The user's tier, and why they may not ask."""
    with app_database.session(call.world) as connection:
        row = connection.execute(PROFILE, {"user": user, "now": call.world.clock.now()}).fetchone()
    if row is None:
        return "free", refusal(404, "Profile not found", "NOT_FOUND")
    tier, words, most, access, requests = row
    if not access:
        return tier, refusal(402, "Subscription required", "SUBSCRIPTION_REQUIRED")
    code = None
    if most is not None and requests >= most:
        code = "AI_REQUEST_LIMIT_EXCEEDED"
    elif words >= WORDS_A_MONTH[tier]:
        code = "AI_WORD_LIMIT_EXCEEDED"
    if code is None:
        return tier, None
    call.log("warning", operation, "Monthly AI limit reached", userId=user, code=code)
    return tier, refusal(429, "Monthly AI limit reached", code)


def _keep(call: Call, row: JSON) -> uuid.UUID | None:
    with app_database.session(call.world) as connection:
        found = connection.execute(REQUEST, row).fetchone()
    return found[0] if found else None


def _count(call: Call, user: str, request: uuid.UUID | None, model: str, text: Text) -> None:
    """Into the ledger and onto the counter: two statements, no transaction."""
    words = len(text.words.split())
    with app_database.session(call.world) as connection:
        connection.execute(USE, [user, request, model, words, call.world.clock.now()])
        connection.execute(COUNT, [words, user])


# Three models at once


def _together(call: Call, user: str, asked: JSON, name: str) -> Answer:
    if refused := limited(call, "together", user, TOGETHER_PER_MINUTE, seconds=60):
        return refused
    _, refused = _allowed(call, user, f"ai:{name}")
    if refused:
        return refused
    models, prompt = list(dict.fromkeys(writing.MODELS.values())), str(asked.get("prompt", ""))
    try:
        texts = {model: app_models.write(call, model, prompt) for model in models}  # all of them, or none
    except ModelError as error:
        call.log("error", f"ai:{name}", "Ensemble failed", userId=user, error=str(error))
        return refusal(500, "Ensemble failed", "AI_ERROR")
    if call.deployment.behaviour["blending_fails"]:
        message = "Cannot read properties of undefined (reading 'choices')"
        call.log("error", f"ai:{name}", "Ensemble failed", userId=user, error=message)
        call.world.sentry.capture("TypeError", message, BLENDED, call.world.clock.now())
        return refusal(500, "Ensemble failed", "AI_ERROR")
    for model, text in texts.items():
        _count(call, user, None, model, text)
    call.log("info", f"ai:{name}", "Ensemble", userId=user, models=models)
    return answer(200, {"results": [{"model": model, "content": text.words} for model, text in texts.items()]})


# Tasks in the background


def _start_task(call: Call, user: str, asked: JSON) -> Answer:
    kind = str(asked.get("taskType"))
    if kind not in writing.TASKS:
        return refusal(400, "Invalid request", "VALIDATION_ERROR")
    now = call.world.clock.now()
    with app_database.session(call.world) as connection:
        row = connection.execute(QUEUE, [user, kind, now, now]).fetchone()
    task = str(row[0]) if row else ""
    prompt = str(asked.get("prompt", ""))
    wanted = {"model": writing.BACKGROUND_MODEL, "background": True, "input": prompt}
    try:  # killed while it waits: the row stays as it is
        said = app_models.ask(call, "openai", "POST", app_models.RESPONSES, wanted)
    except ModelError as error:
        _set_task(call.world, task, "failed", error=str(error))
        call.log("error", "background_task:post", "Background task failed", userId=user, taskId=task, error=str(error))
        return refusal(500, "Background task failed", "AI_ERROR")
    _set_task(call.world, task, "running", response=said["id"])
    call.log("info", "background_task:post", "Background task started", userId=user, taskId=task)
    return answer(202, {"taskId": task, "status": "running"})


def _poll_task(call: Call, user: str, asked: JSON) -> Answer:
    """Ask the provider, and write down what it says; all but completed and failed is taken for running."""
    try:
        task = uuid.UUID(str(asked.get("taskId")))
    except ValueError:
        return refusal(400, "Invalid request", "VALIDATION_ERROR")
    with app_database.session(call.world) as connection:
        row = connection.execute(FIND_TASK, [task, user]).fetchone()
    if row is None:
        return refusal(404, "Task not found", "NOT_FOUND")
    status, response = row
    if status in ("succeeded", "failed") or response is None:
        return answer(200, {"taskId": str(task), "status": status})
    try:
        said = app_models.ask(call, "openai", "GET", f"{app_models.RESPONSES}/{response}")
    except ModelError as error:
        call.log("error", "background_task:patch", "Polling failed", userId=user, taskId=str(task), error=str(error))
        return refusal(500, "Polling failed", "AI_ERROR")
    status = {"completed": "succeeded", "failed": "failed"}.get(said["status"], "running")
    text = _output(said)
    if status == "succeeded":
        _count(call, user, None, said["model"], text)
    error_text = str((said.get("error") or {}).get("message")) if status == "failed" else None
    result = Jsonb({"summary": text.words}) if status == "succeeded" else None
    _set_task(call.world, str(task), status, result=result, error=error_text)
    call.log("info", "background_task:patch", "Background task polled", userId=user, taskId=str(task), status=status)
    return answer(200, {"taskId": str(task), "status": status})


def _output(said: JSON) -> Text:
    parts = [part for item in said.get("output") or [] for part in item.get("content") or []]
    usage = said.get("usage") or {}
    words = "".join(str(part.get("text", "")) for part in parts)
    return Text(words, usage.get("input_tokens", 0), usage.get("output_tokens", 0))


def _set_task(
    world: World, task: str, status: str, response: str | None = None, result: Jsonb | None = None,
    error: str | None = None,
) -> None:  # fmt: skip
    with app_database.session(world) as connection:
        connection.execute(SET_TASK, [status, response, result, error, task])
