"""Vercel: the store's rules, its HTTP API, and the shapes that Vercel publishes."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from specs import conforms, spec
from starlette.testclient import TestClient

from opskit.sandbox import vercel
from opskit.sandbox.stripe import StripeStore
from opskit.sandbox.vercel import LogLine, VercelStore
from opskit.sandbox.world import World


@pytest.fixture
def world() -> World:
    world = World(1, None)  # type: ignore[arg-type]  # no database is needed
    world.secrets.update(webhook="whsec_1", vercel="vercel-token")
    world.stripe, world.vercel = StripeStore(world), VercelStore(world)
    vercel.populate(world)
    return world


@pytest.fixture
def client(world: World) -> TestClient:
    return TestClient(vercel.application(world), headers={"Authorization": "Bearer vercel-token"})


def published(name: str) -> dict[str, Any]:
    return spec("vercel-selected.schema.json")["schemas"][name]


def project(world: World) -> str:
    return f"projects/{world.vercel.project_id}"


# The store


def test_a_variable_reaches_the_next_build_only_and_a_rollback_takes_it_back(world: World) -> None:
    store = world.vercel
    first = store.live()
    store.change_environment({"STRIPE_PRICE_STUDIO": "price_new"})
    assert store.live().env["STRIPE_PRICE_STUDIO"] != "price_new"
    store.redeploy(first.id)
    assert store.live().env["STRIPE_PRICE_STUDIO"] == "price_new"
    assert store.rollback().id == first.id
    assert store.live().env == first.env


def test_code_is_carried_from_build_to_build(world: World) -> None:
    store = world.vercel
    broken = store.deploy(behaviour={"bug": "handler-raises"}, message="Refactor").behaviour
    assert broken == {**store.deployments[0].behaviour, "bug": "handler-raises"}
    assert store.deploy(message="Typo").behaviour == broken
    store.rollback(store.deployments[0].id)
    assert store.live().behaviour["bug"] is None


def test_promoting_a_preview_builds_it_again(world: World) -> None:
    preview = next(one for one in world.vercel.deployments if one.target == "preview")
    promoted = world.vercel.promote(preview.id)
    assert promoted.id != preview.id
    assert promoted.commit == preview.commit
    assert world.vercel.live() == promoted


def test_a_copy_is_apart(world: World) -> None:
    twin = copy.deepcopy(world.vercel)
    world.vercel.deploy(env={"NEW": "1"})
    world.vercel.live().behaviour["bug"] = "handler-raises"
    world.vercel.log_request("GET", "/", 200)
    assert twin.dump() != world.vercel.dump()
    assert "NEW" not in twin.variables
    assert not twin.requests
    assert twin.live().behaviour["bug"] is None
    json.dumps(twin.dump())


def test_the_same_seed_gives_the_same_ids(world: World) -> None:
    other = World(1, None)  # type: ignore[arg-type]
    assert VercelStore(other).project_id == world.vercel.project_id


# HTTP


def test_tokens_and_scopes_are_checked(world: World, client: TestClient) -> None:
    stranger = TestClient(vercel.application(world), headers={"Authorization": "Bearer other"})
    assert (stranger.get("/v2/user").status_code, stranger.get("/v2/user").json()["error"]["code"]) == (
        403,
        "forbidden",
    )
    assert client.get("/v2/user", params={"teamId": world.vercel.team_id}).status_code == 200
    assert client.get("/v2/user", params={"slug": world.vercel.team_slug}).status_code == 200
    assert client.get("/v2/user", params={"teamId": "team_other"}).status_code == 403
    assert client.get("/v9/projects/prj_other").json()["error"]["code"] == "not_found"
    assert client.get("/v99/nothing").json()["error"]["code"] == "not_found"
    conforms(client.get("/v2/user").json(), published("GetAuthUserResponseBody"))


def test_deployments_page_back_in_time(world: World, client: TestClient) -> None:
    seen: list[str] = []
    query: dict[str, Any] = {"projectId": world.vercel.project_id, "limit": 3}
    for _ in range(9):
        page = client.get("/v7/deployments", params=query).json()
        conforms(page, published("GetDeploymentsResponseBody"))
        seen += [one["uid"] for one in page["deployments"]]
        if page["pagination"]["next"] is None:
            break
        query["until"] = page["pagination"]["next"]
    created = sorted(world.vercel.deployments, key=lambda one: one.created, reverse=True)
    assert seen == [one.id for one in created]
    production = client.get("/v6/deployments", params={"target": "production", "state": "READY"}).json()
    assert len(production["deployments"]) == len(seen) // 2
    candidates = client.get("/v6/deployments", params={"rollbackCandidate": "true"}).json()["deployments"]
    assert world.vercel.production not in [one["uid"] for one in candidates]
    assert client.get("/v6/deployments", params={"limit": "many"}).status_code == 400


def test_one_deployment_by_id_or_address(world: World, client: TestClient) -> None:
    live = world.vercel.live()
    for key in (live.id, live.url):
        shown = client.get(f"/v13/deployments/{key}").json()
        assert (shown["id"], shown["readyState"], shown["target"]) == (live.id, "READY", "production")
        assert shown["team"]["id"] == world.vercel.team_id
    assert client.get("/v13/deployments/dpl_none").status_code == 404


def test_variables_are_listed_and_the_sensitive_ones_never_read(world: World, client: TestClient) -> None:
    base = f"/v10/{project(world)}/env"
    listed = client.get(base, params={"decrypt": "true"}).json()
    conforms(listed, published("FilterProjectEnvsResponseBody"))
    by_name = {one["key"]: one for one in listed["envs"]}
    assert by_name["STRIPE_PRICE_STUDIO"]["value"] == world.stripe.price_of("studio")
    assert (by_name["STRIPE_WEBHOOK_SECRET"]["type"], by_name["STRIPE_WEBHOOK_SECRET"]["value"]) == ("sensitive", "")
    assert "whsec_1" not in client.get(base).text
    one = client.get(f"/v1/{project(world)}/env/{by_name['STRIPE_WEBHOOK_SECRET']['id']}").json()
    assert one["value"] == ""


def test_variables_are_created_edited_and_removed(world: World, client: TestClient) -> None:
    base = f"/v10/{project(world)}/env"
    new = {"key": "FLAG", "value": "1", "type": "plain", "target": ["production"]}
    answer = client.post(base, json=new)
    assert answer.status_code == 201
    conforms(answer.json(), published("CreateProjectEnvResponseBody"))
    assert client.post(base, json=new).json()["error"]["code"] == "ENV_CONFLICT"
    assert client.post(base, params={"upsert": "true"}, json={**new, "value": "2"}).status_code == 201
    key = world.vercel.variables["FLAG"].id
    edited = client.patch(f"/v9/{project(world)}/env/{key}", json={"value": "3"})
    conforms(edited.json(), published("EditProjectEnvResponseBody"))
    assert world.vercel.environment()["FLAG"] == "3"
    assert "FLAG" not in world.vercel.live().env
    assert "FLAG" not in world.vercel.environment("preview")
    assert client.delete(f"/v9/{project(world)}/env/{key}").status_code == 200
    assert "FLAG" not in world.vercel.variables
    assert client.post(base, json={"key": "X"}).status_code == 400


def test_a_redeployment_takes_a_moment(world: World, client: TestClient) -> None:
    live = world.vercel.live()
    body = {"deploymentId": live.id, "name": world.vercel.name, "target": "production", "meta": {"action": "redeploy"}}
    built = client.post("/v13/deployments?forceNew=1", json=body).json()
    assert (built["readyState"], world.vercel.production) == ("BUILDING", live.id)
    due = world.agenda.due(datetime.now(UTC) + timedelta(minutes=1))
    assert due is not None
    due[1]()
    assert world.vercel.production == built["id"]
    assert client.get(f"/v13/deployments/{built['id']}").json()["readyState"] == "READY"


@pytest.mark.parametrize("version", ["v1", "v9"])
def test_a_rollback_and_its_completion(world: World, client: TestClient, version: str) -> None:
    earlier = next(one for one in world.vercel.deployments if one.target == "production")
    assert client.post(f"/{version}/{project(world)}/rollback/{earlier.id}").status_code == 201
    assert world.vercel.live().id == earlier.id
    shown = client.get(f"/v9/{project(world)}", params={"rollbackInfo": "true"}).json()["lastAliasRequest"]
    assert (shown["type"], shown["jobStatus"], shown["toDeploymentId"]) == ("rollback", "succeeded", earlier.id)
    assert client.post(f"/v1/{project(world)}/rollback/{earlier.id}").status_code == 400
    assert client.post(f"/v10/{project(world)}/promote/{earlier.id}").status_code == 409
    aliases = client.get(f"/v1/{project(world)}/promote/aliases").json()
    conforms(aliases, published("ListPromoteAliasesResponseBody"))


def test_logs_by_deployment_and_by_request(world: World, client: TestClient) -> None:
    store, now = world.vercel, datetime.now(UTC)
    line = json.dumps({"context": {"operation": "webhook:stripe:verify_failed"}})
    old = [now - timedelta(hours=30), now - timedelta(hours=2)]
    store.log_request("POST", "/api/webhooks/stripe", 400, [LogLine(old[0], "error", line)], old[0])
    store.log_request("POST", "/api/webhooks/stripe", 400, [LogLine(old[1], "error", line)], old[1])
    store.log_request("GET", "/api/health", 504)
    store.log_request("GET", "/api/health", 200, at=now - timedelta(days=90))
    path = f"/v1/{project(world)}/deployments/{store.production}/runtime-logs"
    lines = [json.loads(text) for text in client.get(path).text.splitlines()]
    assert [one["responseStatusCode"] for one in lines] == [400, 400, 504]
    for one in lines:
        conforms(one, published("GetRuntimeLogsResponseBody"))
    since = int((now - timedelta(hours=3)).timestamp() * 1000)
    assert len(client.get(path, params={"since": since}).text.splitlines()) == 2
    found = client.get(
        "/api/logs/request-logs", params={"projectId": store.project_id, "ownerId": store.team_id}
    ).json()
    assert [row["statusCode"] for row in found["rows"]] == [504, 400]
    assert found["hasMoreRows"] is False
    for query in ({"statusCode": "4xx"}, {"level": "error"}, {"search": "verify_failed"}):
        rows = client.get("/api/logs/request-logs", params={"startDate": 0, **query}).json()["rows"]
        assert [row["statusCode"] for row in rows] == [400, 400]


def test_request_logs_come_in_pages(world: World, client: TestClient) -> None:
    for n in range(150):
        world.vercel.log_request("GET", f"/page/{n}", 200)
    first = client.get("/api/logs/request-logs", params={"page": 0}).json()
    second = client.get("/api/logs/request-logs", params={"page": 1}).json()
    assert (len(first["rows"]), first["hasMoreRows"]) == (100, True)
    assert (len(second["rows"]), second["hasMoreRows"]) == (50, False)
