"""The company as a whole: founding it, breaking it, and bringing it back as it was."""

from __future__ import annotations

import copy
import random
import secrets
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import sql

from opskit.sandbox import SandboxError, comparison, migrations, providers, stripe_truth, supabase
from opskit.sandbox.environment import app_endpoint, write_environment
from opskit.sandbox.population import populate
from opskit.sandbox.postgres import Postgres
from opskit.sandbox.present import Present
from opskit.sandbox.scenario import Scenario, fault_line, load
from opskit.sandbox.sentry import SentryStore
from opskit.sandbox.staging import apply, parameters, play_by_hand, verdicts
from opskit.sandbox.statements import StatementLog
from opskit.sandbox.stripe import StripeStore
from opskit.sandbox.supabase import SupabaseStore
from opskit.sandbox.vercel import VercelStore
from opskit.sandbox.world import World

STALE = timedelta(hours=6)  # older than that, the company is founded anew: its "last hour" would lie far back


@dataclass
class Company:
    """One living company: its world, how it was when founded, and the scenario it suffers, if any."""

    folder: Path
    world: World
    present: Present
    founded: datetime = field(default_factory=lambda: datetime.now(UTC))
    pristine: dict[str, Any] = field(default_factory=dict)
    scenario: Scenario | None = None
    twin: bool = False
    log: StatementLog = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock)  # one command at a time

    def __post_init__(self) -> None:
        self.log = StatementLog(self.world.database)

    @property
    def suffered(self) -> Scenario:
        if self.scenario is None:
            raise SandboxError("Nothing is broken: break the sandbox with a scenario first.")
        return self.scenario


def create(folder: Path, seed: int, addresses: dict[str, str]) -> Company:
    """A company with a running, populated database."""
    world = World(seed, Postgres(folder / "postgres"), addresses=addresses)
    world.database.create()
    world.secrets.update(_secrets(world.database))
    company = Company(folder, world, Present(world))
    try:
        found(company)
    except BaseException:
        world.database.stop()
        raise
    return company


def found(company: Company) -> None:
    """Populate an empty company, and keep it so that it can be brought back."""
    world = company.world
    world.rng = random.Random(world.seed)
    world.secrets["webhook"] = f"whsec_{secrets.token_urlsafe(24)}"
    world.stripe, world.vercel, world.sentry = StripeStore(world), VercelStore(world), SentryStore(world)
    world.supabase, world.migrations = SupabaseStore(world), migrations.shipped()
    world.migrations[migrations.LINKED] = world.supabase.ref
    if not company.pristine:
        world.database.keep("empty")
    else:
        world.database.restore("empty")
    populate(world)
    supabase.populate(world)
    world.providers = providers.found(world)
    world.database.keep("pristine")
    company.pristine = copy.deepcopy(_stores(world))
    company.founded = datetime.now(UTC)
    write_environment(world, company.folder, {})
    migrations.write(world.migrations, company.folder)


def reset(company: Company, seed: int | None = None) -> None:
    """The company as it was when founded; with another seed, or when that is long ago, founded anew."""
    world = company.world
    anew = (seed is not None and seed != world.seed) or datetime.now(UTC) - company.founded > STALE
    with company.present.held():
        _forget(company)
        if anew:
            world.seed = world.seed if seed is None else seed
            found(company)
        else:
            world.database.restore("pristine")
            _restore_rights(world)
            for name, store in copy.deepcopy(company.pristine).items():
                setattr(world, name, store)
            world.rng = random.Random(f"reset {world.seed}")
            write_environment(world, company.folder, {})
            migrations.write(world.migrations, company.folder)


def _restore_rights(world: World) -> None:
    """Roles belong to the whole cluster, so bringing back a database does not bring back theirs."""
    with world.database.connect() as connection:
        for role in ("opskit_read", "opskit_change"):
            connection.execute(sql.SQL("alter role {} nosuperuser bypassrls").format(sql.Identifier(role)))
        connection.execute(
            sql.SQL("grant {} to opskit_change with inherit false").format(sql.Identifier(migrations.OWNER))
        )


