"""The outside systems of one environment, each behind its module: reads, and the actions that change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opskit.database import Database
from opskit.environment import Environment, Service
from opskit.errors import CannotTell
from opskit.http import Http, Pace, Read
from opskit.services import app, providers, sentry, status, stripe, supabase, vercel
from opskit.services.app import App
from opskit.services.documents import Documents
from opskit.services.migrations import Migrations
from opskit.services.policies import Policies
from opskit.services.profiles import Profiles
from opskit.services.providers import Providers
from opskit.services.sentry import Sentry
from opskit.services.sessions import Sessions
from opskit.services.status import StatusPages
from opskit.services.stripe import Stripe
from opskit.services.supabase import Supabase
from opskit.services.tasks import Tasks
from opskit.services.vercel import Vercel

Secrets = Mapping[str, Mapping[str, str]]  # "read" and perhaps "change" -> service -> secret


@dataclass
class Absent:
    """Stands for a service that the environment does not name: every question to it is unknown."""

    name: str

    def __getattr__(self, part: str) -> Any:
        raise CannotTell(f"{self.name}: this environment does not name it.")


@dataclass
class Services:
    """All services of an environment, with the credentials that a run may have."""

    database: Database
    stripe: Stripe
    profiles: Profiles
    documents: Documents
    policies: Policies
    sessions: Sessions
    vercel: Vercel
    sentry: Sentry
    app: App
    status: StatusPages
    providers: Providers
    tasks: Tasks
    migrations: Migrations
    supabase: Supabase

    def http(self) -> list[Http]:
        """Those that are spoken to over HTTP."""
        single = [
            s.http
            for s in (self.stripe, self.vercel, self.sentry, self.app, self.supabase)
            if not isinstance(s, Absent)
        ]
        return [*single, *self.status.pages.values(), *self.providers.named.values()]


def connect(environment: Environment, secrets: Secrets, name: str, rate: float | None = None) -> Services:
    """Everything ready to be asked; nothing is asked yet. `name` is how the database will list us."""
    named = environment.services
    facts = environment.facts

    def database_at(address: str) -> Database:
        return Database(
            address,
            {access: getattr(credential, "user", None) for access, credential in _both(named.database).items()},
            {access: found["database"] for access, found in secrets.items() if "database" in found},
            name,
        )

    database = database_at(named.database.address)
    direct = named.database.part("direct")  # where the address is that of a pooler, which forgets what was SET

    def http(key: str, reads: tuple[Read, ...], pace: Pace | None = None) -> Http:
        bearer = {
            access: {"Authorization": f"Bearer {found[key]}"} for access, found in secrets.items() if key in found
        }
        fixed = {"Stripe-Version": stripe.VERSION} if key == "stripe" else {}
        change = {**fixed, **bearer["change"]} if "change" in bearer else None
        return Http(key, getattr(named, key).address, reads, {**fixed, **bearer.get("read", {})}, change, pace)

    pace = Pace(rate or environment.limits.stripe_requests_per_second)
    hourly = facts.webhook_requests_per_hour
    # Half of what the app takes an hour: live deliveries count too.
    resends = Pace(pace.per_second, hourly // 2 if hourly else None)
    billing = Stripe(http("stripe", stripe.READS, pace), named.stripe.part("webhook_endpoint"), resends)
    absent: Any = Absent
    models = Providers(
        {
            name: Http(name, getattr(named, name).address, reads, providers.headers(name, secrets["read"][name]))
            for name, reads in providers.READS.items()
            if getattr(named, name) and name in secrets.get("read", {})
        }
    )
    return Services(
        database,
        billing,
        Profiles(database, billing, facts.price_tiers),
        Documents(database),
        Policies(database),
        Sessions(database),
        Vercel(http("vercel", vercel.READS), named.vercel.part("project"), named.vercel.part("team"))
        if named.vercel
        else absent("vercel"),
        Sentry(http("sentry", sentry.READS), named.sentry.part("organization"), named.sentry.part("project"))
        if named.sentry
        else absent("sentry"),
        App(http("app", app.reads(facts.webhook_path)), facts.webhook_path) if named.app else absent("app"),
        StatusPages({vendor: Http(f"{vendor} status page", url, status.READS) for vendor, url in named.status.items()}),
        models,
        Tasks(database, models, facts.ai_models, facts.ai_background_model),
        Migrations(
            database_at(direct) if direct else database,
            named.database.part("owner"),
            named.supabase.part("project") if named.supabase else None,
            database_at(direct or named.database.address),
            facts.open_on_purpose,
        ),
        Supabase(http("supabase", supabase.READS), named.supabase.part("project"))
        if named.supabase
        else absent("supabase"),
    )


def _both(service: Service) -> dict[str, Any]:
    return {"read": service.read, "change": service.change}
