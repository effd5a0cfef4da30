"""How the command line commands the company: HTTP on loopback, for whoever can read the token in its folder."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from opskit.sandbox import SandboxError, company
from opskit.sandbox.company import Company

log = logging.getLogger(__name__)

Command = Callable[[Company, dict[str, Any]], Any]


def _heal(firm: Company, _: dict[str, Any]) -> None:
    if firm.scenario is not None:
        company.reset(firm)


COMMANDS: dict[tuple[str, str], Command] = {
    ("GET", "/status"): lambda firm, _: company.status(firm),
    ("POST", "/break"): lambda firm, body: company.break_with(firm, body["scenario"], bool(body.get("twin"))),
    ("POST", "/heal"): _heal,
    ("POST", "/by-hand"): lambda firm, _: company.by_hand(firm),
    ("POST", "/reset"): lambda firm, body: company.reset(firm, body.get("seed")),
    ("GET", "/state"): lambda firm, _: company.state(firm),
    ("POST", "/changes"): lambda firm, body: company.changes(firm, body["before"]),
    ("GET", "/healed"): lambda firm, _: company.healed(firm),
    ("POST", "/misbehave"): lambda firm, body: company.misbehave(firm, body["fault"]),
    ("POST", "/lift"): lambda firm, _: company.lift(firm),
    ("POST", "/restart-database"): lambda firm, _: firm.world.database.restart(),
    ("POST", "/cut-sessions"): lambda firm, body: firm.world.database.cut(body["application"]),
    ("POST", "/freeze-sessions"): lambda firm, body: firm.world.database.freeze(body["application"]),
    ("GET", "/traffic"): lambda firm, _: firm.world.traffic.seen(),
    ("POST", "/statements/begin"): lambda firm, _: firm.log.begin(),
    ("GET", "/statements"): lambda firm, _: firm.log.read(),
    ("POST", "/statements/end"): lambda firm, _: firm.log.end(),
    ("GET", "/disagreements"): lambda firm, _: company.disagreements(firm),
}


def application(firm: Company) -> Starlette:
    async def page(request: Request) -> Response:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {firm.world.secrets['control']}".encode()):
            return _answer(401, {"error": "The token in the sandbox's folder is needed."})
        command = COMMANDS.get((request.method, request.url.path))
        if command is None:
            return _answer(404, {"error": f"There is no {request.method} {request.url.path}."})
        body = json.loads(await request.body() or b"{}")
        return await run_in_threadpool(_obey, firm, command, body)

    return Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST"])])


def _obey(firm: Company, command: Command, body: dict[str, Any]) -> Response:
    try:
        with firm.lock:
            return _answer(200, {"result": command(firm, body)})
    except SandboxError as error:
        return _answer(400, {"error": str(error)})
    except Exception as error:
        log.exception("a command failed")
        return _answer(500, {"error": f"{type(error).__name__}: {error}"})


def _answer(status: int, content: dict[str, Any]) -> Response:
    return Response(json.dumps(content, default=str), status, media_type="application/json")
