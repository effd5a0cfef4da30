"""Where profiles and Stripe disagree: the sandbox's own judgement, for scoring drills.

Written apart from any runbook's way of reconciling, so that both cannot be wrong alike.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from opskit.sandbox.stripe_shelf import JSON

if TYPE_CHECKING:
    from opskit.sandbox.stripe import StripeStore
    from opskit.sandbox.world import World

PROFILES = """
    select id::text, email, stripe_customer_id, stripe_subscription_id, stripe_price_id, subscription_status,
           subscription_tier, subscription_current_period_start, subscription_current_period_end
    from user_profiles order by id
"""
STANDING = {"active": 3, "trialing": 3, "past_due": 2, "unpaid": 1, "paused": 1}  # the others are not live
FREE = {"subscription_tier": "free"}  # without a live subscription; ids and periods left behind harm nobody


def disagreements(world: World) -> list[dict[str, Any]]:
    """Profiles whose billing columns differ from Stripe, each with what it has and what Stripe would have it be."""
    with world.database.connect(row_factory=dict_row) as connection:
        profiles = connection.execute(PROFILES).fetchall()
    store = world.stripe
    with store.lock:
        owned = _subscriptions_by_profile(store, profiles)
        found = []
        for profile in profiles:
            wanted = [_columns(store, sub) for sub in _best(owned[profile["id"]])] or [dict(FREE)]
            differences = [_difference(profile, one) for one in wanted]
            if all(differences):
                found.append({"profile": profile["id"], "email": profile["email"], "columns": differences[0]})
    return found


def _subscriptions_by_profile(store: StripeStore, profiles: list[JSON]) -> dict[str, list[JSON]]:
    """Whose subscription is it? Its metadata says, or its customer's, or the profile's, or an e-mail used once."""
    known = {profile["id"] for profile in profiles}
    by_customer = {p["stripe_customer_id"]: p["id"] for p in profiles if p["stripe_customer_id"]}
    by_email: dict[str, list[str]] = defaultdict(list)
    for profile in profiles:
        by_email[(profile["email"] or "").lower()].append(profile["id"])
    owned: dict[str, list[JSON]] = defaultdict(list)
    for sub in store.subscriptions.values():
        customer = store.customers[sub["customer"]]
        sharing = by_email.get((customer["email"] or "").lower(), [])
        candidates = (
            sub["metadata"].get("supabase_user_id"),
            customer["metadata"].get("supabase_user_id"),
            by_customer.get(customer["id"]),
            sharing[0] if len(sharing) == 1 else None,
        )
        owner = next((candidate for candidate in candidates if candidate in known), None)
        if owner is not None:
            owned[owner].append(sub)
    return owned


def _best(subscriptions: list[JSON]) -> list[JSON]:
    """The live subscriptions in the best standing: a profile may agree with any of them."""
    highest = max((STANDING.get(sub["status"], 0) for sub in subscriptions), default=0)
    return [sub for sub in subscriptions if highest and STANDING.get(sub["status"], 0) == highest]


def _columns(store: StripeStore, sub: JSON) -> dict[str, Any]:
    item = sub["items"]["data"][0]
    return {
        "stripe_customer_id": sub["customer"],
        "stripe_subscription_id": sub["id"],
        "stripe_price_id": item["price"]["id"],
        "subscription_status": sub["status"],
        "subscription_tier": store.price_tiers[item["price"]["id"]],
        "subscription_current_period_start": datetime.fromtimestamp(item["current_period_start"], UTC),
        "subscription_current_period_end": datetime.fromtimestamp(item["current_period_end"], UTC),
    }


def _difference(profile: JSON, wanted: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"profile": str(profile[name]), "stripe": str(value)}
        for name, value in wanted.items()
        if profile[name] != value
    }
