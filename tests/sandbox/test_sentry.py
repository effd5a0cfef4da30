"""Sentry: grouping of errors, its HTTP API with its traps, and the shapes that Sentry publishes."""

from __future__ import annotations

import copy
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from specs import conforms, openapi, spec
from starlette.testclient import TestClient

from opskit.sandbox import sentry
from opskit.sandbox.sentry import SentryStore
from opskit.sandbox.world import World

ISSUES = "/api/0/organizations/quillfolio/issues/"


@pytest.fixture
def world() -> World:
    world = World(1, None)  # type: ignore[arg-type]  # no database is needed
    world.secrets["sentry"] = "sentry-token"
    world.sentry = SentryStore(world)
    sentry.populate(world)
    return world


@pytest.fixture
def client(world: World) -> TestClient:
    return TestClient(sentry.application(world), headers={"Authorization": "Bearer sentry-token"})


def published(path: str, method: str = "get") -> dict[str, Any]:
    paths = spec("sentry-openapi-derefed.json")["paths"]
    schema = paths[path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    return openapi(schema)


def test_errors_of_one_kind_in_one_place_are_one_issue(world: World) -> None:
    now = datetime.now(UTC)
    first = world.sentry.capture("TypeError", "x is undefined", "POST /api/webhooks/stripe", now)
    again = world.sentry.capture("TypeError", "y is undefined", "POST /api/webhooks/stripe", now - timedelta(hours=1))
    assert first is again
    assert first.first_seen < first.last_seen
    world.sentry.set_status(first, "resolved", {})
    world.sentry.capture("TypeError", "x is undefined", "POST /api/webhooks/stripe", now)
    assert (first.status, first.substatus) == ("unresolved", "regressed")


def test_a_copy_is_apart(world: World) -> None:
    twin = copy.deepcopy(world.sentry)
    issue = next(iter(world.sentry.issues.values()))
    world.sentry.set_status(issue, "resolved", {})
    world.sentry.capture(issue.kind, issue.message, issue.culprit, datetime.now(UTC))
    world.sentry.capture("Error", "new", "here", datetime.now(UTC))
    assert len(twin.issues) == len(world.sentry.issues) - 1
    assert len(twin.issues[issue.id].events) == len(issue.events) - 1
    assert twin.issues[issue.id].status == "unresolved"


def test_errors_and_slashes(world: World, client: TestClient) -> None:
    stranger = TestClient(sentry.application(world))
    assert stranger.get(ISSUES).status_code == 401
    assert "detail" in stranger.get(ISSUES).json()
    assert client.get(ISSUES.rstrip("/")).status_code == 404
    assert client.get("/api/0/organizations/other/issues/").status_code == 404
    assert client.get(f"{ISSUES}1/").json() == {"detail": "The requested resource does not exist"}
    assert client.get(ISSUES, params={"statsPeriod": "soon"}).status_code == 400
    assert client.get(ISSUES, params={"query": "no.such.field:1"}).status_code == 400


def test_issues_are_listed_by_span_query_and_order(world: World, client: TestClient) -> None:
    now = datetime.now(UTC)
    issue = world.sentry.capture("StripeError", "no such price", "POST /api/webhooks/stripe", now)
    listed = client.get(ISSUES, params={"statsPeriod": "24h", "query": "is:unresolved error.type:StripeError"}).json()
    conforms(listed, published("/api/0/organizations/{organization_id_or_slug}/issues/"))
    assert [(one["id"], one["count"], one["userCount"]) for one in listed] == [(issue.id, "1", 0)]
    assert [one["id"] for one in client.get(ISSUES, params={"query": "price"}).json()] == [issue.id]
    world.sentry.set_status(issue, "resolved", {})
    assert issue.id not in [one["id"] for one in client.get(ISSUES).json()]
    assert issue.id in [one["id"] for one in client.get(ISSUES, params={"query": ""}).json()]
    assert client.get(ISSUES, params={"project": "1"}).json() == []
    counts = [int(one["count"]) for one in client.get(ISSUES, params={"sort": "freq"}).json()]
    assert counts == sorted(counts, reverse=True)
    old = "/api/0/projects/quillfolio/web/issues/"
    assert client.get(old, params={"statsPeriod": "14d"}).status_code == 200
    assert client.get(old, params={"statsPeriod": "1h"}).status_code == 400


def test_pages_follow_the_link_header(world: World, client: TestClient) -> None:
    seen: list[str] = []
    address: str | None = f"{ISSUES}?limit=3"
    while address:
        answer = client.get(address)
        seen += [one["id"] for one in answer.json()]
        links = {
            m[2]: (m[1], m[3]) for m in re.finditer(r'<([^>]+)>; rel="(\w+)"; results="(\w+)"', answer.headers["link"])
        }
        assert set(links) == {"previous", "next"}
        address = links["next"][0] if links["next"][1] == "true" else None
    assert len(seen) == len(set(seen)) == len(world.sentry.issues)
    assert client.get(ISSUES, params={"cursor": "nonsense"}).status_code == 400


def test_one_issue_and_its_events(world: World, client: TestClient) -> None:
    issue = max(world.sentry.issues.values(), key=lambda one: len(one.events))
    shown = client.get(f"{ISSUES}{issue.id}/").json()
    conforms(shown, published("/api/0/organizations/{organization_id_or_slug}/issues/{issue_id}/"))
    assert client.get(f"{ISSUES}{shown['shortId']}/").json()["id"] == issue.id
    events = client.get(f"{ISSUES}{issue.id}/events/", params={"per_page": 5}).json()
    conforms(events, published("/api/0/organizations/{organization_id_or_slug}/issues/{issue_id}/events/"))
    dates = [one["dateCreated"] for one in events]
    assert dates == sorted(dates, reverse=True)
    assert len(dates) == 5
    assert client.get(f"{ISSUES}{issue.id}/events/", params={"full": "1"}).json()[0]["entries"]


def test_resolving_one_and_several(world: World, client: TestClient) -> None:
    first, second, *others = world.sentry.issues.values()
    assert client.put(f"{ISSUES}{first.id}/", json={"status": "resolved"}).json()["status"] == "resolved"
    answer = client.put(ISSUES, params={"id": [second.id]}, json={"status": "resolvedInNextRelease"})
    assert answer.json() == {"status": "resolved", "statusDetails": {"inNextRelease": True}}
    assert {one.status for one in others} == {"unresolved"}
    assert client.put(ISSUES, params={"id": "1"}, json={"status": "resolved"}).status_code == 204
    assert client.put(f"{ISSUES}{first.id}/", json={"status": "gone"}).status_code == 400


def test_a_bulk_change_without_ids_hits_everything(world: World, client: TestClient) -> None:
    client.put(ISSUES, json={"status": "resolved"})
    assert {one.status for one in world.sentry.issues.values()} == {"resolved"}
    assert client.put(ISSUES, json={"status": "resolved"}).status_code == 204


def test_counts_over_time(world: World, client: TestClient) -> None:
    path = "/api/0/organizations/quillfolio/events-timeseries/"
    series = client.get(path, params={"statsPeriod": "14d", "interval": "1d"}).json()
    conforms(series, published("/api/0/organizations/{organization_id_or_slug}/events-timeseries/"))
    total = sum(len(one.events) for one in world.sentry.issues.values())
    assert sum(one["value"] for one in series["timeSeries"][0]["values"]) == total
    stats = client.get("/api/0/projects/quillfolio/web/stats/", params={"resolution": "1h"}).json()
    conforms(stats, published("/api/0/projects/{organization_id_or_slug}/{project_id_or_slug}/stats/"))
    assert client.get("/api/0/projects/quillfolio/web/stats/", params={"resolution": "2h"}).status_code == 400


def test_rate_limit_headers_are_there(client: TestClient) -> None:
    headers = client.get(ISSUES).headers
    assert int(headers["x-sentry-rate-limit-remaining"]) < int(headers["x-sentry-rate-limit-limit"])
