"""Vercel's HTTP API over the store, with the paths that its SDK and its command line use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from opskit.sandbox import vercel_views as views

if TYPE_CHECKING:
    from opskit.sandbox.vercel import Deployment, VercelStore
    from opskit.sandbox.world import World

JSON = dict[str, Any]

PAGE = 100  # rows of request logs in one answer
BUILD = timedelta(seconds=2)  # of a redeployment
LEVELS = ("error", "warning", "info")


class VercelError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Call:
    """One authorised request with its parsed body."""

    def __init__(self, world: World, request: Request, body: JSON) -> None:
        self.world, self.store = world, world.vercel
        self.path, self.query, self.body = request.path_params, request.query_params, body

    @property
    def project(self) -> VercelStore:
        """The project that the path or the query names, by id or name."""
        wanted = self.path.get("project") or self.query.get("projectId") or self.query.get("app")
        if wanted not in (None, self.store.project_id, self.store.name):
            raise VercelError(404, "not_found", "Project not found.")
        return self.store

    def deployment(self, key: str) -> Deployment:
        try:
            return self.store.deployment(key.removeprefix("https://"))
        except KeyError:
            raise VercelError(404, "not_found", f"Can't find the deployment {key}") from None

    def number(self, name: str, default: int, highest: int | None = None) -> int:
        text = self.query.get(name)
        if text is None:
            return default
        if not text.isdigit() or (highest is not None and int(text) > highest):
            raise VercelError(400, "bad_request", f"Invalid request: `{name}` should be a number.")
        return int(text)


Handler = Callable[[Call], Response]


def user(call: Call) -> Response:
    return JSONResponse({"user": views.user(call.store)})


def teams(call: Call) -> Response:
    return JSONResponse({"teams": [views.team(call.store)], "pagination": views.pagination([])})


def team(call: Call) -> Response:
    if call.path["team"] not in (call.store.team_id, call.store.team_slug):
        raise VercelError(404, "not_found", "Team not found.")
    return JSONResponse(views.team(call.store))


def projects(call: Call) -> Response:
    return JSONResponse({"projects": [views.project(call.store)], "pagination": views.pagination([])})


def project(call: Call) -> Response:
    return JSONResponse(views.project(call.project))


# Deployments


def deployments(call: Call) -> Response:
    """Newest first; a page ends with `next`, to be given as `until`."""
    store, query = call.project, call.query
    since, until = call.number("since", 0), call.number("until", 2**53)
    states = query["state"].split(",") if "state" in query else None
    wanted = [
        one
        for one in store.deployments
        if since <= views.millis(one.created) < until
        and query.get("target") in (None, one.target)
        and query.get("sha") in (None, one.commit)
        and query.get("branch") in (None, views.branch(one))
        and (states is None or one.state in states)
        and (query.get("rollbackCandidate") != "true" or views.rollback_candidate(store, one))
    ]
    limit = call.number("limit", 20, 100)
    wanted.sort(key=lambda one: one.created, reverse=True)
    page = wanted[:limit]
    following = views.millis(page[-1].created) if len(wanted) > limit else None
    shown = [views.deployment(store, one) for one in page]
    return JSONResponse({"deployments": shown, "pagination": views.pagination(page, following)})


def deployment(call: Call) -> Response:
    one = call.deployment(call.path["deployment"])
    return JSONResponse(views.deployment_details(call.store, one))


def redeploy(call: Call) -> Response:
    """Build a deployment's code again. The build takes a moment; the answer does not wait for it."""
    key = call.body.get("deploymentId")
    if not key:
        raise VercelError(400, "bad_request", "Invalid request: should have required property `deploymentId`.")
    if call.body.get("name") not in (None, call.store.name):
        raise VercelError(400, "bad_request", "Invalid request: `name` does not match the deployment's project.")
    one = call.store.redeploy(call.deployment(key).id, state="BUILDING")
    call.world.agenda.at(call.world.clock.now() + BUILD, partial(call.store.finish_build, one.id))
    return JSONResponse(views.deployment_details(call.store, one))


