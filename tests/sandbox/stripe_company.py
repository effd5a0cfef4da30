"""A Stripe account with a past, served on the loopback address, for the tests of it."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import stripe
import uvicorn

from opskit.sandbox.stripe import StripeStore, application
from opskit.sandbox.world import World

READ = "rk_live_" + "r" * 24
CHANGE = "sk_live_" + "c" * 24
OLD, NEW = "2024-06-20", "2025-09-30.clover"


def account(customers: int = 12) -> World:
    """Everyone subscribed within the last ten days; what happened since differs."""
    world = World(1, None)  # type: ignore[arg-type]  # nothing here needs the database
    world.secrets.update(stripe_read=READ, stripe_change=CHANGE, webhook="whsec_" + "w" * 32)
    world.addresses["app"] = "http://127.0.0.1:9"
    world.stripe = store = StripeStore(world)
    store.add_endpoint(world.addresses["app"] + "/api/webhooks/stripe", secret=world.secrets["webhook"])
    begin = datetime.now(UTC) - timedelta(days=10)
    with store.already_delivered():
        for n in range(customers):
            world.clock.play(begin + n * timedelta(days=9) / customers)
            customer = store.create_customer(f"user{n}@example.com", f"User {n}")
            tier = ("hobbyist", "professional", "studio")[n % 3]
            metadata = {"supabase_user_id": f"profile-{n}", "tier": tier}
            sub = store.subscribe(customer, store.price_of(tier), trial_days=7 * (n % 4 == 3), metadata=metadata)
            world.clock.play(world.clock.now() + timedelta(hours=5))
            if n % 6 == 1:
                store.cancel(sub)
            elif n % 6 == 2:
                store.fail_payment(sub)
            elif n % 6 == 4:
                store.change_price(sub, store.price_of("studio"))
    world.clock.play(None)
    return world


@contextmanager
def served(world: World) -> Iterator[str]:
    """Its address while it is served."""
    config = uvicorn.Config(application(world), port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(5)


def client(address: str, key: str = CHANGE, **options: Any) -> stripe.StripeClient:
    return stripe.StripeClient(key, base_addresses={"api": address}, **options)


def fresh(world: World, pristine: StripeStore) -> World:
    """The account as it was, with limits out of the way."""
    world.stripe = copy.deepcopy(pristine)
    world.stripe.request_limits = {"endpoint": 10_000, "global": 10_000}
    world.agenda.clear()
    return world
