"""Stripe's deliveries: each event goes, signed, to every endpoint that listened when it was made.

An attempt succeeds with a 2xx answer; anything else, a redirect and a timeout included, is tried again with growing
pauses for three days. A resend by hand is one more attempt at once, and stops no automatic one.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opskit.sandbox import app
from opskit.sandbox.stripe_rendering import render_event
from opskit.sandbox.stripe_shelf import JSON

if TYPE_CHECKING:
    from opskit.sandbox.stripe import StripeStore
    from opskit.sandbox.world import World

TIMEOUT = 10.0  # seconds that Stripe waits for an answer
PAUSES = tuple(timedelta(minutes=m) for m in (5, 15, 60, 180, 360, 720, 720, 720, 720, 720))  # 3 days in all
LATENCY = timedelta(seconds=1)  # from an event to its first attempt
SENDERS = tuple(f"198.51.100.{n}" for n in range(11, 23))  # Stripe calls from a dozen addresses


@dataclass(frozen=True)
class SigningSecret:
    value: str
    ends: datetime | None = None

    def until(self, moment: datetime) -> SigningSecret:
        return replace(self, ends=moment if self.ends is None else min(self.ends, moment))


@dataclass
class Delivery:
    """How one event's delivery to one endpoint stands. Nothing of this shows in the API but two summaries."""

    attempts: int = 0
    succeeded: bool = False
    retrying: bool = True  # automatic attempts remain

    @property
    def pending(self) -> bool:
        return self.retrying and not self.succeeded


def pending_webhooks(store: StripeStore, event_id: str) -> int:
    return sum(delivery.pending for delivery in store.deliveries.get(event_id, {}).values())


def all_delivered(store: StripeStore, event_id: str) -> bool:
    return all(delivery.succeeded for delivery in store.deliveries.get(event_id, {}).values())


def begin(world: World, store: StripeStore, event: JSON, late: timedelta) -> None:
    """Plan the first attempt for every enabled endpoint that listens; the others never hear of the event."""
    for endpoint in store.webhook_endpoints.values():
        if endpoint["status"] == "enabled" and _listens(endpoint, event["type"]):
            delivery = Delivery()
            store.deliveries.setdefault(event["id"], {})[endpoint["id"]] = delivery
            if store.events_arrive:
                _plan(world, event["id"], endpoint["id"], LATENCY + late)
            else:
                delivery.attempts, delivery.succeeded, delivery.retrying = 1, True, False


def resend(world: World, event_id: str, endpoint_id: str) -> None:
    """One more attempt, now, by hand."""
    world.agenda.at(world.clock.now(), partial(deliver, world, event_id, endpoint_id))


def deliver(world: World, event_id: str, endpoint_id: str) -> int | None:
    """One attempt. Answers the HTTP status, or None where none came."""
    store = world.stripe
    with store.lock:
        endpoint, event = store.webhook_endpoints[endpoint_id], store.events[event_id]
        shown = {**render_event(event, endpoint["api_version"] or event["api_version"])}
        shown["pending_webhooks"] = max(1, pending_webhooks(store, event_id))
        secrets, url = list(store.endpoint_secrets[endpoint_id]), endpoint["url"]
    body = json.dumps(shown).encode()
    now = world.clock.now()
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        "Stripe-Signature": signature(body, [s.value for s in secrets if s.ends is None or now < s.ends], now),
        "X-Forwarded-For": SENDERS[int(hashlib.sha256(event_id.encode()).hexdigest(), 16) % len(SENDERS)],
    }
    status = (_post_in_the_past if world.clock.playing else _post)(world, url, headers, body)
    with store.lock:
        delivery = store.deliveries.setdefault(event_id, {}).setdefault(endpoint_id, Delivery(retrying=False))
        delivery.attempts += 1
        delivery.succeeded |= status is not None and 200 <= status < 300
    return status


def signature(body: bytes, secrets: list[str], moment: datetime) -> str:
    """`t` is the moment of sending, fresh with each attempt; one `v1` for each secret in force."""
    t = int(moment.timestamp())
    signed = [hmac.new(secret.encode(), b"%d." % t + body, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={t}", *(f"v1={value}" for value in signed)])


def _listens(endpoint: JSON, kind: str) -> bool:
    return any(fnmatchcase(kind, pattern) for pattern in endpoint["enabled_events"])


def _plan(world: World, event_id: str, endpoint_id: str, pause: timedelta, attempt: int = 0) -> None:
    job = partial(_attempt, world, event_id, endpoint_id, attempt)
    world.agenda.at(world.clock.now() + pause, job)


def _attempt(world: World, event_id: str, endpoint_id: str, attempt: int) -> None:
    """An automatic attempt. Where the endpoint is gone or disabled by now, it and all later ones are dropped."""
    store = world.stripe
    delivery = store.deliveries[event_id][endpoint_id]
    endpoint = store.webhook_endpoints.get(endpoint_id)
    if endpoint is None or endpoint["status"] != "enabled":
        delivery.retrying = False
        return
    status = deliver(world, event_id, endpoint_id)
    if (status is not None and 200 <= status < 300) or attempt == len(PAUSES):
        delivery.retrying = False
    else:
        _plan(world, event_id, endpoint_id, PAUSES[attempt] * store.rng.uniform(0.9, 1.1), attempt + 1)


def _post_in_the_past(world: World, url: str, headers: dict[str, str], body: bytes) -> int | None:
    """While the past is played the app is called as a function, behind the faults that then were in force."""
    if not url.startswith(world.addresses["app"]):
        return None
    return app.posted(world, urlsplit(url).path, headers, body, headers["X-Forwarded-For"], TIMEOUT)


def _post(world: World, url: str, headers: dict[str, str], body: bytes) -> int | None:
    """A real call, to this machine only: any other host counts as one that does not answer."""
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return None
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT)
    try:
        connection.request("POST", parts.path or "/", body, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
