"""Would everything work there tonight? Asked on a quiet afternoon, without touching anything."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from opskit import environment, signatures
from opskit.environment import Access, Environment
from opskit.errors import BadInput, CannotTell, Refused
from opskit.services import Absent, Secrets, Services, billing, connect
from opskit.services.pins import pins

SKEW = 30.0
PLACEHOLDER = re.compile(r"\w*Replace\w+|abcdefghijklmnopqrst")

RIGHTS = """
    select has_column_privilege('user_profiles', name, 'update') as may, name
    from unnest(%(columns)s::text[]) as wanted(name)
"""
HIDDEN = "select rolbypassrls or rolsuper as sees_all from pg_roles where rolname = current_user"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: fine, not fine, or not to be told; and what to do."""

    what: str
    good: bool | None
    said: str = ""


Look = Callable[[], str]
Needs = Callable[[Environment, Services, Services], Iterator[Finding]]


def examine(target: Environment, allowed: Path, needs: Needs) -> Iterator[Finding]:
    """Look at everything that a night run would need of an environment. `allowed` lists who may sign.

    `needs` tells what runbooks need, asked with what may read and with what may change.
    """
    if found := sorted(set(PLACEHOLDER.findall(target.model_dump_json()))):
        yield Finding("environment file", False, f"still holds placeholders: {', '.join(found)}")
    yield from _addresses(target)
    secrets: dict[str, dict[str, str]] = {"read": {}, "change": {}}
    yield from _secrets(target, secrets)
    services = connect(target, {"read": secrets["read"]}, "opskit/doctor")
    changing = connect(_as_changer(target), {"read": secrets["change"]}, "opskit/doctor")
    for what, look in _looks(target, services, changing):
        try:
            yield Finding(what, True, look())
        except BadInput as error:
            yield Finding(what, False, str(error))
        except CannotTell as error:
            yield Finding(what, False if error.__class__ is not CannotTell else None, str(error))
    yield from needs(target, services, changing)
    yield _lock(target, secrets)
    yield from _evidence(target, allowed)
    skews = {http.service: abs(http.skew) for http in services.http() if http.skew is not None}
    if skews:
        worst = max(skews, key=lambda name: skews[name])
        yield Finding("clock", skews[worst] <= SKEW, f"at most {skews[worst]:.0f} s off ({worst})")
    else:
        yield Finding("clock", None, "no service answered, so there is nothing to compare it with")


def _as_changer(target: Environment) -> Environment:
    """The same environment read with the change role, which is only ever asked what it may do."""
    database = target.services.database
    services = target.services.model_copy(update={"database": database.model_copy(update={"read": database.change})})
    return target.model_copy(update={"services": services})


def _addresses(target: Environment) -> Iterator[Finding]:
    """Names that resolve only to IPv6 are unreachable from many networks; Supabase's direct host is one."""
    parts = urlsplit(target.services.database.address)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 5432, type=socket.SOCK_STREAM)
    except OSError as error:
        yield Finding("database address", False, f"{parts.hostname}: {error}")
        return
    only_six = all(family == socket.AF_INET6 for family, *_ in found)
    if not only_six:
        yield Finding("database address", True, f"{parts.hostname}:{parts.port}")
        return
    try:
        socket.create_connection((str(parts.hostname), parts.port or 5432), timeout=5).close()
        yield Finding("database address", True, f"{parts.hostname}:{parts.port}, over IPv6 only, and reachable")
    except OSError:
        said = "has only an IPv6 address, and this network does not reach it: use the session pooler, port 5432"
        yield Finding("database address", False, f"{parts.hostname} {said}")


def _secrets(target: Environment, found: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """Which secrets there are; they are put into `found`."""
    accesses: tuple[Access, ...] = ("read", "change")
    for access in accesses:
        for service, credential in target.credentials(access).items():
            try:
                found[access][service] = environment.resolve_one(service, access, credential.secret)
                yield Finding(f"secret {service} ({access})", True, credential.secret.source)
            except BadInput as error:
                yield Finding(f"secret {service} ({access})", False, str(error))
    for service in target.single_secrets:
        yield Finding(f"secret {service}", None, "one secret for looking and changing: looking is not enforced there")


def _looks(target: Environment, services: Services, changing: Services) -> Iterator[tuple[str, Look]]:
    yield "database reads", lambda: _sees_all(services)
    yield "database changes", lambda: _may_update(changing)
    yield "stripe", lambda: f"account {services.stripe.account()}"
    yield "stripe endpoint", lambda: str(services.stripe.endpoint()["status"])
    yield "stripe events", lambda: f"{len(services.stripe.events(since=_yesterday()))} since yesterday"
    yield "stripe subscriptions", lambda: f"{len(services.stripe.subscriptions())} live"
    if not isinstance(services.vercel, Absent):
        yield "vercel", lambda: f"{len(services.vercel.deployments())} production deployments"
    if not isinstance(services.sentry, Absent):
        yield "sentry", lambda: f"{len(services.sentry.issues(since=_yesterday()))} issues since yesterday"
    if not isinstance(services.app, Absent):
        yield "app", lambda: f"health answers {services.app.health()['status']}"
    for name, promised, look in pins(target, services):
        yield f"pin {name}", lambda promised=promised, look=look: _same(promised, str(look()))  # type: ignore[misc]


def _sees_all(services: Services) -> str:
    if not services.database.rows(HIDDEN)[0]["sees_all"]:
        raise BadInput("the read role does not bypass row-level security: rows would be hidden from it.")
    return f"{len(services.profiles.paying())} profiles that pay or paid"


def _may_update(changing: Services) -> str:
    wanted = [*billing.COLUMNS, "ai_words_used_this_month"]
    missing = [row["name"] for row in changing.database.rows(RIGHTS, columns=wanted) if not row["may"]]
    if missing:
        raise BadInput(f"the change role may not update {', '.join(missing)} of user_profiles.")
    return "may update the billing columns"


def _lock(target: Environment, secrets: Secrets) -> Finding:
    """Whether the lock for changes can be held there; a pooler in between could be in the way."""
    database = connect(target, {"change": secrets["change"]}, "opskit/doctor").database
    try:
        with database.locked("opskit doctor") as backend:
            held = connect(target, {"read": secrets["read"]}, "opskit/doctor").database.holds_lock(backend)
    except (CannotTell, Refused) as error:
        return Finding("lock", None if isinstance(error, Refused) else False, str(error))
    return Finding("lock", held, "can be held" if held else "is not seen by others: use the direct port, 5432")


def _evidence(target: Environment, allowed: Path) -> Iterator[Finding]:
    """What signing and the archive need on this machine."""
    yield Finding(
        "git", bool(shutil.which("git")), "keeps the archive's history" if shutil.which("git") else "is missing"
    )
    signature, why = signatures.sign("opskit doctor", signatures.APPROVAL)
    if not signature:
        yield Finding("signing key", False if target.production else None, f"{why}; records would be unsigned")
        return
    judged = signatures.judge("opskit doctor", signature, signatures.APPROVAL, allowed, datetime.now(UTC))
    named = judged.who or f"{judged.key}, which {allowed.name} does not list"
    yield Finding("signing key", True if judged.who else None, named)


def _same(promised: str, found: str) -> str:
    if promised != found:
        raise BadInput(f"is {found}, not {promised}: this environment reaches another target.")
    return found


def _yesterday() -> datetime:
    return datetime.now(UTC) - timedelta(days=1)
