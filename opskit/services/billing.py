"""What a customer's profile ought to say, worked out from Stripe's live subscriptions; and where it says otherwise.

Pure functions over plain rows. Stripe is the authority; nothing is ever inferred from the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

Row = dict[str, Any]

COLUMNS = (
    "subscription_tier",
    "subscription_status",
    "stripe_customer_id",
    "stripe_subscription_id",
    "stripe_price_id",
    "subscription_current_period_start",
    "subscription_current_period_end",
)
GRANTING = ("active", "trialing")  # statuses with which the app lets a user in
LIVE = (*GRANTING, "past_due", "unpaid", "paused")  # `incomplete` was never paid: it owes nobody a tier
PERIODS = ("subscription_current_period_start", "subscription_current_period_end")


class Ambiguous(ValueError):
    """Stripe alone does not say what this profile should be; a person decides."""


def expected(customer: str | None, subscriptions: Iterable[Row], tiers: Mapping[str, str]) -> Row:
    """The billing columns that a customer's subscriptions call for.

    `subscriptions` as `Stripe.subscriptions` gives them; `tiers` maps price ids to tiers. Raises Ambiguous for two
    live subscriptions or an unknown price.
    """
    live = [s for s in subscriptions if s["status"] in LIVE]
    if len(live) > 1:
        raise Ambiguous(f"{len(live)} live subscriptions: {', '.join(s['subscription'] for s in live)}")
    if not live:
        return dict.fromkeys(COLUMNS) | {
            "subscription_tier": "free",
            "subscription_status": "canceled",
            "stripe_customer_id": customer,
        }
    (one,) = live
    tier = tiers.get(one["price"])
    if tier is None:
        raise Ambiguous(f"price {one['price']} is not in the environment's price_tiers")
    return {
        "subscription_tier": tier,
        "subscription_status": one["status"],
        "stripe_customer_id": customer,
        "stripe_subscription_id": one["subscription"],
        "stripe_price_id": one["price"],
        "subscription_current_period_start": one["period_start"],
        "subscription_current_period_end": one["period_end"],
    }


def differences(profile: Row, due: Row) -> list[str]:
    """The columns in which a profile says something else than it should.

    Without a live subscription only the tier matters: a profile that never subscribed and one that was cancelled
    look different and are both right.
    """
    if due["stripe_subscription_id"] is None:
        return ["subscription_tier"] if profile["subscription_tier"] != "free" else []
    return [column for column in COLUMNS if not same(profile.get(column), due[column])]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, datetime) and isinstance(other, datetime):
        return abs((one - other).total_seconds()) < 1
    return bool(one == other)


def lets_in(profile: Row, now: datetime) -> bool:
    """Whether the app serves this profile its paid tier: it answers 402 otherwise."""
    end = profile.get("subscription_current_period_end")
    return (
        profile.get("subscription_tier") not in (None, "free")
        and profile.get("subscription_status") in GRANTING
        and (end is None or end > now)
    )


def takes_away(now: Row, due: Row) -> bool:
    """Whether a profile that becomes what is due loses access that it has: another status, or a lower tier."""
    moment = datetime.now(UTC)
    loses = lets_in(now, moment) and not lets_in(due, moment)
    return loses or _below(due["subscription_tier"], now["subscription_tier"])


@dataclass(frozen=True)
class Drift:
    """One disagreement between a profile and Stripe."""

    customer: str | None
    profile: str | None
    email: str | None
    tier: str | None  # what the profile says
    due: str | None  # what Stripe says
    columns: tuple[str, ...]  # where they differ
    effect: str  # locked out, wrongly served, wrong record, no profile, ambiguous
    monthly: int  # in the currency's smallest unit: what the customer pays a month
    price: str | None
    why: str = ""
    live: tuple[str, ...] = ()  # subscriptions
    state: Row | None = None  # the profile, what is due and where they differ: what a plan is made on


def drift(profiles: Sequence[Row], subscriptions: Sequence[Row], tiers: Mapping[str, str]) -> list[Drift]:
    """Every disagreement between the database's profiles and Stripe's subscriptions.

    Profiles are matched as the app's own handler does it: by the user id in the subscription's metadata, then by
    subscription, then by customer.
    """
    matched, orphans = match(profiles, subscriptions)
    now = datetime.now(UTC)
    found = [_compare(profile, matched.get(profile["id"], []), tiers, now) for profile in profiles]
    return [d for d in found if d] + [_orphan(s, tiers) for s in orphans if s["status"] in LIVE]


def match(profiles: Sequence[Row], subscriptions: Sequence[Row]) -> tuple[dict[str, list[Row]], list[Row]]:
    """Profile id -> its subscriptions, and the subscriptions that belong to no profile."""
    by_id = {p["id"]: p["id"] for p in profiles}
    by_subscription = {p["stripe_subscription_id"]: p["id"] for p in profiles if p["stripe_subscription_id"]}
    by_customer = {p["stripe_customer_id"]: p["id"] for p in profiles if p["stripe_customer_id"]}
    matched: dict[str, list[Row]] = defaultdict(list)
    orphans = []
    for one in subscriptions:
        owner = by_id.get(one["user"]) or by_subscription.get(one["subscription"]) or by_customer.get(one["customer"])
        if owner:
            matched[owner].append(one)
        else:
            orphans.append(one)
    return matched, orphans


def _compare(profile: Row, subscriptions: list[Row], tiers: Mapping[str, str], now: datetime) -> Drift | None:
    live = [s for s in subscriptions if s["status"] in LIVE]
    customer = live[0]["customer"] if live else profile["stripe_customer_id"]
    seen = (customer, profile["id"], profile.get("email"), profile["subscription_tier"])
    monthly = sum(s["monthly"] for s in live)
    try:
        due = expected(customer, live, tiers)
    except Ambiguous as error:
        ids = tuple(s["subscription"] for s in live)
        return Drift(*seen, None, (), "ambiguous", monthly, live[0]["price"], str(error), ids)
    columns = differences(profile, due)
    if not columns:
        return None
    price = due["stripe_price_id"]
    if not live and profile["stripe_customer_id"] is None:
        return Drift(*seen, "free", tuple(columns), "ambiguous", 0, None, "a paid tier without any Stripe customer")
    entitled, served = lets_in(due, now), lets_in(profile, now)
    effect = "wrong record"
    if entitled and (not served or _below(profile["subscription_tier"], due["subscription_tier"])):
        effect = "locked out"
    elif served and (not entitled or _below(due["subscription_tier"], profile["subscription_tier"])):
        effect = "wrongly served"
    now_says = {column: profile[column] for column in COLUMNS}
    state = {"profile": now_says, "due": due, "differ": columns}
    return Drift(*seen, due["subscription_tier"], tuple(columns), effect, monthly, price, state=state)


def _orphan(one: Row, tiers: Mapping[str, str]) -> Drift:
    due = tiers.get(one["price"])
    why = f"no profile has customer {one['customer']} or user {one['user']}"
    return Drift(one["customer"], None, None, None, due, (), "no profile", one["monthly"], one["price"], why)


def table(found: Sequence[Drift]) -> pd.DataFrame:
    """The disagreements as a table, one row each; `monthly` in whole currency units."""
    rows = [
        (d.effect, d.customer, d.tier, d.due, d.monthly / 100, _briefly(d), d.profile, d.email, d.price) for d in found
    ]
    columns = ["effect", "customer", "tier", "due", "monthly", "differs", "profile", "email", "price"]
    return pd.DataFrame(rows, columns=columns)


def _briefly(one: Drift) -> str:
    return one.why or ", ".join(c.removeprefix("subscription_").removeprefix("current_") for c in one.columns)


ORDER = ("free", "hobbyist", "professional", "studio")


def _below(one: str, other: str) -> bool:
    return ORDER.index(one) < ORDER.index(other)


# What resending an event does depends on the app's handler, not on Stripe.
RESETS_COUNTER = ("checkout.session.completed", "invoice.payment_succeeded")
CARRIES_STATE = ("customer.subscription.updated", "customer.subscription.deleted")
HANDLED = (*RESETS_COUNTER, *CARRIES_STATE, "invoice.payment_failed")  # to others the handler answers 200 and no more
NESTED_PERIODS = "2025-03-31"  # from this API version on, the handler finds no period in a subscription


def resendable(events: Sequence[Row], due: Row, max_age: int | None, now: datetime) -> Row | None:
    """The one event of a customer whose resending would put the profile right, or None: then reconcile.

    `events` are all of one customer's, as `Stripe.events` gives them; `due` is what the profile should say. Only an
    event that carries the whole state, that no later one supersedes, that is about the live subscription (or, where
    none is live, the end of one), that the handler will not refuse for its age (less a minute for the way there), and
    that is written in the shape the handler reads.
    """
    stateful = [e for e in events if e["type"] in (*CARRIES_STATE, *RESETS_COUNTER)]
    if not stateful:
        return None
    latest = max(stateful, key=lambda e: e["created"])
    ties = [e for e in stateful if e["created"] == latest["created"]]  # Stripe's clock has whole seconds
    if any(e["type"] not in CARRIES_STATE for e in ties) or len(ties) > 1:
        return None
    if max_age is not None and (now - latest["created"]).total_seconds() > max_age - 60:
        return None
    live, ends = due["stripe_subscription_id"], latest["type"] == "customer.subscription.deleted"
    if ends != (live is None) or (live and latest["object"] != live):
        return None
    return None if latest["api_version"] >= NESTED_PERIODS else latest
