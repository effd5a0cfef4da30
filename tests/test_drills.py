"""Every shipped scenario, rehearsed end to end, and its twin, in which the right answer is `unknown`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import OPSKIT, Opskit, quickly

from opskit import sandbox
from opskit.commands.runs import look
from opskit.commands.sandbox import approve_and_apply, written
from opskit.drill import rehearse
from opskit.outcome import Outcome
from opskit.sandbox import Sandbox

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
# Of each runbook one that is healed whole, one healthy night, and two whose cause is hidden from us. The others are
# rehearsed by `make test-deep`; that of autosave is healed in `test_autosave`.
QUICK = {
    (name, twin)
    for twin, names in {
        False: "healthy secret-mismatch-and-tier-mapping autosave-busy ai-anthropic-outage migrations-partial-apply",
        True: "tier-mapping autosave-truncation",
    }.items()
    for name in names.split()
}
EVERY = [
    pytest.param(name, twin, id=f"{name}{'-twin' * twin}", marks=[] if (name, twin) in QUICK else [pytest.mark.deep])
    for name in sandbox.scenarios()
    for twin in (False, True)
    if not twin or written(name).get("twin")
]


@pytest.mark.parametrize("name", sandbox.scenarios())
def test_a_scenario_rehearses_a_runbook_that_there_is(name: str) -> None:
    assert (NOTEBOOKS / f"{written(name)['runbook']}.ipynb").is_file()


@pytest.mark.parametrize(("name", "twin"), EVERY)
def test_scenario(name: str, twin: bool, firm: Sandbox) -> None:
    assert rehearse(firm, name, 7, twin, look, approve_and_apply).wrong == []


@pytest.mark.deep
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("name", "twin"), EVERY)
def test_scenario_in_other_companies(name: str, twin: bool, seed: int, firm: Sandbox) -> None:
    assert rehearse(firm, name, seed, twin, look, approve_and_apply).wrong == []


STOPS = [
    (sign, command, phase)
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for command in ("drill", "demo")
    for phase in ("starting", "broken")
]


@pytest.mark.parametrize(("sign", "command", "phase"), quickly(STOPS, STOPS[3], STOPS[4]))
def test_whoever_stops_a_rehearsal_leaves_no_company_behind(
    sign: signal.Signals, command: str, phase: str, tmp_path: Path
) -> None:
    """The process alone is told, as by `kill`; Ctrl-C tells its children too."""
    surroundings = os.environ | {"OPSKIT_STATE": str(tmp_path / "state"), "OPSKIT_OUTPUTS": str(tmp_path / "outputs")}
    words = {"drill": ["drill", "stripe-webhook-replay", "--seed", "1", "--jobs", "1"], "demo": ["demo"]}[command]
    place = {"starting": "state/d*/lock", "broken": "outputs/*/*/notebook.ipynb"}[phase]
    with subprocess.Popen([OPSKIT, *words], env=surroundings, stdout=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob(place)):
            assert process.poll() is None
            time.sleep(0.05)
        company = [path for path in (tmp_path / "state").glob("d*") if path.is_dir()]
        process.send_signal(sign)
        process.communicate(timeout=120)
    assert process.returncode == 1
    assert company
    assert not any(path.exists() for path in company)


@pytest.mark.deep
def test_a_rehearsal_leaves_an_archive_that_proves_itself(firm: Sandbox, outputs: Path, opskit: Opskit) -> None:
    firm.break_with("endpoint-disabled")
    folder, outcome = look("stripe-webhook-replay", {"environment": firm.name, "since": "6h"})
    assert outcome is Outcome.PLANNED
    approve_and_apply(folder)
    assert opskit("verify").exit_code == 0
