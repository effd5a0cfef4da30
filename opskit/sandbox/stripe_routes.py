"""The calls of Stripe's API that the company uses: each a function from a call to a JSON answer, and their table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opskit.sandbox import stripe_webhooks
from opskit.sandbox.stripe_requests import (
    PAGING,
    Params,
    StripeError,
    boolean,
    choice,
    cursor,
    missing,
    span,
    text,
    texts,
)
from opskit.sandbox.stripe_shelf import JSON, Shelf

if TYPE_CHECKING:
    from opskit.sandbox.stripe import StripeStore
    from opskit.sandbox.world import World

EVENTS_KEPT = 30 * 86400
STATUSES = ("active", "canceled", "incomplete", "incomplete_expired", "past_due", "paused", "trialing", "unpaid")
ENDED = ("canceled", "incomplete_expired")
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Test = Callable[[JSON], bool]


@dataclass(frozen=True)
class Call:
    world: World
    params: Params
    key: str  # the object's id in the path, or ""

    @property
    def store(self) -> StripeStore:
        return self.world.stripe


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    permission: str  # what a restricted key needs, without its _read or _write
    answer: Callable[[Call], JSON]
    params: tuple[str, ...] = ()

    def match(self, method: str, path: str) -> str | None:
        """The object's id in this path ("" where the route has none), or None where it is not this route's."""
        found = re.fullmatch(self.path.replace("{id}", r"(?P<id>[^/]+)"), path)
        if method != self.method or found is None:
            return None
        return found.groupdict().get("id", "")


def listing(call: Call, kind: str, tests: list[Test], customer: str | None = None, since: int = 0) -> JSON:
    shelf: Shelf = getattr(call.store, kind)
    where = cursor(call.params, shelf, kind, since)
    found, more = shelf.page(lambda value: all(test(value) for test in tests), where, customer)
    return {"object": "list", "data": found, "has_more": more, "url": f"/v1/{kind.replace('_s', '/s')}"}


def equal(call: Call, *names: str) -> list[Test]:
    """Tests for parameters that an object's field of the same name must equal."""

    def test(name: str, wanted: str) -> Test:
        return lambda value: value.get(name) == wanted

    return [test(name, wanted) for name in names if (wanted := text(call.params, name)) is not None]


def retrieve(kind: str, call: Call) -> JSON:
    found: JSON | None = getattr(call.store, kind).get(call.key)
    if found is None:
        raise missing(kind, call.key)
    return found


def account(call: Call) -> JSON:
    if call.key not in ("", call.store.account["id"]):
        raise StripeError(403, f"The provided key does not have access to account '{call.key}'", "account_invalid")
    return call.store.account


# Events


def list_events(call: Call) -> JSON:
    one, several = text(call.params, "type"), texts(call.params, "types")
    if one is not None and several is not None:
        raise StripeError(400, "You may only specify one of these parameters: type, types.")
    if several is not None and len(several) > 20:
        raise StripeError(400, "Array types exceeded maximum 20 allowed elements.", None, "types")
    delivered = boolean(call.params, "delivery_success")
    tests: list[Test] = []
    if one is not None:
        tests.append(lambda event: fnmatchcase(event["type"], one))
    if several is not None:
        tests.append(lambda event: event["type"] in several)
    if delivered is not None:
        tests.append(lambda event: stripe_webhooks.all_delivered(call.store, event["id"]) is delivered)
    return listing(call, "events", tests, since=call.store.now() - EVENTS_KEPT)


def retrieve_event(call: Call) -> JSON:
    event = retrieve("events", call)
    if event["created"] < call.store.now() - EVENTS_KEPT:
        raise missing("events", call.key)
    return event


def retry_event(call: Call) -> JSON:
    """What `stripe events resend` calls: one delivery now, whatever the automatic ones do."""
    event, endpoint = retrieve_event(call), text(call.params, "webhook_endpoint")
    if endpoint is None and not boolean(call.params, "for_stripecli"):
        raise StripeError(400, "Missing required param: webhook_endpoint.", "parameter_missing", "webhook_endpoint")
    if endpoint is not None:
        if endpoint not in call.store.webhook_endpoints:
            raise missing("webhook_endpoints", endpoint, "webhook_endpoint")
        if call.store.webhook_endpoints[endpoint]["status"] != "enabled":
            raise StripeError(400, f"Webhook endpoint {endpoint} is disabled.", None, "webhook_endpoint")
        stripe_webhooks.resend(call.world, event["id"], endpoint)
    return event


