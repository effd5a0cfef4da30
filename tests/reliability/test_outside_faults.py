"""Nights on which the outside misbehaves while changes are made: retried to success, or a clear failure; and whatever
was done was announced in the journal before, and was done once.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import watching
import yaml
from outside import Night, Trouble, break_it, keep_small, live_through, look, meanwhile, plan, repeated, unannounced
from support import RUNBOOK, Opskit

from opskit import record
from opskit.sandbox import Sandbox

ERROR = {"error": {"type": "api_error", "message": "An unknown error occurred"}}
KINDS: dict[str, dict[str, Any]] = {
    "500": {"status": 500, "body": ERROR},
    "429": {"status": 429, "body": ERROR},
    "429 with Retry-After": {"status": 429, "body": ERROR, "headers": {"Retry-After": "1"}},
    "timeout": {"delay": 600, "reset": True},
    "reset": {"reset": True},
    "truncated": {"truncate": True},
    "garbage": {"status": 200, "body": "<html>It works!</html>"},
    "30 s delay": {"delay": 30},
}
# The same, after the service has done what it was asked: only the answer is lost.
LOST = {
    "500 after the effect": {"status": 500, "body": ERROR, "takes_effect": True},
    "reset after the effect": {"reset": True, "takes_effect": True},
    "timeout after the effect": {"delay": 600, "reset": True, "takes_effect": True},
}
KEY = "[^/]+"
READS = {
    "account": ("stripe", "GET", "/v1/account"),
    "events": ("stripe", "GET", "/v1/events"),
    "endpoint": ("stripe", "GET", f"/v1/webhook_endpoints/{KEY}"),
    "subscriptions": ("stripe", "GET", "/v1/subscriptions"),
    "project": ("vercel", "GET", f"/v9/projects/{KEY}"),
    "deployments": ("vercel", "GET", "/v7/deployments"),
    "logs": ("vercel", "GET", f"/v1/projects/{KEY}/deployments/{KEY}/runtime-logs"),
    "issues": ("sentry", "GET", f"/api/0/organizations/{KEY}/issues/"),
    "handler": ("app", "POST", "/api/webhooks/stripe"),
    "status page": ("status", "GET", f"/{KEY}/api/v2/summary.json"),
}
CHANGES = {
    "enable": ("stripe", "POST", f"/v1/webhook_endpoints/{KEY}"),
    "resend": ("stripe", "POST", f"/v1/events/{KEY}/retry"),
}
ROUTES = {**READS, **CHANGES}
TWICE = {  # together all kinds that take no time
    "account": "500",
    "events": "429 with Retry-After",
    "endpoint": "reset",
    "subscriptions": "truncated",
    "project": "500",
    "deployments": "429",
    "logs": "429 with Retry-After",
    "issues": "garbage",  # which is not asked again, and is needed for nothing
    "handler": "reset",
    "status page": "truncated",
}
ENOUGH = 300.0  # seconds within which every apply has ended, whatever the outside does


def struck(firm: Sandbox, *faults: tuple[str, str, int | None]) -> Trouble:
    """Trouble: routes, each with a kind of fault and how often it strikes."""

    @contextmanager
    def trouble() -> Iterator[None]:
        for route, kind, times in faults:
            service, method, pattern = ROUTES[route]
            fault = {**KINDS, **LOST}[kind]
            firm.misbehave(service=service, method=method, route=pattern, times=times, **fault)
        yield

    return trouble


def route_of(entry: dict[str, Any]) -> str:
    for name, (service, method, pattern) in ROUTES.items():
        if (entry["service"], entry["method"]) == (service, method) and re.fullmatch(pattern, entry["path"]):
            return name
    return f"{entry['service']} {entry['method']} {entry['path']}"


def ended_well(night: Night) -> None:
    """Whatever happened on the way: in the end all is done, once, and known to be."""
    assert (night.exits[-1], night.outcomes[-1]) == (0, "done and verified"), (night.outcomes, night.said())
    assert [h for h in night.firm.healed() if not h["ok"]] == []
    assert max(night.seconds) < ENOUGH


def failed_clearly(night: Night, number: int, service: str) -> None:
    """An apply or resume that did not do all: it says so by its exit code, and why by the service's name."""
    assert (night.exits[number], night.outcomes[number]) in ((5, "partly applied"), (5, "fate unknown"))
    assert service in night.said()


def ended_clearly(night: Night, service: str) -> None:
    """An app that does not take what Stripe sends is seen by the row that is as before."""
    if night.exits[0] != 0:
        failed_clearly(night, 0, "afterwards still" if service == "app" else service)


@pytest.fixture
def small(repository: Path) -> str:
    keep_small(repository)
    return "small"


# The judge.


@pytest.fixture
def announced(standing: Sandbox, tmp_path: Path) -> Night:
    """A night on which one resend was announced."""
    begun = {"at": "2026-11-23T03:00:00.000+00:00", "event": "action.begun", "arguments": {"event": "evt_1LongEnough"}}
    (tmp_path / record.JOURNAL).write_text(json.dumps(begun) + "\n")
    return Night(standing, standing.state(), folders=[tmp_path])


