"""Stripe: what it says about events, endpoints and subscriptions, and the changes we may ask of it.

Facts about the API are from Stripe's API reference (events, webhook endpoints, subscriptions) and, for the
undocumented resend route, from the Stripe CLI, which calls it for `stripe events resend`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from opskit.actions import Action, Arguments, Change
from opskit.errors import CannotTell
from opskit.http import Http, Pace, Read, documented
from opskit.services import billing

VERSION = "2025-09-30.clover"  # the shapes that this module reads; periods lie on the subscription's items
PAGE = 100  # the most that Stripe gives at once
MOST_PAGES = 2_000
RETAINED = 30  # days for which Stripe keeps events

READS = (
    Read("GET", "/v1/account", "Account: Read"),
    Read("GET", "/v1/events", "Events: Read"),
    Read("GET", "/v1/events/{id}", "Events: Read"),
    Read("GET", "/v1/webhook_endpoints", "Webhook Endpoints: Read"),
    Read("GET", "/v1/webhook_endpoints/{id}", "Webhook Endpoints: Read"),
    Read("GET", "/v1/subscriptions", "Subscriptions: Read"),
    Read("GET", "/v1/subscriptions/{id}", "Subscriptions: Read"),
    Read("GET", "/v1/customers/{id}", "Customers: Read"),
    Read("GET", "/v1/customers", "Customers: Read"),
    Read("GET", "/v1/prices", "Prices: Read"),
)
BILLING = (
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "invoice.payment_succeeded",
    "invoice.payment_failed",
)


@documented
class Stripe:
    """One Stripe account. Money is in the currency's smallest unit, times are aware and in UTC."""

    def __init__(self, http: Http, endpoint: str | None = None, resends: Pace | None = None) -> None:
        self.http = http
        self.endpoint_id = endpoint
        self.resends = resends or Pace(per_second=1)  # what the app's own limit on webhooks leaves us

    def account(self) -> str:
        """The id of the account that these credentials reach."""
        return str(self.http.read("/v1/account").body["id"])

    def livemode(self) -> bool:
        """Whether these credentials reach live data: every object says so, a webhook endpoint too."""
        return bool(self.endpoint()["livemode"])

    def endpoint(self, endpoint: str | None = None) -> dict[str, Any]:
        """A webhook endpoint: id, status (enabled or disabled), url, enabled_events, api_version, livemode."""
        key = endpoint or self.endpoint_id
        if key is None:
            raise CannotTell("stripe: neither the run nor the environment names a webhook endpoint.")
        found = self.http.read(f"/v1/webhook_endpoints/{key}").body
        return {part: found[part] for part in ("id", "status", "url", "enabled_events", "api_version", "livemode")}

    def events(self, since: datetime, types: Sequence[str] = BILLING, undelivered: bool = False) -> pd.DataFrame:
        """Events since a moment (30 days at most), newest first, one row each, without their bodies.

        Columns: event, type, created, pending (endpoints still owed a delivery), customer, object (its id), user
        (from metadata), api_version. `undelivered`: only those pending or failed at some endpoint.
        """
        if since < datetime.now(UTC) - timedelta(days=RETAINED):
            raise CannotTell(f"stripe: events are kept for {RETAINED} days; look at a shorter time.")
        query: dict[str, Any] = {"created[gte]": int(since.timestamp()), "types[]": list(types)}
        if undelivered:
            query["delivery_success"] = "false"
        rows = [_event(event) for event in self._list("/v1/events", query)]
        columns = ["event", "type", "created", "pending", "customer", "object", "user", "api_version"]
        return pd.DataFrame(rows, columns=columns)

    def subscriptions(self, customer: str | None = None, status: str | None = None) -> list[dict[str, Any]]:
        """Subscriptions, live ones unless `status` says otherwise (`all`, `canceled`, …).

        Keys: subscription, customer, user (from metadata), status, price, monthly, period_start, period_end.
        """
        query = {"customer": customer, "status": status}
        return [_subscription(s) for s in self._list("/v1/subscriptions", {k: v for k, v in query.items() if v})]

    def customer(self, customer: str) -> dict[str, Any]:
        """A customer: id and email."""
        found = self.http.read(f"/v1/customers/{customer}").body
        return {"id": found["id"], "email": found.get("email")}

    def _list(self, path: str, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Every object of a listing. Raises CannotTell where it is longer than we can follow."""
        query = {**query, "limit": PAGE}
        for _ in range(MOST_PAGES):
            page = self.http.read(path, query).body
            yield from page["data"]
            if not page["has_more"]:
                return
            query["starting_after"] = page["data"][-1]["id"]
        raise CannotTell(f"stripe: {path} has more than {MOST_PAGES * PAGE} entries; narrow the window.")

    def send(self, path: str, form: dict[str, str], key: str) -> None:
        """Change something. Raises Faulty where the answer is not one of Stripe's: who knows what took the request."""
        self.http.change("POST", path, form=form, key=key).body["object"]

    # What a plan may ask for. Each of these only describes; nothing happens.

    def enable_endpoint(self, endpoint: str) -> Action:
        """Let Stripe deliver to this endpoint again."""
        return EnableEndpoint().plan({"endpoint": endpoint}, {"status": self.endpoint(endpoint)["status"]})

    def resend_event(self, event: str, endpoint: str, profile: str, customer: str, before: Any) -> Action:
        """Deliver one event again to one endpoint. `before`: the profile beside Stripe (`Profiles.beside_stripe`)."""
        of = {"event": event, "endpoint": endpoint, "profile": profile, "customer": customer}
        return ResendEvent().plan(of, before)

    def end_second_subscription(self, customer: str, subscriptions: Sequence[str]) -> Action:
        """Have a person cancel all but one of somebody's live subscriptions and refund them."""
        of = {"customer": customer, "subscriptions": sorted(subscriptions)}
        return EndSecondSubscription().plan(of, {"live": self.live(sorted(subscriptions))})

    def live(self, subscriptions: Sequence[str]) -> list[str]:
        """Those of the subscriptions that are still live."""
        found = {key: self.http.read(f"/v1/subscriptions/{key}").body["status"] for key in subscriptions}
        return [key for key, status in found.items() if status in billing.LIVE]


def _event(event: dict[str, Any]) -> tuple[Any, ...]:
    thing = event["data"]["object"]
    customer = thing.get("customer")
    return (
        event["id"],
        event["type"],
        _time(event["created"]),
        event["pending_webhooks"],
        customer["id"] if isinstance(customer, dict) else customer,
        thing["id"],
        (thing.get("metadata") or {}).get("supabase_user_id"),
        event["api_version"],
    )


def _subscription(sub: dict[str, Any]) -> dict[str, Any]:
    item = sub["items"]["data"][0]
    return {
        "subscription": sub["id"],
        "customer": sub["customer"],
        "user": sub["metadata"].get("supabase_user_id"),
        "status": sub["status"],
        "price": item["price"]["id"],
        "monthly": _monthly(item),
        "period_start": _time(item["current_period_start"]),
        "period_end": _time(item["current_period_end"]),
    }


def _monthly(item: dict[str, Any]) -> int:
    price: dict[str, Any] = item["price"]
    months = {"month": 1, "year": 12}.get(price["recurring"]["interval"], 1) * price["recurring"]["interval_count"]
    return int((price["unit_amount"] or 0) * item.get("quantity", 1) / months)


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# The changes. Their `services` is the bundle of all services, because an effect may show elsewhere.


class EnableEndpoint(Change):
    name = "stripe.enable_endpoint"
    title = "Enable webhook endpoint {endpoint}"
    right = "Webhook Endpoints: Write"

    def look(self, services: Any, of: Arguments) -> Any:
        return {"status": services.stripe.endpoint(of["endpoint"])["status"]}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["status"] == "enabled")

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        self._disable(services, of, "false", key)

    def undo(self, services: Any, of: Arguments, before: Any, after: Any, key: str) -> None:
        self._disable(services, of, "true" if before["status"] == "disabled" else "false", key)

    def _disable(self, services: Any, of: Arguments, disabled: str, key: str) -> None:
        path = f"/v1/webhook_endpoints/{of['endpoint']}"
        services.stripe.send(path, {"disabled": disabled}, key)

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"stripe webhook_endpoints update {of['endpoint']} -d disabled=false --live"


