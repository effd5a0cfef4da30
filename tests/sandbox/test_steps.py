"""What was done by hand is said in words, and never as a value that may be secret."""

from __future__ import annotations

from itertools import chain

import pytest

from opskit.sandbox import scenario, scenarios, steps
from opskit.sandbox.scenario import Step

SAID = {
    "What was wrong has ended: outage.": {"lift": "outage"},
    "Set at the hosting: STRIPE_WEBHOOK_SECRET.": {"env": {"STRIPE_WEBHOOK_SECRET": "whsec_never_said"}},
    "Built the same code again, and deployed it.": {"redeploy": True},
    "Mended the code, and deployed it: thinking seconds.": {"behaviour": {"thinking_seconds": 0}},
    "Rolled back to the deployment before.": {"rollback": True},
    "Ran as superuser: alter role opskit_read bypassrls": {"sql": "alter role opskit_read\n  bypassrls"},
    "Changed the webhook endpoint: status.": {"set_endpoint": {"status": "enabled"}},
    "Changed something at a provider: openai.": {
        "happenings": [{"what": "set_provider", "provider": "openai", "funded": True}]
    },
}


@pytest.mark.parametrize(("said", "step"), SAID.items())
def test_each_kind_of_step_is_a_sentence(said: str, step: dict[str, object]) -> None:
    assert list(steps.told(Step.model_validate(step))) == [said]


def test_a_step_that_does_nothing_says_nothing() -> None:
    assert list(steps.told(Step(rollback=False, redeploy=False))) == []


def test_every_shipped_step_is_told_in_one_line() -> None:
    shipped = [step for name in scenarios() for step in scenario.load(name).by_hand]
    told = list(chain.from_iterable(map(steps.told, shipped)))
    assert len(told) >= len(shipped)
    for line in told:
        assert "\n" not in line and "{" not in line and "True" not in line
        assert len(line) <= 120 + len("Ran as superuser: ")
