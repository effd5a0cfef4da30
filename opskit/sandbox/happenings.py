"""What users and Stripe did: the vocabulary in which a scenario tells its past.

A happening names how many users did something, and when. `schedule` picks the users, remembers them as the group
`name`, and puts one job per user on the world's agenda, spread over the time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from psycopg import sql
from pydantic import Field, TypeAdapter, model_validator

from opskit.sandbox import app_database, cast, moments, stripe_webhooks
from opskit.sandbox import happenings_ai as ai
from opskit.sandbox import happenings_database as database
from opskit.sandbox import happenings_migrations as migrations
from opskit.sandbox import happenings_writing as writing
from opskit.sandbox.cast import Actor
from opskit.sandbox.stripe_shelf import JSON
from opskit.sandbox.telling import ByUsers, Count, Telling, Tier, counted

if TYPE_CHECKING:
    from opskit.sandbox.world import World


class Subscribe(ByUsers):
    """Free users check out, for `tier` or any."""

    what: Literal["subscribe"]
    trial_days: Annotated[int, Field(ge=0)] = 0


class Renew(ByUsers):
    """A period ends and the next one is paid."""

    what: Literal["renew"]


class ChangePlan(ByUsers):
    """Subscribers (of `tier`) move to another tier."""

    what: Literal["change_plan"]
    to: Tier

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.tier == self.to:
            raise ValueError("to: they are there already")
        return self


class Cancel(ByUsers):
    """Subscriptions end, now or with their period."""

    what: Literal["cancel"]
    at_period_end: bool = False


class FailPayment(ByUsers):
    """A period ends and the next one cannot be paid: past due."""

    what: Literal["fail_payment"]


class ResubscribeWithLateDeletion(ByUsers):
    """A subscription is ended and replaced; the old one's deletion arrives after the new one's events."""

    what: Literal["resubscribe_with_late_deletion"]


class SecondSubscription(ByUsers):
    """Subscribers check out once more: two live subscriptions, both charged."""

    what: Literal["second_subscription"]


class DeliverTwice(ByUsers):
    """A payment's event arrives, the user writes with AI, and the same event arrives again."""

    what: Literal["deliver_twice"]
    after: str = "3 minutes"
    words: tuple[Count, Count] = (500, 4000)


class LoseProfileLink(ByUsers):
    """Free users check out, but nothing at Stripe names their profile and the profile names nothing at Stripe."""

    what: Literal["lose_profile_link"]


class NewPrice(ByUsers):
    """Free users check out at a new price for `tier`, which the app does not know."""

    what: Literal["new_price"]
    tier: Tier = "professional"
    amount: Annotated[int, Field(gt=0)] = 2400


class Drift(ByUsers):
    """Profiles of subscribers are edited by hand, with no event: `columns`, or something wrong at random."""

    what: Literal["drift"]
    columns: dict[str, Any] | None = None


class SetEndpoint(Telling):
    """The app's webhook endpoint is changed. `path` is its new path at the app's address."""

    what: Literal["set_endpoint"]
    status: Literal["enabled", "disabled"] | None = None
    path: Annotated[str, Field(pattern="^/")] | None = None
    enabled_events: list[str] | None = None
    api_version: str | None = None


class RollWebhookSecret(Telling):
    """The endpoint gets a new signing secret; the old one signs beside it for `overlap`."""

    what: Literal["roll_webhook_secret"]
    overlap: str | None = None


class SetApiVersion(Telling):
    """The account's API version changes: events are made in it from then on."""

    what: Literal["set_api_version"]
    version: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}(\.\w+)?$")]


Happening = Annotated[
    Subscribe
    | Renew
    | ChangePlan
    | Cancel
    | FailPayment
    | ResubscribeWithLateDeletion
    | SecondSubscription
    | DeliverTwice
    | LoseProfileLink
    | NewPrice
    | Drift
    | SetEndpoint
    | RollWebhookSecret
    | SetApiVersion
    | writing.Write
    | writing.WriteOffline
    | writing.StaySignedOut
    | writing.DeleteOwnText
    | writing.AddChapter
    | writing.Conflict
    | writing.Overwrite
    | writing.SaveByHand
    | database.ChangeSchema
    | database.Lock
    | database.FillSnapshots
    | migrations.ChangeFolder
    | migrations.Push
    | migrations.SetProject
    | ai.AskAI
    | ai.AskEnsemble
    | ai.StartTask
    | ai.LoseCount
    | ai.SetProvider,
    Field(discriminator="what"),
]
_adapter: TypeAdapter[Any] = TypeAdapter(Happening)


