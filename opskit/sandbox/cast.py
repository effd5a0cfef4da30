"""Who plays a part in a scenario: users picked from the population, and new ones when it holds too few.

A user plays in one group only, so that one happening does not blur another. What a part needs to be believable is
arranged without a trace: the customer record of someone about to check out, a period that ends when it is renewed.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg.rows import class_row

from opskit.sandbox.stripe_objects import a_month_after

if TYPE_CHECKING:
    from opskit.sandbox.stripe_shelf import JSON
    from opskit.sandbox.world import World

TIERS = ("hobbyist", "hobbyist", "professional", "studio")  # what people choose, and how often

FREE = """
    select id::text, email, full_name, stripe_customer_id as customer, stripe_subscription_id as subscription
    from user_profiles
    where subscription_tier = 'free' and stripe_customer_id is null and id <> all(%(taken)s::uuid[]) order by id
"""
PAYING = """
    select id::text, email, full_name, stripe_customer_id as customer, stripe_subscription_id as subscription
    from user_profiles
    where subscription_status = 'active' and stripe_subscription_id is not null and id <> all(%(taken)s::uuid[])
      and subscription_tier = any(%(tiers)s) order by id
"""
GROUP = """
    select id::text, email, full_name, stripe_customer_id as customer, stripe_subscription_id as subscription
    from user_profiles where id = any(%(ids)s::uuid[]) order by id
"""
# What was written lately moves to before the happenings: they reset word counters, and counters agree with ledgers.
WRITE_EARLIER = "update ai_usage set created_at = created_at - %s where user_id = any(%s::uuid[]) and created_at >= %s"
PERIODS = """
    update user_profiles p
    set subscription_current_period_start = to_timestamp(n.starts),
        subscription_current_period_end = to_timestamp(n.ends),
        ai_words_reset_date = to_timestamp(n.starts),
        ai_words_used_this_month = coalesce((
            select sum(u.words_generated) from ai_usage u
            where u.user_id = p.id and u.created_at >= to_timestamp(n.starts)), 0)
    from unnest(%s::uuid[], %s::bigint[], %s::bigint[]) as n (id, starts, ends) where p.id = n.id
"""
SUBSCRIBED = """
    update user_profiles p
    set stripe_customer_id = n.customer, stripe_subscription_id = n.subscription, stripe_price_id = n.price,
        subscription_status = 'active', subscription_tier = n.tier,
        subscription_current_period_start = to_timestamp(n.starts),
        subscription_current_period_end = to_timestamp(n.ends)
    from unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
      as n (id, customer, subscription, price, tier, starts, ends) where p.id = n.id
