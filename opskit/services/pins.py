"""Pins: what an environment's credentials must really reach, and how to find out what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from opskit.environment import Environment
from opskit.errors import CannotTell, Refused
from opskit.services import Services

SYSTEM = "select system_identifier::text as id from pg_control_system()"


def pins(target: Environment, services: Services) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """(name, what is promised, how to look) for every pin that the environment sets."""
    promised = target.pins
    looks: dict[str, Callable[[], str]] = {
        "stripe_account": lambda: services.stripe.account(),
        "stripe_livemode": lambda: str(services.stripe.livemode()),
        "vercel_project": lambda: services.vercel.project_id(),
        "supabase_ref": lambda: _supabase_ref(target),
        "database_system": lambda: _systems(services),
    }
    for name, look in looks.items():
        value = getattr(promised, name)
        if value is not None:
            yield name, str(value), look


def compare(target: Environment, services: Services, blind: Callable[[str, CannotTell], None]) -> None:
    """Refuse where a credential reaches something else than promised. `blind` hears of pins that cannot be seen."""
    wrong = []
    for name, promised, look in pins(target, services):
        try:
            found = look()
        except CannotTell as error:
            blind(name, error)
            continue
        if found != promised:
            wrong.append(f"{name} is {found}, not {promised}")
    if wrong:
        raise Refused(f"environment {target.name} reaches another target: {'; '.join(wrong)}.")


def _systems(services: Services) -> str:
    """The cluster that the database's addresses reach; several, where the direct one leads elsewhere."""
    places = {services.database, services.migrations.database}
    return ",".join(sorted({str(place.rows(SYSTEM)[0]["id"]) for place in places}))


def _supabase_ref(target: Environment) -> str:
    """The project that the environment's services name; several, where they do not agree."""
    told = target.services.supabase.part("project") if target.services.supabase else None
    return ",".join(sorted({_database_ref(target), *([str(told)] if told else [])}))


def _database_ref(target: Environment) -> str:
    """The project that the database address names: `db.<ref>.supabase.co`, or the pooler's user `postgres.<ref>`."""
    parts = urlsplit(target.services.database.address)
    host = parts.hostname or ""
    if host.startswith("db.") and host.endswith(".supabase.co"):
        return host.split(".")[1]
    users = {c.user for c in (target.services.database.read, target.services.database.change) if c}
    return ",".join(sorted({str(user).partition(".")[2] for user in users}))
