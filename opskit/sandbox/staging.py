"""Lets a scenario happen to the company, and looks whether it is well again."""

from __future__ import annotations

import http.client
import json
import random
import re
import uuid
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from opskit.sandbox import SandboxError, environment, happenings, moments, steps, stripe_truth
from opskit.sandbox.scenario import App, Get, Holds, Scenario, SentryIssue, Step
from opskit.sandbox.world import World

PROVIDER_KEYS = ("openai_key", "anthropic_key", "deepseek_key")  # the newest of each
TOKENS = {"stripe": "stripe_read", "vercel": "vercel", "sentry": "sentry", "supabase": "supabase"}


def apply(world: World, scenario: Scenario) -> None:
    """Play the scenario's past; what is due later happens later."""
    now = world.clock.now()
    if scenario.app is not None:
        _behave(world, scenario.app)
    for line in scenario.faults:
        if line.down:
            world.agenda.at(moments.moment(line.begins or "now", now), world.database.stop)
            if line.ends:
                world.agenda.at(moments.moment(line.ends, now), world.database.start)
        else:
            world.faults.add(line.fault(now))
    for one in scenario.deployments:
        behaviour = one.behaviour.model_dump(exclude_unset=True) if one.behaviour else None
        env = filled(world, one.env)
        build = partial(world.vercel.deploy, env=env, behaviour=behaviour, message=one.message)
        world.agenda.at(moments.moment(one.at, now), build)
    rng = random.Random(f"{world.seed} {scenario.name}")
    for happening in scenario.happenings:
        try:
            happenings.schedule(world, happening, rng)
        except ValueError as error:
            raise SandboxError(f"{scenario.name}: {happening.what}: {error}") from error
    world.play_past()
    world.vercel.change_environment(filled(world, scenario.env))
    world.status_pages.update(scenario.status_pages)
    for issue in scenario.sentry:
        _report(world, issue)
    _execute(world, scenario.sql)


def play_by_hand(world: World, scenario: Scenario) -> list[str]:
    """The steps that no tool can do for a person; answers them in words."""
    done: list[str] = []
    for step in scenario.by_hand:
        _do(world, scenario, step)
        done += steps.told(step)
    return done


def _do(world: World, scenario: Scenario, step: Step) -> None:
    if step.lift is not None:
        world.faults.lift(step.lift)
        if any(line.down and line.name == step.lift for line in scenario.faults):
            world.database.start()
    world.vercel.change_environment(filled(world, step.env))
    if step.redeploy:
        world.vercel.redeploy(world.vercel.production)
    if step.behaviour is not None:
        world.vercel.deploy(behaviour=step.behaviour.model_dump(exclude_unset=True), message="Mend the webhook handler")
    if step.rollback:
        world.vercel.rollback()
    if step.sql is not None:
        _execute(world, [step.sql])
    if step.set_endpoint is not None:
        happenings.schedule(world, {"what": "set_endpoint", **step.set_endpoint}, world.rng)
        world.play_past()
    for happening in step.happenings:
        happenings.schedule(world, happening, world.rng)
        world.play_past()


def _behave(world: World, app: App) -> None:
    """The code was like this all along: no deployment of the past shows it."""
    world.vercel.live().behaviour.update(app.model_dump(exclude_unset=True))


def _report(world: World, issue: SentryIssue) -> None:
    at = moments.moment(issue.at, world.clock.now())
    for _ in range(issue.count):
        world.sentry.capture(issue.type, issue.message, issue.culprit, at)


def _execute(world: World, statements: Sequence[str]) -> None:
    """As superuser; a database that is down is woken for as long as it takes."""
    if not statements:
        return
    slept = not world.database.running
    world.database.start()
    try:
        with world.database.connect(autocommit=False) as connection:
            for statement in statements:
                connection.execute(statement.encode(), _groups(world))
    except psycopg.Error as error:
        raise SandboxError(f"sql: {error}\nThe statement was: {statement}") from error
    finally:
        if slept:
            world.database.stop()


def _groups(world: World) -> dict[str, list[uuid.UUID]]:
    """Groups of actors as query parameters: `where id = any(%(late_payers)s)`."""
    return {name: [uuid.UUID(id_) for id_ in ids] for name, ids in world.actors.items()}


