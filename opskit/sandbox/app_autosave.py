"""How the app saves what a writer types, and how its browser code reports a save that failed.

With the habits of the real one: several statements and no transaction; no conflict check where the browser names no
version; an answer of 409 that says nothing; a hash that depends on the order of keys, which JSONB does not keep; a
sanitiser that takes prose for script, and answers with nothing at all where it fails; success when no row matched.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from datetime import datetime
from typing import TYPE_CHECKING

import psycopg
from psycopg.types.json import Jsonb

from opskit.sandbox import app_database, app_session
from opskit.sandbox.app_call import JSON, Answer, Call, answer, limited, refusal

if TYPE_CHECKING:
    from opskit.sandbox.world import World

SNAPSHOTS_KEPT = {"free": 20, "hobbyist": 200, "professional": 200, "studio": 400}  # of each document
SNAPSHOTS_KEPT_OTHERWISE = 50
SCRIPT = re.compile(r"<script\b.*?</script>|javascript:|on\w+\s*=", re.IGNORECASE | re.DOTALL)
SANITISER = "sanitizeHtml(lib/security/sanitize)"
FAILED = "Failed to save document"

FIND = "select content from documents where id = %s"
TIER = "select subscription_tier from user_profiles where id = %s"
KEEP = """
    insert into document_snapshots (document_id, user_id, autosave_hash, payload, created_at)
    values (%s, %s, %s, %s, %s)
"""
PRUNE = """
    delete from document_snapshots where id in (
      select id from document_snapshots where document_id = %s order by created_at desc offset %s)
"""
UPDATE = "update documents set content = %s, word_count = %s where id = %s"
REPORT = """
    insert into autosave_failures
      (user_id, document_id, failure_type, error_message, client_hash, retry_count, user_agent, created_at)
    values (%s, %s, %s, %s, %s, %s, %s, %s)
"""


def autosave(call: Call, address: str, document: str) -> Answer:
    """Save a document as the browser has it."""
    user = app_session.user(call)
    if user is None:
        return refusal(401, "Unauthorized", "UNAUTHORIZED")
    if refused := _writing(call, user, address):
        return refused
    asked = _asked(call)
    if not isinstance(asked.get("content"), dict):
        return refusal(400, "Invalid request", "VALIDATION_ERROR")
    try:
        return _saved(call, user, document, asked)
    except psycopg.OperationalError:  # no database answers
        call.log("error", "autosave:handler", FAILED, documentId=document, userId=user)
        return refusal(500, FAILED, "INTERNAL_ERROR")


def telemetry(call: Call, address: str) -> Answer:
    """Note a save that failed, as the browser tells it: it knows neither the server's hash nor what was refused."""
    user = app_session.user(call)
    if user is None:
        return refusal(401, "Unauthorized", "UNAUTHORIZED")
    if refused := _writing(call, user, address):
        return refused
    told, now = _asked(call), call.world.clock.now()
    facts = [told.get(name) for name in ("documentId", "failureType", "errorMessage", "clientHash")]
    row = [user, *facts, told.get("retryCount", 0), call.headers.get("user-agent"), now]
    try:
        with app_database.as_user(call.world, user) as connection:
            connection.execute(REPORT, row)
    except psycopg.Error:
        return refusal(500, "Failed to record failure", "INTERNAL_ERROR")
    return answer(201, {"recorded": True})


def hashed(content: JSON, stable: bool = False) -> str:
    """What tells two versions apart. Unless `stable`, the same chapters with their keys in another order differ."""
    anchors = (content.get("metadata") or {}).get("anchors", [])
    told = {"html": content.get("html", ""), "structure": content.get("structure", []), "anchors": anchors}
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False, sort_keys=stable)
    return hashlib.sha256(text.encode()).hexdigest()


def words(html: str) -> int:
    return len(re.sub(r"<[^>]*>", " ", html).split())


def _writing(call: Call, user: str, address: str) -> Answer | None:
    """The limit on writes, which saves and reports share: by address in the middleware, by user in the route."""
    most = call.deployment.behaviour["writes_per_hour"]
    for caller in (address, user):
        if refused := limited(call, "writes", caller, most):
            return refused
    return None


def _asked(call: Call) -> JSON:
    try:
        asked = json.loads(call.body or b"{}")
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}


def _saved(call: Call, user: str, document: str, asked: JSON) -> Answer:
    now = call.world.clock.now()
    stored = _found(call.world, user, document)
    if stored is None:
        return refusal(404, "Document not found", "NOT_FOUND")
    given = str(asked["content"].get("html", ""))
    who = {"documentId": document, "userId": user}
    if SCRIPT.search(given):
        call.log("warning", "autosave:xss_detection", "Potential XSS detected in autosave content", **who)
    content = {**asked["content"], "html": _sanitised(call, given)}
    stable, base = call.deployment.behaviour["stable_hash"], asked.get("baseHash")
    if base is not None and base != hashed(stored, stable):
        return refusal(409, "Document was modified elsewhere", "AUTOSAVE_CONFLICT")
    snapshot = [document, user, hashed(content, stable), Jsonb(content), now]
    try:
        with app_database.as_user(call.world, user) as connection:
            connection.execute(KEEP, snapshot)
    except psycopg.Error as error:
        return _failed(call, "autosave:snapshot", who, error)
    _prune(call.world, user, document)
    try:
        with app_database.as_user(call.world, user) as connection:  # how many rows it changed is nobody's question
            connection.execute(UPDATE, [Jsonb(content), words(content["html"]), document])
    except psycopg.Error as error:
        return _failed(call, "autosave:update_document", who, error)
    return answer(200, {"success": True, "hash": hashed(content, stable), "savedAt": _iso(now)})


def _found(world: World, user: str, document: str) -> JSON | None:
    """The document as it is stored; None where it is not there, hidden, or cannot be read: all are answered alike."""
    try:
        with app_database.as_user(world, user) as connection:
            row = connection.execute(FIND, [uuid.UUID(document)]).fetchone()
    except (ValueError, psycopg.Error) as error:
        if isinstance(error, psycopg.Error) and error.sqlstate is None:
            raise
        return None
    return row[0] if row else None


def _sanitised(call: Call, html: str) -> str:
    fails_on = call.deployment.behaviour["sanitiser_fails_on"]
    if fails_on is not None and fails_on in html:
        message = "Cannot read properties of null (reading 'ownerDocument')"
        call.log("error", "sanitize:html", "HTML sanitization failed", error=message, length=len(html))
        call.world.sentry.capture("TypeError", message, SANITISER, call.world.clock.now())
        return ""
    return SCRIPT.sub("", html)


def _prune(world: World, user: str, document: str) -> None:
    """Keep the newest snapshots of the document; whether that worked, nobody asks."""
    try:
        with app_database.as_user(world, user) as connection:
            row = connection.execute(TIER, [user]).fetchone()
            most = SNAPSHOTS_KEPT.get(row[0] if row else "", SNAPSHOTS_KEPT_OTHERWISE)
            connection.execute(PRUNE, [document, most])
    except psycopg.Error:
        return


def _failed(call: Call, operation: str, who: JSON, error: psycopg.Error) -> Answer:
    """The database client's errors are plain objects: the log has them, Sentry never hears of them."""
    said = error.diag.message_primary or str(error)
    call.log("error", operation, FAILED, **who, code=error.sqlstate, error=said)
    return refusal(500, FAILED, "INTERNAL_ERROR")


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
