"""The company's people and their past: believable, and in agreement everywhere."""

from __future__ import annotations

import http.client
import json
import random
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml

from opskit import sandbox
from opskit.sandbox import population, writing
from opskit.sandbox.stripe_objects import month_around

Row = tuple[Any, ...]

# What an on-call engineer asks first. On an ordinary day each answers with nothing.
QUIET = {
    "autosave failures of the last hour": """
        select failure_type, count(*), count(distinct user_id) from autosave_failures
        where created_at > now() - interval '1 hour' group by 1""",
    "saves that reached the snapshot and never the document": """
        select d.id from documents d
        join lateral (select * from document_snapshots s where s.document_id = d.id
                      order by created_at desc limit 1) s on true
        where s.created_at > d.updated_at + interval '5 seconds'
          and s.payload ->> 'html' is distinct from d.content ->> 'html'""",
    "versions that lost more than half of their text": """
        select * from (select document_id, length(content ->> 'html') as length,
                         lag(length(content ->> 'html'))
                           over (partition by document_id order by version_number) as before
                       from document_versions) v where length < before * 0.5""",
    "version numbers used twice": """
        select document_id, version_number from document_versions group by 1, 2 having count(*) > 1""",
    "accounts near their snapshot cap": """
        select p.id from user_profiles p join subscription_tier_limits l on l.tier = p.subscription_tier
        join document_snapshots s on s.user_id = p.id
        group by p.id, l.max_document_snapshots having count(*) >= 0.9 * l.max_document_snapshots""",
    "autosave attempts that stored nothing": """
        with attempts as (
          select h.document_id, (e ->> 'timestamp')::timestamptz as at
          from document_undo_history h, jsonb_array_elements(h.undo_stack) e)
        select a.document_id from attempts a where not exists (
          select from document_snapshots s where s.document_id = a.document_id
            and s.created_at between a.at - interval '5 seconds' and a.at + interval '30 seconds')""",
    "blocked sessions": "select pid from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0",
    "disabled triggers": "select tgname from pg_trigger where not tgisinternal and tgenabled <> 'O'",
    "stuck background tasks": """
        select id from ai_background_tasks
        where (status = 'queued' and created_at < now() - interval '2 minutes')
           or (status = 'running' and updated_at < now() - interval '15 minutes')""",
    "profiles that contradict themselves": """
        select id from user_profiles
        where (subscription_tier <> 'free' and stripe_subscription_id is null)
           or (subscription_tier = 'free' and stripe_subscription_id is not null)
           or (subscription_status in ('active', 'trialing') and subscription_current_period_end < now())
           or (subscription_tier <> 'free' and subscription_current_period_end is null)""",
    "word counters that differ from the ledger": """
        select p.id from user_profiles p left join ai_usage u on u.user_id = p.id
          and u.created_at >= coalesce(case when subscription_status = 'past_due' then ai_words_reset_date end,
                                       subscription_current_period_start, ai_words_reset_date)
        group by p.id having p.ai_words_used_this_month <> coalesce(sum(u.words_generated), 0)""",
    "rows from the future": """
        select 'ai' from ai_requests where created_at > now() union all
        select 'document' from documents where updated_at > now() or created_at > updated_at union all
        select 'profile' from user_profiles where updated_at > now()""",
    "invalid indexes and constraints": """
        select indexrelid::regclass::text from pg_index where not indisvalid union all
        select conname from pg_constraint where not convalidated""",
    "tables without policies": """
        select relname from pg_class c where relnamespace = 'public'::regnamespace and relkind = 'r'
          and relname <> 'subscription_tier_limits'
          and not (relrowsecurity and exists (select from pg_policy where polrelid = c.oid))""",
}
FOREIGN_KEYS = """
    select conrelid::regclass::text, attname, confrelid::regclass::text
    from pg_constraint join pg_attribute on attrelid = conrelid and attnum = conkey[1] where contype = 'f'
"""


PEOPLE = population._people(random.Random(1), datetime.now(UTC))


@pytest.fixture(scope="module", params=[1, 2, 3])
def reader(living: sandbox.Sandbox, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Row]]:
    """As opskit reads, on three companies."""
    living.reset(request.param)
    database = yaml.safe_load(living.environment.read_text())["services"]["database"]
    password = subprocess.run(
        shlex.split(database["read"]["secret"]["command"]), capture_output=True, text=True, check=True
    ).stdout
    with psycopg.connect(database["address"], user="opskit_read", password=password, autocommit=True) as connection:
        yield connection


