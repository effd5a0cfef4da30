"""The runbook `runbook-template`: its scenarios, rehearsed."""

from __future__ import annotations

import pytest

from opskit import sandbox
from opskit.commands.runs import look
from opskit.commands.sandbox import approve_and_apply, written
from opskit.drill import rehearse

RUNBOOK = "runbook-template"
SCENARIOS = [name for name in sandbox.scenarios() if written(name)["runbook"] == RUNBOOK]
CASES = [(name, twin) for name in SCENARIOS for twin in (False, True) if not twin or written(name).get("twin")]


@pytest.mark.parametrize(("name", "twin"), CASES)
def test_what_breaks_is_found_mended_and_verified(name: str, twin: bool, firm: sandbox.Sandbox) -> None:
    assert rehearse(firm, name, 7, twin, look, approve_and_apply).wrong == []