# Webhook endpoints


def create_endpoint(call: Call) -> JSON:
    for name in ("url", "enabled_events"):
        if not call.params.get(name):
            raise StripeError(400, f"Missing required param: {name}.", "parameter_missing", name)
    endpoint = call.store.add_endpoint(
        _url(call.params) or "", texts(call.params, "enabled_events"), text(call.params, "api_version")
    )
    _update(call, endpoint, "description", "metadata")
    return {**endpoint, "secret": call.store.endpoint_secrets[endpoint["id"]][0].value}


def update_endpoint(call: Call) -> JSON:
    endpoint = retrieve("webhook_endpoints", call)
    url, events = _url(call.params), texts(call.params, "enabled_events")
    disabled = boolean(call.params, "disabled")
    _update(call, endpoint, "description", "metadata")
    if url is not None:
        endpoint["url"] = url
    if events is not None:
        endpoint["enabled_events"] = events
    if disabled is not None:
        endpoint["status"] = "disabled" if disabled else "enabled"
    return endpoint


def delete_endpoint(call: Call) -> JSON:
    endpoint = retrieve("webhook_endpoints", call)
    del call.store.webhook_endpoints[call.key]
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


def _url(params: Params) -> str | None:
    url = text(params, "url")
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise StripeError(400, "Invalid URL: URL must use https and be publicly accessible.", "url_invalid", "url")
    return url


def _update(call: Call, value: JSON, *names: str) -> None:
    """Change plain fields. Metadata is merged; an empty value removes its key, as at Stripe."""
    for name in names:
        if name == "metadata" and isinstance(given := call.params.get("metadata"), dict):
            merged = {**value["metadata"], **given}
            value["metadata"] = {key: content for key, content in merged.items() if content != ""}
        elif name != "metadata" and name in call.params:
            value[name] = text(call.params, name) or None


# Customers and what they have


def list_customers(call: Call) -> JSON:
    return listing(call, "customers", equal(call, "email"))


def update_customer(call: Call) -> JSON:
    customer = retrieve("customers", call)
    before = {name: customer[name] for name in ("email", "name", "description", "metadata")}
    _update(call, customer, *before)
    previous = {name: value for name, value in before.items() if value != customer[name]}
    if previous:
        call.store.emit("customer.updated", customer, previous)
    return customer


def list_subscriptions(call: Call) -> JSON:
    status = choice(call.params, "status", (*STATUSES, "ended", "all"))
    tests: list[Test] = []
    if status is None:
        tests.append(lambda sub: sub["status"] != "canceled")
    elif status == "ended":
        tests.append(lambda sub: sub["status"] in ENDED)
    elif status != "all":
        tests.append(lambda sub: sub["status"] == status)
    if (price := text(call.params, "price")) is not None:
        tests.append(lambda sub: any(item["price"]["id"] == price for item in sub["items"]["data"]))
    for name in ("current_period_start", "current_period_end"):
        if name in call.params:
            tests.append(partial(_period_within, name, *span(call.params, name)))
    return listing(call, "subscriptions", tests, text(call.params, "customer"))


def _period_within(name: str, first: int, last: int, sub: JSON) -> bool:
    return any(first <= item[name] <= last for item in sub["items"]["data"])


def update_subscription(call: Call) -> JSON:
    sub = retrieve("subscriptions", call)
    if sub["status"] in ENDED:
        raise StripeError(400, "A canceled subscription can only update its cancellation_details and metadata.")
    before = {name: sub[name] for name in ("metadata", "description")}
    _update(call, sub, *before)
    previous = {name: value for name, value in before.items() if value != sub[name]}
    if previous:
        call.store.emit("customer.subscription.updated", sub, previous)
    if boolean(call.params, "cancel_at_period_end"):
        call.store.cancel(sub, at_period_end=True)
    return sub


def cancel_subscription(call: Call) -> JSON:
    sub = retrieve("subscriptions", call)
    if sub["status"] in ENDED:
        raise missing("subscriptions", call.key)
    call.store.cancel(sub)
    return sub


