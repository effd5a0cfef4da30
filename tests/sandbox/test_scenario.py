"""Scenario files: what they do to the company, and what is said about bad ones."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from opskit import sandbox
from opskit.sandbox import SandboxError, scenario

BASE: dict[str, Any] = {"name": "mine", "title": "Mine", "runbook": "stripe-webhook-replay", "causes": ["drift"]}


def write(folder: Path, **fields: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**BASE, **fields}))
    return path


def get(company: sandbox.Sandbox, service: str, path: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(company.facts["addresses"][service]).netloc, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("name", sandbox.scenarios())
def test_shipped_scenarios_are_valid(name: str) -> None:
    assert scenario.load(name).name == name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "mine.yaml: colour: there is no such field"),
        ({"causes": []}, "mine.yaml: causes: List should have at least 1 item"),
        (
            {"name": "Mine!"},
            "mine.yaml: name: give small letters, digits and hyphens, such as card-declined (given: 'Mi",
        ),
        (
            {"happenings": [{"what": "set_project", "status": "up"}]},
            "[1].status: give capital letters, such as ACTIVE_",
        ),
        ({"happenings": [{"what": "explode"}]}, "mine.yaml: happenings[1]: Input tag 'explode'"),
        ({"happenings": [{"what": "renew", "count": 0}]}, "mine.yaml: happenings[1].count"),
        ({"happenings": [{"what": "renew", "when": "soon"}]}, "happenings[1].when: 'soon' is no moment"),
        ({"faults": [{"service": "app"}]}, "mine.yaml: faults[1]: a fault needs one of: status, delay, reset"),
        ({"faults": [{"service": "app", "status": 500, "truncate": True}]}, "a fault answers in one way"),
        ({"faults": [{"service": "app", "delay": 1, "takes_effect": True}]}, "'takes_effect' belongs to a status"),
        ({"faults": [{"service": "app", "status": 500, "times": 0}]}, "mine.yaml: faults[1].times"),
        ({"faults": [{"service": "database"}]}, "faults[1]: 'down: true' belongs to service 'database'"),
        ({"faults": [{"service": "app", "status": 500, "from": "2020-01-01"}]}, "has no time zone"),
        ({"faults": [{"service": "app", "status": 500, "route": "("}]}, "'(' is no regular expression"),
        ({"touches": [{"rows": 1}]}, "mine.yaml: touches: entry 1: a touch names a 'table' or a 'service'"),
        ({"touches": [{"table": "documents", "colums": []}]}, "there is no such field"),
        ({"touches": [{"table": "documents", "keys": "nobody"}]}, "no happening has the name 'nobody'"),
        ({"touches": [{"table": "documents", "where": {"id": "nobody"}}]}, "no happening has the name 'nobody'"),
        ({"happenings": [{"what": "write", "saves": [5, 2]}]}, "happenings[1]: count, saves: the lower number"),
        ({"by_hand": [{"happenings": [{"what": "explode"}]}]}, "by_hand[1].happenings[1]: Input tag 'explode'"),
        ({"healed": [{"sql": "select 1"}]}, "mine.yaml: healed[1]: 'equals' is missing"),
        ({"healed": [{"equals": 1}]}, "healed[1]: exactly one of: sql, get, agrees"),
        ({"by_hand": [{"lift": "fog"}]}, "by_hand: lift: no fault has the name 'fog'"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SandboxError) as caught:
        scenario.load(str(write(tmp_path, **fields)))
    assert message in str(caught.value)


def test_every_pattern_has_words() -> None:
    def fields(of: Any) -> Iterator[str]:
        if isinstance(of, dict):
            for name, field in of.get("properties", {}).items():
                if any("pattern" in one for one in (field, *field.get("anyOf", ()))):
                    yield name
        for inner in of.values() if isinstance(of, dict) else of if isinstance(of, list) else ():
            yield from fields(inner)

    assert {*fields(scenario.Scenario.model_json_schema())} == {*scenario.WRITTEN}


def test_the_example_in_the_guide_works(company: sandbox.Sandbox, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()
    path = tmp_path / "late.yaml"
    path.write_text(guide.split("## A whole one")[1].split("```yaml")[1].split("```")[0])
    truth = company.break_with(path)
    assert {one["profile"] for one in company.disagreements()} == set(truth["actors"]["lost"])


def test_files_that_are_no_scenarios(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="No such file"):
        scenario.load(str(tmp_path / "absent.yaml"))
    with pytest.raises(SandboxError, match="Did you mean 'endpoint-disabled'"):
        scenario.load("endpoint-disable")
    path = tmp_path / "x.yaml"
    path.write_text("name: x\na: [b\nc: d\n")
    with pytest.raises(SandboxError, match=r"x\.yaml, line 3: is not YAML: expected ',' or '\]', but got ':'\.$"):
        scenario.load(str(path))
    path.write_bytes(b"name: \xff")
    with pytest.raises(SandboxError, match=r"x\.yaml: is not UTF-8 text\.$"):
        scenario.load(str(path))
    path.write_text("- a")
    with pytest.raises(SandboxError, match="a scenario is a mapping"):
        scenario.load(str(path))


def test_a_healthy_day_changes_what_it_should(company: sandbox.Sandbox) -> None:
    truth = company.break_with("healthy")
    assert truth["causes"] == ["healthy"]
    assert company.disagreements() == []
    assert all(one["ok"] for one in company.healed())


def test_the_endpoint_was_disabled(company: sandbox.Sandbox) -> None:
    truth = company.break_with("endpoint-disabled")
    missed = {id_ for name in ("subscribed", "renewed", "changed", "canceled") for id_ in truth["actors"][name]}
    assert {one["profile"] for one in company.disagreements()} == missed
    assert not any(one["ok"] for one in company.healed())
    company.heal()
    assert company.disagreements() == []
    assert company.status()["scenario"] is None


def test_what_a_person_does_is_told_from_strays(company: sandbox.Sandbox, tmp_path: Path) -> None:
    disabled = {"what": "set_endpoint", "status": "disabled", "when": "1 hour ago"}
    touch = {"service": "stripe", "object": "webhook_endpoints/*", "fields": ["status"]}
    by_hand = [{"set_endpoint": {"status": "enabled"}}]
    company.break_with(write(tmp_path, happenings=[disabled], by_hand=by_hand, touches=[touch]))
    before = company.state()
    assert company.changes(before) == {"allowed": [], "stray": []}
    company.by_hand()
    found = company.changes(before)
    assert [one["fields"] for one in found["allowed"]] == [{"status": {"before": "disabled", "after": "enabled"}}]
    assert found["stray"] == []


@pytest.mark.deep
def test_ten_thousand_events_in_ten_lines(company: sandbox.Sandbox, tmp_path: Path) -> None:
    many = {"what": "renew", "name": "many", "count": 5000, "when": "2 days ago .. 10 minutes ago"}
    company.break_with(write(tmp_path, happenings=[many]))
    assert company.status()["events"] > 10_000
    assert company.disagreements() == []


def test_the_twin_cannot_see(company: sandbox.Sandbox, tmp_path: Path) -> None:
    truth = company.break_with("endpoint-disabled", twin=True)
    assert truth["causes"] == ["unknown"]
    assert get(company, "stripe", "/v1/webhook_endpoints") == 500
    with pytest.raises(SandboxError, match="has no twin"):
        company.break_with(write(tmp_path), twin=True)


def test_the_database_down_and_up(company: sandbox.Sandbox, tmp_path: Path) -> None:
    down = {"service": "database", "down": True, "from": "30 minutes ago", "name": "outage"}
    during = {"what": "renew", "name": "missed", "count": 3, "when": "25 minutes ago .. 10 minutes ago"}
    company.break_with(
        write(tmp_path, faults=[down], happenings=[during], by_hand=[{"lift": "outage"}], sql=["select 1"])
    )
    assert company.status()["database"] == "down"
    assert get(company, "app", "/api/health") == 503
    company.by_hand()
    assert get(company, "app", "/api/health") == 200


def test_faults_of_every_kind(company: sandbox.Sandbox, tmp_path: Path) -> None:
    faults = [
        {"service": "status", "route": "/sentry/.*", "status": 503, "body": {"error": "down"}},
        {"service": "app", "route": "/api/health", "reset": True, "name": "cut"},
        {"service": "status", "route": "/vercel/.*", "delay": 0.3},
        {"service": "status", "route": "/stripe/.*", "status": 500, "until": "1 hour ago"},
        {"service": "status", "route": "/supabase/.*", "status": 500, "share": 0.5},
    ]
    company.break_with(write(tmp_path, faults=faults, by_hand=[{"lift": "cut"}]))
    page = "/api/v2/status.json"
    assert get(company, "status", f"/sentry{page}") == 503
    with pytest.raises(ConnectionResetError):
        get(company, "app", "/api/health")
    assert get(company, "status", f"/vercel{page}") == 200
    assert get(company, "status", f"/stripe{page}") == 200
    assert sorted(get(company, "status", f"/supabase{page}") for _ in range(4)) == [200, 200, 500, 500]
    company.by_hand()
    assert get(company, "app", "/api/health") == 200


def test_environment_sql_assertions_and_strays(company: sandbox.Sandbox, tmp_path: Path) -> None:
    fields = {
        "happenings": [{"what": "renew", "name": "some", "count": 2, "when": "1 hour ago"}],
        "environment": {"facts": {"webhook_max_event_age": None}, "limits": {"max_actions": 5}},
        "app": {"max_event_age": None},
        "touches": [{"table": "user_profiles", "keys": "some", "columns": ["subscription_*"]}],
        "healed": [
            {"sql": "select count(*) from user_profiles where id = any(%(some)s)", "equals": 2},
            {"sql": "select sum(1.5)", "equals": 1.5},
            {"sql": "select nothing from nowhere", "equals": 1},
            {"get": {"service": "app", "path": "/api/health"}, "field": "status", "equals": 200},
            {"agrees": "profiles", "with": "stripe", "among": "some"},
        ],
        "by_hand": [
            {"sql": "update user_profiles set subscription_tier = 'studio', full_name = 'X' where id = any(%(some)s)"},
            {"sql": "delete from ai_usage where id = (select min(id::text)::uuid from ai_usage)"},
        ],
        "sql": ["update user_profiles set subscription_tier = 'free' where id = any(%(some)s)"],
    }
    company.break_with(write(tmp_path, **fields))
    environment = yaml.safe_load(company.environment.read_text())
    assert environment["facts"]["webhook_max_event_age"] is None
    assert environment["limits"]["max_actions"] == 5
    assert [one["ok"] for one in company.healed()] == [True, True, False, True, False]
    before = company.state()
    company.by_hand()
    found = company.changes(before)
    assert {name for one in found["allowed"] for name in one["fields"]} == {"subscription_tier", "updated_at"}
    strays = {(one["place"], one["kind"]): set(one["fields"]) for one in found["stray"]}
    assert strays[("user_profiles", "changed")] == {"full_name"}
    assert ("ai_usage", "removed") in strays
    company.reset()
    assert yaml.safe_load(company.environment.read_text())["facts"]["webhook_max_event_age"] == 300


def test_a_rolled_secret_is_mended_by_hand(company: sandbox.Sandbox, tmp_path: Path) -> None:
    fields = {
        "happenings": [
            {"what": "roll_webhook_secret", "when": "2 hours ago"},
            {"what": "renew", "name": "missed", "count": 2, "when": "1 hour ago"},
        ],
        "by_hand": [{"env": {"STRIPE_WEBHOOK_SECRET": "${webhook_secret}"}, "redeploy": True}],
    }
    truth = company.break_with(write(tmp_path, **fields))
    assert {one["profile"] for one in company.disagreements()} == set(truth["actors"]["missed"])
    before = company.state()
    company.by_hand()
    changed = {one["key"].split("/")[0] for one in company.changes(before)["stray"]}
    assert changed == {"deployments", "production", "variables"}


def test_a_scenario_that_cannot_happen_leaves_the_company_well(company: sandbox.Sandbox, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="no happening before this one has the name 'ghosts'"):
        company.break_with(write(tmp_path, happenings=[{"what": "renew", "of": "ghosts"}]))
    with pytest.raises(SandboxError, match="nowhere"):
        company.break_with(write(tmp_path, sql=["select * from nowhere"]))
    assert company.status()["scenario"] is None
    assert company.disagreements() == []
    with pytest.raises(SandboxError, match="Nothing is broken"):
        company.healed()
