"""Every scenario of the Stripe runbook: it breaks what it says, nothing else, and a right repair heals it."""

from __future__ import annotations

import http.client
import shlex
import subprocess
import urllib.parse
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql

from opskit import sandbox
from opskit.sandbox import Sandbox, scenario

WORDS = """
    update user_profiles p set ai_words_used_this_month = (
        select coalesce(sum(u.words_generated), 0) from ai_usage u
        where u.user_id = p.id and u.created_at >= p.subscription_current_period_start)
    where id = any(%s::uuid[])
"""
NAMES = [name for name in sandbox.scenarios() if scenario.load(name).runbook == "stripe-webhook-replay"]
SAMPLED = [pytest.param(n, marks=[pytest.mark.deep] if number % 3 else []) for number, n in enumerate(NAMES)]
HARMLESS = {"healthy", "payment-failed", "two-subscriptions"}  # nothing in them is to be put right by a tool
CAUSES = {
    "endpoint-disabled",
    "endpoint-unreachable",
    "secret-mismatch",
    "handler-error",
    "event-too-old",
    "missing-profile",
    "superseded",
    "duplicate",
    "tier-mapping",
    "drift",
    "payment-failed",
    "two-subscriptions",
    "healthy",
    "unknown",
}


def environment(company: Sandbox) -> dict[str, Any]:
    return yaml.safe_load(company.environment.read_text())


def secret(held: dict[str, Any]) -> str:
    return subprocess.check_output(shlex.split(held["secret"]["command"]), text=True)


def connect(company: Sandbox) -> psycopg.Connection[Any]:
    place = environment(company)["services"]["database"]
    change = place["change"]
    return psycopg.connect(place["address"], user=change["user"], password=secret(change), autocommit=True)


def enable_endpoint(company: Sandbox) -> None:
    stripe = environment(company)["services"]["stripe"]
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(stripe["address"]).netloc)
    headers = {
        "Authorization": f"Bearer {secret(stripe['change'])}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    connection.request("POST", f"/v1/webhook_endpoints/{stripe['webhook_endpoint']}", "disabled=false", headers)
    assert connection.getresponse().status == 200
    connection.close()


def reconcile(company: Sandbox) -> None:
    """What Stripe says, as the sandbox itself judges it, written into each profile that disagrees."""
    with connect(company) as connection:
        for one in company.disagreements():
            changes = {name: values["stripe"] for name, values in one["columns"].items()}
            assignments = [sql.SQL("{} = {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in changes]
            query = sql.SQL("update user_profiles set {} where id = {}").format(
                sql.SQL(", ").join(assignments), sql.Placeholder("profile")
            )
            connection.execute(query, {**changes, "profile": one["profile"]})


def repair(company: Sandbox, told: dict[str, Any]) -> None:
    company.by_hand()
    if "endpoint-disabled" in told["causes"]:
        enable_endpoint(company)
    if "duplicate" in told["causes"]:
        with connect(company) as connection:
            connection.execute(WORDS, (told["actors"]["twice"],))
    if told["causes"] != ["unknown"]:
        reconcile(company)


@pytest.mark.parametrize("name", SAMPLED)
def test_it_breaks_what_it_says_and_a_right_repair_heals_it(company: Sandbox, name: str) -> None:
    told = company.break_with(name)
    before = company.state()
    assert told["name"] == name
    assert set(told["causes"]) <= CAUSES
    assert all(one["ok"] for one in company.healed()) == (name in HARMLESS)
    if before["database"] is not None:
        touched = {key for touch in told["touches"] if touch["place"] == "user_profiles" for key in touch["keys"]}
        wrong = {one["profile"] for one in company.disagreements()}
        assert told["causes"] == ["unknown"] or wrong <= touched
    repair(company, told)
    assert [one for one in company.healed() if not one["ok"]] == []
    if before["database"] is not None:
        assert company.changes(before)["stray"] == [] or told["causes"] == ["unknown"]


@pytest.mark.parametrize("name", [one for one in SAMPLED if scenario.load(str(one.values[0])).twin])
def test_its_twin_withholds_evidence_and_changes_nothing_else(company: Sandbox, name: str) -> None:
    whole = company.break_with(name)
    twin = company.break_with(name, twin=True)
    assert twin["causes"] == ["unknown"]
    assert twin["twin"] is True
    assert {k: len(v) for k, v in twin["actors"].items()} == {k: len(v) for k, v in whole["actors"].items()}


@pytest.mark.parametrize("name", ["rls-filtered", "postgres-down", "secret-mismatch"])
def test_a_healed_company_is_as_before(company: Sandbox, name: str) -> None:
    before = company.state()
    company.break_with(name)
    company.heal()
    assert company.state() == before
    with connect(company) as connection:
        rights = connection.execute("select rolbypassrls from pg_roles where rolname = 'opskit_read'").fetchone()
    assert rights == (True,)
