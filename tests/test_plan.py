"""Plans: data with a digest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit import plan as plans
from opskit.actions import Action
from opskit.errors import BadInput
from opskit.plan import Plan

MADE_FOR = {"runbook": "r", "notebook": "sha256:n", "opskit": "0.1", "environment": "production", "target": "sha256:t"}


def action(name: str = "a.do", **changes: Any) -> Action:
    return replace(Action(name, {"thing": 1}, {"state": "off"}, "Do <it>"), **changes)


def plan(*actions: Action) -> Plan:
    return Plan(dict(MADE_FOR), list(actions or (action(), action("b.do"))))


def test_the_same_change_of_the_same_thing_is_planned_once() -> None:
    one = plan(action())
    one.add(action(title="said otherwise"))
    one.add(action(arguments={"thing": 2}))
    assert len(one) == 2


def test_a_plan_says_what_waits_for_what(tmp_path: Path) -> None:
    one = plan(action(manual=True))
    one.add(action("b.do"), after=one.actions)
    assert "Do <it>  (after 1)" in repr(one)
    assert "after 1" in one._repr_html_()
    one.save(tmp_path / "plan.json")
    again = plans.load(tmp_path / "plan.json")
    assert (again.actions[1].after, again.digest) == ([one.actions[0].id], one.digest)


def test_a_plan_without_an_order_keeps_the_digest_that_it_always_had() -> None:
    assert "after" not in action().data()


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
    "another order of things": plan(action(), action("b.do", after=[action().id])),
    "a removal": plan(action(removes_access=True), action("b.do")),
    "one less": plan(action()),
    "one more": plan(action(), action("b.do"), action("c.do")),
    "another order": plan(action("b.do"), action()),
    "another target": Plan({**MADE_FOR, "target": "sha256:other"}, [action(), action("b.do")]),
}


@pytest.mark.parametrize("other", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_any_difference_is_another_digest(other: Plan) -> None:
    assert other.digest != plan().digest


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
