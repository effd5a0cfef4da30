"""Plans: data with a digest; approved exactly, by name, for an hour."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit import plan as plans
from opskit.actions import Action
from opskit.errors import BadInput, Refused
from opskit.plan import Approval, Plan, approve, require

MADE_FOR = {"runbook": "r", "notebook": "sha256:n", "opskit": "0.1", "environment": "production", "target": "sha256:t"}
NOW_FOR = {"notebook": "sha256:n", "opskit": "0.1", "target": "sha256:t"}


def action(name: str = "a.do", **changes: Any) -> Action:
    return replace(Action(name, {"thing": 1}, {"state": "off"}, "Do <it>"), **changes)


def plan(*actions: Action) -> Plan:
    return Plan(dict(MADE_FOR), list(actions or (action(), action("b.do"))))


def approved(proposed: Plan, typed: str | None = None, **more: Any) -> Approval:
    return approve(proposed, "bo", typed or f"production {len(proposed)}", **{"max_actions": 25, **more})


# The plan.


def test_the_same_change_of_the_same_thing_is_planned_once() -> None:
    one = plan(action())
    one.add(action(title="said otherwise"))
    one.add(action(arguments={"thing": 2}))
    assert len(one) == 2


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    one = plan(action(arguments={"ü": [1, None]}, before=None), action("b", manual=True, removes_access=True))
    one.save(tmp_path / "plan.json")
    again = plans.load(tmp_path / "plan.json")
    assert (again, again.digest) == (one, one.digest)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=3), json_values)
def test_the_digest_is_of_what_it_means_and_not_of_how_it_is_written(arguments: dict[str, Any], before: Any) -> None:
    one = plan(action(arguments=arguments, before=before))
    data = json.loads(json.dumps(one.data(), indent=7, sort_keys=True))
    assert Plan(data["made_for"], [Action(**a) for a in data["actions"]]).digest == one.digest


DIFFERENT = {
    "another argument": plan(action(arguments={"thing": 2}), action("b.do")),
    "another state": plan(action(before={"state": "on"}), action("b.do")),
    "another title": plan(action(title="Do that"), action("b.do")),
    "another command": plan(action(by_hand="rm"), action("b.do")),
    "manual": plan(action(manual=True), action("b.do")),
    "a removal": plan(action(removes_access=True), action("b.do")),
    "one less": plan(action()),
    "one more": plan(action(), action("b.do"), action("c.do")),
    "another order": plan(action("b.do"), action()),
    "another target": Plan({**MADE_FOR, "target": "sha256:other"}, [action(), action("b.do")]),
}


@pytest.mark.parametrize("other", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_any_difference_is_another_digest_and_voids_the_approval(other: Plan) -> None:
    assert other.digest != plan().digest
    with pytest.raises(Refused, match="the approval is for another plan"):
        require(approved(plan()), other, NOW_FOR, "run")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"made_for": {}}',
        '{"made_for": {}, "actions": [{"name": "a"}]}',
        '{"made_for": {}, "actions": 5}',
    ],
)
def test_what_holds_no_plan_is_said_to_hold_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(BadInput, match="holds no plan"):
        plans.load(tmp_path / "plan.json")
    with pytest.raises(BadInput, match="holds no plan"):
        plans.load(tmp_path / "none.json")


def test_a_plan_shows_what_it_takes_and_what_people_do() -> None:
    one = plan(action(removes_access=True), action("b.do", manual=True))
    for shown in (repr(one), one._repr_html_()):
        assert "REMOVES ACCESS" in shown
        assert "by hand" in shown
        assert one.digest[:19] in shown
    assert "Do &lt;it&gt;" in one._repr_html_()
    assert "empty" in repr(Plan({}))
    assert "empty" in Plan({})._repr_html_()


def test_a_long_plan_shows_its_head() -> None:
    shown = plan(*(action(f"a{n}") for n in range(60)))._repr_html_()
    assert "and 10 more in plan.json" in shown


# Approving.


@pytest.mark.parametrize("typed", ["production 2", "  production   2 "])
def test_the_environment_and_the_number_approve_it(typed: str) -> None:
    given_at = datetime.now(UTC)
    approval = approved(plan(), typed)
    assert (approval.plan, approval.environment, approval.actions, approval.approver) == (
        plan().digest, "production", 2, "bo",
    )  # fmt: skip
    assert timedelta(minutes=59) < datetime.fromisoformat(approval.expires) - given_at < timedelta(minutes=61)
    require(approval, plan(), NOW_FOR, "run")


@pytest.mark.parametrize(
    "typed", ["", "yes", "production", "2", "production 3", "Production 2", "sandbox 2", "production 2 x"]
)
def test_anything_else_does_not(typed: str) -> None:
    with pytest.raises(Refused, match="not approved"):
        approve(plan(), "bo", typed, max_actions=25)


def test_an_empty_plan_cannot_be_approved() -> None:
    with pytest.raises(Refused, match="empty"):
        approve(Plan(dict(MADE_FOR)), "bo", "production 0", max_actions=25)


def test_removals_are_approved_by_name_only() -> None:
    one = plan(action(removes_access=True), action("b.do"))
    with pytest.raises(Refused, match=r"(?s)1 of 2 actions take access away .*Do <it>.*--with-removals"):
        approved(one)
    assert approved(one, with_removals=True).removals == 1


def test_more_than_the_limit_needs_that_number() -> None:
    one = plan(*(action(f"a{n}") for n in range(30)))
    with pytest.raises(Refused, match="above this environment's max_actions of 25"):
        approved(one, "production 25")
    assert approved(one, "production 30").actions == 30


def test_an_approval_survives_its_file(tmp_path: Path) -> None:
    approval = approved(plan())
    approval.save(tmp_path / "approvals" / "run.json")
    assert plans.load_approval(tmp_path / "approvals" / "run.json") == approval
    assert plans.load_approval(tmp_path / "none.json") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plan": "x"}', "5"])
def test_what_is_no_approval_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput, match="is not an approval"):
        plans.load_approval(tmp_path / "a.json")


# Requiring.


def test_without_approval_nothing_goes() -> None:
    with pytest.raises(Refused, match=r"not approved\. Next: opskit approve run-1"):
        require(None, plan(), NOW_FOR, "run-1")


def test_an_approval_expires() -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    with pytest.raises(Refused, match="expired"):
        require(replace(approved(plan()), expires=past), plan(), NOW_FOR, "run")


@pytest.mark.parametrize("key", NOW_FOR)
def test_whatever_changed_since_makes_it_stale(key: str) -> None:
    with pytest.raises(Refused, match=f"stale: {key} changed"):
        require(approved(plan()), plan(), {**NOW_FOR, key: "sha256:new"}, "run")