def resend(at: str, event: str, key: str) -> dict[str, Any]:
    path = f"/v1/events/{event}/retry"
    said = {"service": "stripe", "method": "POST", "path": path, "agent": "python-httpx", "status": 200, "passed": True}
    return {**said, "at": f"2026-11-23T{at}+00:00", "key": key}


def test_the_judge_sees_what_was_not_announced_before(announced: Night) -> None:
    announced.traffic = [resend("03:00:01", "evt_1LongEnough", "a")]
    assert unannounced(announced) == []
    announced.traffic = [resend("02:59:59", "evt_1LongEnough", "a")]
    assert len(unannounced(announced)) == 1
    announced.traffic = [resend("03:00:01", "evt_1AnotherOne", "a")]
    assert len(unannounced(announced)) == 1
    update = {"sql": "update user_profiles set full_name = $1", "user": "opskit_change", "application": "opskit/x"}
    announced.traffic, announced.statements = [], [{**update, "at": "2026-11-23T03:00:01+00:00", "values": "$1 = 'x'"}]
    assert len(unannounced(announced)) == 1


def test_the_judge_sees_what_was_done_twice(announced: Night) -> None:
    one = resend("03:00:01", "evt_1LongEnough", "a")
    announced.traffic = [one, one]
    assert repeated(announced) == []
    announced.traffic = [{**one, "passed": False}, {**one, "key": "b"}]
    assert repeated(announced) == []
    announced.traffic = [one, {**one, "key": "b"}]
    assert len(repeated(announced)) == 1
    delivery = {**one, "service": "app", "path": watching.WEBHOOK, "agent": "Stripe/1.0"}
    announced.traffic = [one, delivery, delivery]
    assert len(repeated(announced)) == 1


# The outside calls, and every one of them struck.


def test_these_are_all_outside_calls_of_a_drill(opskit: Opskit, firm: Sandbox, tmp_path: Path) -> None:
    """And where each read fails twice, an apply still does what was approved."""
    run = plan(opskit, firm, tmp_path, RUNBOOK)
    night = live_through(opskit, firm, run, struck(firm, *((route, kind, 2) for route, kind in TWICE.items())))
    assert night.outcomes == ["done and verified"]
    assert {route_of(entry) for entry in watching.ours(firm.traffic())} == set(ROUTES)
    assert {route_of(entry) for entry in night.traffic if entry["struck"]} == set(READS)
    ended_well(night)


@pytest.mark.deep
def test_one_trouble_after_another(opskit: Opskit, firm: Sandbox, tmp_path: Path, small: str) -> None:
    """The first change is refused in one way after the other, and finished when it is accepted."""
    run = plan(opskit, firm, tmp_path, small)
    kinds = ("500", "garbage", "reset")
    night = live_through(
        opskit,
        firm,
        run,
        *(struck(firm, ("enable", kind, None)) for kind in kinds),
        struck(firm, ("enable", "429", 1), ("resend", "429 with Retry-After", 1)),
    )
    for number in range(len(kinds)):
        failed_clearly(night, number, "stripe")
    assert len(night.outcomes) == len(kinds) + 1
    ended_well(night)


def test_an_answer_that_is_lost_is_found_out(opskit: Opskit, firm: Sandbox, tmp_path: Path, small: str) -> None:
    """The change was made, and nobody said so."""
    run = plan(opskit, firm, tmp_path, small)
    lost = struck(
        firm,
        ("enable", "500 after the effect", None),
        ("resend", "truncated", 1),
        ("resend", "reset after the effect", 1),
    )
    night = live_through(opskit, firm, run, lost)
    assert night.outcomes == ["done and verified"]
    ended_well(night)


@pytest.mark.deep
def test_what_comes_late(opskit: Opskit, firm: Sandbox, tmp_path: Path, small: str) -> None:
    """A read is asked again. A change may still happen after we gave up: nobody may say that it had no effect."""
    run = plan(opskit, firm, tmp_path, small)
    night = live_through(opskit, firm, run, struck(firm, ("events", "timeout", 1), ("enable", "30 s delay", 1)))
    failed_clearly(night, 0, "stripe")
    assert night.outcomes[0] == "fate unknown"
    ended_well(night)


def test_stripe_goes_away_in_the_middle(
    opskit: Opskit, firm: Sandbox, tmp_path: Path, small: str, outputs: Path
) -> None:
    run = plan(opskit, firm, tmp_path, small)

    @contextmanager
    def trouble() -> Iterator[None]:
        with meanwhile(outputs, 4, lambda: firm.misbehave(service="stripe", reset=True)):
            yield

    night = live_through(opskit, firm, run, trouble)
    failed_clearly(night, 0, "stripe")
    ended_well(night)


