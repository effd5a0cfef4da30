"""What scenarios tell: each happening, played through the real handler into a real database."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.rows import dict_row
from pydantic import TypeAdapter, ValidationError
from stripe_company import NEW

from opskit.sandbox import moments, vercel
from opskit.sandbox.happenings import Happening, schedule
from opskit.sandbox.postgres import Postgres
from opskit.sandbox.stripe import StripeStore, disagreements
from opskit.sandbox.vercel import VercelStore
from opskit.sandbox.world import Fault, World

WINDOW = "90 minutes ago .. 10 minutes ago"


@pytest.fixture
def world(database: Postgres) -> World:
    """A company without users: happenings bring their own."""
    made = World(1, database, addresses={"app": "http://127.0.0.1:9"})
    made.secrets.update(webhook="whsec_" + "w" * 32)
    made.stripe, made.vercel = StripeStore(made), VercelStore(made)
    made.stripe.add_endpoint(made.addresses["app"] + "/api/webhooks/stripe", secret=made.secrets["webhook"])
    vercel.populate(made)
    return made


def _play(world: World, *told: dict[str, Any], seed: int = 3) -> None:
    rng = random.Random(seed)
    for one in told:
        schedule(world, {"when": WINDOW, **one} if "count" in one or "of" in one else one, rng)
    world.play_past()


def _profiles(world: World, group: str) -> list[dict[str, Any]]:
    with world.database.connect(row_factory=dict_row) as connection:
        query = "select * from user_profiles where id = any(%s::uuid[]) order by id"
        return connection.execute(query, (world.actors[group],)).fetchall()


def _wrong(world: World) -> set[str]:
    return {one["profile"] for one in disagreements(world)}


@pytest.mark.parametrize(
    "told",
    [
        {"what": "subscribe"},
        {"what": "subscribe", "tier": "studio", "trial_days": 7},
        {"what": "renew"},
        {"what": "change_plan", "tier": "hobbyist", "to": "professional"},
        {"what": "cancel"},
        {"what": "cancel", "at_period_end": True},
        {"what": "fail_payment"},
        {"what": "second_subscription"},
        {"what": "deliver_twice"},
    ],
    ids=lambda told: told["what"],
)
def test_ordinary_life_leaves_profiles_and_stripe_in_agreement(world: World, told: dict[str, Any]) -> None:
    _play(world, {**told, "count": 6})
    assert len(set(world.actors[told["what"]])) == 6
    assert Counter(row.status for row in world.vercel.requests).keys() == {200}
    assert disagreements(world) == []


@pytest.mark.parametrize("what", ["resubscribe_with_late_deletion", "lose_profile_link", "new_price", "drift"])
def test_trouble_leaves_exactly_its_own_users_wrong(world: World, what: str) -> None:
    _play(world, {"what": "renew", "count": 4}, {"what": what, "name": "hurt", "count": [3, 5]})
    assert _wrong(world) == set(world.actors["hurt"])
    assert 3 <= len(world.actors["hurt"]) <= 5


def test_a_late_deletion_makes_a_paying_user_free(world: World) -> None:
    _play(world, {"what": "resubscribe_with_late_deletion", "name": "hurt", "count": 3})
    for profile in _profiles(world, "hurt"):
        assert (profile["subscription_tier"], profile["subscription_status"]) == ("free", "canceled")
        statuses = [sub["status"] for sub in world.stripe.subscriptions.of_customer(profile["stripe_customer_id"])]
        assert statuses == ["active", "canceled"]


def test_an_unknown_price_makes_a_subscriber_free(world: World) -> None:
    _play(world, {"what": "new_price", "name": "hurt", "count": 3, "tier": "studio"})
    for profile in _profiles(world, "hurt"):
        assert profile["subscription_tier"] == "free"
        assert profile["stripe_subscription_id"]
        assert world.stripe.price_tiers[profile["stripe_price_id"]] == "studio"


def test_an_event_delivered_twice_forgets_what_was_written_in_between(world: World) -> None:
    _play(world, {"what": "deliver_twice", "name": "hurt", "count": 3, "words": [700, 900]})
    with world.database.connect() as connection:
        written = dict(
            connection.execute("select user_id::text, sum(words_generated) from ai_usage group by 1").fetchall()
        )
    for profile in _profiles(world, "hurt"):
        assert profile["ai_words_used_this_month"] == 0
        assert 700 <= written[str(profile["id"])] <= 900


def test_written_words_stay_counted_when_the_user_is_not_touched_again(world: World) -> None:
    """A counter agrees with the ledger since the period began, also for users whose period was moved."""
    _play(world, {"what": "renew", "name": "writers", "count": 2})
    (ids,) = ([str(row["id"]) for row in _profiles(world, "writers")],)
    with world.database.connect() as connection:
        connection.cursor().executemany(
            "insert into ai_usage (user_id, model, words_generated, created_at) values (%s, 'm', 300, now())",
            [(one,) for one in ids],
        )
    _play(world, {"what": "renew", "of": "writers"})
    assert [row["ai_words_used_this_month"] for row in _profiles(world, "writers")] == [0, 0]
    with world.database.connect() as connection:
        (late,) = connection.execute(
            "select count(*) from ai_usage where created_at > now() - interval '1 hour'"
        ).fetchone()  # type: ignore[misc]
    assert late == 0, "nothing was written after the counter was reset"


def test_renewals_end_the_period_that_was_paid_for(world: World) -> None:
    _play(world, {"what": "renew", "name": "writers", "count": 3})
    begun = datetime.now(UTC) - timedelta(minutes=91)
    for profile in _profiles(world, "writers"):
        assert begun < profile["subscription_current_period_start"] < datetime.now(UTC)
        assert profile["updated_at"] < datetime.now(UTC) - timedelta(minutes=9), "in the past that was played"


def test_missed_renewals_lock_paying_users_out(world: World) -> None:
    _play(world, {"what": "set_endpoint", "status": "disabled", "when": "2 h ago"}, {"what": "renew", "count": 5})
    assert world.vercel.requests == []
    assert _wrong(world) == set(world.actors["renew"])
    assert all(row["subscription_current_period_end"] < datetime.now(UTC) for row in _profiles(world, "renew"))


def test_groups_are_disjoint_and_can_act_again(world: World) -> None:
    _play(
        world,
        {"what": "subscribe", "name": "new", "count": 5, "tier": "hobbyist", "when": "3 h ago .. 2 h ago"},
        {"what": "subscribe", "name": "others", "count": 5},
        {"what": "change_plan", "of": "new", "name": "risen", "to": "studio"},
    )
    assert not set(world.actors["new"]) & set(world.actors["others"])
    assert set(world.actors["risen"]) == set(world.actors["new"])
    assert {row["subscription_tier"] for row in _profiles(world, "new")} == {"studio"}
    with pytest.raises(ValueError, match="'nobody'"):
        schedule(world, {"what": "renew", "of": "nobody"}, random.Random(1))


def test_a_rolled_secret_fails_every_signature(world: World) -> None:
    old = world.secrets["webhook"]
    _play(world, {"what": "roll_webhook_secret", "when": "2 h ago"}, {"what": "renew", "count": 3})
    assert world.secrets["webhook"] != old
    assert {row.status for row in world.vercel.requests} == {400}
    assert _wrong(world) == set(world.actors["renew"])


def test_a_newer_api_version_empties_periods(world: World) -> None:
    _play(world, {"what": "set_api_version", "version": NEW, "when": "2 h ago"}, {"what": "renew", "count": 3})
    assert {row.status for row in world.vercel.requests} == {200}
    assert [row["subscription_current_period_end"] for row in _profiles(world, "renew")] == [None] * 3


def test_a_moved_endpoint_misses_the_app(world: World) -> None:
    _play(world, {"what": "set_endpoint", "path": "/api/hooks", "when": "2 h ago"}, {"what": "renew", "count": 3})
    assert {row.status for row in world.vercel.requests} == {404}


def test_an_outage_of_the_app_is_logged_at_its_edge_and_retried(world: World) -> None:
    ends = datetime.now(UTC) - timedelta(minutes=1)
    world.faults.add(Fault("app", "/api/webhooks/.*", status=502, ends=ends))
    _play(world, {"what": "renew", "count": 3})
    assert {row.status for row in world.vercel.requests} == {502}
    assert len(world.vercel.requests) > 6, "the first attempts and some retries"


def test_the_same_seed_tells_the_same_past(world: World, database: Postgres) -> None:
    _play(world, {"what": "subscribe", "count": [4, 9]})
    first = dict(world.actors)
    again = World(1, database, addresses=world.addresses, secrets=world.secrets)
    database.restore("fresh")
    again.stripe, again.vercel = StripeStore(again), VercelStore(again)
    again.stripe.add_endpoint(again.addresses["app"] + "/api/webhooks/stripe", secret=again.secrets["webhook"])
    vercel.populate(again)
    _play(again, {"what": "subscribe", "count": [4, 9]})
    assert again.actors == first
    assert list(again.stripe.events) == list(world.stripe.events)


def test_a_thousand_events_leave_everything_in_agreement(world: World) -> None:
    _play(world, {"what": "cancel", "count": 1000, "when": "20 h ago .. 1 h ago"})
    assert len(world.stripe.events) == 1000
    assert disagreements(world) == []


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"what": "explode"}, "explode"),
        ({"what": "renew", "count": 0}, "count"),
        ({"what": "renew", "count": [5, 2]}, "lower number"),
        ({"what": "renew", "colour": "red"}, "colour"),
        ({"what": "renew", "when": "yesterday"}, "no moment"),
        ({"what": "renew", "when": "1 h ago .. 2 h ago"}, "ends before it begins"),
        ({"what": "change_plan"}, "to"),
        ({"what": "set_api_version", "version": "newest"}, "version"),
    ],
)
def test_what_cannot_happen_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Happening).validate_python(told)


def test_moments_read_as_people_write_them() -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert moments.moment("now", now) == now
    assert moments.moment("90 minutes ago", now) == now - timedelta(minutes=90)
    assert moments.moment("1.5 h ago", now) == now - timedelta(minutes=90)
    assert moments.moment("2026-04-30T12:00:00+02:00", now) == now - timedelta(hours=26)
    assert moments.span("3 days ago .. now", now) == (now - timedelta(days=3), now)
    with pytest.raises(ValueError, match="time zone"):
        moments.moment("2026-04-30T12:00:00", now)
