"""A variable and a new build at the sandbox's Vercel: made, seen, and taken back in the right order."""

from __future__ import annotations

import json
import threading
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import everything

from opskit import actions
from opskit.actions import Result
from opskit.errors import CannotTell
from opskit.http import Http
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services
from opskit.services.vercel import READS, Vercel

ROUTES = "AI_MODEL_ROUTES"


def test_a_reroute_reaches_production_and_is_taken_back(firm: Sandbox, tmp_path: Path) -> None:
    _, services = everything(firm.name)
    vercel, journal = services.vercel, Journal(tmp_path / "journal.jsonl")
    before, traffic = vercel.variable(ROUTES), vercel.traffic()
    planned = [vercel.set_variable(ROUTES, "a=b"), vercel.redeploy(traffic["live"])]

    assert [result for _, result, _ in actions.carry_out(planned, services, journal)] == [Result.DONE, Result.DONE]
    assert vercel.variable(ROUTES)["value"] == "a=b"
    assert vercel.traffic()["live"] != traffic["live"]

    assert [result for _, result, _ in actions.take_back(planned, services, journal)] == [Result.DONE, Result.DONE]
    assert (vercel.variable(ROUTES), vercel.traffic()) == (before, traffic)


def test_a_variable_that_somebody_changed_meanwhile_is_left_alone(firm: Sandbox, tmp_path: Path) -> None:
    _, services = everything(firm.name)
    planned = services.vercel.set_variable(ROUTES, "a=b")
    [*_] = actions.carry_out([services.vercel.set_variable(ROUTES, "c=d")], services, Journal(tmp_path / "other.jsonl"))

    [(_, result, why)] = actions.carry_out([planned], services, Journal(tmp_path / "journal.jsonl"))
    assert result is Result.STALE
    assert "c=d" in why
    assert services.vercel.variable(ROUTES)["value"] == "c=d"


def test_a_build_waits_for_the_variable_that_it_is_for(firm: Sandbox, tmp_path: Path) -> None:
    """Neither the old value nor a build of somebody else's, from before, may pass for it."""
    _, services = everything(firm.name)
    vercel, journal = services.vercel, Journal(tmp_path / "journal.jsonl")
    setting = vercel.set_variable(ROUTES, "a=b")
    building = replace(vercel.redeploy(vercel.live(), ROUTES), after=[setting.id])
    planned = [setting, building]
    other = [vercel.set_variable(ROUTES, "c=d"), vercel.redeploy(vercel.live())]
    [*_] = actions.carry_out(other, services, Journal(tmp_path / "other.jsonl"))

    assert [found for _, found, _ in actions.carry_out(planned, services, journal)] == [Result.STALE, Result.WAITING]
    [*_] = actions.carry_out([vercel.set_variable(ROUTES, "a=b")], services, Journal(tmp_path / "by-hand.jsonl"))
    [(_, result, _)] = actions.carry_out([building], services, Journal(tmp_path / "again.jsonl"))
    assert result is not Result.ALREADY, "production runs with c=d"


def test_our_own_build_is_no_mended_code(firm: Sandbox, tmp_path: Path) -> None:
    _, services = everything(firm.name)
    vercel = services.vercel
    live = vercel.live()
    mend = vercel.replace_deployment(live, "correct the id, deploy", in_code=True)
    [*_] = actions.carry_out([vercel.redeploy(live)], services, Journal(tmp_path / "ours.jsonl"))
    assert vercel.live() != live
    [(_, result, _)] = actions.carry_out([mend], services, Journal(tmp_path / "journal.jsonl"))
    assert result is Result.WAITING


def test_a_build_of_somebody_elses_mends_no_requests(firm: Sandbox, tmp_path: Path) -> None:
    """Another build is live, and requests go on failing: the step waits until they no longer do."""
    _, services = everything(firm.name)
    vercel = services.vercel
    before = vercel.live()
    firm.break_with("ai-invalid-model")
    since, failing = vercel.live_since(), vercel.live()
    assert (services.tasks.failing(["model"], since), services.tasks.failing(["length"], since)) == (True, False)

    def ended(replaced: str) -> Result:
        mend = vercel.mend_requests(replaced, "correct the id, deploy", ["model"])
        [(_, result, _)] = actions.carry_out([mend], services, Journal(tmp_path / f"{replaced}.jsonl"))
        return result

    assert ended(before) is Result.WAITING
    firm.by_hand()  # and requests that succeed
    assert ended(failing) is Result.DONE
    [*_] = actions.carry_out([vercel.redeploy(vercel.live())], services, Journal(tmp_path / "ours.jsonl"))
    assert services.tasks.failing(["model"], vercel.live_since()) is None, "nobody has asked the newest build"


