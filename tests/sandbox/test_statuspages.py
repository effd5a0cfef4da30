"""The vendors' status pages: all well by default, and as bad as a scenario says."""

from __future__ import annotations

import pytest
from specs import conforms, spec
from starlette.testclient import TestClient

from opskit.sandbox import statuspages
from opskit.sandbox.world import World

SCHEMAS = "statuspage-v2.handwritten.schema.json"


@pytest.fixture
def world() -> World:
    return World(1, None)  # type: ignore[arg-type]  # no database is needed


@pytest.fixture
def client(world: World) -> TestClient:
    return TestClient(statuspages.application(world))


@pytest.mark.parametrize("vendor", list(statuspages.VENDORS))
def test_all_is_well(client: TestClient, vendor: str) -> None:
    for name in ("status", "summary", "components", "incidents"):
        shown = client.get(f"/{vendor}/api/v2/{name}.json").json()
        conforms(shown, spec(SCHEMAS)["$defs"][f"{name}.json"])
    assert client.get(f"/{vendor}/api/v2/status.json").json()["status"]["indicator"] == "none"
    assert client.get(f"/{vendor}/api/v2/incidents/unresolved.json").json()["incidents"] == []


def test_an_incident_shows_everywhere(world: World, client: TestClient) -> None:
    world.status_pages["stripe"] = {
        "components": {"Webhooks": "partial_outage"},
        "incidents": [
            {"name": "Webhook delays", "components": ["Webhooks"]},
            {"name": "Earlier", "status": "resolved", "impact": "critical"},
        ],
    }
    summary = client.get("/stripe/api/v2/summary.json").json()
    conforms(summary, spec(SCHEMAS)["$defs"]["summary.json"])
    assert summary["status"]["indicator"] == "major"
    assert [one["name"] for one in summary["incidents"]] == ["Webhook delays"]
    assert summary["incidents"][0]["components"][0]["name"] == "Webhooks"
    assert len(client.get("/stripe/api/v2/incidents.json").json()["incidents"]) == 2
    assert client.get("/vercel/api/v2/status.json").json()["status"]["indicator"] == "none"


def test_the_indicator_can_be_set_alone(world: World, client: TestClient) -> None:
    world.status_pages["supabase"] = {"indicator": "minor"}
    assert client.get("/supabase/api/v2/status.json").json()["status"]["indicator"] == "minor"


def test_a_page_that_moved_answers_html(world: World, client: TestClient) -> None:
    world.status_pages["openai"] = {"html": True}
    answer = client.get("/openai/api/v2/summary.json", follow_redirects=False)
    assert answer.status_code == 302
    there = client.get(answer.headers["location"])
    assert (there.status_code, there.headers["content-type"].split(";")[0]) == (200, "text/html")


def test_unknown_vendors_have_no_page(client: TestClient) -> None:
    assert client.get("/acme/api/v2/status.json").status_code == 404
