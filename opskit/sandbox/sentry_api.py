"""Sentry's HTTP API over the store: issues and their events, changes of status, counts over time."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opskit.sandbox import sentry_views as views

if TYPE_CHECKING:
    from opskit.sandbox.sentry import Event, Issue, SentryStore
    from opskit.sandbox.world import World

JSON = dict[str, Any]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
RESOLUTIONS = {"10s": 10, "1h": 3600, "1d": 86400}
STATUSES = ("resolved", "unresolved", "ignored", "resolvedInNextRelease")
BULK = 1000  # issues that one request may change
REQUESTS = 40  # a second, as the rate limit headers claim


class SentryError(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Call:
    """One authorised request: its store, its query and its parsed body."""

    def __init__(self, world: World, request: Request, body: JSON) -> None:
        self.store: SentryStore = world.sentry
        self.path, self.query, self.body = request.path_params, request.query_params, body
        self.url = request.url.replace(query="")
        self.now = world.clock.now()
        if self.path.get("organization") != self.store.organization:
            raise SentryError(404, "The requested resource does not exist")
        if self.path.get("project", self.store.project) not in (self.store.project, self.store.project_id):
            raise SentryError(404, "The requested resource does not exist")

    def issue(self) -> Issue:
        """By id or by short id."""
        for issue in self.store.issues.values():
            if self.path["issue"] in (issue.id, views.short_id(self.store, issue)):
                return issue
        raise SentryError(404, "The requested resource does not exist")

    def span(self, default: timedelta) -> tuple[datetime, datetime]:
        """`statsPeriod`, or `start` and `end`."""
        period = self.query.get("statsPeriod")
        if period:
            return self.now - _duration(period), self.now
        if "start" in self.query and "end" in self.query:
            return _moment(self.query["start"]), _moment(self.query["end"])
        return self.now - default, self.now

    def number(self, name: str, default: int, highest: int) -> int:
        text = self.query.get(name, str(default))
        if not text.isdigit() or not 1 <= int(text) <= highest:
            raise SentryError(400, f"Invalid {name}: must be between 1 and {highest}")
        return int(text)


Handler = Callable[[Call], Response]


def issues(call: Call) -> Response:
    """Issues seen in the span, by default the unresolved ones of 90 days."""
    found = _found(call, default=timedelta(days=90))
    orders: dict[str, Callable[[Issue], Any]] = {
        "date": lambda issue: issue.last_seen,
        "new": lambda issue: issue.first_seen,
        "freq": lambda issue: len(issue.events),
        "user": lambda issue: len({event.user for event in issue.events}),
    }
    order = orders.get(call.query.get("sort", "date"), orders["date"])
    found.sort(key=order, reverse=True)
    return _page(call, found, call.number("limit", 100, 100), lambda one: views.issue(call.store, one, call.now))


def project_issues(call: Call) -> Response:
    """The deprecated listing, which knows two spans only."""
    if call.query.get("statsPeriod", "") not in ("", "24h", "14d"):
        raise SentryError(400, "Invalid stats_period. Valid choices are '', '24h', and '14d'")
    return issues(call)


def issue(call: Call) -> Response:
    return JSONResponse(views.issue_details(call.store, call.issue(), call.now))


def events(call: Call) -> Response:
    """An issue's events, newest first."""
    one = call.issue()
    since, until = call.span(timedelta(days=90))
    found = [event for event in reversed(one.events) if since <= event.at <= until]
    full = call.query.get("full") in ("1", "true")
    return _page(
        call, found, call.number("per_page", 100, 100), lambda event: views.event(call.store, one, event, full)
    )


def update_issue(call: Call) -> Response:
    one = call.issue()
    _change(call, [one])
    return JSONResponse(views.issue_details(call.store, one, call.now))


def update_issues(call: Call) -> Response:
    """Change many. Without ids, everything that the query matches changes: Sentry's own trap."""
    ids = call.query.getlist("id")
    if ids:
        chosen = [issue for issue in call.store.all() if issue.id in ids]
    else:
        chosen = _found(call, default=timedelta(days=90))
    if len(chosen) > BULK:
        raise SentryError(400, f"Cannot update more than {BULK} issues at once")
    if not chosen:
        return Response(status_code=204)
    return JSONResponse(_change(call, chosen))


def timeseries(call: Call) -> Response:
    """Errors over time, in all the project's issues."""
    since, until = call.span(timedelta(hours=24))
    interval = _duration(call.query.get("interval", "1h")).total_seconds()
    values = [
        {"timestamp": start * 1000, "value": count, "incomplete": start + interval > call.now.timestamp()}
        for start, count in views.counts(_all_events(call), since, until, interval)
    ]
    meta = {"valueType": "integer", "valueUnit": None, "interval": interval * 1000}
    span = {"start": since.timestamp() * 1000, "end": until.timestamp() * 1000}
    series = {"yAxis": call.query.get("yAxis", "count()"), "values": values, "meta": meta}
    dataset = call.query.get("dataset", "errors")
    return JSONResponse({"timeSeries": [series], "meta": {"dataset": dataset, **span}})


def stats(call: Call) -> Response:
    resolution = call.query.get("resolution", "1h")
    if resolution not in RESOLUTIONS:
        raise SentryError(400, "Invalid resolution")
    until = float(call.query.get("until", call.now.timestamp()))
    since = float(call.query.get("since", until - 86400))
    span = (datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(until, UTC))
    return JSONResponse(views.counts(_all_events(call), *span, RESOLUTIONS[resolution]))


def _all_events(call: Call) -> list[Event]:
    return [event for one in call.store.all() for event in one.events]


