"""The company's app, as far as a runbook can see it: health check, Stripe's webhooks, saving documents, and AI.

`receive` is the whole app as a function: called directly while the past is played, and by `application` over HTTP. It
has the real handler's habits, the bad ones included: no idempotency, no ordering guard, success when no row matched.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from opskit.sandbox import app_ai, app_autosave, app_billing, app_database
from opskit.sandbox.app_call import JSON, Answer, Call, answer, error, limited, printed
from opskit.sandbox.vercel import LogLine

if TYPE_CHECKING:
    from opskit.sandbox.world import World

WEBHOOK = "/api/webhooks/stripe"
AUTOSAVE = re.compile(r"/api/documents/(?P<document>[^/]+)/autosave")
TELEMETRY = "/api/telemetry/autosave"
TOLERANCE = 300  # seconds that a signature lives, as in Stripe's own library
REQUESTS_PER_HOUR = 1000  # for each address
PATIENCE = 20.0  # seconds that whoever calls waits for an answer
HANDLER_FAILED = "Webhook handler failed"


class Refusal(Exception):
    """The webhook is answered with this error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def processed(event: JSON, moment: datetime) -> LogLine:
    """What the app prints when it has processed an event."""
    message, kind = "Stripe webhook processed", event["type"]
    return printed(moment, "info", "webhook:stripe:process", message, eventType=kind, eventId=event["id"])


def receive(world: World, method: str, path: str, headers: Mapping[str, str], body: bytes, address: str) -> Answer:
    """Answer one request, and log it as the hosting does."""
    call = Call(world, world.vercel.live(), {name.lower(): value for name, value in headers.items()}, body)
    said = _routed(call, method, path, address)
    world.vercel.log_request(method, path, said.status, call.lines, deployment=call.deployment.id)
    return said


def _routed(call: Call, method: str, path: str, address: str) -> Answer:
    """Limits and sessions come before the method: a wrong one is told last."""
    wrong = None if method == "POST" else error(405, "Method not allowed")
    if path == "/api/health":
        return _health(call)
    if path == WEBHOOK:
        return limited(call, "webhooks", address, REQUESTS_PER_HOUR) or wrong or _webhook(call)
    if route := AUTOSAVE.fullmatch(path):
        return wrong or app_autosave.autosave(call, address, route["document"])
    if path == TELEMETRY:
        return wrong or app_autosave.telemetry(call, address)
    return app_ai.routed(call, method, path, address) or error(404, "Not found")


def posted(
    world: World, path: str, headers: Mapping[str, str], body: bytes, address: str, patience: float = PATIENCE,
    method: str = "POST",
) -> int | None:  # fmt: skip
    """The status that a caller sees while the past is played, behind the faults of that moment; None: no answer."""
    fault = world.faults.strike("app", method, path, world.clock.now())
    if fault is not None and not fault.truncate:  # half an answer is an answer: its status is all that counts
        if fault.takes_effect:
            receive(world, method, path, headers, body, address)
        if fault.reset or fault.delay >= patience:
            return None
        if fault.status is not None:
            world.vercel.log_request(method, path, fault.status)
            return fault.status
    return receive(world, method, path, headers, body, address).status


def application(world: World) -> Starlette:
    async def page(request: Request) -> Response:
        body = await request.body()
        caller = request.client.host if request.client else ""
        address = request.headers.get("x-forwarded-for", caller)  # as the edge in front of the app gives it
        said = await run_in_threadpool(receive, world, request.method, request.url.path, request.headers, body, address)
        return Response(said.body, said.status, said.headers)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(routes=[Route("/{path:path}", page, methods=methods)])


def _health(call: Call) -> Answer:
    """Whether the database answers. Of the AI providers only whether a key is there."""
    started = time.monotonic()
    try:
        app_database.check(call.world)
        database: JSON = {"status": "healthy", "latencyMs": round((time.monotonic() - started) * 1000)}
    except psycopg.Error:
        database = {"status": "unhealthy", "error": "Database connection failed"}
    healthy = database["status"] == "healthy"
    providers = {name: f"{name.upper()}_API_KEY" in call.deployment.env for name in ("openai", "anthropic", "deepseek")}
    return answer(
        200 if healthy else 503,
        {
            "status": "healthy" if healthy else "unhealthy",
            "timestamp": call.world.clock.now().isoformat(),
            "version": call.deployment.commit[:7],
            "checks": {"database": database, "ai": providers},
        },
    )


def _webhook(call: Call) -> Answer:
    try:
        event = _verified(call)
    except Refusal as refusal:
        return error(refusal.status, str(refusal))
    context = {"eventType": event["type"]}
    try:
        _process(call, event)
    except app_billing.HandlerError as thrown:
        call.log("error", "webhook:stripe:handler", HANDLER_FAILED, **context)
        call.world.sentry.capture(thrown.kind, str(thrown), thrown.culprit, call.world.clock.now())
        return error(500, HANDLER_FAILED)
    except psycopg.Error:  # the database client's errors are plain objects: the log and Sentry never see their text
        call.log("error", "webhook:stripe:handler", HANDLER_FAILED, **context)
        return error(500, HANDLER_FAILED)
    call.lines.append(processed(event, call.world.clock.now()))
    return answer(200, {"received": True})


def _verified(call: Call) -> JSON:
    """The event, if it is genuine and young enough for this build."""
    secret = call.deployment.env.get("STRIPE_WEBHOOK_SECRET")
    if not secret:
        raise Refusal(500, "Webhook secret not configured")
    header = call.headers.get("stripe-signature")
    if not header:
        raise Refusal(400, "Missing stripe-signature header")
    now = call.world.clock.now().timestamp()
    if not _signed(header, secret, call.body, now):
        call.log("error", "webhook:stripe:verify_failed", "Webhook signature verification failed")
        raise Refusal(400, "Invalid signature")
    event: JSON = json.loads(call.body)
    age, limit = now - event["created"], call.deployment.behaviour["max_event_age"]
    if limit is not None and age > limit:
        created = datetime.fromtimestamp(event["created"], UTC).isoformat()
        call.log("warning", "webhook:stripe:event_too_old", "Event too old", eventId=event["id"],
                 eventType=event["type"], eventCreated=created, ageSeconds=int(age))  # fmt: skip
        raise Refusal(400, "Event too old")
    return event


def _signed(header: str, secret: str, body: bytes, now: float) -> bool:
    """Any of the header's v1 signatures will do. A signature dated in the future passes, as in Stripe's library."""
    pairs = [part.partition("=")[::2] for part in header.split(",")]
    stamp = next((value for name, value in pairs if name == "t"), "")
    if not stamp.isdigit() or now - int(stamp) > TOLERANCE:
        return False
    wanted = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return any(name == "v1" and hmac.compare_digest(value, wanted) for name, value in pairs)


def _process(call: Call, event: JSON) -> None:
    if not call.deployment.env.get("SUPABASE_SERVICE_ROLE_KEY"):
        raise app_billing.HandlerError("Error", "supabaseKey is required.", "createAdminClient(lib/supabase/admin)")
    if call.deployment.behaviour["bug"] == "handler-raises":
        raise app_billing.HandlerError("TypeError", "Cannot read properties of undefined (reading 'price')")
    handler = app_billing.HANDLERS.get(event["type"])
    if handler is not None:
        handler(call, event["data"]["object"])