def list_invoices(call: Call) -> JSON:
    choice(call.params, "status", ("draft", "open", "paid", "uncollectible", "void"))
    tests = equal(call, "status")
    if (subscription := text(call.params, "subscription")) is not None:
        tests.append(lambda invoice: invoice["parent"]["subscription_details"]["subscription"] == subscription)
    return listing(call, "invoices", tests, text(call.params, "customer"))


def list_sessions(call: Call) -> JSON:
    choice(call.params, "status", ("open", "complete", "expired"))
    tests = equal(call, "subscription", "status", "payment_intent")
    details = call.params.get("customer_details")
    if isinstance(details, dict) and (email := text(details, "email")) is not None:
        tests.append(lambda session: session["customer_details"]["email"] == email)
    return listing(call, "checkout_sessions", tests, text(call.params, "customer"))


def list_prices(call: Call) -> JSON:
    tests = equal(call, "product", "currency")
    if (active := boolean(call.params, "active")) is not None:
        tests.append(lambda price: price["active"] is active)
    return listing(call, "prices", tests)


def list_products(call: Call) -> JSON:
    tests: list[Test] = []
    if (active := boolean(call.params, "active")) is not None:
        tests.append(lambda product: product["active"] is active)
    return listing(call, "products", tests)


def list_endpoints(call: Call) -> JSON:
    return listing(call, "webhook_endpoints", [])


LISTED = (*PAGING, "created")

ROUTES = (
    Route("GET", "/v1/account", "account", account),
    Route("GET", "/v1/accounts/{id}", "account", account),
    Route("GET", "/v1/events", "event", list_events, (*LISTED, "type", "types", "delivery_success")),
    Route("GET", "/v1/events/{id}", "event", retrieve_event),
    Route("POST", "/v1/events/{id}/retry", "event", retry_event, ("webhook_endpoint", "for_stripecli", "account")),
    Route("GET", "/v1/webhook_endpoints", "webhook", list_endpoints, PAGING),
    Route("GET", "/v1/webhook_endpoints/{id}", "webhook", partial(retrieve, "webhook_endpoints")),
    Route(
        "POST",
        "/v1/webhook_endpoints",
        "webhook",
        create_endpoint,
        ("url", "enabled_events", "api_version", "description", "metadata"),
    ),
    Route(
        "POST",
        "/v1/webhook_endpoints/{id}",
        "webhook",
        update_endpoint,
        ("url", "enabled_events", "disabled", "description", "metadata"),
    ),
    Route("DELETE", "/v1/webhook_endpoints/{id}", "webhook", delete_endpoint),
    Route("GET", "/v1/customers", "customer", list_customers, (*LISTED, "email")),
    Route("GET", "/v1/customers/{id}", "customer", partial(retrieve, "customers")),
    Route("POST", "/v1/customers/{id}", "customer", update_customer, ("email", "name", "description", "metadata")),
    Route(
        "GET",
        "/v1/subscriptions",
        "subscription",
        list_subscriptions,
        (*LISTED, "customer", "price", "status", "current_period_start", "current_period_end"),
    ),
    Route("GET", "/v1/subscriptions/{id}", "subscription", partial(retrieve, "subscriptions")),
    Route(
        "POST",
        "/v1/subscriptions/{id}",
        "subscription",
        update_subscription,
        ("metadata", "description", "cancel_at_period_end"),
    ),
    Route("DELETE", "/v1/subscriptions/{id}", "subscription", cancel_subscription),
    Route("GET", "/v1/invoices", "invoice", list_invoices, (*LISTED, "customer", "subscription", "status")),
    Route("GET", "/v1/invoices/{id}", "invoice", partial(retrieve, "invoices")),
    Route(
        "GET",
        "/v1/checkout/sessions",
        "checkout_session",
        list_sessions,
        (*LISTED, "customer", "customer_details", "payment_intent", "subscription", "status"),
    ),
    Route("GET", "/v1/checkout/sessions/{id}", "checkout_session", partial(retrieve, "checkout_sessions")),
    Route("GET", "/v1/prices", "plan", list_prices, (*LISTED, "active", "product", "currency")),
    Route("GET", "/v1/prices/{id}", "plan", partial(retrieve, "prices")),
    Route("GET", "/v1/products", "product", list_products, (*LISTED, "active")),
    Route("GET", "/v1/products/{id}", "product", partial(retrieve, "products")),
)
