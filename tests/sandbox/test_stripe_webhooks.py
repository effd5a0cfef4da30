"""How events are delivered: signed so that the official library accepts them, and tried again as Stripe does."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import stripe
from stripe_company import NEW, OLD, account, client, served

from opskit.sandbox import stripe_webhooks
from opskit.sandbox.app import Answer
from opskit.sandbox.world import Fault, World


@dataclass
class Receiver:
    """Something that listens for webhooks and answers with a status."""

    url: str = ""
    status: int = 200
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    noted = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            noted.received.append((dict(self.headers), body))
            self.send_response(noted.status)
            self.send_header("Location", noted.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    noted.url = f"http://127.0.0.1:{server.server_port}/api/webhooks/stripe"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield noted
    server.shutdown()
    server.server_close()


@pytest.fixture
def world(receiver: Receiver) -> World:
    made = account(customers=2)
    _endpoint(made)["url"] = receiver.url
    return made


def _endpoint(world: World) -> dict[str, Any]:
    return next(iter(world.stripe.webhook_endpoints.values()))


def _some(world: World) -> dict[str, Any]:
    return next(sub for sub in world.stripe.subscriptions.values() if sub["status"] == "active")


def _run_due(world: World, later: timedelta) -> int:
    """Run what is due by then, as the agenda's thread would."""
    count = 0
    while (job := world.agenda.due(datetime.now(UTC) + later)) is not None:
        job[1]()
        count += 1
    return count


def test_the_library_accepts_the_signature(world: World, receiver: Receiver) -> None:
    event = world.stripe.renew(_some(world))
    world.stripe.deliver(event["id"], _endpoint(world)["id"])
    headers, body = receiver.received[0]
    seen = stripe.Webhook.construct_event(body, headers["Stripe-Signature"], world.secrets["webhook"])
    assert (seen.id, seen.type, seen.api_version) == (event["id"], "invoice.payment_succeeded", OLD)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body, headers["Stripe-Signature"], "whsec_another")


def test_an_old_event_is_signed_afresh(world: World, receiver: Receiver) -> None:
    old = min(world.stripe.events.values(), key=lambda event: event["created"])
    world.stripe.deliver(old["id"], _endpoint(world)["id"])
    headers, body = receiver.received[0]
    seen = stripe.Webhook.construct_event(body, headers["Stripe-Signature"], world.secrets["webhook"], tolerance=5)
    assert seen.created < datetime.now(UTC).timestamp() - 86400


def test_a_rolled_secret_overlaps_and_then_ends(world: World, receiver: Receiver) -> None:
    old, endpoint = world.secrets["webhook"], _endpoint(world)["id"]
    event = world.stripe.renew(_some(world))
    new = world.stripe.roll_secret(endpoint, overlap=timedelta(hours=24))
    world.stripe.deliver(event["id"], endpoint)
    headers, body = receiver.received[0]
    for secret in (old, new):
        assert stripe.Webhook.construct_event(body, headers["Stripe-Signature"], secret)
    world.stripe.roll_secret(endpoint)
    world.stripe.deliver(event["id"], endpoint)
    headers, body = receiver.received[1]
    assert headers["Stripe-Signature"].count("v1=") == 1
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body, headers["Stripe-Signature"], new)


def test_an_endpoint_s_own_version_shapes_what_it_gets(world: World, receiver: Receiver) -> None:
    endpoint = _endpoint(world)
    sub = _some(world)
    world.stripe.change_price(sub, world.stripe.price_of("studio"))
    event = next(reversed(list(world.stripe.events.values())))
    world.stripe.deliver(event["id"], endpoint["id"])
    endpoint["api_version"] = NEW
    world.stripe.deliver(event["id"], endpoint["id"])
    before, after = (stripe.Event.construct_from(_json(body), "k") for _, body in receiver.received)
    assert before.data.object["current_period_end"] == after.data.object["items"]["data"][0]["current_period_end"]
    assert "current_period_end" not in after.data.object
    assert (before.api_version, after.api_version) == (OLD, NEW)


def _json(body: bytes) -> Any:
    return json.loads(body)


@pytest.mark.parametrize("status", [301, 400, 404, 500, 503])
def test_what_is_not_2xx_is_tried_again_for_three_days(world: World, receiver: Receiver, status: int) -> None:
    receiver.status = status
    event = world.stripe.renew(_some(world))
    with served(world) as address:
        api = client(address)
        assert api.v1.events.retrieve(event["id"]).pending_webhooks == 1
        _run_due(world, timedelta(seconds=5))
        assert event["id"] in [e.id for e in api.v1.events.list({"delivery_success": False})]
        while _run_due(world, timedelta(days=5)):
            pass
        assert world.stripe.deliveries[event["id"]][_endpoint(world)["id"]].attempts == 11
        assert api.v1.events.retrieve(event["id"]).pending_webhooks == 0
        assert event["id"] in [e.id for e in api.v1.events.list({"delivery_success": False})]
        assert event["id"] not in [e.id for e in api.v1.events.list({"delivery_success": True})]


def test_pauses_grow_from_minutes_to_three_days() -> None:
    pauses = list(stripe_webhooks.PAUSES)
    assert pauses == sorted(pauses)
    assert pauses[0] == timedelta(minutes=5)
    assert timedelta(days=2.5) < sum(pauses, timedelta(0)) <= timedelta(days=3)


