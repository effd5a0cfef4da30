"""A variable and a new build at the sandbox's Vercel: made, seen, and taken back in the right order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from support import everything

from opskit import actions
from opskit.actions import Result
from opskit.errors import CannotTell
from opskit.journal import Journal
from opskit.sandbox import Sandbox
from opskit.services import Services

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


def test_a_value_that_cannot_be_read_back_is_not_planned_over(firm: Sandbox) -> None:
    _, services = everything(firm.name)
    with pytest.raises(CannotTell, match="cannot be read back"):
        services.vercel.set_variable("OPENAI_API_KEY", "never-a-secret-in-a-plan")


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
