"""Two applies at the same moment: exactly one acts, each time; the other is told who holds the environment."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import REPOSITORY, Machine

from opskit.sandbox import Sandbox

HELD = re.compile(r"is being changed: opskit apply (ana|bo)@\S+, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC")


@pytest.fixture
def two(firm: Sandbox, ana: Path, bo: Path, tmp_path: Path) -> tuple[Machine, Machine]:
    return Machine("ana", ana, tmp_path, firm), Machine("bo", bo, tmp_path, firm)


def enabled(firm: Sandbox) -> int:
    """How often Stripe was told to enable the endpoint."""
    return sum(t["method"] == "POST" and "/webhook_endpoints/" in t["path"] for t in firm.traffic())


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=pytest.mark.deep)])
def test_of_two_applies_exactly_one_acts(firm: Sandbox, two: tuple[Machine, Machine], rounds: int) -> None:
    won = dict.fromkeys(("ana", "bo"), 0)
    firm.break_with("endpoint-disabled")
    for machine in two:
        machine.plans()
    for number in range(rounds):
        firm.break_with("endpoint-disabled")
        for machine in two:
            machine.begins_again()
        with ThreadPoolExecutor() as both:
            first, second = both.map(Machine.applies, two)
        codes = (first.returncode, second.returncode)
        assert sorted(codes) == [0, 4], (number, first, second)
        loser, winner = (first, "bo") if codes[0] == 4 else (second, "ana")
        held = HELD.search(loser.stderr)
        assert held, loser.stderr
        assert held[1] == winner
        assert [machine.acted() for machine in two] == [int(winner == "ana"), int(winner == "bo")]
        assert enabled(firm) == 1
        won[winner] += 1
    print(f"\nTwo applies, {rounds} rounds: exactly one acted each time ({won['ana']} times Ana's, {won['bo']} Bo's).")


RACING = f"""
import sys, time
from pathlib import Path
sys.path[:0] = [{str(REPOSITORY / "tests")!r}]
from support import everything
from opskit.errors import Refused
from opskit.lock import alone
name, outputs, meeting, me, other, rounds = sys.argv[1], *map(Path, sys.argv[2:4]), *sys.argv[4:6], int(sys.argv[6])

def meet(what):
    (meeting / f"{{me}} {{what}}").touch()
    while not (meeting / f"{{other}} {{what}}").exists():
        time.sleep(0.001)

for number in range(rounds):
    database = everything(name)[1].database
    meet(f"begins {{number}}")  # both at the same moment
    try:
        with alone(name, database, outputs, "apply"):
            print("acts", flush=True)
            meet(f"has tried {{number}}")
    except Refused as refused:
        print(refused.message, flush=True)
        meet(f"has tried {{number}}")
    meet(f"ends {{number}}")
    database.close()
"""


@pytest.mark.parametrize("rounds", [20, pytest.param(300, marks=pytest.mark.deep)])
def test_of_two_that_lock_at_the_same_moment_exactly_one_does(
    firm: Sandbox, two: tuple[Machine, Machine], rounds: int, tmp_path: Path
) -> None:
    (tmp_path / "meeting").mkdir()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RACING, firm.name, machine.outputs, tmp_path / "meeting", *names, str(rounds)],
            env=machine.surroundings, stdout=subprocess.PIPE, text=True,
        )
        for machine, names in zip(two, (("ana", "bo"), ("bo", "ana")), strict=True)
    ]  # fmt: skip
    said = [process.communicate(timeout=500)[0].splitlines() for process in running]
    assert [len(lines) for lines in said] == [rounds, rounds]
    for pair in zip(*said, strict=True):
        assert sum(line == "acts" for line in pair) == 1, pair
        assert sum(bool(HELD.search(line)) for line in pair) == 1, pair
    won = sum(line == "acts" for line in said[0])
    print(f"\nThe lock alone, {rounds} rounds: exactly one held it each time ({won} times Ana, {rounds - won} Bo).")


@pytest.mark.deep
def test_on_one_machine_the_second_apply_of_the_same_plan_is_refused_too(
    firm: Sandbox, two: tuple[Machine, Machine]
) -> None:
    firm.break_with("endpoint-disabled")
    machine = two[0]
    machine.plans()
    before = enabled(firm)
    with ThreadPoolExecutor() as both:
        done = list(both.map(Machine.applies, (machine, machine)))
    assert sorted(d.returncode for d in done) == [0, 4], done
    assert enabled(firm) - before == 1
    assert machine.acted() == 1
