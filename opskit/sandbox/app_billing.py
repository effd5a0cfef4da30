"""What the app writes into a profile for each of Stripe's events.

It was written for API versions before 2025-03-31.basil: it reads periods at the top of a subscription and the
subscription at the top of an invoice. Under a newer version periods become NULL and invoice events do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg import sql

from opskit.sandbox import app_database

if TYPE_CHECKING:
    from opskit.sandbox.app_call import Call
    from opskit.sandbox.world import World

JSON = dict[str, Any]

PRICE_PREFIX = "STRIPE_PRICE_"
TIERS = ("hobbyist", "professional", "studio")
NEVER_STARTED = ("incomplete", "incomplete_expired", "canceled")
NO_SUBSCRIPTION: JSON = {
    "subscription_tier": "free",
    "subscription_status": "canceled",
    "stripe_subscription_id": None,
    "stripe_price_id": None,
    "subscription_current_period_start": None,
    "subscription_current_period_end": None,
}


class HandlerError(Exception):
    """A JavaScript Error thrown while an event was handled: what Sentry receives."""

    def __init__(self, kind: str, message: str, culprit: str = "POST /api/webhooks/stripe") -> None:
        super().__init__(message)
        self.kind, self.culprit = kind, culprit


def checkout_completed(call: Call, session: JSON) -> None:
    user = (session.get("metadata") or {}).get("supabase_user_id")
    if not user or not session.get("subscription"):
        call.log("error", "webhook:stripe:checkout_completed", "Missing user id in checkout session",
                 sessionId=session["id"])  # fmt: skip
        return
    subscription = _retrieve(call.world, session["subscription"])
    _update(call.world, {"id": user}, {**_columns(call, subscription), **_fresh_words(call.world)})


def subscription_updated(call: Call, subscription: JSON) -> None:
    owner = _owner(call.world, subscription["metadata"], subscription["id"], subscription["customer"])
    _update(call.world, owner, _columns(call, subscription))


def subscription_deleted(call: Call, subscription: JSON) -> None:
    """Whoever the subscription belonged to is free now, whatever subscription the profile names: no guard."""
    owner = _owner(call.world, subscription["metadata"], subscription["id"], subscription["customer"])
    _update(call.world, owner, NO_SUBSCRIPTION)


def payment_succeeded(call: Call, invoice: JSON) -> None:
    changes = _fresh_words(call.world)
    if invoice["amount_paid"] > 0:  # a trial's invoice is paid too, with nothing
        changes["subscription_status"] = "active"
    _invoice(call, invoice, changes)


def payment_failed(call: Call, invoice: JSON) -> None:
    if invoice["billing_reason"] != "subscription_create":  # otherwise there is nothing to lose yet
        _invoice(call, invoice, {"subscription_status": "past_due"})


HANDLERS: dict[str, Callable[[Call, JSON], None]] = {
    "checkout.session.completed": checkout_completed,
    "customer.subscription.updated": subscription_updated,
    "customer.subscription.deleted": subscription_deleted,
    "invoice.payment_succeeded": payment_succeeded,
    "invoice.payment_failed": payment_failed,
}


def _invoice(call: Call, invoice: JSON, changes: JSON) -> None:
    subscription = invoice.get("subscription")
    if not subscription:
        return
    metadata = (invoice.get("subscription_details") or {}).get("metadata") or {}
    _update(call.world, _owner(call.world, metadata, subscription, invoice["customer"]), changes)


def _columns(call: Call, subscription: JSON) -> JSON:
    price = subscription["items"]["data"][0]["price"]["id"]
    ended = subscription["status"] in NEVER_STARTED
    return {
        "stripe_customer_id": subscription["customer"],
        "stripe_subscription_id": subscription["id"],
        "stripe_price_id": price,
        "subscription_status": subscription["status"],
        "subscription_tier": "free" if ended else _tier(call.deployment.env, price, subscription["metadata"]),
        "subscription_current_period_start": _moment(subscription.get("current_period_start")),
        "subscription_current_period_end": _moment(subscription.get("current_period_end")),
    }


def _tier(env: dict[str, str], price: str, metadata: JSON) -> str:
    """By the build's price map; an unknown price falls back to the subscription's metadata, then to free."""
    for tier in TIERS:
        if env.get(PRICE_PREFIX + tier.upper()) == price:
            return tier
    return metadata["tier"] if metadata.get("tier") in TIERS else "free"


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _fresh_words(world: World) -> JSON:
    return {"ai_words_used_this_month": 0, "ai_words_reset_date": world.clock.now()}


def _retrieve(world: World, subscription: str) -> JSON:
    """The app asks Stripe, with the account's version; Stripe may be unreachable for it, too."""
    fault = world.faults.strike("stripe", "GET", f"/v1/subscriptions/{subscription}", world.clock.now())
    if fault is not None and (fault.reset or (fault.status or 200) >= 400):
        raise HandlerError("StripeConnectionError", "An error occurred with our connection to Stripe.")
    return world.stripe.render(world.stripe.subscriptions[subscription])


def _owner(world: World, metadata: JSON, subscription: str, customer: str) -> JSON:
    """The columns by which the profile is found: metadata, else the subscription if a profile has it, else customer."""
    if user := metadata.get("supabase_user_id"):
        return {"id": user}
    with app_database.session(world) as connection:
        known = connection.execute("select 1 from user_profiles where stripe_subscription_id = %s", (subscription,))
        return {"stripe_subscription_id": subscription} if known.fetchone() else {"stripe_customer_id": customer}


def _update(world: World, where: JSON, changes: JSON) -> None:
    """One UPDATE. Nobody looks at how many rows it changed."""
    ((column, wanted),) = where.items()
    assignments = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in changes]
    query = sql.SQL("update user_profiles set {} where {} = %s").format(
        sql.SQL(", ").join(assignments), sql.Identifier(column)
    )
    with app_database.session(world) as connection:
        connection.execute(query, [*changes.values(), wanted])