class AgreesWithStripe:
    """How to look at changes that are done once a profile says what Stripe says."""

    def look(self, services: Any, of: Arguments) -> Any:
        return services.profiles.beside_stripe(of["profile"], of["customer"])

    def look_after(self, services: Any, of: Arguments, before: Any) -> Any:
        return services.profiles.beside(of["profile"], before["due"])

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["differ"] == [])


class ResendEvent(AgreesWithStripe, Change):
    name = "stripe.resend_event"
    title = "Resend {event} to {endpoint}"
    right = "Events: Write (the route is undocumented; the Stripe CLI uses it)"
    settles = 20.0  # the delivery is only on its way when Stripe answers
    final = "a delivered event stays delivered"
    in_database = True  # whether it worked is seen there

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        services.stripe.resends.wait()
        path = f"/v1/events/{of['event']}/retry"
        services.stripe.send(path, {"webhook_endpoint": of["endpoint"]}, key)

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"stripe events resend {of['event']} --webhook-endpoint={of['endpoint']} --live"


class EndSecondSubscription(Change):
    name = "stripe.end_second_subscription"
    title = "By hand: cancel one of the two live subscriptions of {customer}, and refund it"
    manual = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"live": services.stripe.live(of["subscriptions"])}

    def done(self, now: Any, before: Any) -> bool:
        return len(now["live"]) <= 1

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"stripe subscriptions list --customer {of['customer']} --live"