def filled(world: World, env: dict[str, str | None]) -> dict[str, str | None]:
    """Values that no file can know: ${webhook_secret}, ${original} (at first), ${price.professional} (the newest)."""
    return {name: None if value is None else _filled(world, name, value) for name, value in env.items()}


def _filled(world: World, name: str, value: str) -> str:
    def known(found: re.Match[str]) -> str:
        word, _, tier = found[1].partition(".")
        if word == "webhook_secret":
            return world.secrets["webhook"]
        if word in PROVIDER_KEYS and word in world.secrets:
            return world.secrets[word]
        if word == "original":
            if name not in world.vercel.deployments[0].env:
                raise SandboxError(f"env: {name}: {found[0]} is what it was at first, and at first the app has none")
            return world.vercel.deployments[0].env[name]
        prices = [price for price, sold in world.stripe.price_tiers.items() if sold == tier]
        if word == "price" and prices:
            return prices[-1]
        raise SandboxError(f"env: {name}: nothing is known by the name {found[0]}")

    return re.sub(r"\$\{([\w.]+)\}", known, value)


def parameters(world: World, given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A runbook's parameters. `${user.GROUP}` is the group's first member, or their Stripe customer or document.

    `${migrations}` is the migrations folder.
    """

    def known(found: re.Match[str]) -> str:
        kind, group = found.groups()
        if kind is None:
            return str(folder)
        members = world.actors.get(f"{group}_documents" if kind == "document" else group)
        if not members:
            raise SandboxError(f"parameters: nobody is known by the name {found[0]}")
        return _customer(world, members) if kind == "customer" else members[0]

    return {
        name: re.sub(r"\$\{(?:migrations|(customer|user|document)\.(\w+))\}", known, value)
        if isinstance(value, str)
        else value
        for name, value in given.items()
    }


def _customer(world: World, members: Sequence[str]) -> str:
    with world.database.connect() as connection:
        query = "select stripe_customer_id from user_profiles where id = any(%s::uuid[]) order by id"
        row = connection.execute(query, [list(members)]).fetchone()
    return str(row[0]) if row else ""


def verdicts(world: World, assertions: Sequence[Holds]) -> list[dict[str, Any]]:
    """Each assertion, whether it holds, and what was found instead."""
    return [_verdict(world, one) for one in assertions]


def _verdict(world: World, one: Holds) -> dict[str, Any]:
    asked = one.model_dump(exclude_unset=True, by_alias=True)
    try:
        if one.agrees:
            wrong = stripe_truth.disagreements(world)
            found: Any = [row for row in wrong if one.among is None or row["profile"] in world.actors[one.among]]
            return {**asked, "ok": not found, "found": found[:10]}
        found = _value(world, one.sql) if one.sql else _field(_get(world, one.get), one.field) if one.get else None
    except (psycopg.Error, OSError, http.client.HTTPException, LookupError, StopIteration, ValueError) as error:
        return {**asked, "ok": False, "found": f"{type(error).__name__}: {error}"}
    return {**asked, "ok": found == one.equals, "found": found}


def _value(world: World, query: str) -> Any:
    with world.database.connect() as connection:
        row = connection.execute(query.encode(), _groups(world)).fetchone()
    value = row[0] if row else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value if isinstance(value, (bool, int, float, str, list, dict, type(None))) else str(value)


def _get(world: World, get: Get) -> Any:
    path = get.path.replace("{webhook_endpoint}", environment.app_endpoint(world))
    path = path.replace("{vercel_project}", world.vercel.project_id)
    connection = http.client.HTTPConnection(urlsplit(world.addresses[get.service]).netloc, timeout=15)
    token = world.secrets.get(TOKENS.get(get.service, ""), "")
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return {"status": response.status, "json": json.loads(response.read() or b"null")}
    finally:
        connection.close()


def _field(answer: Any, path: str) -> Any:
    """`status` is the HTTP status; anything else is a place in the JSON: `json.status`, `json.data.0.id`.

    In a list, `key=NAME` is the first member whose `key` is NAME.
    """
    for part in path.split("."):
        name, asked, value = part.partition("=")
        if isinstance(answer, list) and asked:
            answer = next(one for one in answer if str(one.get(name)) == value)
        else:
            answer = answer[int(part)] if isinstance(answer, list) else answer[part]
    return answer
