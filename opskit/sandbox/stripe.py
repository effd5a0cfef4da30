"""The company's Stripe account: its customers, subscriptions, invoices and events, and what can happen to them.

`StripeStore` holds whole objects as the API gives them. Its verbs are what users and Stripe do (subscribe, renew, fail
to pay, cancel); each happens at the world's present moment and makes the events Stripe would make, which
`stripe_webhooks` delivers. `application` serves Stripe's HTTP API over the store.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
import string
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from opskit.sandbox import stripe_objects, stripe_rendering, stripe_webhooks
from opskit.sandbox.stripe_api import application
from opskit.sandbox.stripe_shelf import JSON, Shelf
from opskit.sandbox.stripe_truth import disagreements

if TYPE_CHECKING:
    from opskit.sandbox.world import World

__all__ = ["StripeStore", "application", "disagreements"]

Ref = str | JSON  # an object, or its id

DAY = 86400
RETENTION = 30 * DAY  # of events
PAIRS = ["".join(pair) for pair in itertools.product(string.ascii_letters + string.digits, repeat=2)]  # twice as fast
ID_LENGTHS = {"acct": 16, "cus": 14, "prod": 14, "si": 14, "cs_live": 58, "whsec": 32}
TIERS = {"hobbyist": ("Hobbyist", 900), "professional": ("Professional", 1900), "studio": ("Studio", 4900)}
LISTENED = (  # to what the app's endpoint is subscribed
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "invoice.payment_succeeded",
    "invoice.payment_failed",
)
SHELVES = ("customers", "subscriptions", "invoices", "prices", "products", "checkout_sessions")


class StripeStore:
    """One Stripe account. Copies (`copy.deepcopy`) share the world and the events, which never change."""

    def __init__(self, world: World, name: str = "Quillfolio", email: str = "billing@quillfolio.example") -> None:
        self.world = world
        self.lock = threading.RLock()  # held for moments only: never during HTTP or database calls
        self.rng = random.Random(f"stripe {world.seed}")
        self.customers, self.subscriptions, self.invoices = Shelf(), Shelf(), Shelf()
        self.prices, self.products, self.checkout_sessions = Shelf(), Shelf(), Shelf()
        self.events, self.webhook_endpoints = Shelf(), Shelf()
        self.api_version = "2024-06-20"
        self.price_tiers: dict[str, str] = {}  # price id -> tier: what a customer who pays it is owed
        self.endpoint_secrets: dict[str, list[stripe_webhooks.SigningSecret]] = {}
        self.deliveries: dict[str, dict[str, stripe_webhooks.Delivery]] = {}  # event id -> endpoint id -> …
        self.idempotent: dict[str, Any] = {}  # idempotency key -> the first answer given
        self.request_limits = {"endpoint": 25, "global": 100}  # per second
        self.events_happen = True
        self.events_arrive = True
        opened = self.now() - 900 * DAY
        self.account = stripe_objects.account(self.new_id("acct"), opened, name, email)
        for tier, (label, amount) in TIERS.items():
            self.add_price(tier, amount, label, created=opened)

    def __deepcopy__(self, memo: dict[int, Any]) -> StripeStore:
        with self.lock:
            shared = {"world": self.world, "events": self.events.copy(), "lock": threading.RLock()}
            twin = StripeStore.__new__(StripeStore)
            twin.__dict__.update(copy.deepcopy({k: v for k, v in vars(self).items() if k not in shared}, memo))
            twin.__dict__.update(shared)
        return twin

    def dump(self) -> dict[str, Any]:
        """The account's whole state as JSON, without what merely happens to be under way."""
        with self.lock:
            kept = {name: dict(copy.deepcopy(getattr(self, name))) for name in (*SHELVES, "webhook_endpoints")}
            events = {"events": dict(self.events)}
            return {**kept, **events, "account": copy.deepcopy(self.account), "api_version": self.api_version}

    def now(self) -> int:
        return int(self.world.clock.now().timestamp())

    def new_id(self, prefix: str) -> str:
        """A believable id. They come from a generator of their own: the same seed gives the same ids."""
        length = ID_LENGTHS.get(prefix, 24)
        lead = {24: "1", 58: "a1"}.get(length, "")
        return f"{prefix}_{lead}" + "".join(self.rng.choices(PAIRS, k=length // 2))[: length - len(lead)]

    def render(self, value: JSON, version: str | None = None) -> JSON:
        """The object as a version of the API shows it; without one, the account's."""
        return stripe_rendering.render(value, version or self.api_version)

    # Events

    def emit(self, kind: str, value: JSON, previous: JSON | None = None, late: timedelta = timedelta(0)) -> JSON:
        """An event about the object as it is now, delivered to whoever listens (`late`: that much later)."""
        if not self.events_happen:
            return stripe_objects.event("", self.now(), self.api_version, kind, {"object": value})
        data: JSON = {"object": json.loads(json.dumps(value))}  # many times faster than a deep copy
        if previous is not None:
            data["previous_attributes"] = previous
        with self.lock:
            event = stripe_objects.event(self.new_id("evt"), self.now(), self.api_version, kind, data)
            self.events.add(event)
            stripe_webhooks.begin(self.world, self, event, late)
        return event

    @contextmanager
    def already_delivered(self) -> Iterator[None]:
        """Events made meanwhile count as delivered and received, without calling anyone: for the peaceful past."""
        self.events_arrive = False
        try:
            yield
        finally:
            self.events_arrive = True

    @contextmanager
    def without_events(self) -> Iterator[None]:
        """No events are made meanwhile: for what happened before the oldest that Stripe still keeps."""
        self.events_happen = False
        try:
            yield
        finally:
            self.events_happen = True

    def deliver(self, event_id: str, endpoint_id: str) -> int | None:
        """Send one event to one endpoint now; the HTTP status it answered, None without an answer."""
        return stripe_webhooks.deliver(self.world, event_id, endpoint_id)

    # Webhook endpoints

    def add_endpoint(
        self,
        url: str,
        enabled_events: list[str] | None = None,
        api_version: str | None = None,
        secret: str | None = None,
    ) -> JSON:
        """A new endpoint. Its secret is kept apart from it, since the API never shows it again."""
        listened = list(LISTENED) if enabled_events is None else enabled_events
        with self.lock:
            key = self.new_id("we")
            self.endpoint_secrets[key] = [stripe_webhooks.SigningSecret(secret or self.new_id("whsec"))]
            return self.webhook_endpoints.add(
                stripe_objects.webhook_endpoint(key, self.now(), url, listened, api_version)
            )

    def roll_secret(self, endpoint_id: str, overlap: timedelta = timedelta(0)) -> str:
        """A new signing secret; the old one goes on signing beside it for as long as the overlap."""
        with self.lock:
            ends = self.world.clock.now() + overlap
            old = [secret.until(ends) for secret in self.endpoint_secrets[endpoint_id] if overlap]
            new = stripe_webhooks.SigningSecret(self.new_id("whsec"))
            self.endpoint_secrets[endpoint_id] = [new, *old]
            return new.value

    # What is sold

    def add_price(self, tier: str, amount: int, label: str, created: int | None = None) -> JSON:
        """A monthly price for a tier, with its product."""
        with self.lock:
            moment = self.now() if created is None else created
            product = stripe_objects.product(self.new_id("prod"), moment, label, {"tier": tier})
            self.products.add(product)
            nickname = f"{label} monthly"
            price = stripe_objects.price(self.new_id("price"), moment, product["id"], amount, nickname)
            product["default_price"] = price["id"]
            self.price_tiers[price["id"]] = tier
            return self.prices.add(price)

    def price_of(self, tier: str) -> str:
        """The price at which a tier is sold: the first one, which the app knows."""
        return next(price for price, sold in self.price_tiers.items() if sold == tier)

    # What customers do

    def create_customer(self, email: str, name: str | None = None, metadata: JSON | None = None) -> JSON:
        with self.lock:
            customer = stripe_objects.customer(self.new_id("cus"), self.now(), email, name, metadata or {})
            self.customers.add(customer)
            self.emit("customer.created", customer)
            return customer

    def subscribe(
        self, customer: Ref, price: Ref, trial_days: int = 0, metadata: JSON | None = None, paid: bool = True
    ) -> JSON:
        """Check out: a new subscription, on trial or paid; not `paid` leaves it incomplete."""
        with self.lock:
            now, buyer = self.now(), self.customers[_id(customer)]
            status = "incomplete" if not paid else "trialing" if trial_days else "active"
            end = now + trial_days * DAY if trial_days else stripe_objects.a_month_after(now)
            key = self.new_id("sub")
            item = stripe_objects.subscription_item(self.new_id("si"), now, key, self.prices[_id(price)], (now, end))
            sub = stripe_objects.subscription(buyer["id"], item, status, metadata or {})
            self.subscriptions.add(sub)
            invoice = self._invoice(sub, paid)
            if not paid:
                self.emit("customer.subscription.created", sub)
                self.emit("invoice.payment_failed", invoice)
                return sub
            if trial_days:
                self.emit("customer.subscription.created", sub)
            else:  # created before its first payment, as it is at Stripe
                self.emit("customer.subscription.created", {**sub, "status": "incomplete"})
                self.emit("customer.subscription.updated", sub, {"status": "incomplete"})
            self.emit("invoice.payment_succeeded", invoice)
            session = stripe_objects.checkout_session(self.new_id("cs_live"), now, buyer, sub, invoice["amount_due"])
            self.emit("checkout.session.completed", self.checkout_sessions.add(session))
            return sub

    def renew(self, subscription: Ref) -> JSON:
        """The next period begins and is paid; a trial becomes a paid subscription. Answers the payment's event."""
        with self.lock:
            sub = self.subscriptions[_id(subscription)]
            previous = self._advance(sub)
            if sub["status"] != "active":
                previous["status"], sub["status"] = sub["status"], "active"
                self.customers[sub["customer"]]["delinquent"] = False
            invoice = self._invoice(sub, paid=True)
            self.emit("customer.subscription.updated", sub, previous)
            return self.emit("invoice.payment_succeeded", invoice)

    def fail_payment(self, subscription: Ref) -> JSON:
        """The next period begins, but its payment fails: past due. Answers the invoice's event."""
        with self.lock:
            sub = self.subscriptions[_id(subscription)]
            previous = self._advance(sub)
            previous["status"], sub["status"] = sub["status"], "past_due"
            self.customers[sub["customer"]]["delinquent"] = True
            invoice = self._invoice(sub, paid=False)
            self.emit("customer.subscription.updated", sub, previous)
            return self.emit("invoice.payment_failed", invoice)

    def change_price(self, subscription: Ref, price: Ref) -> JSON:
        """Another plan, at once; the difference is billed with the next invoice."""
        with self.lock:
            sub, chosen = self.subscriptions[_id(subscription)], self.prices[_id(price)]
            item = sub["items"]["data"][0]
            previous = {"items": {"data": [{"plan": item["plan"], "price": item["price"]}]}}
            item.update(price=chosen, plan=stripe_objects.plan(chosen))
            return self.emit("customer.subscription.updated", sub, previous)

    def cancel(self, subscription: Ref, at_period_end: bool = False, late: timedelta = timedelta(0)) -> JSON:
        """End a subscription, now or with its period. `late` holds back the deletion's delivery."""
        with self.lock:
            sub, now = self.subscriptions[_id(subscription)], self.now()
            sub["canceled_at"] = now
            sub["cancellation_details"] = {**sub["cancellation_details"], "reason": "cancellation_requested"}
            if at_period_end:
                sub.update(cancel_at_period_end=True, cancel_at=sub["items"]["data"][0]["current_period_end"])
                previous = {"cancel_at_period_end": False, "cancel_at": None, "canceled_at": None}
                return self.emit("customer.subscription.updated", sub, previous)
            sub.update(status="canceled", ended_at=now)
            return self.emit("customer.subscription.deleted", sub, late=late)

    def set_period(self, subscription: Ref, start: int, end: int) -> None:
        """Move a period without a word: the sandbox arranging a believable past, not something Stripe does."""
        with self.lock:
            sub = self.subscriptions[_id(subscription)]
            sub["billing_cycle_anchor"] = end
            sub["items"]["data"][0].update(current_period_start=start, current_period_end=end)

    def _advance(self, sub: JSON) -> JSON:
        """Begin the next period; answers `previous_attributes`. A period that is not over yet ends now."""
        item, now = sub["items"]["data"][0], self.now()
        if now < item["current_period_end"]:
            sub["billing_cycle_anchor"] = now
        start, end = stripe_objects.month_around(now, sub["billing_cycle_anchor"])
        old = {name: item[name] for name in stripe_rendering.PERIOD}
        item.update(current_period_start=start, current_period_end=end)
        return {"items": {"data": [old]}}

    def _invoice(self, sub: JSON, paid: bool) -> JSON:
        keys = (self.new_id("in"), self.new_id("il"))
        customer = self.customers[sub["customer"]]
        invoice = stripe_objects.invoice(keys, self.now(), customer, sub, paid)
        sub["latest_invoice"] = invoice["id"]
        return self.invoices.add(invoice)


def _id(ref: Ref) -> str:
    return ref if isinstance(ref, str) else str(ref["id"])