def test_a_key_is_rotated_when_it_is_another_and_revoked_when_a_person_says_so(firm: Sandbox, tmp_path: Path) -> None:
    firm.break_with("ai-invalid-key")
    _, services = everything(firm.name)
    vercel, named = services.vercel, ("anthropic", "ANTHROPIC_API_KEY")
    rotating = services.providers.rotate_key(*named, vercel.live(), vercel.variables())
    revoking = services.providers.revoke_key("anthropic")

    def ended(name: str) -> list[Result]:
        journal = Journal(tmp_path / f"{name}.jsonl")
        return [result for _, result, _ in actions.carry_out([rotating, revoking], services, journal)]

    [*_] = actions.carry_out([vercel.redeploy(vercel.live())], services, Journal(tmp_path / "ours.jsonl"))
    assert ended("after-our-own-build") == [Result.WAITING, Result.WAITING]
    firm.by_hand()  # a new key, a build, and requests that succeed
    assert ended("after-a-new-key") == [Result.DONE, Result.WAITING]


def test_a_variable_of_previews_is_not_productions(firm: Sandbox) -> None:
    vercel = everything(firm.name)[1].vercel
    body = {"key": ROUTES, "value": "a=b", "type": "encrypted", "target": ["preview"]}
    vercel.http.change("POST", f"/v10/projects/{vercel.project}/env", body=body)
    assert ROUTES not in set(vercel.variables().key)
    assert vercel.variable(ROUTES) == {"there": False, "readable": True, "value": None}
    assert vercel.built_with(ROUTES) is None


def test_a_value_that_cannot_be_read_back_is_not_planned_over(firm: Sandbox) -> None:
    _, services = everything(firm.name)
    with pytest.raises(CannotTell, match="cannot be read back"):
        services.vercel.set_variable("OPENAI_API_KEY", "never-a-secret-in-a-plan")


# The log.


@pytest.mark.parametrize(("reaches_back", "complete"), [(70, True), (50, True), (5, False)])
def test_the_last_minutes_of_a_log_are_not_its_whole_hour(reaches_back: int, complete: bool) -> None:
    """A plan may keep so little; what fell out of the log has not been seen."""
    now = datetime.now(UTC)
    line = {
        "timestampInMs": (now - timedelta(minutes=reaches_back)).timestamp() * 1000,
        "requestPath": "/",
        "message": "",
    }
    build = {"uid": "dpl_1", "created": 0, "readyState": "READY"}
    answers = {
        "/v9/projects/p": {"targets": {"production": {"id": "dpl_1"}}},
        "/v7/deployments": {"deployments": [build], "pagination": {"next": None}},
        "/v1/projects/p/deployments/dpl_1/runtime-logs": line,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path.partition("?")[0]]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        vercel = Vercel(Http("vercel", f"http://127.0.0.1:{server.server_port}", READS, {}), "p")
        with nullcontext() if complete else pytest.raises(CannotTell, match="reaches back only to"):
            vercel.log(now - timedelta(hours=1), "/api/*")
        server.shutdown()


# Going back.


def failing(services: Services) -> pd.DataFrame:
    log = services.vercel.log(datetime.now(UTC) - timedelta(hours=24), "/api/documents/*/autosave")
    return log[log.operation == "sanitize:html"]


def test_the_way_back_leads_to_the_build_before_the_one_that_failed(firm: Sandbox, tmp_path: Path) -> None:
    firm.break_with("autosave-truncation")
    services = everything(firm.name)[1]
    builds = services.vercel.blamed(failing(services))
    bad, good = builds.itertuples()
    assert (bad.message, bad.live, good.lines) == ("Update the HTML sanitiser", True, 0)
    step = services.vercel.go_back(builds, "mend it")
    assert step is not None
    assert step.by_hand.startswith(f"vercel rollback {good.deployment}  # built ")
    assert good.message in step.by_hand
    assert good.deployment in step.title
    assert bad.deployment not in step.by_hand

    firm.by_hand()  # rolled back
    assert services.vercel.live() == good.deployment
    again = services.vercel.blamed(failing(services))
    assert services.vercel.go_back(again, "mend it") is None  # not away from the good build
    assert datetime.now(UTC) - services.vercel.live_since() < timedelta(minutes=1)
    [(_, result, _)] = actions.carry_out([step], services, Journal(tmp_path / "journal.jsonl"))
    assert result is Result.DONE


def test_where_every_build_failed_there_is_no_way_back(firm: Sandbox) -> None:
    firm.break_with("autosave-truncation")
    services = everything(firm.name)[1]
    builds = services.vercel.blamed(failing(services))
    step = services.vercel.go_back(builds.head(1), "mend it")
    assert step is not None
    assert step.by_hand.startswith("vercel deploy --prod")
