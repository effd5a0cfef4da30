"""What profiles ought to say: tables of cases, and what must hold for any of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.services import billing
from opskit.services.billing import (
    COLUMNS,
    GRANTING,
    LIVE,
    Ambiguous,
    Drift,
    differences,
    drift,
    expected,
    lets_in,
    match,
    resendable,
)

NOW = datetime.now(UTC)
START, END = NOW - timedelta(days=10), NOW + timedelta(days=20)
TIERS = {"price_h": "hobbyist", "price_p": "professional", "price_s": "studio"}

Row = dict[str, Any]


def subscription(number: int = 1, **changes: Any) -> Row:
    usual = {
        "subscription": f"sub_{number}",
        "customer": f"cus_{number}",
        "user": f"user-{number}",
        "status": "active",
        "price": "price_p",
        "monthly": 1900,
        "period_start": START,
        "period_end": END,
    }
    return {**usual, **changes}


def profile(number: int = 1, **changes: Any) -> Row:
    """A profile as it ought to be beside `subscription(number)`."""
    due = expected(f"cus_{number}", [subscription(number)], TIERS)
    return {"id": f"user-{number}", "email": f"{number}@example.com", **due, **changes}


def free(number: int = 1, **changes: Any) -> Row:
    return {"id": f"user-{number}", "email": "x", **dict.fromkeys(COLUMNS), "subscription_tier": "free",
            "subscription_status": "active", **changes}  # fmt: skip


# Expected.


@pytest.mark.parametrize("status", LIVE)
def test_a_live_subscription_says_everything(status: str) -> None:
    assert expected("cus_1", [subscription(status=status)], TIERS) == {
        "subscription_tier": "professional",
        "subscription_status": status,
        "stripe_customer_id": "cus_1",
        "stripe_subscription_id": "sub_1",
        "stripe_price_id": "price_p",
        "subscription_current_period_start": START,
        "subscription_current_period_end": END,
    }


@pytest.mark.parametrize("statuses", [(), ("canceled",), ("incomplete",), ("incomplete_expired", "canceled")])
def test_without_a_live_one_it_is_free(statuses: tuple[str, ...]) -> None:
    due = expected("cus_1", [subscription(n, status=s) for n, s in enumerate(statuses)], TIERS)
    assert (due["subscription_tier"], due["stripe_subscription_id"], due["stripe_customer_id"]) == (
        "free",
        None,
        "cus_1",
    )


@pytest.mark.parametrize(
    ("subscriptions", "said"),
    [
        ([subscription(1), subscription(2)], "2 live subscriptions: sub_1, sub_2"),
        ([subscription(1), subscription(2, status="past_due")], "2 live subscriptions"),
        ([subscription(price="price_new")], "price price_new is not in the environment's price_tiers"),
    ],
)
def test_what_stripe_alone_does_not_say_is_ambiguous(subscriptions: list[Row], said: str) -> None:
    with pytest.raises(Ambiguous, match=said):
        expected("cus_1", subscriptions, TIERS)


def test_old_subscriptions_do_not_count_beside_a_live_one() -> None:
    both = [subscription(9, status="canceled", price="price_gone"), subscription(1)]
    assert expected("cus_1", both, TIERS)["stripe_subscription_id"] == "sub_1"


statuses = st.sampled_from([*LIVE, "canceled", "incomplete", "incomplete_expired"])
many = st.lists(
    st.builds(subscription, st.integers(1, 3), status=statuses, price=st.sampled_from([*TIERS, "price_x"])), max_size=4
)


@given(many, st.randoms())
def test_the_order_of_subscriptions_does_not_matter(subscriptions: list[Row], random: Any) -> None:
    def answer(found: list[Row]) -> Row | None:
        try:
            return expected("cus_1", found, TIERS)
        except Ambiguous:
            return None

    mixed = list(subscriptions)
    random.shuffle(mixed)
    assert answer(mixed) == answer(subscriptions)


@given(many)
def test_what_is_expected_agrees_with_itself(subscriptions: list[Row]) -> None:
    try:
        due = expected("cus_1", subscriptions, TIERS)
    except Ambiguous:
        return
    assert differences(due, due) == []
    assert lets_in(due, NOW) == any(s["status"] in GRANTING for s in subscriptions)


# Differences.


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({}, []),
        ({"subscription_tier": "free"}, ["subscription_tier"]),
        ({"subscription_status": "canceled"}, ["subscription_status"]),
        ({"stripe_price_id": None, "stripe_subscription_id": "sub_x"}, ["stripe_subscription_id", "stripe_price_id"]),
        ({"subscription_current_period_end": None}, ["subscription_current_period_end"]),
        ({"subscription_current_period_end": END + timedelta(milliseconds=900)}, []),
        ({"subscription_current_period_end": END + timedelta(seconds=2)}, ["subscription_current_period_end"]),
    ],
)
def test_differences_are_named_by_column(changes: Row, columns: list[str]) -> None:
    assert differences(profile(**changes), expected("cus_1", [subscription()], TIERS)) == columns


def test_without_a_subscription_only_the_tier_matters() -> None:
    due = expected("cus_1", [], TIERS)
    assert differences(free(), due) == []
    assert differences(free(subscription_status="canceled", stripe_subscription_id="sub_old"), due) == []
    assert differences(free(subscription_tier="studio"), due) == ["subscription_tier"]


@pytest.mark.parametrize(
    ("changes", "inside"),
    [
        ({}, True),
        ({"subscription_status": "trialing"}, True),
        ({"subscription_status": "past_due"}, False),
        ({"subscription_tier": "free"}, False),
        ({"subscription_current_period_end": NOW - timedelta(seconds=1)}, False),
        ({"subscription_current_period_end": None}, True),
    ],
)
def test_who_is_let_in(changes: Row, inside: bool) -> None:
    assert lets_in(profile(**changes), NOW) is inside


# Matching and drift.


def test_matching_goes_by_user_then_subscription_then_customer() -> None:
    profiles = [profile(1), profile(2), profile(3)]
    subscriptions = [
        subscription(1, subscription="sub_9", customer="cus_2"),
        subscription(2, user=None, customer="cus_3"),
        subscription(3, user="nobody", subscription="sub_8"),
        subscription(4),
    ]
    matched, orphans = match(profiles, subscriptions)
    assert {key: [s["subscription"] for s in found] for key, found in matched.items()} == {
        "user-1": ["sub_9"],
        "user-2": ["sub_2"],
        "user-3": ["sub_8"],
    }
    assert [s["subscription"] for s in orphans] == ["sub_4"]


DRIFTS: dict[str, tuple[list[Row], list[Row], list[tuple[str, str | None]]]] = {
    "all is well": ([profile(1), profile(2)], [subscription(1), subscription(2)], []),
    "paid, still free": ([free()], [subscription()], [("locked out", "professional")]),
    "paid, period over": (
        [profile(subscription_current_period_end=NOW - timedelta(days=1))],
        [subscription()],
        [("locked out", "professional")],
    ),
    "paid more": ([profile(subscription_tier="hobbyist")], [subscription()], [("locked out", "professional")]),
    "paid less": ([profile(subscription_tier="studio")], [subscription()], [("wrongly served", "professional")]),
    "cancelled, still served": ([profile()], [subscription(status="canceled")], [("wrongly served", "free")]),
    "past due, still served": ([profile()], [subscription(status="past_due")], [("wrongly served", "professional")]),
    "past due and denied": ([profile(subscription_status="past_due")], [subscription(status="past_due")], []),
    "wrong price only": ([profile(stripe_price_id="price_x")], [subscription()], [("wrong record", "professional")]),
    "nobody's": ([], [subscription()], [("no profile", "professional")]),
    "nobody's, and cancelled": ([], [subscription(status="canceled")], []),
    "two at once": ([profile()], [subscription(), subscription(2, user="user-1")], [("ambiguous", None)]),
    "an unknown price": ([profile()], [subscription(price="price_x")], [("ambiguous", None)]),
    "a gift": ([free(subscription_tier="studio")], [], [("ambiguous", "free")]),
    "never paid": ([free()], [subscription(status="incomplete")], []),
}  # fmt: skip


@pytest.mark.parametrize(("profiles", "subscriptions", "found"), DRIFTS.values(), ids=DRIFTS.keys())
def test_drift_is_told_by_its_effect(
    profiles: list[Row], subscriptions: list[Row], found: list[tuple[str, str]]
) -> None:
    assert [(d.effect, d.due) for d in drift(profiles, subscriptions, TIERS)] == found


def test_what_is_to_be_written_is_known_only_where_it_is_clear() -> None:
    for profiles, subscriptions, _ in DRIFTS.values():
        for one in drift(profiles, subscriptions, TIERS):
            assert (one.state is None) == (one.effect in ("no profile", "ambiguous"))


@given(st.lists(st.integers(1, 4), unique=True), many)
def test_writing_what_is_due_ends_the_drift(numbers: list[int], subscriptions: list[Row]) -> None:
    profiles = [free(n, stripe_customer_id=f"cus_{n}") for n in numbers]
    for one in drift(profiles, subscriptions, TIERS):
        if one.state:
            (index,) = (n for n, p in enumerate(profiles) if p["id"] == one.profile)
            profiles[index] = {**profiles[index], **one.state["due"]}
    assert all(d.state is None for d in drift(profiles, subscriptions, TIERS))


def test_the_table_has_a_row_for_each_and_columns_even_without() -> None:
    assert list(billing.table([]).columns) == list(billing.table(drift([free()], [subscription()], TIERS)).columns)
    assert len(billing.table([Drift("c", None, None, None, None, (), "no profile", 0, None)] * 3)) == 3


# Resending.


def event(
    name: str,
    seconds_ago: float,
    kind: str = "customer.subscription.updated",
    version: str = "2024-06-20",
    about: str = "sub_1",
) -> Row:
    created = NOW - timedelta(seconds=seconds_ago)
    return {"event": name, "type": kind, "created": created, "api_version": version, "object": about}


CHECKOUT, PAID, FAILED = "checkout.session.completed", "invoice.payment_succeeded", "invoice.payment_failed"
DELETED = "customer.subscription.deleted"

RESENDING: dict[str, tuple[list[Row], int | None, str | None]] = {
    "nothing to resend": ([], None, None),
    "the one event": ([event("a", 10)], None, "a"),
    "the latest of several": ([event("a", 30), event("b", 10), event("c", 20)], None, "b"),
    "a deletion, while a subscription is live": ([event("a", 30), event("b", 10, DELETED)], None, None),
    "about another subscription than the live one": ([event("a", 10, about="sub_2")], None, None),
    "young enough": ([event("a", 200)], 300, "a"),
    "too old, with the way there": ([event("a", 250)], 300, None),
    "much too old": ([event("a", 3600)], 300, None),
    "old, and no limit": ([event("a", 3600)], None, "a"),
    "superseded by one that resets the counter": ([event("a", 30), event("b", 10, PAID)], None, None),
    "a checkout": ([event("a", 10, CHECKOUT)], None, None),
    "after a checkout": ([event("a", 30, CHECKOUT), event("b", 10)], None, "b"),
    "in the same second": ([event("a", 10), event("b", 10)], None, None),
    "in the same second as a payment": ([event("a", 10), event("b", 10, PAID)], None, None),
    "beside a failed payment": ([event("a", 30), event("b", 10, FAILED)], None, "a"),
    "only a failed payment": ([event("b", 10, FAILED)], None, None),
    "a creation": ([event("a", 10, "customer.subscription.created")], None, None),
    "a shape that the handler misreads": ([event("a", 10, version="2025-09-30.clover")], None, None),
}


@pytest.mark.parametrize(("events", "limit", "found"), RESENDING.values(), ids=RESENDING.keys())
def test_an_event_is_resent_only_where_that_works_and_is_right(
    events: list[Row], limit: int | None, found: str | None
) -> None:
    chosen = resendable(events, {"stripe_subscription_id": "sub_1"}, limit, NOW)
    assert (chosen["event"] if chosen else None) == found


def test_a_deletion_is_resent_only_where_nothing_is_live() -> None:
    events = [event("a", 30), event("b", 10, DELETED)]
    chosen = resendable(events, {"stripe_subscription_id": None}, None, NOW)
    assert chosen is not None
    assert chosen["event"] == "b"
    assert resendable(events[:1], {"stripe_subscription_id": None}, None, NOW) is None


def test_losing_access_is_marked_whatever_takes_it_away() -> None:
    served = {"subscription_tier": "professional", "subscription_status": "active"}
    assert billing.takes_away(served, {**served, "subscription_status": "past_due"})
    assert billing.takes_away(served, {**served, "subscription_tier": "hobbyist"})
    assert not billing.takes_away(served, {**served, "subscription_tier": "studio"})
    assert not billing.takes_away({**served, "subscription_status": "past_due"}, served)


kinds = st.sampled_from([*billing.RESETS_COUNTER, *billing.CARRIES_STATE, FAILED, "customer.subscription.created"])
stories = st.lists(st.builds(event, st.text("abc", max_size=2), st.integers(0, 600), kinds), max_size=6)


@given(stories, st.none() | st.integers(60, 600))
def test_what_is_resent_carries_the_latest_state_and_resets_nothing(events: list[Row], limit: int | None) -> None:
    chosen = resendable(events, {"stripe_subscription_id": "sub_1"}, limit, NOW)
    if chosen is None:
        return
    assert chosen["type"] in billing.CARRIES_STATE
    relevant = [e for e in events if e["type"] in (*billing.CARRIES_STATE, *billing.RESETS_COUNTER)]
    assert all(e["created"] < chosen["created"] for e in relevant if e is not chosen)
    assert limit is None or (NOW - chosen["created"]).total_seconds() <= limit - 60
