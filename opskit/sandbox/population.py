"""The company's people and their past: some four hundred users, what they pay, and what the app and Stripe kept of it.

Their lives are played on the agenda in the order in which they happened; what they wrote comes from `writing`. An
ordinary company has ordinary oddities: late payers, trials, cancellations, people who gave up at the checkout, and a
stranger who knocks at the webhook's door once a day. All of it agrees: database, Stripe, and logs.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, takewhile
from typing import Any, Literal

import psycopg
from psycopg import sql

from opskit.sandbox import app, sentry, vercel, writing
from opskit.sandbox.environment import WEBHOOK_PATH
from opskit.sandbox.stripe_objects import a_month_after, month_around
from opskit.sandbox.world import World
from opskit.sandbox.writing import identifier, listed

Life = Literal["free", "browsing", "incomplete", "trialing", "paying", "leaving", "past_due", "canceled"]

EVENTS_KEPT = timedelta(days=29, hours=23)
QUIET = timedelta(hours=20)  # no payment in the last hours: whatever happens there is a scenario's to say
NO_RENEWAL_SOON = QUIET + timedelta(hours=30)  # nothing falls due while a sandbox is in use
TIERS = {"hobbyist": 50, "professional": 36, "studio": 14}
FIRST_NAMES = listed(
    "Ada Amir Anna Bela Carla Chidi Clara Dario Divya Edith Elif Emil Esme Farah Felix Freya Gita Hana "
    "Hugo Ines Iris Ivan Jana Jonas Juno Kaito Karim Lena Leo Lucia Maja Malik Mara Milan Mina Nadia Noor "
    "Oksana Omar Orla Pavel Petra Quinn Rafael Rosa Sami Selma Sofia Tariq Tessa Theo Uma Vera Viktor "
    "Wanda Yara Yusuf Zoe"
)
LAST_NAMES = listed(
    "Abara Adler Baptiste Bergman Castillo Chen Costa Dahl Dimitrov Eriksen Farouk Ferreira Fischer "
    "Garcia Haddad Hansen Ibrahim Ivanova Jansen Kaya Keller Kim Kovacs Laurent Lindqvist Lopez Marino "
    "Mbeki Meyer Moreau Nakamura Novak Okafor Olsen Papadakis Patel Petrov Quintero Rahman Rossi Sato "
    "Schmidt Silva Singh Tanaka Torres Ueda Varga Walsh Weber Yilmaz Zhang"
)
DOMAINS = ("example.com", "example.org", "example.net", "mail.example", "post.example")


@dataclass
class Person:
    """One user. `customer` and `subscription` are their ids at Stripe once they have them."""

    id: str
    email: str
    name: str
    joined: datetime
    life: Life
    tier: str = "free"  # what they chose at the checkout, if they ever did
    customer: str | None = None
    subscription: str | None = None


def populate(world: World) -> None:
    """Fill an empty company, from its seed."""
    now = datetime.now(UTC).replace(microsecond=0)
    opened = now - timedelta(days=900)
    with _at(world, opened):
        world.stripe.add_endpoint(world.addresses["app"] + WEBHOOK_PATH, secret=world.secrets["webhook"])
    vercel.populate(world)
    sentry.populate(world)
    people = _people(world.rng, now - QUIET)
    for person in people:
        _plan(world, person, now - QUIET)
    world.play_past()
    with world.database.connect(autocommit=False) as connection:
        connection.execute("set session_replication_role = replica")  # the past needs no triggers
        _write(connection, world, people, now)
    with world.database.connect() as connection:
        connection.execute("analyze")
    _log_deliveries(world, now)
    for day in range(30):
        world.agenda.at(now - timedelta(days=day, seconds=world.rng.uniform(60, 86000)), partial(_knock, world))
    world.play_past()


def _people(rng: random.Random, now: datetime) -> list[Person]:
    count = rng.randint(340, 460)
    odd: dict[Life, int] = {
        "incomplete": rng.randint(1, 3),
        "browsing": rng.randint(4, 9),
        "trialing": rng.randint(5, 9),
        "past_due": rng.randint(3, 7),
        "leaving": rng.randint(2, 5),
        "canceled": rng.randint(9, 18),
    }
    odd["paying"] = round(count * rng.uniform(0.27, 0.32)) - odd["trialing"]
    odd["free"] = count - sum(odd.values())
    lives = [life for life, number in odd.items() for _ in range(number)]
    names = rng.sample([(first, last) for first in FIRST_NAMES for last in LAST_NAMES], count)
    return [_person(rng, now, life, *name) for life, name in zip(lives, names, strict=True)]


def _person(rng: random.Random, now: datetime, life: Life, first: str, last: str) -> Person:
    number = str(rng.randint(2, 99)) if rng.random() < 0.3 else ""
    email = f"{first}.{last}{number}@{rng.choice(DOMAINS)}".lower()
    longest = 420 if life != "free" else 700
    joined = now - timedelta(days=rng.uniform(40, longest), seconds=rng.randrange(86400))
    if life == "free" and rng.random() < 0.3:
        joined = now - timedelta(seconds=rng.uniform(3600, 40 * 86400))
    if life in ("trialing", "incomplete") and rng.random() < 0.6:
        joined = now - timedelta(days=rng.uniform(6, 12))
    person = Person(identifier(rng), email, f"{first} {last}", joined, life)
    if life != "free":
        person.tier = rng.choices(list(TIERS), list(TIERS.values()))[0]
    return person


# Lives


def _plan(world: World, person: Person, now: datetime) -> None:
    """Put on the agenda what this person did at Stripe."""
    if person.life == "free":
        return
    began = _begins(world.rng, person, now)
    world.agenda.at(began - timedelta(minutes=2), partial(_become_customer, world, person))
    if person.life != "browsing":
        world.agenda.at(began, partial(_check_out, world, person))
    if person.life in ("browsing", "incomplete", "trialing"):
        return
    ends = list(_period_ends(began, now))
    if person.life == "canceled":
        until = world.rng.uniform(0.2, 1.0) * (now - began).total_seconds()
        canceled = began + timedelta(seconds=until)
        ends = [end for end in ends if end < canceled]
        world.agenda.at(canceled, partial(_in_peace, world, person, "cancel"))
    if person.life == "leaving":
        late = timedelta(seconds=world.rng.uniform(600, 86400))
        world.agenda.at(min((ends or [began])[-1] + late, now), partial(_in_peace, world, person, "leave"))
    for end in ends:
        verb = "fail_payment" if person.life == "past_due" and end == ends[-1] else "renew"
        world.agenda.at(end, partial(_in_peace, world, person, verb))


def _begins(rng: random.Random, person: Person, now: datetime) -> datetime:
    """When they checked out; for all who go on, so that no period ends soon."""
    if person.life == "incomplete":  # Stripe gives up on them after 23 hours
        return now - timedelta(seconds=rng.randrange(60, 2 * 3600))
    if person.life == "trialing":
        return now - timedelta(seconds=rng.randrange(3600, int(4.9 * 86400)))
    least = 33 if person.life == "past_due" else 1
    while True:
        age = (now - person.joined).total_seconds()
        began = person.joined + timedelta(seconds=int(rng.uniform(600, max(age - least * 86400, 1200))))
        last, coming = month_around(int(now.timestamp()), int(began.timestamp()))
        if coming - now.timestamp() > NO_RENEWAL_SOON.total_seconds() and last < now.timestamp():
            return began


def _period_ends(began: datetime, now: datetime) -> Iterator[datetime]:
    """The ends of all periods that are over."""
    return takewhile(lambda end: end <= now, (_month_after(began, months) for months in count(1)))


def _month_after(moment: datetime, months: int) -> datetime:
    return datetime.fromtimestamp(a_month_after(int(moment.timestamp()), months), UTC)


def _become_customer(world: World, person: Person) -> None:
    with _peace(world):
        customer = world.stripe.create_customer(person.email, person.name, {"supabase_user_id": person.id})
        person.customer = customer["id"]


def _check_out(world: World, person: Person) -> None:
    metadata = {"supabase_user_id": person.id, "tier": person.tier}
    trial, paid = 7 if person.life == "trialing" else 0, person.life != "incomplete"
    price = world.stripe.price_of(person.tier)
    with _peace(world):
        sub = world.stripe.subscribe(str(person.customer), price, trial_days=trial, metadata=metadata, paid=paid)
        person.subscription = sub["id"]


def _in_peace(world: World, person: Person, verb: str) -> None:
    with _peace(world):
        if verb == "leave":
            world.stripe.cancel(str(person.subscription), at_period_end=True)
        else:
            getattr(world.stripe, verb)(person.subscription)


@contextmanager
def _peace(world: World) -> Iterator[None]:
    """Events that Stripe no longer keeps are not made; the others were delivered long ago."""
    old = datetime.now(UTC) - world.clock.now() > EVENTS_KEPT
    with world.stripe.without_events() if old else world.stripe.already_delivered():
        yield


# What was kept of it


def _write(connection: psycopg.Connection[Any], world: World, people: list[Person], now: datetime) -> None:
    billing = {person.id: _billing(world, person, now) for person in people}
    authors = [
        writing.Author(p.id, str(billing[p.id]["subscription_tier"]), p.joined, billing[p.id]["ai_words_reset_date"])
        for p in people
    ]
    pages = writing.write(world.rng, authors, now)
    users = [
        {"id": p.id, "email": p.email, "email_confirmed_at": p.joined, "last_sign_in_at": now, "created_at": p.joined}
        for p in people
    ]
    profiles = [
        {
            "id": p.id,
            "email": p.email,
            "full_name": p.name,
            **billing[p.id],
            "ai_words_used_this_month": pages.words.get(p.id, 0),
            "created_at": p.joined,
        }
        for p in people
    ]
    tables: dict[str, list[dict[str, Any]]] = {"auth.users": users, "user_profiles": profiles, **pages.tables}
    for table, rows in tables.items():
        copy_in(connection, table, rows)
    for row in pages.tables["document_snapshots"]:
        if now - row["created_at"] < timedelta(days=3):
            path = f"/api/documents/{row['document_id']}/autosave"
            world.vercel.log_request(
                "POST", path, 200, at=row["created_at"], deployment=_live(world, row["created_at"])
            )


def _billing(world: World, person: Person, now: datetime) -> dict[str, Any]:
    """The profile's columns as the app wrote them when Stripe's events came in."""
    row: dict[str, Any] = {
        "stripe_customer_id": person.customer,
        "stripe_subscription_id": None,
        "stripe_price_id": None,
        "subscription_status": "canceled" if person.life == "canceled" else "active",
        "subscription_tier": "free",
        "subscription_current_period_start": None,
        "subscription_current_period_end": None,
        "ai_words_reset_date": max(now.replace(day=1, hour=0, minute=0, second=0), person.joined),
        "updated_at": person.joined,
    }
    if person.subscription is None or person.life in ("incomplete", "canceled"):
        return row
    sub = world.stripe.subscriptions[person.subscription]
    item = sub["items"]["data"][0]
    start, end = (datetime.fromtimestamp(item[f"current_period_{edge}"], UTC) for edge in ("start", "end"))
    # A payment that failed reset no word counter: it has counted since the period before.
    reset = _month_after(start, -1) if person.life == "past_due" else start
    row |= {
        "stripe_subscription_id": sub["id"],
        "stripe_price_id": item["price"]["id"],
        "subscription_status": sub["status"],
        "subscription_tier": person.tier,
        "subscription_current_period_start": start,
        "subscription_current_period_end": end,
        "ai_words_reset_date": reset,
        "updated_at": start,
    }
    return row


def copy_in(connection: psycopg.Connection[Any], table: str, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    names = list(rows[0])
    query = sql.SQL("copy {} ({}) from stdin").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for row in rows:
            copy.write_row([row[name] for name in names])


# The app's logs


def _log_deliveries(world: World, now: datetime) -> None:
    """The app processed every event that it heard of, soon after it was made."""
    events = world.stripe.events
    for event_id in world.stripe.deliveries:
        moment = datetime.fromtimestamp(events[event_id]["created"], UTC)
        moment = min(moment + timedelta(seconds=world.rng.uniform(0.4, 3)), now)
        line = app.processed(events[event_id], moment)
        world.vercel.log_request("POST", WEBHOOK_PATH, 200, [line], at=moment, deployment=_live(world, moment))


def _live(world: World, moment: datetime) -> str:
    """The build that was live then."""
    builds = [one for one in world.vercel.deployments if one.target == "production"]
    return builds[max(bisect_right([one.created for one in builds], moment) - 1, 0)].id


def _knock(world: World) -> None:
    """Somebody guesses at the webhook: the app refuses, and says so in its log."""
    headers = {"content-type": "application/json", "stripe-signature": f"t={world.stripe.now()},v1={'0' * 64}"}
    address = f"203.0.113.{world.rng.randrange(1, 255)}"
    app.receive(world, "POST", WEBHOOK_PATH, headers, b'{"type": "invoice.payment_succeeded"}', address)


@contextmanager
def _at(world: World, moment: datetime) -> Iterator[None]:
    world.clock.play(moment)
    try:
        yield
    finally:
        world.clock.play(None)
