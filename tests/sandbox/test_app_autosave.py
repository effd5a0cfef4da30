"""How the app saves documents, habits and all, against a real database; each trap for itself."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.rows import dict_row
from starlette.testclient import TestClient

from opskit.sandbox import app, app_autosave, app_session, vercel
from opskit.sandbox.postgres import Postgres
from opskit.sandbox.sentry import SentryStore
from opskit.sandbox.stripe import StripeStore
from opskit.sandbox.vercel import VercelStore
from opskit.sandbox.world import Fault, World
from opskit.sandbox.writers import Desk, Tab

USER = "7d1f4a9e-0000-4000-8000-000000000001"
OTHER = "7d1f4a9e-0000-4000-8000-000000000002"
DOCUMENT = "d0000000-0000-4000-8000-000000000001"
TEXT = "<p>It was a dark night.</p><p>Nobody slept.</p>"
ROWS = f"""
    insert into auth.users (id, email) values ('{USER}', 'ada@example.com'), ('{OTHER}', 'eve@example.com');
    insert into projects (id, user_id, title) values ('{DOCUMENT}', '{USER}', 'Nights');
    insert into documents (id, project_id, user_id, title, content, created_at, updated_at)
    values ('{DOCUMENT}', '{DOCUMENT}', '{USER}', 'One', '{{"html": "{TEXT}", "structure": [], "metadata": {{}}}}',
            now() - interval '2 days', now() - interval '2 days')
