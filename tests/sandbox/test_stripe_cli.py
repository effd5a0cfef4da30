"""Stripe's own command-line tool against the sandbox, down to the row that a resend changes."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from npm import REPOSITORY, tool
from stripe_company import CHANGE, READ

from opskit.sandbox import app, stripe, vercel
from opskit.sandbox.happenings import schedule
from opskit.sandbox.postgres import Postgres
from opskit.sandbox.present import Present
from opskit.sandbox.serving import Serving, faulty
from opskit.sandbox.stripe import StripeStore, disagreements
from opskit.sandbox.vercel import VercelStore
from opskit.sandbox.world import World

PACKAGE = "@stripe/cli@1.52.0"

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tool(PACKAGE, "stripe", REPOSITORY, tmp_path_factory.getbasetemp().parent / "npm-stripe.lock")


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Database, app and Stripe, served, with a present in which deliveries happen."""
    serving = Serving(["app", "stripe"])
    world = World(1, Postgres(tmp_path_factory.mktemp("database")), addresses=serving.addresses)
    world.secrets.update(stripe_read=READ, stripe_change=CHANGE, webhook="whsec_" + "w" * 32)
    with ExitStack() as ending:
        ending.callback(world.database.stop)
        world.database.create()
        world.stripe, world.vercel = StripeStore(world), VercelStore(world)
        world.stripe.add_endpoint(world.addresses["app"] + app.WEBHOOK, secret=world.secrets["webhook"])
        vercel.populate(world)
        subscribed = {"what": "subscribe", "count": 8, "tier": "hobbyist", "when": "5 h ago .. 4 h ago"}
        schedule(world, subscribed, random.Random(1))
        schedule(world, {"what": "set_endpoint", "status": "disabled", "when": "10 minutes ago"}, random.Random(1))
        missed = {"what": "change_plan", "of": "subscribe", "name": "hurt", "to": "studio", "when": "2 minutes ago"}
        schedule(world, missed, random.Random(1))
        schedule(world, {"what": "set_endpoint", "status": "enabled"}, random.Random(1))
        world.play_past()
        serving.serve("app", faulty(world, "app", app.application(world)))
        serving.serve("stripe", faulty(world, "stripe", stripe.application(world)))
        serving.await_ready()
        present = Present(world)
        present.start()
        ending.callback(serving.stop)
        ending.callback(present.stop)
        yield world


@pytest.fixture
def run(installed: Path, company: World, tmp_path: Path) -> Run:
    def cli(*arguments: str, key: str = CHANGE, live: bool = True) -> Any:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "STRIPE_API_KEY": key,
            "STRIPE_CLI_TELEMETRY_OPTOUT": "1",
        }
        command = [str(installed), "--api-base", company.addresses["stripe"], *arguments, *["--live"][: int(live)]]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
        try:
            return json.loads(done.stdout)
        except ValueError:
            return {"error": done.stdout + done.stderr, "code": done.returncode}

    return cli


def test_it_lists_and_filters(run: Run, company: World) -> None:
    events = run("events", "list", "--limit", "3")["data"]
    newest = sorted(company.stripe.events.values(), key=lambda event: event["created"])[-3:]
    assert [e["created"] for e in events] == [e["created"] for e in newest[::-1]]
    kinds = ("customer.subscription.updated", "checkout.session.completed")
    found = run("events", "list", "-d", f"types[]={kinds[0]}", "-d", f"types[]={kinds[1]}", "-d", "limit=100")["data"]
    assert {event["type"] for event in found} == set(kinds)
    assert run("events", "list", "-d", "delivery_success=false", "-d", "created[gte]=1")["data"] == []
    assert run("webhook_endpoints", "list")["data"][0]["status"] == "enabled"
    assert run("get", "/v1/account")["id"] == company.stripe.account["id"]
    (customer, *_) = company.stripe.customers.values()
    found = run("customers", "list", "-d", f"email={customer['email']}")["data"]
    assert [one["id"] for one in found] == [customer["id"]]


def test_it_shows_what_is_refused(run: Run, company: World) -> None:
    missing = run("subscriptions", "retrieve", "sub_missing")
    assert "No such subscription" in json.dumps(missing)
    endpoint = next(iter(company.stripe.webhook_endpoints))
    refused = run("webhook_endpoints", "update", endpoint, "-d", "disabled=true", "--confirm", key=READ)
    assert "rak_webhook_write" in json.dumps(refused)
    assert company.stripe.webhook_endpoints[endpoint]["status"] == "enabled"


def test_a_resend_changes_the_database(run: Run, company: World) -> None:
    (endpoint,) = company.stripe.webhook_endpoints
    events = run("events", "list", "-d", "type=customer.subscription.updated", "-d", "limit=100")["data"]
    missed = [event for event in events if "items" in event["data"].get("previous_attributes", {})]
    assert len(disagreements(company)) == len(missed) == len({one["id"] for one in missed}) > 0
    for event in missed:
        answer = run("events", "resend", event["id"], f"--webhook-endpoint={endpoint}")
        assert answer["id"] == event["id"]
    deadline = time.monotonic() + 10
    while disagreements(company) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert disagreements(company) == []


def test_a_resend_without_an_endpoint_changes_nothing(run: Run, company: World) -> None:
    event = next(iter(company.stripe.events))
    before, requests = copy.deepcopy(company.stripe.dump()), len(company.vercel.requests)
    assert run("events", "resend", event)["id"] == event
    time.sleep(0.3)
    assert company.stripe.dump() == before
    assert len(company.vercel.requests) == requests
