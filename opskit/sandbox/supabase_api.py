"""Supabase's Management API over the project: how it is, its backups, its migrations, its logs, and SQL that reads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opskit.sandbox import supabase_logs
from opskit.sandbox.migrations import OWNER

if TYPE_CHECKING:
    from opskit.sandbox.supabase import SupabaseStore
    from opskit.sandbox.world import World

JSON = dict[str, Any]

A_MINUTE = 120  # requests
SERVICES = ("auth", "db", "db_postgres_user", "pooler", "realtime", "rest", "storage", "pg_bouncer")
LEDGER = "select version, name from supabase_migrations.schema_migrations order by version"
EDGE = "select id, timestamp, event_message from logs where source = 'edge_logs'"  # where nothing else is asked
LOGS_SPAN = timedelta(hours=24)


class SupabaseError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Call:
    """One authorised request about the one project."""

    def __init__(self, world: World, request: Request, body: JSON) -> None:
        self.world, self.query, self.body = world, request.query_params, body
        self.store: SupabaseStore = world.supabase
        if request.path_params["ref"] != self.store.ref:
            raise SupabaseError(404, "Project not found")

    def moment(self, name: str) -> datetime | None:
        try:
            found = datetime.fromisoformat(self.query[name]) if name in self.query else None
        except ValueError:
            raise SupabaseError(400, f"{name}: Invalid datetime") from None
        return found if found is None or found.tzinfo else found.replace(tzinfo=UTC)


Handler = Callable[[Call], Response]


def project(call: Call) -> Response:
    store = call.store
    return JSONResponse(
        {
            "id": store.ref,
            "ref": store.ref,
            "organization_id": store.organization,
            "organization_slug": store.organization,
            "name": store.name,
            "region": store.region,
            "created_at": _written(store.created),
            "status": store.status,
            "database": {
                "host": f"db.{store.ref}.supabase.co",
                "version": "18.0.1.009",
                "postgres_engine": "18",
                "release_channel": "ga",
            },
        }
    )


def health(call: Call) -> Response:
    """Only of what was asked for; the database's as it is, the others' always good."""
    asked = call.query.getlist("services")
    if not asked or not set(asked) <= set(SERVICES):
        raise SupabaseError(400, f"services: expected one or more of {', '.join(SERVICES)}")
    return JSONResponse([_health(name, call.world.database.running) for name in asked])


def _health(name: str, running: bool) -> JSON:
    well = running or name in ("realtime", "storage")
    said = {"name": name, "healthy": well, "status": "ACTIVE_HEALTHY" if well else "UNHEALTHY"}
    return said if well else {**said, "error": "connection refused"}


def backups(call: Call) -> Response:
    """The newest first. Where any moment can be restored, there are no daily ones."""
    store, now = call.store, datetime.now(UTC)
    daily = [
        {"id": one.id, "is_physical_backup": True, "status": one.status, "inserted_at": _written(one.at)}
        for one in sorted(store.backups, key=lambda one: one.at, reverse=True)
    ]
    span: JSON = {}
    if store.pitr_days is not None:
        span = {
            "earliest_physical_backup_date_unix": int((now - timedelta(days=store.pitr_days)).timestamp()),
            "latest_physical_backup_date_unix": int((now - timedelta(minutes=2)).timestamp()),
        }
    return JSONResponse(
        {
            "region": store.region,
            "walg_enabled": True,
            "pitr_enabled": bool(span),
            "backups": [] if span else daily,
            "physical_backup_data": span,
        }
    )


def migrations(call: Call) -> Response:
    with _database(call) as connection:
        rows = connection.execute(LEDGER).fetchall()
    return JSONResponse([{key: value for key, value in row.items() if value is not None} for row in rows])


def query(call: Call) -> Response:
    """SQL as the owner of the database; `read_only` where that is said."""
    return read_only_query(call) if call.body.get("read_only") else _asked(call, f"set role {OWNER}")


def read_only_query(call: Call) -> Response:
    return _asked(call, "set role supabase_read_only_user; set default_transaction_read_only = on")


def _asked(call: Call, role: LiteralString) -> Response:
    query = call.body.get("query")
    if not isinstance(query, str) or not query:
        raise SupabaseError(400, "query: String must contain at least 1 character(s)")
    with _database(call) as connection:
        connection.execute(role)
        try:
            cursor = connection.execute(query.encode(), call.body.get("parameters") or None)
            rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            said = f"ERROR:  {error.sqlstate}: {error.diag.message_primary}"
            raise SupabaseError(400, f"Failed to run sql query: {said}") from error
    return Response(json.dumps(rows, default=str), 201, media_type="application/json")


def logs(call: Call) -> Response:
    """Lines of the span, which is the last minute where nobody says otherwise, and a day at most."""
    until = call.moment("iso_timestamp_end") or datetime.now(UTC)
    since = call.moment("iso_timestamp_start") or until - timedelta(minutes=1)
    if until - since > LOGS_SPAN:
        raise SupabaseError(400, "The timestamp range must be no more than 24 hours")
    lines = [supabase_logs.row(line) for line in call.store.logs if since <= line.at <= until]
    try:
        return JSONResponse({"result": supabase_logs.select(call.query.get("sql", EDGE), lines)})
    except ValueError as error:
        return JSONResponse({"error": str(error)})


ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/v1/projects/{ref}", project),
    ("GET", "/v1/projects/{ref}/health", health),
    ("GET", "/v1/projects/{ref}/database/backups", backups),
    ("GET", "/v1/projects/{ref}/database/migrations", migrations),
    ("POST", "/v1/projects/{ref}/database/query", query),
    ("POST", "/v1/projects/{ref}/database/query/read-only", read_only_query),
    ("GET", "/v1/projects/{ref}/analytics/endpoints/logs", logs),
]


def application(world: World) -> Starlette:
    routes = [Route(path, _endpoint(world, handler), methods=[method]) for method, path, handler in ROUTES]
    return Starlette(routes=routes, exception_handlers={404: _no_route})


def _endpoint(world: World, handler: Handler) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_answer, world, handler, request, await request.body())

    return endpoint


def _answer(world: World, handler: Handler, request: Request, raw: bytes) -> Response:
    if request.headers.get("authorization") != f"Bearer {world.secrets['supabase']}":
        return _error(401, "Unauthorized")
    left, ends = _admitted(world.supabase)
    try:
        if left < 0:
            raise SupabaseError(429, "ThrottlerException: Too Many Requests")
        answer = handler(Call(world, request, json.loads(raw) if raw else {}))
    except SupabaseError as error:
        answer = _error(error.status, str(error))
    except json.JSONDecodeError:
        answer = _error(400, "Invalid JSON")
    except psycopg.OperationalError:
        answer = _error(544, "Failed to connect to the database")
    limits = {"X-RateLimit-Limit": A_MINUTE, "X-RateLimit-Remaining": max(left, 0), "X-RateLimit-Reset": ends}
    answer.headers.update({name: str(value) for name, value in limits.items()})
    return answer


def _admitted(store: SupabaseStore) -> tuple[int, int]:
    """How many more requests the window admits after this one, and in how many seconds it ends."""
    now = time.monotonic()
    while store.calls and store.calls[0] < now - 60:
        store.calls.popleft()
    store.calls.append(now)
    return A_MINUTE - len(store.calls), round(store.calls[0] + 60 - now)


def _database(call: Call) -> psycopg.Connection[JSON]:
    return psycopg.connect(call.world.database.dsn(), autocommit=True, row_factory=dict_row)


def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _no_route(request: Request, _: Exception) -> Response:
    return _error(404, f"Cannot {request.method} {request.url.path}")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status)