@pytest.mark.deep
@pytest.mark.parametrize("times", [2, None], ids=["twice", "for ever"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("route", READS)
def test_every_read(route: str, kind: str, times: int | None, opskit: Opskit, firm: Sandbox, tmp_path: Path) -> None:
    run = plan(opskit, firm, tmp_path, RUNBOOK)
    night = live_through(opskit, firm, run, struck(firm, (route, kind, times)))
    ended_clearly(night, ROUTES[route][0])
    ended_well(night)


@pytest.mark.deep
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("route", READS)
def test_every_read_while_only_looking(route: str, kind: str, opskit: Opskit, firm: Sandbox, tmp_path: Path) -> None:
    """Blind is not healthy, and not wrong either: what cannot be read is unknown, or was not needed."""
    break_it(firm, tmp_path)
    began = time.monotonic()
    with firm.statements() as log, struck(firm, (route, kind, None))():
        code, found = look(opskit, firm, RUNBOOK)
        statements = log()
    assert time.monotonic() - began < ENOUGH
    assert code == 6 or (code == 3 and "endpoint-disabled" in found["causes"])
    assert set(found["causes"]) <= {"endpoint-disabled", "endpoint-unreachable", "unknown"}
    assert record.verify(Path(found["folder"])).wrong == ()
    assert watching.changing(firm.traffic()) == []
    assert watching.writing(statements) == []


@pytest.mark.deep
@pytest.mark.parametrize("times", [2, None], ids=["twice", "for ever"])
@pytest.mark.parametrize("kind", [*KINDS, *LOST])
@pytest.mark.parametrize("route", CHANGES)
def test_every_change(
    route: str, kind: str, times: int | None, opskit: Opskit, firm: Sandbox, tmp_path: Path, small: str
) -> None:
    run = plan(opskit, firm, tmp_path, small)
    night = live_through(opskit, firm, run, struck(firm, (route, kind, times)))
    ended_clearly(night, ROUTES[route][0])
    ended_well(night)


@pytest.mark.deep
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_in_which_stripe_may_fail_in_the_middle(
    kind: str, opskit: Opskit, firm: Sandbox, tmp_path: Path, small: str, outputs: Path
) -> None:
    run = plan(opskit, firm, tmp_path, small)

    @contextmanager
    def trouble() -> Iterator[None]:
        with meanwhile(outputs, 2, lambda: firm.misbehave(service="stripe", **KINDS[kind])):
            yield

    night = live_through(opskit, firm, run, trouble)
    ended_clearly(night, "stripe")
    ended_well(night)


# The database.


def somebody(firm: Sandbox) -> psycopg.Connection[Any]:
    """Somebody else's session, with the right to change profiles."""
    address = yaml.safe_load(firm.environment.read_text())["services"]["database"]["address"]
    password = (firm.folder / "secrets" / "database_change").read_text()
    return psycopg.connect(address, user="opskit_change", password=password, application_name=watching.SOMEBODY)


@pytest.mark.parametrize(
    "blow",
    [
        pytest.param(lambda firm: firm.restart_database(), id="restart"),
        pytest.param(lambda firm: firm.cut_sessions("opskit/%"), id="reset", marks=pytest.mark.deep),
    ],
)
def test_the_database_goes_away_in_the_middle(
    blow: Callable[[Sandbox], Any], opskit: Opskit, firm: Sandbox, tmp_path: Path, small: str, outputs: Path
) -> None:
    """Either it was found again before anything was lost, or the apply stopped; nothing is done twice."""
    run = plan(opskit, firm, tmp_path, small)

    @contextmanager
    def trouble() -> Iterator[None]:
        with meanwhile(outputs, 4, lambda: blow(firm)):
            yield

    night = live_through(opskit, firm, run, trouble)
    ended_clearly(night, "database")
    ended_well(night)


@pytest.mark.deep
def test_the_database_gets_stuck_in_the_middle(
    opskit: Opskit, firm: Sandbox, tmp_path: Path, small: str, outputs: Path
) -> None:
    """Sessions that say nothing any more, and do not end either."""
    run = plan(opskit, firm, tmp_path, small)

    @contextmanager
    def trouble() -> Iterator[None]:
        with meanwhile(outputs, 4, lambda: firm.freeze_sessions("opskit/%")):
            yield

    night = live_through(opskit, firm, run, trouble)
    ended_clearly(night, "database")
    ended_well(night)


@pytest.mark.deep
def test_a_row_that_somebody_holds(opskit: Opskit, firm: Sandbox, tmp_path: Path, small: str, outputs: Path) -> None:
    """We wait a few seconds for it, and say so."""
    run = plan(opskit, firm, tmp_path, small)
    (folder,) = outputs.glob(f"*/{run}")
    planned = json.loads((folder / "plan.json").read_text())["actions"]
    last = [action["arguments"]["profile"] for action in planned if action["name"] == "profiles.reconcile"][-1]

    @contextmanager
    def trouble() -> Iterator[None]:
        with somebody(firm) as other, other.transaction(force_rollback=True):
            other.execute("select 1 from user_profiles where id = %s for update", [last])
            yield

    night = live_through(opskit, firm, run, trouble)
    failed_clearly(night, 0, "database")
    assert "lock timeout" in night.said()
    assert list(night.results(0).values()).count("failed") == 1
    ended_well(night)