def _found(call: Call, default: timedelta) -> list[Issue]:
    """Issues of the span that match the query: `is:`, `level:`, `error.type:`, and words of the title."""
    since, until = call.span(default)
    wanted = call.query.getlist("project")
    if wanted and not {"-1", call.store.project_id, call.store.project}.intersection(wanted):
        return []
    if call.query.get("environment") not in (None, "", "production"):
        return []
    terms = re.findall(r'\S+:"[^"]*"|"[^"]*"|\S+', call.query.get("query", "is:unresolved"))
    return [
        issue
        for issue in call.store.all()
        if any(since <= event.at <= until for event in issue.events)
        and all(_matches(call.store, issue, term) for term in terms)
    ]


def _matches(store: SentryStore, issue: Issue, term: str) -> bool:
    name, colon, value = term.partition(":")
    value = value.strip('"')
    if not colon or " " in name or name.startswith('"'):
        return term.strip('"').lower() in f"{issue.title} {issue.culprit}".lower()
    known = {
        "is": {issue.status, {"ignored": "archived"}.get(issue.status, issue.status), issue.substatus or ""},
        "level": {issue.level},
        "error.type": {issue.kind},
        "culprit": {issue.culprit},
        "issue": {views.short_id(store, issue)},
        "environment": {"production"},
    }
    if name not in known:
        raise SentryError(400, f"Error parsing search query: unknown field {name}")
    return value in known[name]


def _change(call: Call, chosen: list[Issue]) -> JSON:
    status, details = call.body.get("status"), call.body.get("statusDetails") or {}
    if status not in STATUSES:
        raise SentryError(400, "Invalid status")
    for one in chosen:
        call.store.set_status(one, status, details)
    return {"status": chosen[0].status, "statusDetails": chosen[0].status_details}


def _page(call: Call, found: list[Any], limit: int, view: Callable[[Any], JSON]) -> Response:
    """One page with both links, of which `results` says whether they lead anywhere."""
    cursor = re.fullmatch(r"(\d+):(\d+):([01])", call.query.get("cursor") or "0:0:0")
    if cursor is None:
        raise SentryError(400, "Invalid cursor parameter.")
    offset = int(cursor[2])
    page = found[offset : offset + limit]
    kept = [(name, value) for name, value in call.query.multi_items() if name != "cursor"]

    def link(rel: str, position: int, results: bool) -> str:
        mark = f"0:{position}:{1 if rel == 'previous' else 0}"
        address = f"{call.url}?{urlencode([*kept, ('cursor', mark)])}"
        return f'<{address}>; rel="{rel}"; results="{str(results).lower()}"; cursor="{mark}"'

    links = [
        link("previous", max(0, offset - limit), offset > 0),
        link("next", offset + limit, offset + limit < len(found)),
    ]
    return JSONResponse([view(one) for one in page], headers={"Link": ", ".join(links), "X-Hits": str(len(found))})


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([smhdw])", text)
    if found is None:
        raise SentryError(400, f"Invalid statsPeriod: {text!r}")
    return timedelta(seconds=int(found[1]) * UNITS[found[2]])


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SentryError(400, f"Invalid date: {text!r}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/api/0/organizations/{organization}/issues/", issues),
    ("PUT", "/api/0/organizations/{organization}/issues/", update_issues),
    ("GET", "/api/0/projects/{organization}/{project}/issues/", project_issues),
    ("PUT", "/api/0/projects/{organization}/{project}/issues/", update_issues),
    ("GET", "/api/0/organizations/{organization}/issues/{issue}/", issue),
    ("PUT", "/api/0/organizations/{organization}/issues/{issue}/", update_issue),
    ("GET", "/api/0/organizations/{organization}/issues/{issue}/events/", events),
    ("GET", "/api/0/organizations/{organization}/events-timeseries/", timeseries),
    ("GET", "/api/0/projects/{organization}/{project}/stats/", stats),
]


def application(world: World) -> Starlette:
    routes = [Route(path, _endpoint(world, handler), methods=[method]) for method, path, handler in ROUTES]
    app = Starlette(routes=routes, exception_handlers={404: _no_route, 405: _no_method})
    app.router.redirect_slashes = False  # a path without its trailing slash is unknown, as at Sentry
    return app


def _endpoint(world: World, handler: Handler) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_answer, world, handler, request, await request.body())

    return endpoint


def _answer(world: World, handler: Handler, request: Request, raw: bytes) -> Response:
    if request.headers.get("authorization") != f"Bearer {world.secrets['sentry']}":
        given = "authorization" in request.headers
        return _error(401, "Invalid token" if given else "Authentication credentials were not provided.")
    try:
        answer = handler(Call(world, request, json.loads(raw) if raw else {}))
    except SentryError as error:
        answer = _error(error.status, str(error))
    except json.JSONDecodeError as error:
        answer = _error(400, f"JSON parse error - {error}")
    answer.headers.update(
        {
            "X-Sentry-Rate-Limit-Limit": str(REQUESTS),
            "X-Sentry-Rate-Limit-Remaining": str(REQUESTS - 1),
            "X-Sentry-Rate-Limit-Reset": str(int(time.time()) + 1),
            "X-Sentry-Rate-Limit-ConcurrentLimit": "25",
            "X-Sentry-Rate-Limit-ConcurrentRemaining": "24",
        }
    )
    return answer


def _no_route(request: Request, _: Exception) -> Response:
    return _error(404, "The requested resource does not exist")


def _no_method(request: Request, _: Exception) -> Response:
    return _error(405, f'Method "{request.method}" not allowed.')


def _error(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status)