"""


@dataclass
class Actor:
    """One user with a part: who they are, and their ids at Stripe."""

    id: str
    email: str
    full_name: str | None
    customer: str | None
    subscription: str | None


@dataclass(frozen=True)
class Part:
    """How many users are wanted, and from when on: paying for one of these tiers; or free, never at a checkout."""

    count: int
    begins: datetime
    tiers: tuple[str, ...] = ()


def choose(world: World, rng: random.Random, part: Part) -> list[Actor]:
    """Users without a part yet."""
    taken = [id_ for group in world.actors.values() for id_ in group]
    query = PAYING if part.tiers else FREE
    with world.database.connect() as connection, connection.cursor(row_factory=class_row(Actor)) as cursor:
        found = cursor.execute(query, {"taken": taken, "tiers": list(part.tiers)}).fetchall()
    if part.tiers:
        found = [a for a in found if world.stripe.subscriptions[str(a.subscription)]["status"] == "active"]
    chosen = rng.sample(found, min(part.count, len(found)))
    if len(chosen) < part.count:
        chosen += _recruit(world, rng, replace(part, count=part.count - len(chosen)))
    return chosen


def group(world: World, name: str) -> list[Actor]:
    """The users of a group that an earlier happening made."""
    if name not in world.actors:
        raise ValueError(f"no happening before this one has the name {name!r}")
    with world.database.connect() as connection, connection.cursor(row_factory=class_row(Actor)) as cursor:
        return cursor.execute(GROUP, {"ids": world.actors[name]}).fetchall()


def write_earlier(world: World, actors: list[Actor], begins: datetime) -> None:
    shift = world.clock.now() - begins + timedelta(hours=1)
    with world.database.connect() as connection:
        connection.execute(WRITE_EARLIER, (shift, [actor.id for actor in actors], begins))


def at_checkout(world: World, actors: list[Actor], moments: list[datetime]) -> None:
    """The customers that the app makes, and keeps, when these users open the checkout a minute before."""
    for actor, moment in zip(actors, moments, strict=True):
        with at(world, moment - timedelta(minutes=1)):
            metadata = {"supabase_user_id": actor.id}
            actor.customer = world.stripe.create_customer(actor.email, actor.full_name, metadata)["id"]
    with world.database.connect() as connection:
        connection.execute(
            """update user_profiles p set stripe_customer_id = n.customer
               from unnest(%s::uuid[], %s::text[]) as n (id, customer) where p.id = n.id""",
            ([a.id for a in actors], [a.customer for a in actors]),
        )


def due_at(world: World, actors: list[Actor], moments: list[datetime]) -> None:
    """Let the period that each has paid for end at that moment, at Stripe and in the profile."""
    periods = []
    for actor, moment in zip(actors, moments, strict=True):
        if actor.subscription is None:  # they subscribe in this very scenario
            continue
        ends = int(moment.timestamp())
        periods.append((actor.id, a_month_after(ends, -1), ends))
        world.stripe.set_period(actor.subscription, *periods[-1][1:])
    with world.database.connect() as connection:
        connection.execute(PERIODS, _columns(periods, 3))


@contextmanager
def at(world: World, moment: datetime) -> Iterator[None]:
    """Do something as of another moment."""
    before = world.clock.now() if world.clock.playing else None
    world.clock.play(moment)
    try:
        yield
    finally:
        world.clock.play(before)


def _recruit(world: World, rng: random.Random, part: Part) -> list[Actor]:
    """New users who signed up months ago; those who pay have done so since."""
    actors = []
    for _ in range(part.count):
        id_ = uuid.UUID(int=rng.getrandbits(128), version=4)
        actors.append(Actor(str(id_), f"reader-{id_.hex[:10]}@example.com", None, None, None))
    joined = [part.begins - timedelta(days=rng.uniform(32, 300)) for _ in actors]
    with world.database.connect() as connection:
        connection.execute(
            """insert into auth.users (id, email, email_confirmed_at, created_at)
               select n.id, n.email, n.joined, n.joined
               from unnest(%s::uuid[], %s::text[], %s::timestamptz[]) as n (id, email, joined)""",
            ([a.id for a in actors], [a.email for a in actors], joined),
        )
        if part.tiers:
            tiers = [rng.choice(part.tiers) for _ in actors]
            rows = [_long_subscribed(world, *one) for one in zip(actors, joined, tiers, strict=True)]
            connection.execute(SUBSCRIBED, _columns(rows, 7))
    return actors


def _long_subscribed(world: World, actor: Actor, joined: datetime, tier: str) -> list[Any]:
    """Subscribed when they joined, renewed ever since: longer ago than Stripe keeps events. Answers the columns."""
    store = world.stripe
    with store.without_events(), at(world, joined):
        customer = store.create_customer(actor.email, None, {"supabase_user_id": actor.id})
        metadata: JSON = {"supabase_user_id": actor.id, "tier": tier}
        sub = store.subscribe(customer, store.price_of(tier), metadata=metadata)
    starts = int(joined.timestamp())
    months = (datetime.now(UTC) - joined).days // 31
    starts, ends = a_month_after(starts, months), a_month_after(starts, months + 1)
    store.set_period(sub, starts, ends)
    actor.customer, actor.subscription = customer["id"], sub["id"]
    return [actor.id, customer["id"], sub["id"], store.price_of(tier), tier, starts, ends]


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows as the columns that `unnest` wants."""
    return [[row[n] for row in rows] for n in range(width)]