def schedule(world: World, happening: Telling | JSON, rng: random.Random) -> None:
    """Put a happening on the agenda, at moments spread over its time."""
    told = happening if isinstance(happening, Telling) else _adapter.validate_python(happening)
    if isinstance(told, writing.ByWriters):
        writing.schedule(world, told, rng)
    elif isinstance(told, database.ChangeSchema | database.Lock | database.FillSnapshots):
        database.schedule(world, told, rng)
    elif isinstance(told, migrations.ChangeFolder | migrations.Push | migrations.SetProject):
        migrations.schedule(world, told)
    elif isinstance(told, ai.ByAskers | ai.SetProvider):
        ai.schedule(world, told, rng)
    elif isinstance(told, ByUsers):
        _schedule_users(world, told, rng)
    else:
        begins, _ = moments.span(told.when, world.clock.now())
        world.agenda.at(begins, partial(COMPANY[type(told)], world, told))


def _schedule_users(world: World, told: ByUsers, rng: random.Random) -> None:
    begins, ends = moments.span(told.when, world.clock.now())
    actors = _actors(world, told, rng, begins)
    cast.write_earlier(world, actors, begins)
    world.actors.setdefault(told.name or told.what, []).extend(actor.id for actor in actors)
    times = sorted(begins + (ends - begins) * rng.random() for _ in actors)
    if isinstance(told, (Subscribe, NewPrice)):
        cast.at_checkout(world, actors, times)
    if isinstance(told, (Renew, FailPayment, DeliverTwice)):
        cast.due_at(world, actors, times)
    play = USERS[type(told)]
    if isinstance(told, NewPrice):
        with cast.at(world, begins):
            price = world.stripe.add_price(told.tier, told.amount, f"{told.tier.title()} {begins.year}")
        play = partial(_new_price, price["id"])
    for actor, time in zip(actors, times, strict=True):
        seed = rng.getrandbits(64)
        world.agenda.at(time, partial(play, world, told, actor, random.Random(seed)))


def _actors(world: World, told: ByUsers, rng: random.Random, begins: datetime) -> list[Actor]:
    if told.of is not None:
        return cast.group(world, told.of)
    count = counted(told.count, rng)
    if isinstance(told, (Subscribe, LoseProfileLink, NewPrice)):
        return cast.choose(world, rng, cast.Part(count, begins))
    paying: tuple[str, ...] = (told.tier,) if told.tier else cast.TIERS
    if isinstance(told, ChangePlan):
        paying = tuple(tier for tier in paying if tier != told.to)
    return cast.choose(world, rng, cast.Part(count, begins, paying))


# What each happening does, at its moment


def _subscribe(world: World, told: Subscribe, actor: Actor, rng: random.Random) -> None:
    _check_out(world, actor, told.tier or rng.choice(cast.TIERS), told.trial_days)


def _new_price(price: str, world: World, told: NewPrice, actor: Actor, rng: random.Random) -> None:
    """No tier in the metadata: the app made this checkout before anyone told it of the price."""
    world.stripe.subscribe(str(actor.customer), price, metadata={"supabase_user_id": actor.id})


def _lose_profile_link(world: World, told: LoseProfileLink, actor: Actor, rng: random.Random) -> None:
    tier: str = told.tier or rng.choice(cast.TIERS)
    customer = world.stripe.create_customer(actor.email, actor.full_name)
    world.stripe.subscribe(customer, world.stripe.price_of(tier))


def _renew(world: World, told: Renew, actor: Actor, rng: random.Random) -> None:
    world.stripe.renew(_current(world, actor))


def _fail_payment(world: World, told: FailPayment, actor: Actor, rng: random.Random) -> None:
    world.stripe.fail_payment(_current(world, actor))


def _change_plan(world: World, told: ChangePlan, actor: Actor, rng: random.Random) -> None:
    world.stripe.change_price(_current(world, actor), world.stripe.price_of(told.to))


def _cancel(world: World, told: Cancel, actor: Actor, rng: random.Random) -> None:
    world.stripe.cancel(_current(world, actor), at_period_end=told.at_period_end)


def _resubscribe(world: World, told: ResubscribeWithLateDeletion, actor: Actor, rng: random.Random) -> None:
    """The deletion comes minutes late, yet before the app would call it too old."""
    sub = _current(world, actor)
    world.stripe.cancel(sub, late=timedelta(seconds=rng.uniform(200, 270)))
    again = partial(_check_out, world, actor, _tier(world, sub))
    world.agenda.at(world.clock.now() + timedelta(seconds=rng.uniform(40, 100)), again)