def test_on_no_day_of_the_year_does_a_period_end_soon() -> None:
    """Months differ in length, and whoever began on the 31st pays on the 28th at times."""
    rng, paying = random.Random(1), [person for person in PEOPLE if person.life in ("paying", "past_due")]
    for day in range(365):
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)
        for person in paying:
            began = population._begins(rng, replace(person, joined=now - timedelta(days=rng.uniform(40, 420))), now)
            _, ends = month_around(int(now.timestamp()), int(began.timestamp()))
            assert ends - now.timestamp() > population.NO_RENEWAL_SOON.total_seconds(), (now, began)


def test_an_ordinary_day_is_quiet(reader: psycopg.Connection[Row], living: sandbox.Sandbox) -> None:
    found = {name: reader.execute(query.encode()).fetchall() for name, query in QUIET.items()}
    assert {name: rows[:3] for name, rows in found.items() if rows} == {}
    assert living.disagreements() == []


def test_no_row_points_nowhere(reader: psycopg.Connection[Row]) -> None:
    """The past is copied in without triggers, and so without foreign keys being checked."""
    for table, column, other in reader.execute(FOREIGN_KEYS).fetchall():
        query = f"select count(*) from {table} t where {column} is not null and not exists (select from {other} o where o.id = t.{column})"  # fmt: skip  # noqa: E501
        assert reader.execute(query.encode()).fetchone() == (0,), (table, column)


def test_it_has_the_size_and_shape_of_a_small_company(reader: psycopg.Connection[Row]) -> None:
    tiers = dict(reader.execute("select subscription_tier, count(*) from user_profiles group by 1").fetchall())
    total = sum(tiers.values())
    assert 340 <= total <= 460
    assert set(tiers) == {"free", "hobbyist", "professional", "studio"}
    assert 0.6 < tiers["free"] / total < 0.8
    statuses = {row[0] for row in reader.execute("select distinct subscription_status from user_profiles").fetchall()}
    assert statuses == {"active", "canceled", "past_due", "trialing"}
    (gave_up,) = reader.execute(
        "select count(*) from user_profiles where stripe_customer_id is not null and stripe_subscription_id is null"
    ).fetchall()
    assert gave_up[0] > 3
    (span,) = reader.execute("select (max(created_at) - min(created_at)) > '33 days' from ai_requests").fetchall()
    assert span == (True,)


def test_work_follows_the_day(reader: psycopg.Connection[Row]) -> None:
    hours = dict(
        reader.execute(
            "select extract(hour from created_at at time zone 'utc')::int, count(*) from ai_requests group by 1"
        ).fetchall()
    )
    assert sum(hours[h] for h in (18, 19, 20, 21)) > 2 * sum(hours[h] for h in (1, 2, 3, 4))


def test_stripe_knows_the_same_company(reader: psycopg.Connection[Row], living: sandbox.Sandbox) -> None:
    state = living.state()
    kinds: dict[str, int] = {}
    for key in state["stripe"]:
        kinds[key.split("/")[0]] = kinds.get(key.split("/")[0], 0) + 1
    paying = [row for row in state["database"]["user_profiles"].values() if row["stripe_subscription_id"]]
    assert kinds["subscriptions"] > len(paying) > 80
    assert kinds["events"] > 200
    statuses = {s["status"] for key, s in state["stripe"].items() if key.startswith("subscriptions/")}
    assert statuses == {"active", "canceled", "incomplete", "past_due", "trialing"}


def test_nothing_is_undelivered(living: sandbox.Sandbox) -> None:
    token = (living.folder / "secrets" / "stripe_read").read_text()
    connection = http.client.HTTPConnection(urlsplit(living.facts["addresses"]["stripe"]).netloc, timeout=10)
    connection.request("GET", "/v1/events?delivery_success=false", headers={"Authorization": f"Bearer {token}"})
    assert json.load(connection.getresponse())["data"] == []
    connection.close()


def test_another_seed_is_another_company(company: sandbox.Sandbox) -> None:
    company.reset(11)
    first = set(company.state()["database"]["user_profiles"])
    company.reset(12)
    second = set(company.state()["database"]["user_profiles"])
    assert len(first) != len(second) or not first & second


def test_at_no_time_of_day_did_a_save_fail_of_late() -> None:
    """Not even the save of a document that was begun a moment ago."""
    for hour in range(24):
        now = datetime(2026, 11, 28, hour, 30, tzinfo=UTC)
        authors = [
            writing.Author(id=str(number), tier="professional", joined=now - timedelta(hours=3), counts_from=now)
            for number in range(20)
        ] + [writing.Author(id="old", tier="professional", joined=now - timedelta(days=400), counts_from=now)]
        tables = writing.write(random.Random(hour), authors, now).tables
        begun = {document["id"]: document["created_at"] for document in tables["documents"]}
        for failure in tables["autosave_failures"]:
            assert begun[failure["document_id"]] <= failure["created_at"] <= now - timedelta(hours=2)