def promote(call: Call) -> Response:
    one = _ready(call)
    if one.id == call.project.production:
        raise VercelError(409, "conflict", "Deployment is already the current production deployment.")
    preview = one.target != "production"
    call.store.promote(one.id)
    return JSONResponse({}, 202 if preview else 201)


def rollback(call: Call) -> Response:
    one = _ready(call)
    if not views.rollback_candidate(call.project, one):
        raise VercelError(400, "bad_request", "Only a former production deployment can be rolled back to.")
    call.store.rollback(one.id)
    return JSONResponse({}, 201)


def _ready(call: Call) -> Deployment:
    one = call.deployment(call.path["deployment"])
    if call.project and one.state != "READY":
        raise VercelError(400, "bad_request", "Deployment is not ready.")
    return one


def promote_aliases(call: Call) -> Response:
    store, last = call.project, call.store.last_alias_request
    aliases = [{"alias": store.domain, "id": f"alias_{store.project_id[4:]}", "status": "completed"}] if last else []
    return JSONResponse({"aliases": aliases, "pagination": views.pagination(aliases)})


# Environment variables


def variables(call: Call) -> Response:
    readable = call.query.get("decrypt") == "true"
    shown = [views.variable(one, readable) for one in list(call.project.variables.values())]  # of every target
    return JSONResponse({"envs": shown, "pagination": views.pagination(shown)})


def variable(call: Call) -> Response:
    return JSONResponse(views.variable(_variable(call), readable=True))


def create_variables(call: Call) -> Response:
    """Create one or several. Names that exist are refused one by one, unless `upsert` is given."""
    wanted = call.body if isinstance(call.body, list) else [call.body]
    store, created, failed = call.project, [], []
    for one in wanted:
        missing = [name for name in ("key", "value", "type", "target") if not one.get(name)]
        if missing:
            raise VercelError(400, "bad_request", f"Invalid request: should have required property `{missing[0]}`.")
        if one["key"] in store.variables and call.query.get("upsert") != "true":
            failed.append({"error": {
                "code": "ENV_CONFLICT", "message": f"Another Environment Variable with the Name `{one['key']}` exists.",
                "key": one["key"], "envVarKey": one["key"], "target": one["target"]}})  # fmt: skip
        else:
            stored = store.set_variable(one["key"], one["value"], one["type"], one["target"])
            created.append(views.variable(stored, readable=False))
    body = {"created": created if isinstance(call.body, list) else next(iter(created), {}), "failed": failed}
    if failed and not created:
        raise VercelError(400, "ENV_CONFLICT", failed[0]["error"]["message"])
    return JSONResponse(body, 201)


def edit_variable(call: Call) -> Response:
    one = _variable(call)
    value, kind, target = (call.body.get(name) for name in ("value", "type", "target"))
    edited = call.project.set_variable(one.key, one.value if value is None else value, kind or one.type, target)
    return JSONResponse(views.variable(edited, readable=False))


def delete_variable(call: Call) -> Response:
    one = _variable(call)
    call.project.remove_variable(one.key)
    return JSONResponse(views.variable(one, readable=False))


def _variable(call: Call) -> Any:
    for one in list(call.project.variables.values()):
        if one.id == call.path["variable"]:
            return one
    raise VercelError(404, "not_found", "The Environment Variable was not found.")


# Logs


def runtime_logs(call: Call) -> Response:
    """What a deployment printed, as newline-delimited JSON; the stream ends with its history."""
    store, one = call.project, call.deployment(call.path["deployment"])
    rows = store.history(_moment(call.number("since", 0)), _moment(call.number("until", 2**41)), one.id)

    def lines() -> Iterator[str]:
        for row in rows:
            for line in views.runtime_lines(store, row):
                yield json.dumps(line) + "\n"

    return StreamingResponse(lines(), media_type="application/stream+json")


