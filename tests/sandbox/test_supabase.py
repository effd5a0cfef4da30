"""Supabase's Management API: what it tells, what it refuses, and the shapes that Supabase publishes."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from specs import conforms, openapi, spec
from starlette.testclient import TestClient

from opskit.sandbox import supabase, supabase_api, supabase_logs
from opskit.sandbox.postgres import Postgres
from opskit.sandbox.supabase import SupabaseStore
from opskit.sandbox.world import World

TOKEN = "sbp_" + "a" * 40
LOGS = "/analytics/endpoints/logs"


@pytest.fixture
def world(database: Postgres) -> World:
    database.start()
    world = World(1, database)
    world.secrets["supabase"] = TOKEN
    world.supabase = SupabaseStore(world)
    supabase.populate(world)
    return world


@pytest.fixture
def client(world: World) -> TestClient:
    base = f"http://testserver/v1/projects/{world.supabase.ref}"
    return TestClient(supabase.application(world), base_url=base, headers={"Authorization": f"Bearer {TOKEN}"})


def resolved(schema: Any, document: dict[str, Any]) -> Any:
    """The schema with what it refers to in its place."""
    if isinstance(schema, list):
        return [resolved(one, document) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return resolved(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    return {key: resolved(value, document) for key, value in schema.items()}


def published(path: str) -> dict[str, Any]:
    document = spec("supabase-management-openapi.json")
    answer = document["paths"][f"/v1/projects/{{ref}}{path}"]["get"]["responses"]["200"]
    return openapi(resolved(answer["content"]["application/json"]["schema"], document))


def test_every_route_is_one_that_supabase_has() -> None:
    paths = spec("supabase-management-openapi.json")["paths"]
    newer = {"/v1/projects/{ref}/analytics/endpoints/logs"}  # announced after this copy was taken
    for method, path, _ in supabase_api.ROUTES:
        assert path in newer or method.lower() in paths[path], f"{method} {path}"


def test_the_project(world: World, client: TestClient) -> None:
    shown = client.get("").json()
    conforms(shown, published(""))
    assert (shown["ref"], shown["status"]) == (world.supabase.ref, "ACTIVE_HEALTHY")


def test_health_is_told_of_what_is_asked_for(client: TestClient) -> None:
    found = client.get("/health", params={"services": ["db", "realtime"]}).json()
    conforms(found, published("/health"))
    assert [(one["name"], one["status"]) for one in found] == [("db", "ACTIVE_HEALTHY"), ("realtime", "ACTIVE_HEALTHY")]
    assert client.get("/health").status_code == 400
    assert client.get("/health", params={"services": "everything"}).status_code == 400


def test_a_database_that_is_down_is_told(world: World, client: TestClient) -> None:
    world.database.stop()
    (db,) = client.get("/health", params={"services": "db"}).json()
    assert (db["status"], db["healthy"]) == ("UNHEALTHY", False)
    refused = client.get("/database/migrations")
    assert refused.status_code >= 500
    assert "message" in refused.json()


def test_backups_are_daily_or_of_any_moment(world: World, client: TestClient) -> None:
    daily = client.get("/database/backups").json()
    conforms(daily, published("/database/backups"))
    assert (daily["pitr_enabled"], len(daily["backups"])) == (False, 7)
    moments = [one["inserted_at"] for one in daily["backups"]]
    assert moments == sorted(moments, reverse=True)
    world.supabase.pitr_days = 7
    fine = client.get("/database/backups").json()
    conforms(fine, published("/database/backups"))
    span = fine["physical_backup_data"]
    assert span["latest_physical_backup_date_unix"] - span["earliest_physical_backup_date_unix"] > 6 * 86400


def test_migrations_are_those_of_the_ledger(world: World, client: TestClient) -> None:
    found = client.get("/database/migrations").json()
    conforms(found, published("/database/migrations"))
    with world.database.connect() as connection:
        rows = connection.execute("select version, name from supabase_migrations.schema_migrations").fetchall()
    assert [(one["version"], one["name"]) for one in found] == sorted(rows)


def test_queries_read_and_do_nothing_else(client: TestClient) -> None:
    def ask(query: str, **more: Any) -> Any:
        return client.post("/database/query/read-only", json={"query": query, **more})

    answer = ask("select tier, max_projects from public.subscription_tier_limits where tier = 'free'")
    assert (answer.status_code, answer.json()) == (201, [{"tier": "free", "max_projects": 3}])
    refused = ask("update public.subscription_tier_limits set max_projects = 4")
    assert refused.status_code == 400
    assert refused.json()["message"].startswith("Failed to run sql query: ERROR:  25006: ")
    assert client.post("/database/query", json={"query": "select 1 as one", "read_only": True}).json() == [{"one": 1}]
    assert client.post("/database/query", json={"query": "drop schema auth"}).status_code == 400, (
        "it is not the owner's"
    )
    assert "42P01" in ask("select * from no_such_table").json()["message"]
    assert ask("").status_code == 400


def test_a_stranger_and_another_project_are_refused(world: World, client: TestClient) -> None:
    stranger = TestClient(supabase.application(world))
    assert stranger.get(f"/v1/projects/{world.supabase.ref}").status_code == 401
    assert client.get(f"http://testserver/v1/projects/{'z' * 20}").status_code == 404
    assert client.get("/no/such/page").json()["message"]


def test_more_than_its_pace_is_refused(client: TestClient) -> None:
    answers = [client.get("") for _ in range(121)]
    assert [answer.status_code for answer in answers] == [200] * 120 + [429]
    assert [answers[at].headers["x-ratelimit-remaining"] for at in (0, 119, 120)] == ["119", "0", "0"]
    assert 0 < int(answers[120].headers["x-ratelimit-reset"]) <= 60


def search(client: TestClient, query: str, **span: str) -> Any:
    now = datetime.now(UTC)
    asked = {"iso_timestamp_start": (now - timedelta(hours=3)).isoformat(), "iso_timestamp_end": now.isoformat()}
    return client.get(LOGS, params={"sql": query, **asked, **span}).json()


def test_logs_are_one_table_that_is_asked_in_sql(world: World, client: TestClient) -> None:
    late = datetime.now(UTC) - timedelta(minutes=5)
    world.supabase.log(late, "canceling statement due to lock timeout", "ERROR", "55P03", "postgres")
    world.supabase.log(late - timedelta(hours=30), "long ago", "ERROR", "55P03")
    found = search(
        client,
        """select id, toUnixTimestamp64Milli(timestamp) as ts_ms, multiIf(
             source = 'postgres_logs' and upper(log_attributes['parsed.error_severity']) in ('ERROR', 'FATAL'), 'error',
             source = 'edge_logs', 'info', '') as level, event_message, log_attributes from logs
           where (source = 'edge_logs' or source = 'postgres_logs') and event_message ilike '%LOCK timeout%'
             and level = 'error' and positionCaseInsensitiveUTF8(event_message, 'CANCELING') > 0
           order by ts_ms desc, id desc limit 10;""",
    )
    (line,) = found["result"]
    assert list(line) == ["id", "ts_ms", "level", "event_message", "log_attributes"]
    assert line["ts_ms"] == int(late.timestamp() * 1000)
    assert line["log_attributes"]["parsed.sql_state_code"] == "55P03"
    by_state = (
        "select id from logs where log_attributes['parsed.sql_state_code'] in ('55P03') and not source = 'edge_logs'"
    )
    assert search(client, by_state)["result"] == [{"id": line["id"]}]
    since = f"select event_message from logs where timestamp >= '{late:%Y-%m-%d %H:%M:%S}' order by timestamp"
    assert [one["event_message"] for one in search(client, since)["result"]] == [line["event_message"]]
    everything = search(client, "select * from logs limit 2")["result"]
    assert [tuple(one) for one in everything] == [supabase_logs.COLUMNS] * 2
    for wrong in (
        "select ts_ms from logs",  # the command-line tool computes it, and the level too
        "select id from logs where level = 'error'",
        "select id from logs where not a condition",
        "select id from logs where source = ",
        "select id from logs where (source = 'a'",
        "select id from logs; drop table logs",
        "select count(*) from logs",
        "delete from logs",
        "select id from edge_logs",
        "select id from logs where source = 'open",
    ):
        assert search(client, wrong)["error"], wrong
    day = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    assert "24 hours" in search(client, by_state, iso_timestamp_start=day)["message"]


def test_a_copy_is_apart(world: World) -> None:
    twin = copy.deepcopy(world.supabase)
    world.supabase.log(datetime.now(UTC), "new")
    world.supabase.backups.clear()
    assert len(twin.logs) == len(world.supabase.logs) - 1
    assert len(twin.backups) == 7