def _second_subscription(world: World, told: SecondSubscription, actor: Actor, rng: random.Random) -> None:
    _check_out(world, actor, _tier(world, _current(world, actor)))


def _deliver_twice(world: World, told: DeliverTwice, actor: Actor, rng: random.Random) -> None:
    event = world.stripe.renew(_current(world, actor))
    now, after = world.clock.now(), moments.duration(told.after)
    world.agenda.at(now + after / 2, partial(_write_with_ai, world, actor, rng.randint(*told.words)))
    for endpoint in list(world.stripe.deliveries.get(event["id"], {})):
        again = partial(stripe_webhooks.resend, world, event["id"], endpoint)
        world.agenda.at(now + after, again)


def _write_with_ai(world: World, actor: Actor, words: int) -> None:
    with app_database.session(world) as connection:
        connection.execute(
            "insert into ai_usage (user_id, model, words_generated, created_at) values (%s, %s, %s, %s)",
            (actor.id, "claude-sonnet-4-5-20250929", words, world.clock.now()),
        )
        connection.execute(
            "update user_profiles set ai_words_used_this_month = ai_words_used_this_month + %s where id = %s",
            (words, actor.id),
        )


def _drift(world: World, told: Drift, actor: Actor, rng: random.Random) -> None:
    """By default one of the ways in which hand-edited profiles were found to be wrong."""
    now = world.clock.now()
    tier = _tier(world, _current(world, actor))
    wrong: list[dict[str, Any]] = [
        {"subscription_tier": "free"},
        {"subscription_tier": "studio" if tier != "studio" else "hobbyist"},
        {"subscription_status": "canceled"},
        {"subscription_current_period_end": now - timedelta(days=rng.uniform(1, 5))},
        {"subscription_current_period_start": None, "subscription_current_period_end": None},
        {"subscription_tier": "free", "stripe_subscription_id": None, "stripe_price_id": None},
    ]
    columns = told.columns or rng.choice(wrong)
    changes = sql.SQL(", ").join(
        [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in columns]
    )
    query = sql.SQL("update user_profiles set {} where id = {}").format(changes, sql.Placeholder("actor"))
    with app_database.session(world) as connection:
        connection.execute(query, {**columns, "actor": actor.id})


def _set_endpoint(world: World, told: SetEndpoint) -> None:
    endpoint = _endpoint(world)
    changes = told.model_dump(include={"status", "enabled_events", "api_version"}, exclude_none=True)
    if told.path is not None:
        changes["url"] = world.addresses["app"] + told.path
    with world.stripe.lock:
        endpoint.update(changes)


def _roll_webhook_secret(world: World, told: RollWebhookSecret) -> None:
    overlap = moments.duration(told.overlap) if told.overlap else timedelta(0)
    world.secrets["webhook"] = world.stripe.roll_secret(_endpoint(world)["id"], overlap)


def _set_api_version(world: World, told: SetApiVersion) -> None:
    world.stripe.api_version = told.version


def _check_out(world: World, actor: Actor, tier: str, trial_days: int = 0) -> None:
    metadata = {"supabase_user_id": actor.id, "tier": tier}
    price = world.stripe.price_of(tier)
    world.stripe.subscribe(str(actor.customer), price, trial_days=trial_days, metadata=metadata)


def _current(world: World, actor: Actor) -> JSON:
    """The subscription that the actor has now: the newest that has not ended."""
    for sub in world.stripe.subscriptions.of_customer(str(actor.customer)):
        if sub["ended_at"] is None:
            return sub
    raise ValueError(f"{actor.email} has no subscription at {world.clock.now():%Y-%m-%d %H:%M}")


def _tier(world: World, sub: JSON) -> str:
    return world.stripe.price_tiers[sub["items"]["data"][0]["price"]["id"]]


def _endpoint(world: World) -> JSON:
    """The app's endpoint: the first that was made."""
    return next(iter(world.stripe.webhook_endpoints.values()))


USERS: dict[type[ByUsers], Callable[..., None]] = {
    Subscribe: _subscribe,
    Renew: _renew,
    ChangePlan: _change_plan,
    Cancel: _cancel,
    FailPayment: _fail_payment,
    ResubscribeWithLateDeletion: _resubscribe,
    SecondSubscription: _second_subscription,
    DeliverTwice: _deliver_twice,
    LoseProfileLink: _lose_profile_link,
    NewPrice: _new_price,
    Drift: _drift,
}
COMPANY: dict[type[Telling], Callable[..., None]] = {
    SetEndpoint: _set_endpoint,
    RollWebhookSecret: _roll_webhook_secret,
    SetApiVersion: _set_api_version,
}