def request_logs(call: Call) -> Response:
    """Requests, newest first, in numbered pages; by default of the last 24 hours."""
    now = int(time.time() * 1000)
    since, until = call.number("startDate", now - 86_400_000), call.number("endDate", now)
    rows = call.project.history(_moment(since), _moment(until), call.query.get("deploymentId") or None)
    shown = [views.request_row(call.store, row) for row in reversed(rows)]
    shown = [row for row in shown if _matches(call, row)]
    start = call.number("page", 0) * PAGE
    return JSONResponse({"rows": shown[start : start + PAGE], "hasMoreRows": len(shown) > start + PAGE})


def _matches(call: Call, row: JSON) -> bool:
    query = call.query
    levels = {log["level"] for log in row["logs"]} or {"info"}
    text = " ".join([row["requestPath"], *(log["message"] for log in row["logs"])])
    return (
        (not query.get("level") or not levels.isdisjoint(query["level"].split(",")))
        and (not query.get("statusCode") or _status_matches(row["statusCode"], query["statusCode"]))
        and (not query.get("source") or row["events"][0]["source"] in query["source"].split(","))
        and (not query.get("requestId") or row["requestId"] == query["requestId"])
        and (not query.get("environment") or row["environment"] == query["environment"])
        and (not query.get("branch") or row["branch"] == query["branch"])
        and (not query.get("search") or query["search"].lower() in text.lower())
    )


def _status_matches(status: int, wanted: str) -> bool:
    """`500`, `5xx`, or several of them with commas."""
    return any(str(status) == part or f"{status // 100}xx" == part.lower() for part in wanted.split(","))


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/v2/user", user),
    ("GET", "/{v:version}/teams", teams),
    ("GET", "/{v:version}/teams/{team}", team),
    ("GET", "/teams/{team}", team),
    ("GET", "/{v:version}/projects", projects),
    ("GET", "/{v:version}/projects/{project}", project),
    ("GET", "/{v:version}/deployments", deployments),
    ("GET", "/{v:version}/deployments/{deployment}", deployment),
    ("POST", "/v13/deployments", redeploy),
    ("POST", "/{v:version}/projects/{project}/promote/{deployment}", promote),
    ("GET", "/v1/projects/{project}/promote/aliases", promote_aliases),
    ("POST", "/{v:version}/projects/{project}/rollback/{deployment}", rollback),
    ("GET", "/{v:version}/projects/{project}/env", variables),
    ("POST", "/{v:version}/projects/{project}/env", create_variables),
    ("GET", "/v1/projects/{project}/env/{variable}", variable),
    ("PATCH", "/{v:version}/projects/{project}/env/{variable}", edit_variable),
    ("DELETE", "/{v:version}/projects/{project}/env/{variable}", delete_variable),
    ("GET", "/v1/projects/{project}/deployments/{deployment}/runtime-logs", runtime_logs),
    ("GET", "/api/logs/request-logs", request_logs),
]


def application(world: World) -> Starlette:
    routes = [
        Route(path.replace("{v:version}", "v{version:int}"), _endpoint(world, handler), methods=[method])
        for method, path, handler in ROUTES
    ]
    errors = {404: _no_route, 405: _no_route}
    return Starlette(routes=routes, exception_handlers=errors)


def _endpoint(world: World, handler: Handler) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        raw = await request.body()
        return await run_in_threadpool(_answer, world, handler, request, raw)

    return endpoint


def _answer(world: World, handler: Handler, request: Request, raw: bytes) -> Response:
    try:
        _authorise(world, request)
        return handler(Call(world, request, json.loads(raw) if raw else {}))
    except VercelError as error:
        return _error(error.status, error.code, str(error))
    except ValueError:
        return _error(400, "bad_request", "Invalid JSON")


def _authorise(world: World, request: Request) -> None:
    """A valid token, and a scope that it may use."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or token != world.secrets["vercel"]:
        raise VercelError(403, "forbidden", "Not authorized")
    scope = (
        request.query_params.get("teamId") or request.query_params.get("slug") or request.query_params.get("ownerId")
    )
    if scope not in (None, world.vercel.team_id, world.vercel.team_slug):
        raise VercelError(403, "forbidden", f'Not authorized: Trying to access resource under scope "{scope}".')


def _no_route(request: Request, _: Exception) -> Response:
    return _error(404, "not_found", "Not Found")


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