def test_success_ends_the_attempts(world: World, receiver: Receiver) -> None:
    receiver.status = 500
    event = world.stripe.renew(_some(world))
    _run_due(world, timedelta(seconds=5))
    receiver.status = 200
    assert _run_due(world, timedelta(minutes=7)) == 2, "the payment's event and the subscription's"
    assert _run_due(world, timedelta(days=9)) == 0
    assert stripe_webhooks.all_delivered(world.stripe, event["id"])


def test_a_resend_by_hand_stops_no_automatic_attempt(world: World, receiver: Receiver) -> None:
    receiver.status = 500
    event, endpoint = world.stripe.renew(_some(world)), _endpoint(world)["id"]
    _run_due(world, timedelta(seconds=5))
    receiver.status = 200
    with served(world) as address:
        api = client(address)
        answer = api.raw_request("post", f"/v1/events/{event['id']}/retry", webhook_endpoint=endpoint)
        assert api.deserialize(answer, api_mode="V1")["id"] == event["id"]
        assert _run_due(world, timedelta(seconds=1)) == 1
        assert event["id"] not in [e.id for e in api.v1.events.list({"delivery_success": False})]
        before = len(receiver.received)
        _run_due(world, timedelta(minutes=7))
        assert [_json(body)["id"] for _, body in receiver.received[before:]].count(event["id"]) == 1


def test_a_resend_without_an_endpoint_goes_nowhere(world: World, receiver: Receiver) -> None:
    event, endpoint = next(iter(world.stripe.events)), _endpoint(world)
    with served(world) as address:
        api = client(address)
        api.raw_request("post", f"/v1/events/{event}/retry", for_stripecli="true")
        assert _run_due(world, timedelta(seconds=1)) == 0
        for params in ({}, {"webhook_endpoint": "we_missing"}):
            with pytest.raises(stripe.InvalidRequestError):
                api.raw_request("post", f"/v1/events/{event}/retry", **params)
        endpoint["status"] = "disabled"
        with pytest.raises(stripe.InvalidRequestError, match="disabled"):
            api.raw_request("post", f"/v1/events/{event}/retry", webhook_endpoint=endpoint["id"])


def test_a_disabled_endpoint_drops_retries_and_misses_events(world: World, receiver: Receiver) -> None:
    receiver.status = 500
    tried, endpoint = world.stripe.renew(_some(world)), _endpoint(world)
    _run_due(world, timedelta(seconds=5))
    endpoint["status"] = "disabled"
    missed = world.stripe.change_price(_some(world), world.stripe.price_of("studio"))
    _run_due(world, timedelta(minutes=7))
    endpoint["status"] = "enabled"
    receiver.status = 200
    assert _run_due(world, timedelta(days=9)) == 0
    with served(world) as address:
        api = client(address)
        failed = [e.id for e in api.v1.events.list({"delivery_success": False})]
        assert tried["id"] in failed
        assert missed["id"] not in failed, "nobody ever tried"
        assert api.v1.events.retrieve(missed["id"]).pending_webhooks == 0


def test_only_what_is_listened_to_is_delivered(world: World, receiver: Receiver) -> None:
    _endpoint(world)["enabled_events"] = ["invoice.*"]
    world.stripe.renew(_some(world))
    _run_due(world, timedelta(seconds=5))
    assert [_json(body)["type"] for _, body in receiver.received] == ["invoice.payment_succeeded"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/hook", "https://example.com/hook"])
def test_nobody_there_is_a_failure_and_no_other_machine_is_called(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[str] = []
    connection = stripe_webhooks.http.client.HTTPConnection
    monkeypatch.setattr(connection, "connect", _noting(connection.connect, hosts))
    _endpoint(world)["url"] = url
    assert world.stripe.deliver(next(iter(world.stripe.events)), _endpoint(world)["id"]) is None
    assert set(hosts) <= {"127.0.0.1"}


def _noting(connect: Callable[[Any], None], hosts: list[str]) -> Callable[[Any], None]:
    def noted(self: Any) -> None:
        hosts.append(self.host)
        connect(self)

    return noted


# The past, in which the app is a function


def test_the_past_is_played_with_its_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    world = account(customers=2)
    now, seen = datetime.now(UTC), []

    def receive(world: World, *_: Any) -> Answer:
        seen.append(world.clock.now())
        return Answer(200, b"")

    monkeypatch.setattr(stripe_webhooks.app, "receive", receive)
    hours = [now - timedelta(hours=h) for h in (6, 1)]
    world.faults.add(Fault("app", "/api/webhooks/.*", reset=True, begins=hours[0], ends=hours[1]))
    sub = _some(world)
    made: list[str] = []
    world.agenda.at(now - timedelta(hours=5), lambda: made.append(world.stripe.renew(sub)["id"]))
    world.play_past()
    assert stripe_webhooks.all_delivered(world.stripe, made[0])
    assert min(seen) >= hours[1], "not before the fault was over"
    assert world.stripe.events[made[0]]["created"] == int((now - timedelta(hours=5)).timestamp())


def test_copies_are_independent_and_dumps_show_lasting_state() -> None:
    world = account(customers=3)
    before = world.stripe.dump()
    pristine = copy.deepcopy(world.stripe)
    sub = _some(world)
    world.stripe.deliver(next(iter(world.stripe.events)), _endpoint(world)["id"])
    assert world.stripe.dump() == before, "a delivery leaves no trace in it"
    world.stripe.renew(sub)
    assert world.stripe.dump() != before
    assert pristine.dump() == before
    world.stripe = pristine
    assert world.stripe.new_id("evt") == copy.deepcopy(account(customers=3).stripe).new_id("evt")