"""


@pytest.fixture
def world(database: Postgres) -> Iterator[World]:
    world = World(1, database, addresses={"app": "http://127.0.0.1:1"})
    world.secrets.update(webhook="whsec_x", jwt="j" * 32)
    world.stripe, world.vercel, world.sentry = StripeStore(world), VercelStore(world), SentryStore(world)
    vercel.populate(world)
    yield world
    world.locks.release()


@pytest.fixture
def tab(world: World) -> Tab:
    return Desk(world, USER, DOCUMENT, random.Random(1)).open()


def save(
    world: World, content: dict[str, Any], base: str | None = None, user: str = USER, **headers: str
) -> app.Answer:
    given = {"Authorization": f"Bearer {app_session.token(world, user)}", **headers}
    body = json.dumps({"content": content, "baseHash": base}).encode()
    return app.receive(world, "POST", f"/api/documents/{DOCUMENT}/autosave", given, body, "198.51.100.7")


def page(html: str, structure: list[Any] | None = None) -> dict[str, Any]:
    return {"html": html, "structure": structure or [], "metadata": {}}


def code(answer: app.Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


def rows(world: World, query: str) -> list[dict[str, Any]]:
    with world.database.connect(row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def html(world: World) -> str:
    return str(rows(world, "select content ->> 'html' as html from documents")[0]["html"])


def failures(world: World) -> list[dict[str, Any]]:
    return rows(world, "select * from autosave_failures order by created_at")


def change(world: World, statement: str) -> None:
    with world.database.connect() as connection:
        connection.execute(statement.encode())


def printed(world: World) -> list[dict[str, Any]]:
    return [json.loads(line.message) for row in world.vercel.requests for line in row.lines]


def operations(world: World) -> list[tuple[str, Any]]:
    return [(one["context"]["operation"], one["context"].get("code")) for one in printed(world)]


def test_a_save_keeps_a_snapshot_the_document_and_by_its_trigger_a_version(world: World, tab: Tab) -> None:
    tab.type("And it rained.")
    assert tab.autosave() == 200
    wanted = f"{TEXT}<p>And it rained.</p>"
    assert html(world) == wanted
    assert [one["payload"]["html"] for one in rows(world, "select payload from document_snapshots")] == [wanted]
    (version,) = rows(world, "select * from document_versions")
    assert (version["version_number"], version["content"]["html"], str(version["user_id"])) == (1, wanted, USER)
    assert rows(world, "select word_count from documents")[0]["word_count"] == 10
    assert [(row.status, row.lines) for row in world.vercel.requests] == [(200, ())]


def test_without_a_living_session_it_is_401_and_nobody_reports_it(world: World, tab: Tab) -> None:
    assert code(save(world, page("<p>x</p>"), Authorization="Bearer nonsense")) == (401, "UNAUTHORIZED")
    forged = app_session.token(world, USER)[:-4] + "AAAA"
    assert code(save(world, page("<p>x</p>"), Authorization=f"Bearer {forged}")) == (401, "UNAUTHORIZED")
    stale = app_session.token(world, USER, timedelta(seconds=-1))
    assert code(save(world, page("<p>x</p>"), Authorization=f"Bearer {stale}")) == (401, "UNAUTHORIZED")
    told = app.receive(world, "POST", app.TELEMETRY, {"Authorization": f"Bearer {stale}"}, b"{}", "198.51.100.7")
    assert told.status == 401
    assert failures(world) == []


def test_a_document_of_somebody_else_is_not_found_rather_than_forbidden(world: World) -> None:
    assert code(save(world, page("<p>mine now</p>"), user=OTHER)) == (404, "NOT_FOUND")
    assert html(world) == TEXT


def test_the_order_of_refusals(world: World) -> None:
    """401 before 429, 429 before 404, 404 before 409."""
    world.vercel.live().behaviour["writes_per_hour"] = 1
    assert save(world, page("<p>x</p>"), "other").status == 409
    assert save(world, page("<p>x</p>"), "other", user=OTHER).status == 429
    assert save(world, page("<p>x</p>"), "other", Authorization="").status == 401
    world.vercel.live().behaviour["writes_per_hour"] = 100
    assert save(world, page("<p>x</p>"), "other", user=OTHER).status == 404


def test_another_base_is_a_conflict_of_which_the_answer_tells_nothing(world: World) -> None:
    answer = save(world, page("<p>new</p>"), "a" * 64)
    assert code(answer) == (409, "AUTOSAVE_CONFLICT")
    assert json.loads(answer.body)["error"].keys() == {"code", "message"}, "no copy, no hash"
    assert rows(world, "select 1 from document_snapshots") == [], "the refused text is nowhere"


def test_no_base_skips_the_conflict_check(world: World) -> None:
    assert save(world, page("<p>an old text</p>"), None).status == 200
    assert html(world) == "<p>an old text</p>"


def test_a_chapter_from_the_sidebar_is_in_conflict_with_itself(world: World, tab: Tab) -> None:
    tab.add_chapter()
    assert [tab.autosave(), tab.autosave(), tab.autosave()] == [200, 409, 409]
    stored = rows(world, "select content from documents")[0]["content"]
    assert stored == tab.content, "equal but for the order of keys"
    assert app_autosave.hashed(stored) != app_autosave.hashed(tab.content)
    assert app_autosave.hashed(stored, stable=True) == app_autosave.hashed(tab.content, stable=True)
    world.vercel.deploy(behaviour={"stable_hash": True}, message="Hash without regard to the order of keys")
    tab.base = app_autosave.hashed(tab.content, stable=True)
    assert save(world, tab.content, tab.base).status == 200


def test_a_loaded_chapter_does_no_harm(world: World, tab: Tab) -> None:
    tab.add_chapter()
    tab.autosave()
    tab.reload()
    tab.type("More.")
    assert [tab.autosave(), tab.autosave()] == [200, 200]


def test_the_sanitiser_takes_prose_for_script(world: World, tab: Tab) -> None:
    tab.type("Conclusion = done")
    assert tab.autosave() == 200
    assert html(world).endswith("<p>C done</p>")
    assert operations(world) == [("autosave:xss_detection", None)]
    assert tab.autosave() == 409, "the browser's hash is of what it sent, not of what was stored"


def test_a_sanitiser_that_fails_empties_the_document_and_says_saved(world: World, tab: Tab) -> None:
    world.vercel.deploy(behaviour={"sanitiser_fails_on": "<table"}, message="Update the sanitiser")
    tab.type("<table></table>")
    assert tab.autosave() == 200
    assert html(world) == ""
    assert [one["word_count"] for one in rows(world, "select word_count from documents")] == [0]
    assert operations(world) == [("sanitize:html", None)]
    assert [issue.kind for issue in world.sentry.issues.values()] == ["TypeError"], "a real Error"


def test_no_row_updated_is_a_success_all_the_same(world: World, tab: Tab) -> None:
    change(world, "drop policy own_update on documents")
    tab.type("Gone.")
    assert tab.autosave() == 200
    assert html(world) == TEXT
    assert rows(world, "select payload from document_snapshots")[0]["payload"]["html"].endswith("<p>Gone.</p>")
    assert operations(world) == []
    tab.type("Still gone.")
    assert tab.autosave() == 409, "what is stored is not what the tab believes to be"


@pytest.mark.parametrize(
    ("broken", "operation", "state"),
    [
        ("drop policy own_insert on document_snapshots", "autosave:snapshot", "42501"),
        ("update subscription_tier_limits set max_document_snapshots = 0", "autosave:snapshot", "23514"),
        ("alter table document_versions rename to versions", "autosave:update_document", "42P01"),
        (
            "create policy again on documents for update to authenticated using (id in (select id from documents))",
            "autosave:update_document",
            "42P17",
        ),
    ],
)
def test_what_the_database_refuses_is_in_the_log_with_its_code_and_not_in_sentry(
    world: World, tab: Tab, broken: str, operation: str, state: str
) -> None:
    change(world, broken)
    tab.type("Lost?")
    assert tab.autosave() == 500
    assert operations(world) == [(operation, state)]
    assert world.sentry.issues == {}
    assert html(world) == TEXT
    kept = len(rows(world, "select 1 from document_snapshots"))
    assert kept == (operation == "autosave:update_document"), "there is no transaction"


def test_the_account_wide_cap_names_the_plan(world: World, tab: Tab) -> None:
    change(world, "update subscription_tier_limits set max_document_snapshots = 1 where tier = 'free'")
    tab.type("One.")
    assert tab.autosave() == 200
    tab.type("Two.")
    assert tab.autosave() == 500
    assert printed(world)[0]["context"]["error"] == "Plan free allows 1 document snapshots"


def test_a_policy_that_cannot_be_evaluated_looks_like_a_missing_document(world: World, tab: Tab) -> None:
    change(world, "create policy own on documents for select to authenticated using (id in (select id from documents))")
    assert tab.autosave() == 404
    assert operations(world) == []


def test_a_hundred_writes_an_hour_and_the_reports_count_too(world: World, tab: Tab) -> None:
    tab.base = "stale"
    statuses = [tab.autosave() for _ in range(60)]
    assert Counter(statuses) == {409: 50, 429: 10}, "each refusal cost a report"
    assert len(failures(world)) == 50, "of the rest nobody hears"
    assert operations(world)[-1] == ("rate_limit:exceeded", None)
    world.vercel.redeploy(world.vercel.production)
    assert tab.autosave() == 409, "a new instance remembers nothing"


def test_the_limit_holds_for_an_address_too(world: World) -> None:
    world.vercel.live().behaviour["writes_per_hour"] = 2
    assert [save(world, page("<p>x</p>"), user=user).status for user in (USER, OTHER, OTHER)] == [200, 404, 429]


def test_snapshots_of_a_document_are_pruned_by_plan(world: World, tab: Tab) -> None:
    for _ in range(25):
        tab.type()
        assert tab.autosave() == 200
    assert len(rows(world, "select 1 from document_snapshots")) == 20
    newest = rows(world, "select payload ->> 'html' as html from document_snapshots order by created_at desc limit 1")
    assert newest[0]["html"] == html(world)


def test_reports_say_little(world: World, tab: Tab) -> None:
    tab.base = "stale"
    tab.autosave()
    tab.autosave(reached=False)
    first, second = failures(world)
    assert (first["failure_type"], first["error_message"]) == ("conflict", "[object Object]")
    assert (second["failure_type"], second["error_message"]) == ("network", "Failed to fetch")
    assert first["client_hash"] == app_autosave.hashed(tab.content)
    assert (first["server_hash"], first["content_preview"], first["is_resolved"]) == (None, None, False)
    assert [first["retry_count"], second["retry_count"]] == [0, 1]
    assert first["user_agent"] == tab.agent


def test_attempts_leave_time_and_length_and_no_text(world: World, tab: Tab) -> None:
    tab.base = "stale"
    for _ in range(110):
        tab.autosave(reached=False)
    (history,) = rows(world, "select * from document_undo_history")
    assert len(history["undo_stack"]) == 100
    assert {key for entry in history["undo_stack"] for key in entry} == {"timestamp", "delta", "words"}


def test_a_manual_save_goes_past_everything(world: World, tab: Tab) -> None:
    other = tab.desk.open(1)
    other.type("Newer.")
    assert other.autosave() == 200
    tab.type("Conclusion = stays")
    tab.save()
    assert html(world) == f"{TEXT}<p>Conclusion = stays</p>"
    assert len(rows(world, "select 1 from document_snapshots")) == 1, "only the autosave's"
    assert len(rows(world, "select 1 from document_versions")) == 2
    assert len(world.vercel.requests) == 1, "and nothing in the log"
    assert tab.agent != other.agent


def test_the_edge_answers_before_the_app_does(world: World, tab: Tab) -> None:
    world.faults.add(Fault("app", "/api/documents/.*", status=504))
    assert tab.autosave() == 504
    assert [(one["failure_type"], one["error_message"]) for one in failures(world)] == [("network", "Failed to fetch")]
    world.faults.add(Fault("app", reset=True), first=True)
    assert tab.autosave() is None
    assert len(failures(world)) == 1, "the report did not get through either"


def test_a_lock_ends_saves_with_the_servers_own_error(world: World, tab: Tab) -> None:
    world.locks.hold(world, "lock table documents in share row exclusive mode", None, "psql")
    world.clock.play(datetime.now(UTC) - timedelta(minutes=5))
    tab.type("Waits.")
    assert tab.autosave() == 500
    assert operations(world) == [("autosave:update_document", "57014")]
    world.locks.release()
    assert tab.autosave() == 200


def test_without_a_database_it_says_so_and_recovers(world: World, tab: Tab) -> None:
    world.database.stop()
    assert tab.autosave() == 500
    assert operations(world) == [("autosave:handler", None)]
    world.database.start()
    assert tab.autosave() == 200


def test_a_played_past_is_written_with_its_own_time(world: World, tab: Tab) -> None:
    moment = datetime.now(UTC) - timedelta(hours=5)
    world.clock.play(moment)
    tab.type("Long ago.")
    tab.base = app_autosave.hashed(page(TEXT))
    assert tab.autosave() == 200
    tab.base = "stale"
    assert tab.autosave() == 409
    world.clock.play(None)
    for table in ("document_snapshots", "document_versions", "autosave_failures"):
        assert {one["created_at"] for one in rows(world, f"select created_at from {table}")} == {moment}, table
    assert rows(world, "select updated_at from documents")[0]["updated_at"] == moment


def test_over_http(world: World) -> None:
    client = TestClient(app.application(world), headers={"Authorization": f"Bearer {app_session.token(world, USER)}"})
    path = f"/api/documents/{DOCUMENT}/autosave"
    assert client.post(path, json={"content": page("<p>x</p>")}).json()["success"] is True
    assert client.post(path, content=b"{").status_code == 400
    assert client.get(path).status_code == 405
    assert client.post("/api/documents/nonsense/autosave", json={"content": page("")}).status_code == 404
    told = {"documentId": DOCUMENT, "failureType": "error", "errorMessage": "[object Object]", "clientHash": "x"}
    assert client.post(app.TELEMETRY, json=told).status_code == 201
    assert len(failures(world)) == 1
