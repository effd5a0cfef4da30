"""A plan on a terminal: the actions first and whole, a line for each command, and each command whole where one asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from support import Opskit, data
from test_plan import MADE_FOR, action

from opskit import plan as plans
from opskit import record
from opskit.actions import Action

RUN = "20261123T031000000-aaaa"
STATEMENT = 'psql "$DATABASE_URL" -c "update documents set content = {} where ' + "n = 1 or " * 200 + 'n = 2"'


@pytest.fixture
def looked(outputs: Path) -> Callable[..., list[Action]]:
    """A run that ended in a plan of these actions."""

    def plan(*actions: Action) -> list[Action]:
        about = {"incident": "INC-1", "run": RUN, "runbook": "small", "environment": "sandbox", "operator": "ana",
                 "started": "2026-11-23T03:10:00+00:00", "host": "here", "parameters": {}}  # fmt: skip
        found = plans.Plan({**MADE_FOR, "run": RUN, "operator": "ana"}, list(actions))
        found.save(record.prepare(outputs, about) / "plan.json")
        return found.actions

    return plan


def many(name: str, command: str, how_many: int) -> Iterator[Action]:
    for number in range(1, how_many + 1):
        arguments = {"document": f"{name} {number}"}
        yield action(name, arguments=arguments, title=f"Write {name} {number} back", by_hand=command.format(number))


def test_a_long_plan_is_read_at_a_glance(opskit: Opskit, looked: Callable[..., list[Action]]) -> None:
    looked(action("turn.on", title="Turn it on", by_hand="turn on"), *many("documents", STATEMENT, 6))
    shown = opskit("plan", "last").stdout
    actions, commands = shown.split("The same by hand, on the night when this does not work:\n")
    assert all(f"Write documents {number} back" in actions for number in range(1, 7))
    first, second, alike, whole, _, following = commands.splitlines()
    assert first == "   1  turn on"
    assert second.startswith('   2  psql "$DATABASE_URL" -c "update documents') and second.endswith("…")
    assert len(second) <= 80
    assert alike.strip() == "… and alike for 3 to 7"
    assert whole == f"Each whole, to copy: opskit plan {RUN} --by-hand"
    assert following.startswith(f"Next: opskit approve {RUN}")


def test_each_command_can_be_had_whole_beside_its_action(opskit: Opskit, looked: Callable[..., list[Action]]) -> None:
    found = looked(*many("documents", STATEMENT, 6), action("look", title="Look again", removes_access=True))
    shown = opskit("plan", "last", "--by-hand").stdout
    for number, one in zip(count(1), found[:-1], strict=False):
        assert f"# {number}  {one.title}\n{one.by_hand}\n" in shown
    assert shown.endswith("# 7  Look again  (REMOVES ACCESS)\n")
    assert data(opskit("plan", "last", "--json"))["actions"][5]["by_hand"] == found[5].by_hand


def test_a_few_short_commands_are_whole_at_once(opskit: Opskit, looked: Callable[..., list[Action]]) -> None:
    looked(*many("events", "stripe events resend evt_{} --webhook-endpoint=we_1 --live", 3))
    shown = opskit("plan", "last").stdout
    assert all(f"   {number}  stripe events resend evt_{number} --" in shown for number in (1, 2, 3))
    assert "--by-hand" not in shown


def test_no_title_is_a_command(opskit: Opskit, looked: Callable[..., list[Action]]) -> None:
    looked(replace(action(by_hand="turn on"), title="Go back to “Fix\nrm -rf /”"))
    assert opskit("plan", "last", "--by-hand").stdout == "# 1  Go back to “Fix rm -rf /”\nturn on\n"
