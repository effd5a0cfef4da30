"""Looking again with the AI runbook, after an apply: what is mended is not planned anew, and no longer urgent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import Opskit, answers, events, stronger

from opskit import archive, plan
from opskit.commands.runs import look
from opskit.commands.sandbox import approve_and_apply
from opskit.outcome import Outcome
from opskit.sandbox import Sandbox

RUNBOOK = "ai-worker-failures"


def again(firm: Sandbox) -> tuple[Path, Outcome]:
    return look(RUNBOOK, {"environment": firm.name, "incident": "INC-9"})


def shown(folder: Path) -> str:
    return (folder / "notebook.ipynb").read_text(encoding="utf-8")


def told(folder: Path) -> str:
    return (folder / "private" / "page-lead.txt").read_text(encoding="utf-8")


@pytest.mark.deep
def test_a_reroute_in_force_is_told_and_not_planned_again(
    firm: Sandbox, opskit: Opskit, outputs: Path, tmp_path: Path
) -> None:
    going_on = [{"happenings": [{"what": "ask_ai", "of": "hit", "requests": [2, 3], "when": "now"}]}]
    firm.break_with(stronger("ai-openai-outage", tmp_path, by_hand=going_on))
    first, outcome = again(firm)
    assert outcome is Outcome.PLANNED
    assert " P1 by what happened since " in told(first)
    setting, building = plan.load(first / "plan.json")
    assert list(building.after) == [setting.id]
    applied, outcome = approve_and_apply(first)
    assert outcome is Outcome.VERIFIED
    firm.by_hand()

    second, _ = again(firm)
    assert [action.title for action in plan.load(second / "plan.json")] == []
    assert "rerouted at " in shown(second)
    assert "requests, 0 failures" in shown(second)
    assert applied.name in shown(second), "the way back is the first apply's"
    assert " P3 by what happened since " in told(second)
    assert told(second).endswith(": failures are fewer than any alert asks for.")
    assert answers(second)["openai-answers"]["answer"] == "no"

    undone = opskit("undo", applied.name, "--type", f"{firm.name} 2")
    assert undone.exit_code == 0
    caution = "to be taken back once openai answered cleanly for two windows of 15 minutes"
    said = " ".join(undone.stdout.split())
    assert said.index(caution) < said.index("taken back: ")
    assert caution in events(archive.Archive(outputs).find("last"), "finding")[0]["problem"]


def test_a_route_that_production_was_not_built_with_is_only_built(firm: Sandbox, tmp_path: Path) -> None:
    env = {"AI_MODEL_ROUTES": "gpt-5-chat-latest=deepseek-chat"}
    firm.break_with(stronger("ai-openai-outage", tmp_path, env=env))
    folder, _ = again(firm)
    assert [action.name for action in plan.load(folder / "plan.json")] == ["vercel.redeploy"]


@pytest.mark.deep
def test_results_that_vanish_are_collected_first_and_what_still_runs_is_nobodys_task(firm: Sandbox) -> None:
    firm.break_with("ai-long-running-task")
    first, outcome = again(firm)
    assert outcome is Outcome.PLANNED
    names = [action.name for action in plan.load(first / "plan.json")]
    assert {"tasks.store_result", "tasks.expire", "tasks.finish"} == set(names)
    assert names == sorted(names, key=lambda name: name != "tasks.store_result")
    assert "kept by the provider for about ten minutes: store the results at once" in told(first)
    assert " P1 by what happened" in told(first)

    assert approve_and_apply(first)[1] is Outcome.VERIFIED
    second, outcome = again(firm)
    assert outcome is Outcome.HEALTHY
    assert answers(second)["tasks-followed"]["because"] == "1 in_progress, left alone"


def test_a_provider_that_nobody_asked_is_not_said_to_answer_and_hides_no_health(firm: Sandbox, tmp_path: Path) -> None:
    only = {
        "what": "ask_ai",
        "name": "today",
        "count": 6,
        "model": "gpt-5-chat-latest",
        "when": "40 minutes ago .. now",
    }
    others = "delete from ai_requests where left(selected_model, 8) = 'deepseek'"
    firm.break_with(stronger("ai-healthy", tmp_path, happenings=[only], sql=[others]))
    folder, outcome = again(firm)
    assert outcome is Outcome.HEALTHY
    found = answers(folder)
    assert (found["openai-answers"]["answer"], found["deepseek-answers"]["answer"]) == ("yes", "unknown")
    assert found["deepseek-answers"]["because"].startswith("not asked; reachable; ")


@pytest.mark.deep
def test_refusals_of_the_text_and_of_some_requests_are_no_bad_key_and_no_bad_model(
    firm: Sandbox, tmp_path: Path
) -> None:
    """What is refused is a prompt, or one request among many: neither another id nor another key mends that."""
    said = {
        "gpt-5-chat-latest": "400 Invalid prompt: your prompt was flagged as violating our usage policy.",
        "claude-sonnet-4-5-20250929": "401 invalid x-api-key",
    }
    refused = [
        f"update ai_requests set status = 'failed', error = '{error}' where id in (select id from ai_requests where "
        f"selected_model = '{model}' and status = 'succeeded' and created_at > now() - interval '58 minutes' "
        "order by created_at limit 6)"
        for model, error in said.items()
    ]
    firm.break_with(stronger("ai-healthy", tmp_path, sql=refused))
    folder, outcome = again(firm)
    found = answers(folder)
    assert outcome is Outcome.UNKNOWN
    assert [found[name]["answer"] for name in ("keys-accepted", "failures-known")] == ["unknown", "unknown"]
    assert found["models-valid"]["answer"] == "yes"
    assert "others succeeded since" in found["keys-accepted"]["because"]


@pytest.mark.deep
@pytest.mark.parametrize(
    ("model", "error", "causes"),
    [("house-blend", "503 overloaded", ["unknown"]), ("sonnet", "401 Incorrect API key provided", ["invalid-key"])],
)
def test_models_of_which_nobody_knows_whose_they_are_are_a_question_and_never_a_step(
    firm: Sandbox, tmp_path: Path, model: str, error: str, causes: list[str]
) -> None:
    fail = f"update ai_requests set selected_model = '{model}', status = 'failed', error = '{error}'"
    firm.break_with(stronger("ai-healthy", tmp_path, sql=[fail]))
    folder, _ = again(firm)
    found = answers(folder)["models-known"]
    assert found["answer"] == "unknown"
    assert f"ai_models whose {model} is" in found["because"]
    assert archive.summary(folder)["causes"] == causes
    assert not (folder / "plan.json").exists() or not plan.load(folder / "plan.json").actions


FEWEST = """delete from ai_requests where left(selected_model, 3) = 'gpt' and id not in (
    select id from ai_requests where left(selected_model, 3) = 'gpt' order by created_at desc limit 4)"""
FAIL = "update ai_requests set status = 'failed', error = '{}' where left(selected_model, 3) = 'gpt'"
HANGS = FAIL.format("Request timed out.")
HALF_AWAY = """update ai_requests set error = '504 Gateway Time-out' where id in (
    select id from (select id, row_number() over (order by created_at, id) as place
                    from ai_requests where error = 'Request timed out.') r where mod(place, 2) = 0)"""
NO_LIST = {"service": "openai", "route": "/v1/models", "status": 503, "from": "now"}


@pytest.mark.deep
@pytest.mark.parametrize(
    ("more", "causes", "in_time", "because"),
    [
        ({"sql": [FEWEST, FAIL.format("529 Overloaded")]}, ["unknown"], "yes", "none succeeded, 4 times 529"),
        ({"sql": [HANGS]}, ["unknown"], "unknown", "nearly all time out"),
        ({"sql": [HANGS], "faults": [NO_LIST]}, ["openai-outage"], "unknown", "no list of models"),
        ({"sql": [HANGS, HALF_AWAY]}, ["openai-outage"], "unknown", "times 504"),
    ],
    ids=["too few", "hangs", "hangs and is away", "hangs or is away"],
)
def test_a_provider_of_which_nothing_comes_back_is_not_called_well_and_never_ours_to_speed_up(
    firm: Sandbox, tmp_path: Path, more: dict[str, Any], causes: list[str], in_time: str, because: str
) -> None:
    firm.break_with(stronger("ai-healthy", tmp_path, **more))
    folder, _ = again(firm)
    found = answers(folder)
    assert archive.summary(folder)["causes"] == causes
    assert found["openai-answers"]["answer"] == ("no" if causes == ["openai-outage"] else "unknown")
    assert because in found["openai-answers"]["because"]
    assert found["requests-end-in-time"]["answer"] == in_time


@pytest.mark.deep
def test_a_counter_whose_reset_nobody_wrote_down_is_a_question_and_not_set_to_nothing(
    firm: Sandbox, tmp_path: Path
) -> None:
    undated = """update user_profiles set subscription_current_period_start = null, ai_words_reset_date = null,
        ai_words_used_this_month = 5000 where id = (select min(id::text)::uuid from user_profiles)"""
    firm.break_with(stronger("ai-healthy", tmp_path, sql=[undated]))
    folder, outcome = again(firm)
    found = answers(folder)["quotas-right"]
    assert outcome is Outcome.UNKNOWN
    assert (found["answer"], found["because"]) == (
        "unknown",
        "0 differ; of 1 nobody can tell since when words count",
    )