def _forget(company: Company) -> None:
    """Whatever a scenario left: faults, plans, groups, a stopped database."""
    world = company.world
    company.scenario, company.twin = None, False
    world.agenda.clear()
    world.faults.lift()
    world.database.thaw()
    world.locks.release()
    world.traffic.forget()
    world.actors.clear()
    world.status_pages.clear()
    world.database.start()


def break_with(company: Company, name: str, twin: bool) -> dict[str, Any]:
    """Reset, then let a scenario happen. Answers what a drill must know."""
    scenario = load(name).with_twin() if twin else load(name)
    reset(company)
    with company.present.held():
        try:
            apply(company.world, scenario)
        except BaseException:
            reset(company)
            raise
        company.scenario, company.twin = scenario, twin
        migrations.write(company.world.migrations, company.folder)
        if company.world.database.running:
            write_environment(company.world, company.folder, scenario.environment.model_dump())
    return {
        "name": scenario.name,
        "title": scenario.title,
        "runbook": scenario.runbook,
        "parameters": parameters(company.world, scenario.parameters, migrations.place(company.folder)),
        "causes": scenario.causes,
        "forbidden": scenario.forbidden_as_json(),
        "touches": comparison.resolved(scenario.touches, company.world.actors),
        "actors": dict(company.world.actors),
        "twin": twin,
        "manual": bool(scenario.by_hand),
        "waits": scenario.waits,
    }


def by_hand(company: Company) -> list[str]:
    with company.present.held():
        company.world.migrations = migrations.read(company.folder)
        done = play_by_hand(company.world, company.suffered)
        migrations.write(company.world.migrations, company.folder)
    return done


def misbehave(company: Company, fault: dict[str, Any]) -> None:
    """One more fault, from now on, before all others."""
    line = fault_line(fault)
    if line.down:
        company.world.database.stop()
    else:
        company.world.faults.add(line.fault(company.world.clock.now()), first=True)


def lift(company: Company) -> None:
    """No fault is left."""
    company.world.faults.lift()
    company.world.database.thaw()
    company.world.database.start()


def healed(company: Company) -> list[dict[str, Any]]:
    return verdicts(company.world, company.suffered.healed)


def state(company: Company) -> dict[str, Any]:
    return comparison.state(company.world, company.folder)


def changes(company: Company, before: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What differs from an earlier state, told apart by what the scenario allows."""
    touches = company.scenario.touches if company.scenario else []
    allowed = comparison.resolved(touches, company.world.actors)
    return comparison.changes(before, state(company), allowed)


def disagreements(company: Company) -> list[dict[str, Any]]:
    return stripe_truth.disagreements(company.world)


def status(company: Company) -> dict[str, Any]:
    world = company.world
    return {
        "name": company.folder.name,
        "seed": world.seed,
        "founded": company.founded.isoformat(timespec="seconds"),
        "scenario": company.scenario.name if company.scenario else None,
        "twin": company.twin,
        "database": "running" if world.database.running else "down",
        "database_address": f"postgresql://127.0.0.1:{world.database.port}/postgres",
        "webhook_endpoint": app_endpoint(world),
        "addresses": world.addresses,
        "environment": str(company.folder / "environment.yaml"),
        "migrations": str(migrations.place(company.folder)),
        "customers": len(world.stripe.customers),
        "events": len(world.stripe.events),
    }


def _stores(world: World) -> dict[str, Any]:
    return {
        "stripe": world.stripe,
        "vercel": world.vercel,
        "sentry": world.sentry,
        "supabase": world.supabase,
        "migrations": world.migrations,
        "providers": world.providers,
        "secrets": world.secrets,
    }


def _secrets(database: Postgres) -> dict[str, str]:
    return {
        "database_read": database.passwords["opskit_read"],
        "database_change": database.passwords["opskit_change"],
        "stripe_read": f"rk_live_{secrets.token_hex(24)}",
        "stripe_change": f"sk_live_{secrets.token_hex(24)}",
        "vercel": secrets.token_hex(12),
        "sentry": f"sntrys_{secrets.token_hex(24)}",
        "supabase": f"sbp_{secrets.token_hex(20)}",
        "jwt": secrets.token_urlsafe(32),
        "control": secrets.token_urlsafe(32),
    }
