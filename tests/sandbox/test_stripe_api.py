"""Stripe's API as its official library sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st
from specs import conforms, spec
from stripe_company import NEW, OLD, READ, account, client, fresh, served

from opskit.sandbox.stripe_shelf import Cursor, Shelf
from opskit.sandbox.world import World

DAY = 86400


@pytest.fixture(scope="module")
def _served() -> Iterator[tuple[World, Any, str]]:
    world = account()
    with served(world) as address:
        yield world, world.stripe, address


@pytest.fixture
def world(_served: tuple[World, Any, str]) -> World:
    return fresh(_served[0], _served[1])


@pytest.fixture
def address(world: World, _served: tuple[World, Any, str]) -> str:
    return _served[2]


@pytest.fixture
def api(address: str) -> stripe.StripeClient:
    return client(address)


@pytest.fixture
def raw(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {READ}"}) as session:
        yield session


# Keys


def test_no_key_and_a_wrong_key_are_refused(address: str) -> None:
    assert httpx.get(f"{address}/v1/account").json()["error"]["message"].startswith("You did not provide an API key")
    with pytest.raises(stripe.AuthenticationError, match=r"rk_live_\*+zzzz"):
        client(address, "rk_live_" + "z" * 20).v1.events.list()


def test_basic_authentication_takes_the_key_as_user(address: str, world: World) -> None:
    answer = httpx.get(f"{address}/v1/account", auth=(READ, ""))
    assert answer.json()["id"] == world.stripe.account["id"]


def test_the_read_key_changes_nothing_and_says_what_it_lacks(address: str, world: World) -> None:
    endpoint = next(iter(world.stripe.webhook_endpoints))
    with pytest.raises(stripe.PermissionError, match="rak_webhook_write"):
        client(address, READ).v1.webhook_endpoints.update(endpoint, {"disabled": True})
    assert world.stripe.webhook_endpoints[endpoint]["status"] == "enabled"


# Errors


def test_errors_have_the_library_s_classes(api: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as missing:
        api.v1.subscriptions.retrieve("sub_missing")
    assert (missing.value.http_status, missing.value.code, missing.value.param) == (404, "resource_missing", "id")
    assert "No such subscription: 'sub_missing'" in str(missing.value)
    assert str(missing.value.request_id).startswith("req_")
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter: colour"):
        api.v1.events.list({"colour": "red"})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        api.v1.charges.list()


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("created=yesterday", "created"),
        ("created[since]=1", "created[since]"),
        ("starting_after=evt_missing", "starting_after"),
        ("starting_after=evt_a&ending_before=evt_b", "starting_after"),
        ("delivery_success=maybe", "delivery_success"),
        ("type[]=a", "type"),
        ("types=a", "types"),
        ("expand[]=data.type", "expand"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(raw: httpx.Client, query: str, param: str) -> None:
    answer = raw.get(f"/v1/events?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unreadable_version_is_refused(raw: httpx.Client) -> None:
    answer = raw.get("/v1/account", headers={"Stripe-Version": "newest"})
    assert answer.status_code == 400
    assert "Invalid Stripe API version" in answer.json()["error"]["message"]


# Lists


def test_pages_are_newest_first_and_complete(api: stripe.StripeClient, world: World) -> None:
    found = [event.id for event in api.v1.events.list({"limit": 7}).auto_paging_iter()]
    created = [world.stripe.events[key]["created"] for key in found]
    assert created == sorted(created, reverse=True)
    assert set(found) == set(world.stripe.events)


def test_ending_before_gives_the_nearest_newer_ones(api: stripe.StripeClient) -> None:
    everything = [event.id for event in api.v1.events.list({"limit": 100})]
    page = api.v1.events.list({"limit": 3, "ending_before": everything[10]})
    assert [event.id for event in page] == everything[7:10]
    assert page.has_more
    backwards = [e.id for e in api.v1.events.list({"limit": 3, "ending_before": everything[10]}).auto_paging_iter()]
    assert backwards == everything[:10][::-1]


def test_the_default_page_holds_ten(raw: httpx.Client) -> None:
    page = raw.get("/v1/events").json()
    assert (page["object"], len(page["data"]), page["has_more"], page["url"]) == ("list", 10, True, "/v1/events")
    assert raw.get("/v1/checkout/sessions").json()["url"] == "/v1/checkout/sessions"


@pytest.mark.parametrize("form", ["types[0]={}&types[1]={}", "types[]={}&types[]={}", "types%5B%5D={}&types%5B%5D={}"])
def test_both_ways_of_writing_a_list_are_read(raw: httpx.Client, form: str) -> None:
    kinds = ("invoice.payment_failed", "customer.subscription.deleted")
    found = raw.get("/v1/events?limit=100&" + form.format(*kinds)).json()["data"]
    assert {event["type"] for event in found} == set(kinds)


def test_types_have_their_rules(api: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="only specify one"):
        api.v1.events.list({"type": "a", "types": ["b"]})
    with pytest.raises(stripe.InvalidRequestError, match="maximum 20"):
        api.v1.events.list({"types": ["a"] * 21})
    found = api.v1.events.list({"type": "invoice.*", "limit": 100})
    assert {event.type for event in found} == {"invoice.payment_succeeded", "invoice.payment_failed"}


def test_created_takes_a_moment_or_a_range(api: stripe.StripeClient, world: World) -> None:
    moments = sorted(event["created"] for event in world.stripe.events.values())
    first, last = moments[5], moments[-5]
    within = api.v1.events.list({"created": {"gt": first, "lte": last}, "limit": 100})
    assert [e.created for e in within] == sorted((m for m in moments if first < m <= last), reverse=True)
    at_once = api.v1.events.list({"created": first, "limit": 100})
    assert len(at_once.data) == moments.count(first)


def test_events_are_kept_for_thirty_days(api: stripe.StripeClient, world: World) -> None:
    world.clock.play(datetime.now(UTC) - timedelta(days=31))
    old = world.stripe.create_customer("old@example.com")
    world.clock.play(None)
    (event,) = [e for e in world.stripe.events.values() if e["data"]["object"]["id"] == old["id"]]
    assert event["id"] not in [e.id for e in api.v1.events.list({"limit": 100}).auto_paging_iter()]
    with pytest.raises(stripe.InvalidRequestError, match="No such event"):
        api.v1.events.retrieve(event["id"])
    assert api.v1.customers.retrieve(old["id"]).id == old["id"]


def test_subscriptions_are_filtered(api: stripe.StripeClient, world: World) -> None:
    subs = list(world.stripe.subscriptions.values())

    def ids(**params: Any) -> set[str]:
        return {sub.id for sub in api.v1.subscriptions.list({"limit": 100, **params})}  # type: ignore[typeddict-item]

    assert ids() == {s["id"] for s in subs if s["status"] != "canceled"}
    assert ids(status="all") == {s["id"] for s in subs}
    assert ids(status="ended") == ids(status="canceled") == {s["id"] for s in subs if s["status"] == "canceled"}
    assert ids(status="trialing") == {s["id"] for s in subs if s["status"] == "trialing"} != set()
    assert ids(customer=subs[0]["customer"]) == {subs[0]["id"]}
    studio = world.stripe.price_of("studio")
    assert ids(price=studio) == {
        s["id"] for s in subs if s["items"]["data"][0]["price"]["id"] == studio and s["status"] != "canceled"
    }
    soon = int(time.time()) + 10 * DAY
    ends = {s["id"]: s["items"]["data"][0]["current_period_end"] for s in subs}
    assert ids(status="all", current_period_end={"lt": soon}) == {key for key, end in ends.items() if end < soon}
    with pytest.raises(stripe.InvalidRequestError, match="must be one of active"):
        ids(status="happy")


def test_a_customer_s_email_must_match_exactly(api: stripe.StripeClient) -> None:
    assert len(api.v1.customers.list({"email": "user3@example.com"}).data) == 1
    assert api.v1.customers.list({"email": "User3@example.com"}).data == []


def test_invoices_and_sessions_are_found_by_their_subscription(api: stripe.StripeClient, world: World) -> None:
    sub = next(iter(world.stripe.subscriptions.values()))
    invoice = api.v1.invoices.list({"subscription": sub["id"]}).data[0]
    assert invoice.parent is not None
    assert invoice.parent.subscription_details is not None
    assert invoice.parent.subscription_details.subscription == sub["id"]
    (session,) = api.v1.checkout.sessions.list({"subscription": sub["id"]}).data
    assert session.metadata is not None
    assert session.metadata.to_dict() == sub["metadata"]
    email = world.stripe.customers[sub["customer"]]["email"]
    assert api.v1.checkout.sessions.list({"customer_details": {"email": email}}).data[0].id == session.id
    unpaid = api.v1.invoices.list({"status": "open", "limit": 100}).data
    assert {i.status for i in unpaid} == {"open"}


def test_objects_can_be_expanded(api: stripe.StripeClient) -> None:
    page = api.v1.subscriptions.list({"expand": ["data.customer", "data.latest_invoice"], "limit": 3})
    for sub in page:
        assert isinstance(sub.customer, stripe.Customer)
        assert isinstance(sub.latest_invoice, stripe.Invoice)
        assert sub.latest_invoice.customer == sub.customer.id


# Versions


def test_periods_and_invoices_look_as_their_version_says(raw: httpx.Client, world: World) -> None:
    old, new = {"Stripe-Version": OLD}, {"Stripe-Version": NEW}
    before = raw.get("/v1/subscriptions", headers=old).json()["data"][0]
    after = raw.get("/v1/subscriptions", headers=new).json()["data"][0]
    item = after["items"]["data"][0]
    assert "current_period_end" not in after
    assert "current_period_end" not in before["items"]["data"][0]
    assert before["current_period_end"] == item["current_period_end"]
    assert raw.get("/v1/subscriptions").json()["data"][0] == before, "the account's version is the default"
    old_invoice = raw.get("/v1/invoices", headers=old).json()["data"][0]
    new_invoice = raw.get("/v1/invoices", headers=new).json()["data"][0]
    assert "parent" not in old_invoice
    assert "subscription" not in new_invoice
    assert old_invoice["subscription"] == new_invoice["parent"]["subscription_details"]["subscription"]


def test_an_event_keeps_the_version_of_its_creation(raw: httpx.Client, world: World) -> None:
    world.stripe.api_version = NEW
    sub = next(s for s in world.stripe.subscriptions.values() if s["status"] == "active")
    world.stripe.renew(sub)
    kind = {"type": "customer.subscription.updated", "limit": 100}
    for version in (OLD, NEW):
        newest, *_, oldest = raw.get("/v1/events", params=kind, headers={"Stripe-Version": version}).json()["data"]
        assert newest["api_version"] == NEW
        assert "current_period_end" not in newest["data"]["object"]
        assert newest["data"]["previous_attributes"]["items"]["data"][0]["current_period_end"]
        assert oldest["api_version"] == OLD
        assert oldest["data"]["object"]["current_period_end"]


def test_months_count_from_the_day_on_which_it_began() -> None:
    world = account(0)
    day = datetime(2026, 1, 30, 12, tzinfo=UTC)
    world.clock.play(day)
    sub = world.stripe.subscribe(world.stripe.create_customer("x@example.com"), world.stripe.price_of("studio"))
    ends = []
    for _ in range(3):
        end = sub["items"]["data"][0]["current_period_end"]
        world.clock.play(datetime.fromtimestamp(end, UTC))
        ends.append(world.clock.now())
        world.stripe.renew(sub)
    assert [(end.month, end.day) for end in ends] == [(2, 28), (3, 30), (4, 30)]


def test_a_renewal_s_previous_period_is_told_in_the_old_shape(raw: httpx.Client, world: World) -> None:
    sub = next(s for s in world.stripe.subscriptions.values() if s["status"] == "active")
    ended = sub["items"]["data"][0]["current_period_end"]
    world.stripe.renew(sub)
    event = raw.get("/v1/events?type=customer.subscription.updated&limit=1").json()["data"][0]
    assert event["data"]["previous_attributes"]["current_period_end"] == ended
    assert "items" not in event["data"]["previous_attributes"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("events", "event"),
        ("customers", "customer"),
        ("subscriptions", "subscription"),
        ("invoices", "invoice"),
        ("checkout/sessions", "checkout.session"),
        ("prices", "price"),
        ("products", "product"),
        ("webhook_endpoints", "webhook_endpoint"),
    ],
)
def test_answers_fit_the_specification(raw: httpx.Client, path: str, kind: str) -> None:
    specification = spec("stripe-resources.derived.schema.json")
    found = raw.get(f"/v1/{path}?limit=100", headers={"Stripe-Version": NEW}).json()["data"]
    assert found
    for value in found:
        conforms(value, {**specification, "$ref": f"#/$defs/{kind}"})


# Webhook endpoints


def test_a_secret_is_shown_only_once(api: stripe.StripeClient) -> None:
    made = api.v1.webhook_endpoints.create({"url": "https://example.com/hook", "enabled_events": ["*"]})
    assert str(made.secret).startswith("whsec_")
    assert getattr(api.v1.webhook_endpoints.retrieve(made.id), "secret", None) is None
    changed = api.v1.webhook_endpoints.update(
        made.id, {"disabled": True, "url": "https://example.com/other", "metadata": {"why": "rest"}}
    )
    assert (changed.status, changed.url, changed.metadata["why"]) == ("disabled", "https://example.com/other", "rest")
    assert api.v1.webhook_endpoints.update(made.id, {"disabled": False}).status == "enabled"
    assert api.v1.webhook_endpoints.delete(made.id).deleted
    with pytest.raises(stripe.InvalidRequestError, match="No such webhook endpoint"):
        api.v1.webhook_endpoints.retrieve(made.id)
    with pytest.raises(stripe.InvalidRequestError, match="https"):
        api.v1.webhook_endpoints.create({"url": "http://example.com/hook", "enabled_events": ["*"]})


# Changes


def test_changes_make_events(api: stripe.StripeClient, world: World) -> None:
    sub = next(s for s in world.stripe.subscriptions.values() if s["status"] == "active")
    api.v1.customers.update(sub["customer"], {"metadata": {"supabase_user_id": "p1"}})
    api.v1.subscriptions.update(sub["id"], {"cancel_at_period_end": True})
    assert api.v1.subscriptions.cancel(sub["id"]).status == "canceled"
    kinds = [event.type for event in api.v1.events.list({"limit": 3})]
    assert kinds == ["customer.subscription.deleted", "customer.subscription.updated", "customer.updated"]
    with pytest.raises(stripe.InvalidRequestError, match="No such subscription"):
        api.v1.subscriptions.cancel(sub["id"])


def test_an_idempotency_key_answers_again_without_doing_again(api: stripe.StripeClient, world: World) -> None:
    wanted: Any = {"url": "https://example.com/hook", "enabled_events": ["*"]}
    first = api.v1.webhook_endpoints.create(wanted, {"idempotency_key": "once"})
    again = api.v1.webhook_endpoints.create(wanted, {"idempotency_key": "once"})
    assert (again.id, again.secret) == (first.id, first.secret)
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert len(world.stripe.webhook_endpoints) == 2
    with pytest.raises(stripe.IdempotencyError, match="same parameters"):
        api.v1.webhook_endpoints.create({**wanted, "enabled_events": ["a"]}, {"idempotency_key": "once"})
    world.clock.play(datetime.now(UTC) + timedelta(hours=25))
    assert api.v1.webhook_endpoints.create(wanted, {"idempotency_key": "once"}).id != first.id
    world.clock.play(None)


def test_a_refused_request_does_not_use_up_its_key(api: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="https"):
        api.v1.webhook_endpoints.create({"url": "ftp://x", "enabled_events": ["*"]}, {"idempotency_key": "k"})
    assert api.v1.webhook_endpoints.create(
        {"url": "https://x.example", "enabled_events": ["*"]}, {"idempotency_key": "k"}
    )


# Limits and speed


def test_too_many_requests_are_told_why(address: str, world: World) -> None:
    time.sleep(1.05)  # whatever was asked before is forgotten
    world.stripe.request_limits = {"endpoint": 3, "global": 5}
    api = client(address, max_network_retries=2)
    for _ in range(3):
        api.v1.events.list()
    with pytest.raises(stripe.RateLimitError) as limited:
        api.v1.events.list()
    assert limited.value.headers is not None
    assert limited.value.headers["Stripe-Rate-Limited-Reason"] == "endpoint-rate"
    with pytest.raises(stripe.RateLimitError) as limited:
        for _ in range(3):
            api.v1.customers.list()
    assert limited.value.headers is not None
    assert limited.value.headers["Stripe-Rate-Limited-Reason"] == "global-rate"
    time.sleep(1.05)
    assert api.v1.events.list().data


def test_long_lists_are_paged_whole(raw: httpx.Client, world: World) -> None:
    sample = next(iter(world.stripe.subscriptions.values()))
    for n in range(20_000):
        world.stripe.subscriptions.add({**sample, "id": f"sub_{n}", "customer": f"cus_{n}", "created": n + 1})
    after, found = "", 0
    while True:
        page = raw.get("/v1/subscriptions?status=all&limit=100" + after).json()
        found += len(page["data"])
        after = f"&starting_after={page['data'][-1]['id']}"
        if not page["has_more"]:
            break
    assert found == 20_000 + 12
    for n in range(50):
        assert len(raw.get(f"/v1/subscriptions?customer=cus_{n}").json()["data"]) == 1


@given(
    created=st.lists(st.integers(1, 9), max_size=40),
    limit=st.integers(1, 7),
    first=st.integers(0, 9),
    last=st.integers(1, 9),
)
def test_pages_put_together_are_the_whole_in_either_direction(
    created: list[int], limit: int, first: int, last: int
) -> None:
    shelf = Shelf()
    for n, moment in enumerate(created):
        shelf.add({"id": f"x{n}", "created": moment})
    whole = [f"x{n}" for n in sorted(range(len(created)), key=lambda n: (created[n], n), reverse=True)]
    wanted = [key for key in whole if first <= shelf[key]["created"] <= last and key != "x3"]

    def page(**cursor: Any) -> tuple[list[str], bool]:
        where = Cursor(limit, created_from=first, created_to=last, **cursor)
        found, more = shelf.page(lambda value: value["id"] != "x3", where)
        return [value["id"] for value in found], more

    found, more = page()
    while more:
        following, more = page(starting_after=found[-1])
        found += following
    assert found == wanted
    if wanted:
        back, more = page(ending_before=wanted[-1])
        while more:
            newer, more = page(ending_before=back[0])
            back = newer + back
        assert back == wanted[:-1]
