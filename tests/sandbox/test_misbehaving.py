"""Faults brought about while the company lives, and what can be seen of what was asked of it."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml

from opskit import sandbox
from opskit.sandbox import SandboxError

PAGE = "/stripe/api/v2/summary.json"
ENDPOINTS = "/v1/webhook_endpoints"


@pytest.fixture
def endpoint(company: sandbox.Sandbox) -> str:
    """The path of the app's webhook endpoint at Stripe."""
    return f"{ENDPOINTS}/{company.status()['webhook_endpoint']}"


def ask(company: sandbox.Sandbox, service: str, path: str, method: str = "GET", **given: Any) -> tuple[int, bytes]:
    """The status and the body of an answer."""
    connection = http.client.HTTPConnection(
        urlsplit(company.facts["addresses"][service]).netloc, timeout=given.get("patience", 5)
    )
    secret = (company.folder / "secrets" / "stripe_change").read_text()
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/x-www-form-urlencoded"}
    try:
        connection.request(method, path, given.get("body"), headers | given.get("headers", {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def status_of(company: sandbox.Sandbox, endpoint: str) -> str:
    return str(company.state()["stripe"][endpoint.removeprefix("/v1/")]["status"])


@pytest.fixture
def reader(company: sandbox.Sandbox) -> Iterator[psycopg.Connection[Any]]:
    target = yaml.safe_load(company.environment.read_text())["services"]["database"]
    password = (company.folder / "secrets" / "database_read").read_text()
    name = "opskit/a run"
    with psycopg.connect(target["address"], user="opskit_read", password=password, application_name=name) as found:
        found.autocommit = True
        yield found


def test_half_an_answer(company: sandbox.Sandbox) -> None:
    _, whole = ask(company, "status", PAGE)
    company.misbehave(service="status", truncate=True)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(company, "status", PAGE)
    assert len(caught.value.partial) == len(whole) // 2
    assert caught.value.expected == len(whole) - len(whole) // 2


def test_only_so_many_times(company: sandbox.Sandbox) -> None:
    company.misbehave(service="status", status=500, times=2)
    assert [ask(company, "status", PAGE)[0] for _ in range(4)] == [500, 500, 200, 200]
    company.misbehave(service="status", status=500, times=1, share=0.5)
    assert [ask(company, "status", PAGE)[0] for _ in range(4)] == [200, 500, 200, 200]


def test_the_newest_fault_decides_until_all_are_lifted(company: sandbox.Sandbox) -> None:
    company.misbehave(service="status", status=500)
    company.misbehave(service="status", status=503)
    assert ask(company, "status", PAGE)[0] == 503
    company.lift()
    assert ask(company, "status", PAGE)[0] == 200


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        ({"status": 500}, False),
        ({"status": 500, "takes_effect": True}, True),
        ({"reset": True}, False),
        ({"reset": True, "takes_effect": True}, True),
        ({"truncate": True}, True),
        ({"delay": 0.1}, True),
    ],
)
def test_what_a_fault_leaves_done(company: sandbox.Sandbox, endpoint: str, fault: dict[str, Any], done: bool) -> None:
    company.misbehave(service="stripe", method="POST", **fault)
    with suppress(ConnectionError, http.client.IncompleteRead):
        ask(company, "stripe", endpoint, "POST", body="disabled=true")
    assert (status_of(company, endpoint) == "disabled") is done


def test_a_slow_service_does_what_it_was_asked_when_nobody_waits_any_more(
    company: sandbox.Sandbox, endpoint: str
) -> None:
    company.misbehave(service="stripe", method="POST", delay=0.5)
    connection = http.client.HTTPConnection(urlsplit(company.facts["addresses"]["stripe"]).netloc)
    secret = (company.folder / "secrets" / "stripe_change").read_text()
    connection.request("POST", endpoint, "disabled=true", {"Authorization": f"Bearer {secret}"})
    connection.close()
    assert status_of(company, endpoint) == "enabled"
    time.sleep(1)
    assert status_of(company, endpoint) == "disabled"


def test_a_fault_that_is_none_is_explained(company: sandbox.Sandbox) -> None:
    with pytest.raises(SandboxError, match="a fault needs one of: status, delay, reset, truncate"):
        company.misbehave(service="stripe")
    with pytest.raises(SandboxError, match="fault: service: Input should be"):
        company.misbehave(service="the moon", reset=True)


def test_the_traffic_is_remembered_without_secrets(company: sandbox.Sandbox, endpoint: str) -> None:
    company.misbehave(service="stripe", method="POST", status=429, times=1)
    for _ in range(2):
        ask(company, "stripe", endpoint, "POST", body="disabled=true", headers={"Idempotency-Key": "mine"})
    found = [entry for entry in company.traffic() if entry["service"] == "stripe"]
    assert [(e["method"], e["path"], e["key"], e["struck"], e["passed"], e["status"]) for e in found] == [
        ("POST", endpoint, "mine", True, False, 429),
        ("POST", endpoint, "mine", False, True, 200),
    ]
    assert (company.folder / "secrets" / "stripe_change").read_text() not in str(company.traffic())
    company.reset()
    assert company.traffic() == []


def test_a_request_that_was_never_answered_shows_as_such(company: sandbox.Sandbox) -> None:
    company.misbehave(service="status", reset=True)
    with pytest.raises(ConnectionError):
        ask(company, "status", PAGE)
    assert [entry["status"] for entry in company.traffic()] == [None]


def test_statements_are_logged_while_they_are_wanted(company: sandbox.Sandbox, reader: psycopg.Connection[Any]) -> None:
    reader.execute("select 1 as before")
    with company.statements() as asked:
        reader.execute("select %s::int as during,\n\t%s as text", (1, "a\nb"))
        ask(company, "app", "/api/health")
        reader.execute("select 'simple'", prepare=False)
        during = asked()
    reader.execute("select 1 as after")
    ours = [entry for entry in during if entry["application"] == "opskit/a run"]
    assert [entry["sql"] for entry in ours] == ["select $1::int as during,\n\t$2 as text", "select 'simple'"]
    assert ours[0]["values"] == "$1 = '1', $2 = 'a\nb'"
    assert {entry["user"] for entry in ours} == {"opskit_read"}
    assert "app" in {entry["application"] for entry in during}
    assert not any("as before" in entry["sql"] or "as after" in entry["sql"] for entry in asked())


def test_a_restart_ends_sessions_and_keeps_the_log(company: sandbox.Sandbox, reader: psycopg.Connection[Any]) -> None:
    with company.statements() as asked:
        company.restart_database()
        with pytest.raises(psycopg.OperationalError):
            reader.execute("select 1")
        assert ask(company, "app", "/api/health")[0] == 200
        assert any(entry["application"] == "app" for entry in asked())


def test_sessions_of_one_name_are_cut(company: sandbox.Sandbox, reader: psycopg.Connection[Any]) -> None:
    assert company.cut_sessions("opskit/%") == 1
    with pytest.raises(psycopg.OperationalError):
        reader.execute("select 1")
    assert company.cut_sessions("opskit/%") == 0


def test_sessions_that_freeze_say_nothing_until_they_are_thawed(
    company: sandbox.Sandbox, reader: psycopg.Connection[Any]
) -> None:
    assert company.freeze_sessions("opskit/%") == 1
    reader.pgconn.send_query(b"select 1")
    time.sleep(0.3)
    reader.pgconn.consume_input()
    assert reader.pgconn.is_busy()
    company.lift()
    time.sleep(0.3)
    reader.pgconn.consume_input()
    assert not reader.pgconn.is_busy()
    while reader.pgconn.get_result():
        pass
    company.freeze_sessions("opskit/%")
    company.reset()
    assert company.status()["database"] == "running"


def test_a_service_that_never_answers_holds_up_nobody_else(company: sandbox.Sandbox) -> None:
    company.misbehave(service="status", route="/stripe/.*", delay=600, reset=True)
    with pytest.raises(TimeoutError):
        ask(company, "status", PAGE, patience=0.3)
    assert ask(company, "status", PAGE.replace("stripe", "vercel"))[0] == 200
