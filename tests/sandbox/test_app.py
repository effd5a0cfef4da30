"""The app's webhook handler, habits and all, against a real database."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from opskit.sandbox import app, vercel
from opskit.sandbox.postgres import Postgres
from opskit.sandbox.sentry import SentryStore
from opskit.sandbox.stripe import StripeStore
from opskit.sandbox.vercel import VercelStore
from opskit.sandbox.world import Fault, World

USER = "7d1f4a9e-0000-4000-8000-000000000001"
SECRET = "whsec_of_the_app"


@pytest.fixture
def world(database: Postgres) -> World:
    world = World(1, database, addresses={"app": "http://127.0.0.1:1"})
    world.secrets.update(webhook=SECRET, vercel="token", sentry="token")
    world.stripe = StripeStore(world)
    world.stripe.add_endpoint("http://127.0.0.1:1/api/webhooks/stripe", secret=SECRET)
    world.vercel, world.sentry = VercelStore(world), SentryStore(world)
    vercel.populate(world)
    with database.connect() as connection:
        connection.execute("insert into auth.users (id, email) values (%s, 'ada@example.com')", (USER,))
        connection.execute("update user_profiles set ai_words_used_this_month = 900")
    return world


def profile(world: World) -> dict[str, Any]:
    with world.database.connect() as connection:
        (row,) = connection.execute("select to_jsonb(p) from user_profiles p where id = %s", (USER,)).fetchone()
    return row


def write(world: World, change: str) -> None:
    with world.database.connect() as connection:
        connection.execute(change)


def subscribe(world: World, tier: str = "studio", metadata: dict[str, str] | None = None) -> dict[str, Any]:
    customer = world.stripe.create_customer("ada@example.com")
    chosen = {"supabase_user_id": USER, "tier": tier} if metadata is None else metadata
    return world.stripe.subscribe(customer, world.stripe.price_of(tier), metadata=chosen)


def the_event(world: World, kind: str) -> dict[str, Any]:
    return [one for one in world.stripe.events.values() if one["type"] == kind][-1]


def deliver(world: World, event: dict[str, Any], secret: str = SECRET, signed: datetime | None = None) -> app.Answer:
    body = json.dumps(world.stripe.render(event)).encode()
    t = int((signed or world.clock.now()).timestamp())
    v1 = hmac.new(secret.encode(), b"%d." % t + body, hashlib.sha256).hexdigest()
    headers = {"Stripe-Signature": f"t={t},v1={v1}"}
    return app.receive(world, "POST", app.WEBHOOK, headers, body, "198.51.100.7")


def operations(world: World) -> list[str]:
    return [json.loads(line.message)["context"]["operation"] for row in world.vercel.requests for line in row.lines]


def error(answer: app.Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]


def test_a_checkout_writes_what_was_bought_and_resets_the_words(world: World) -> None:
    sub = subscribe(world)
    assert deliver(world, the_event(world, "checkout.session.completed")).status == 200
    found = profile(world)
    assert found["subscription_tier"] == "studio"
    assert found["subscription_status"] == "active"
    assert found["stripe_subscription_id"] == sub["id"]
    assert found["ai_words_used_this_month"] == 0
    end = sub["items"]["data"][0]["current_period_end"]
    assert datetime.fromisoformat(found["subscription_current_period_end"]).timestamp() == end
    assert operations(world) == ["webhook:stripe:process"]


def test_the_newer_api_version_leaves_periods_empty_and_invoices_ignored(world: World) -> None:
    world.stripe.api_version = "2025-09-30.clover"
    subscribe(world)
    assert deliver(world, the_event(world, "checkout.session.completed")).status == 200
    assert profile(world)["subscription_current_period_end"] is None
    write(world, "update user_profiles set ai_words_used_this_month = 700")
    assert deliver(world, the_event(world, "invoice.payment_succeeded")).status == 200
    assert profile(world)["ai_words_used_this_month"] == 700


def test_a_repeated_payment_resets_the_words_again(world: World) -> None:
    subscribe(world)
    event = the_event(world, "invoice.payment_succeeded")
    deliver(world, event)
    write(world, "update user_profiles set ai_words_used_this_month = 700")
    assert deliver(world, event).status == 200
    assert profile(world)["ai_words_used_this_month"] == 0


def test_a_late_deletion_of_the_old_subscription_frees_a_paying_user(world: World) -> None:
    old = subscribe(world)
    world.stripe.cancel(old)
    deletion = the_event(world, "customer.subscription.deleted")
    subscribe(world)
    deliver(world, the_event(world, "checkout.session.completed"))
    assert profile(world)["subscription_tier"] == "studio"
    deliver(world, deletion)
    assert profile(world)["subscription_tier"] == "free"


def test_who_it_is_about_metadata_then_subscription_then_customer(world: World) -> None:
    sub = subscribe(world, metadata={})
    event = the_event(world, "customer.subscription.updated")
    assert deliver(world, event).status == 200  # nobody matched, and nobody noticed
    assert profile(world)["subscription_tier"] == "free"
    write(world, f"update user_profiles set stripe_customer_id = '{sub['customer']}'")
    deliver(world, event)
    assert profile(world)["subscription_tier"] == "studio"
    write(world, "update user_profiles set stripe_customer_id = null, subscription_tier = 'free'")
    deliver(world, event)
    assert profile(world)["subscription_tier"] == "studio"


def test_a_checkout_without_user_is_logged_and_accepted(world: World) -> None:
    subscribe(world, metadata={})
    assert deliver(world, the_event(world, "checkout.session.completed")).status == 200
    assert "webhook:stripe:checkout_completed" in operations(world)


def test_an_unmapped_price_falls_back_to_the_metadata_then_to_free(world: World) -> None:
    price = world.stripe.add_price("studio", 5900, "Studio 2027")
    customer = world.stripe.create_customer("ada@example.com")
    world.stripe.subscribe(customer, price, metadata={"supabase_user_id": USER, "tier": "studio"})
    deliver(world, the_event(world, "checkout.session.completed"))
    assert profile(world)["subscription_tier"] == "studio"
    world.stripe.subscribe(customer, price, metadata={"supabase_user_id": USER})
    deliver(world, the_event(world, "checkout.session.completed"))
    assert profile(world)["subscription_tier"] == "free"


def test_a_failed_renewal_is_past_due_and_a_paid_one_active_again(world: World) -> None:
    world.clock.play(datetime.now(UTC) - timedelta(days=31))
    sub = subscribe(world)
    deliver(world, the_event(world, "checkout.session.completed"))
    world.clock.play(None)
    world.stripe.fail_payment(sub)
    deliver(world, the_event(world, "invoice.payment_failed"))
    assert profile(world)["subscription_status"] == "past_due"
    world.stripe.renew(sub)
    deliver(world, the_event(world, "invoice.payment_succeeded"))
    assert profile(world)["subscription_status"] == "active"


def test_refusals_say_why(world: World) -> None:
    subscribe(world)
    event = the_event(world, "checkout.session.completed")
    assert error(deliver(world, event, secret="whsec_other")) == (400, "Invalid signature")
    stale = world.clock.now() - timedelta(seconds=301)
    assert error(deliver(world, event, signed=stale)) == (400, "Invalid signature")
    old = {**event, "created": event["created"] - 301}
    assert error(deliver(world, old)) == (400, "Event too old")
    assert error(app.receive(world, "POST", app.WEBHOOK, {}, b"{}", "")) == (400, "Missing stripe-signature header")
    assert operations(world) == ["webhook:stripe:verify_failed"] * 2 + ["webhook:stripe:event_too_old"]
    assert not world.sentry.issues
    world.vercel.live().behaviour["max_event_age"] = None
    assert deliver(world, old).status == 200


def test_the_environment_is_that_of_the_build(world: World) -> None:
    subscribe(world)
    event = the_event(world, "checkout.session.completed")
    world.vercel.change_environment({"STRIPE_WEBHOOK_SECRET": "whsec_new"})
    assert deliver(world, event).status == 200
    world.vercel.redeploy(world.vercel.live().id)
    assert deliver(world, event).status == 400
    world.vercel.deploy(env={"STRIPE_WEBHOOK_SECRET": None}, message="Clean up variables")
    assert error(deliver(world, event)) == (500, "Webhook secret not configured")
    world.vercel.rollback()
    assert deliver(world, event, secret="whsec_new").status == 200


def test_errors_that_the_handler_throws_reach_sentry_database_errors_do_not(world: World) -> None:
    subscribe(world)
    event = the_event(world, "checkout.session.completed")
    write(world, "revoke update on user_profiles from service_role")
    assert deliver(world, event).status == 500
    assert not world.sentry.issues
    write(world, "grant update on user_profiles to service_role")
    world.vercel.deploy(behaviour={"bug": "handler-raises"}, message="Refactor billing")
    assert deliver(world, event).status == 500
    world.vercel.deploy(env={"SUPABASE_SERVICE_ROLE_KEY": None}, behaviour={"bug": None})
    assert deliver(world, event).status == 500
    assert sorted(one.kind for one in world.sentry.issues.values()) == ["Error", "TypeError"]
    last = [json.loads(row.lines[-1].message) for row in world.vercel.requests]
    assert {one["context"]["operation"] for one in last} == {"webhook:stripe:handler"}
    assert "evt_" not in json.dumps(last)


def test_stripe_out_of_reach_for_the_app(world: World) -> None:
    subscribe(world)
    world.faults.add(Fault("stripe", reset=True))
    assert deliver(world, the_event(world, "checkout.session.completed")).status == 500
    assert [one.kind for one in world.sentry.issues.values()] == ["StripeConnectionError"]


def test_an_address_may_call_so_often_and_no_oftener(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "REQUESTS_PER_HOUR", 2)
    statuses = [app.receive(world, "POST", app.WEBHOOK, {}, b"", "203.0.113.9").status for _ in range(3)]
    assert statuses == [400, 400, 429]
    assert app.receive(world, "POST", app.WEBHOOK, {}, b"", "203.0.113.10").status == 400
    world.vercel.redeploy(world.vercel.live().id)
    assert app.receive(world, "POST", app.WEBHOOK, {}, b"", "203.0.113.9").status == 400


def test_a_played_past_is_written_with_its_own_time(world: World) -> None:
    moment = datetime.now(UTC) - timedelta(days=3)
    world.clock.play(moment)
    subscribe(world)
    deliver(world, the_event(world, "checkout.session.completed"))
    world.clock.play(None)
    assert datetime.fromisoformat(profile(world)["updated_at"]) == moment


def test_thousands_of_events_take_seconds(world: World) -> None:
    subscribe(world)
    event = the_event(world, "customer.subscription.updated")
    world.vercel.live().memory["webhooks"] = {"198.51.100.7": [world.clock.now().timestamp(), -5000]}
    started = datetime.now(UTC)
    for _ in range(1000):
        assert deliver(world, event).status == 200
    assert datetime.now(UTC) - started < timedelta(seconds=10)


def test_over_http(world: World) -> None:
    client = TestClient(app.application(world))
    health = client.get("/api/health")
    assert (health.status_code, health.json()["checks"]["database"]["status"]) == (200, "healthy")
    assert client.get("/nowhere").status_code == 404
    assert client.get(app.WEBHOOK).status_code == 405
    assert client.post(app.WEBHOOK, content=b"{}").status_code == 400


def test_without_a_database_it_says_so_and_recovers(world: World) -> None:
    subscribe(world)
    event = the_event(world, "customer.subscription.updated")
    world.database.stop()
    try:
        assert app.receive(world, "GET", "/api/health", {}, b"", "").status == 503
        assert error(deliver(world, event)) == (500, "Webhook handler failed")
    finally:
        world.database.start()
    assert app.receive(world, "GET", "/api/health", {}, b"", "").status == 200
    assert deliver(world, event).status == 200
