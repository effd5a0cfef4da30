"""Kill it anywhere: nothing is done twice, nothing done is forgotten, and what cannot be known is said.

A plan of twenty mixed actions is carried out by processes that are killed at every moment of every action, and of
sealing; then it is resumed. What was really done is counted in the world.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from scene import Said, Scene, results
from support import Opskit, data, quickly
from victims import DOUBTFUL, MOMENTS, OPENING, RESULT, SEALING, Accident, Put

from opskit import archive, journal, record
from opskit.actions import Action, Result, carry_out
from opskit.errors import Refused
from opskit.lock import is_attended

Run = Callable[..., Said]


SETTLED = ("done", "already so")


@dataclass
class Tally:
    """What crashes have come to, for one line at the end of a test run."""

    note: Callable[[str, object], None]

    def count(self, scene: Scene, final: Path, crashes: int, unknowable: int = 0) -> dict[str, int]:
        """Compare what a last record says with what happened; `unknowable` is how many fates truly cannot be known."""
        happened, said = scene.done(), results(final)
        invisible = ("profiles.look_again",)
        claimed = {a.id: said.get(a.id) for a in scene.actions if a.name not in invisible}
        stopped = [n for n, a in enumerate(scene.actions) if said.get(a.id) in ("begun", "fate unknown")]
        reached = scene.actions[: stopped[0]] if stopped else scene.actions
        found = {
            "crashes": crashes,
            "duplicates": sum(max(0, times - 1) for times in happened.values()),
            "forgotten": sum(_forgotten(claimed[a.id], happened[a.id]) for a in reached if a.id in claimed),
            "unknown": len(stopped),
            "unknowable": unknowable,
        }
        self.note("crashes", found)
        return found


def _forgotten(claimed: str | None, times: int) -> bool:
    """Done and not said, or said and not done, or neither."""
    return claimed not in SETTLED or times == 0


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    return Tally(record_property)


def newest(outputs: Path) -> Path:
    return archive.Archive(outputs).runs()[0]


def history(opskit: Opskit) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = data(opskit("history", "--json"))
    return found


def finish(run: Run, scene: Scene, outputs: Path) -> Said:
    """The last resume, after which all that can be done is done: a person has signed."""
    scene.sign()
    return run("resume", "last", "--json")


def that_know(scene: Scene, moment: str) -> list[Action]:
    """The actions that know this moment: what a person does, or what is so already, only has a result."""
    return [a for a in scene.actions if moment in RESULT or not (a.manual or a.name == "profiles.look_again")]


def left(folder: Path) -> bool:
    """Whether nobody is at work on a run any more, within a while: a kernel soon follows its runner."""
    deadline = time.monotonic() + 60
    while is_attended(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_attended(folder)


# Every moment of every action. One chain of processes for each moment: each is killed one action further on.


@pytest.mark.parametrize("moment", quickly(MOMENTS, "in the action"))
def test_killed_at_each_action_in_turn(
    moment: str, scene: Scene, run: Run, opskit: Opskit, outputs: Path, tally: Tally
) -> None:
    planned = scene.plan(outputs)
    doomed = that_know(scene, moment)
    for number, action in enumerate(doomed):
        verb = ("resume", "last") if number else ("apply", planned.name)
        scene.settle()
        said = run(*verb, accident=Accident(moment, action.id))
        assert said.exit == -9, f"{action.title}: {said}"
    lost = history(opskit)[0]
    assert (lost["outcome"], lost["sealed"]) == ("lost", False)
    scene.settle()
    last = finish(run, scene, outputs)
    unknowable = int(moment in DOUBTFUL)  # the bell is the last of all
    found = tally.count(scene, newest(outputs), crashes=len(doomed), unknowable=unknowable)
    assert (found["duplicates"], found["forgotten"], found["unknown"]) == (0, 0, unknowable), last
    assert (last.exit, last.data["outcome"]) == ((5, "fate unknown") if unknowable else (0, "done and verified"))
    assert [r["outcome"] for r in history(opskit)[1:-1]] == ["lost"] * len(doomed)
    assert opskit("verify").exit_code == 0


# Every moment of sealing, of an apply and of a resume.


@pytest.mark.parametrize("moment", quickly(SEALING, "before the end", "before the history"))
def test_killed_while_an_apply_is_sealed(
    moment: str, scene: Scene, run: Run, opskit: Opskit, outputs: Path, tally: Tally
) -> None:
    planned = scene.plan(outputs)
    scene.sign()
    said = run("apply", planned.name, accident=Accident(moment))
    assert said.exit == -9, said.out
    found = tally.count(scene, newest(outputs), crashes=1)
    assert (found["duplicates"], found["forgotten"], found["unknown"]) == (0, 0, 0)
    expected = "lost" if moment == "before the end" else "done and verified"
    assert history(opskit)[0]["outcome"] == expected
    assert opskit("seal", "last").exit_code == 0
    assert (history(opskit)[0]["outcome"], history(opskit)[0]["sealed"]) == (expected, True)
    assert opskit("verify").exit_code == 0
    last = run("resume", "last", "--json")
    assert (last.exit, last.data["outcome"]) == (0, "done and verified")
    assert tally.count(scene, newest(outputs), crashes=0)["duplicates"] == 0


TWICE = tuple(itertools.product(SEALING, (1, 2)))


@pytest.mark.parametrize(
    ("moment", "nth"),
    [*((moment, 1) for moment in OPENING), *quickly(TWICE, ("before the seal", 1), ("before the end", 2))],
)
def test_killed_while_a_resume_opens_or_seals(
    moment: str, nth: int, scene: Scene, run: Run, opskit: Opskit, outputs: Path, tally: Tally
) -> None:
    """It seals the lost run first, and then its own; what it carries over is carried whole."""
    planned = scene.plan(outputs)
    half = scene.actions[10]  # the one for a person: ten are done
    said = run("apply", planned.name, accident=Accident("before the result", half.id))
    assert said.exit == -9, said.out
    scene.sign()
    scene.settle()
    assert run("resume", "last", accident=Accident(moment, nth=nth)).exit == -9
    scene.settle()
    last = run("resume", "last", "--json")
    assert (last.exit, last.data["outcome"]) == (0, "done and verified"), last
    found = tally.count(scene, newest(outputs), crashes=2)
    assert (found["duplicates"], found["forgotten"], found["unknown"]) == (0, 0, 0)
    for folder in archive.Archive(outputs).runs():
        assert opskit("seal", folder.name).exit_code == 0
    assert opskit("verify").exit_code == 0


# Fates that cannot be known, in the middle of a plan.


@pytest.mark.parametrize("moment", quickly(MOMENTS, "after the intent", "in the action"))
def test_what_cannot_be_known_stops_everything_after_it(
    moment: str, scene: Scene, run: Run, opskit: Opskit, outputs: Path, tally: Tally
) -> None:
    first, last = scene.of("test.put")
    bell = scene.ring("/middle")
    planned = scene.plan(outputs, [first, bell, last])
    assert run("apply", planned.name, accident=Accident(moment, bell.id)).exit == -9
    doubtful = moment in DOUBTFUL
    for _ in range(2):  # asking again does not make it known, and does not ring again
        scene.settle()
        said = run("resume", "last", "--json")
        assert said.data["outcome"] == ("fate unknown" if doubtful else "done and verified")
    happened = scene.done()
    assert happened[first.id] == 1
    assert happened[last.id] == (0 if doubtful else 1)
    rung = scene.bell.rung.count("/middle")
    assert rung == (0 if moment == "after the intent" else 1)
    tally.note("crashes", {"crashes": 1, "duplicates": max(0, rung - 1), "forgotten": 0 if doubtful else int(not rung),
                           "unknown": int(said.exit == 5), "unknowable": int(doubtful)})  # fmt: skip
    assert ("fate unknown: Ring" in said.err) == doubtful
    assert bool(re.search("fate unknown +Ring", opskit("show", "last").stdout)) == doubtful


def test_what_somebody_changed_meanwhile_cannot_be_known(scene: Scene, run: Run, outputs: Path, tally: Tally) -> None:
    """A profile that is neither as it was nor as it was to become: nobody can tell whether ours was in between."""
    action = scene.of("profiles.reconcile")[0]
    planned = scene.plan(outputs, [action])
    assert run("apply", planned.name, accident=Accident("after the intent", action.id)).exit == -9
    with scene.firm.world.database.connect() as connection:
        connection.execute(
            "update user_profiles set subscription_tier = 'studio' where id = %s", (action.arguments["profile"],)
        )
    scene.settle()
    said = run("resume", "last", "--json")
    assert (said.exit, said.data["outcome"]) == (5, "fate unknown")
    assert scene.done()[action.id] == 0
    tally.note("crashes", {"crashes": 1, "duplicates": 0, "forgotten": 0, "unknown": 1, "unknowable": 1})


# The whole command line, with a real kernel.

CASES = (
    ("kernel", "before the intent", 1), ("kernel", "after the intent", 3), ("kernel", "in the action", 2),
    ("kernel", "before the result", 6), ("kernel", "after the result", 8),
    ("runner", "before the intent", 4), ("runner", "after the intent", 7), ("runner", "in the action", 5),
    ("runner", "before the result", 0), ("runner", "after the result", 11),
    ("runner", "before the seal", None), ("runner", "after the seal", None),
)  # fmt: skip


@pytest.mark.parametrize(("victim", "moment", "number"), quickly(CASES, CASES[2], CASES[7], CASES[10]))
def test_killed_for_real(
    victim: str, moment: str, number: int | None,
    scene: Scene, run: Run, opskit: Opskit, outputs: Path, tally: Tally,
) -> None:  # fmt: skip
    planned = scene.plan(outputs)
    action = "" if number is None else scene.actions[number].id
    said = run("apply", planned.name, accident=Accident(moment, action, (victim,)), kernel=True)
    folder = newest(outputs)
    assert left(folder)
    found = history(opskit)[0]
    if victim == "kernel":  # the runner saw it die
        assert said.exit in (1, 5)
        assert (found["outcome"], found["sealed"]) == ("fate unknown" if moment in DOUBTFUL else "partly applied", True)
        assert "the kernel died" in said.out
    else:
        assert said.exit == -9
        assert found["outcome"] == ("partly applied" if number is None else "lost")
    assert found["outcome"] in opskit("show", "last").stdout
    assert opskit("verify").exit_code == (1 if found["sealed"] and moment == "before the history" else 0)
    scene.settle()
    last = finish(run, scene, outputs)
    assert (last.exit, last.data["outcome"]) == (0, "done and verified"), last
    counted = tally.count(scene, newest(outputs), crashes=1)
    assert (counted["duplicates"], counted["forgotten"], counted["unknown"]) == (0, 0, 0)
    assert opskit("verify").exit_code == 0


def kernel_of(folder: Path) -> int:
    return int(
        next(event["kernel"] for event in journal.read(folder / record.JOURNAL) if event["event"] == "run.begun")
    )


def test_a_resume_waits_until_the_kernel_of_a_dead_runner_is_gone(
    scene: Scene, run: Run, opskit: Opskit, outputs: Path
) -> None:
    planned = scene.plan(outputs)
    accident = Accident("before the result", scene.actions[4].id, ("runner", "kernel asleep"))
    assert run("apply", planned.name, accident=accident, kernel=True).exit == -9
    folder = newest(outputs)
    kernel = kernel_of(folder)
    try:
        assert history(opskit)[0]["outcome"] == "under way"
        for verb in (("resume", "last"), ("undo", "last", "--type", f"{scene.name} 1"), ("seal", "last")):
            refused = opskit(*verb)
            assert refused.exit_code == 4
            assert f"{folder.name} is still under way" in refused.stderr
    finally:
        os.kill(kernel, signal.SIGKILL)
    assert left(folder)
    assert history(opskit)[0]["outcome"] == "lost"
    assert finish(run, scene, outputs).exit == 0


def test_the_next_run_of_an_incident_tells_of_the_lost_one(scene: Scene, run: Run, outputs: Path) -> None:
    planned = scene.plan(outputs)
    assert run("apply", planned.name, accident=Accident("after the intent")).exit == -9
    lost = newest(outputs)
    scene.settle()
    said = run("run", "crashes", "--incident", "INC-1", "--environment", scene.name, kernel=True)
    assert f"{lost.name}, of this incident, was lost on the way: opskit resume {lost.name}" in said.out
    refused = run("apply", scene.plan(outputs).name)
    assert refused.exit == 4
    assert f"opskit resume {lost.name}" in refused.err


# Another machine, and taking back.


def test_another_engineer_resumes_on_another_machine(
    scene: Scene, run: Run, opskit: Opskit, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    planned = scene.plan(outputs)
    assert run("apply", planned.name, accident=Accident("in the action", scene.actions[5].id)).exit == -9
    head = json.loads((newest(outputs) / "run.json").read_text())
    (newest(outputs) / "run.json").write_text(json.dumps(head | {"host": "laptop-of-ana"}))
    handed_over = tmp_path / "from-ana" / newest(outputs).name
    shutil.copytree(newest(outputs), handed_over)
    monkeypatch.setenv("OPSKIT_OUTPUTS", str(tmp_path / "outputs-of-ben"))
    monkeypatch.setenv("OPSKIT_OPERATOR", "ben")
    scene.sign()
    scene.settle()
    said = run("resume", handed_over, "--json")
    assert (said.exit, said.data["outcome"]) == (0, "done and verified"), said
    found = json.loads((Path(said.data["folder"]) / "run.json").read_text())
    assert Path(said.data["folder"]).is_relative_to(tmp_path / "outputs-of-ben")
    assert (found["operator"], found["resumes"]) == ("ben", handed_over.name)
    assert (found["after"]["operator"], found["after"]["host"]) == ("ana", "laptop-of-ana")
    closed = list(journal.read(handed_over / record.JOURNAL))[-1]
    assert (closed["event"], closed["outcome"], closed["closed_by"]) == ("run.ended", "lost", "ben")
    assert opskit("verify", handed_over).exit_code == 0
    assert opskit("verify").exit_code == 0
    assert not (tmp_path / ".git").exists()  # nobody's other folders become an archive
    counted = tally.count(scene, Path(said.data["folder"]), crashes=1)
    assert (counted["duplicates"], counted["forgotten"], counted["unknown"]) == (0, 0, 0)


def test_a_run_that_was_resumed_is_not_resumed_again(scene: Scene, run: Run, outputs: Path) -> None:
    """What was done since stands in the later record: from the earlier one alone, the bell would ring twice."""
    first, bell = scene.of("test.put")[0], scene.ring("/once")
    planned = scene.plan(outputs, [first, bell])
    assert run("apply", planned.name, accident=Accident("after the result", first.id)).exit == -9
    lost = newest(outputs)
    scene.settle()
    assert run("resume", lost.name).exit == 0
    later = newest(outputs)
    for verb in (("resume",), ("undo", "--type", f"{scene.name} 1")):
        said = run(verb[0], lost.name, *verb[1:])
        assert said.exit == 4
        assert later.name in said.err
    assert scene.bell.rung == ["/once"]


@pytest.mark.parametrize("moment", quickly((*MOMENTS[2:5], MOMENTS[6]), "in the action"))
def test_killed_while_taking_back_and_taken_back_again(
    moment: str, scene: Scene, run: Run, opskit: Opskit, outputs: Path
) -> None:
    """One chain again: each undo is killed at the next change, and the last one finishes."""
    back = [a for a in scene.actions if a.name in ("stripe.enable_endpoint", "profiles.recount_words", "test.put")]
    planned = scene.plan(outputs, back)
    assert run("apply", planned.name).exit == 0
    applied = newest(outputs)
    typed = f"{scene.name} {len(back)}"
    for action in reversed(back):
        scene.settle()
        assert run("undo", "last", "--type", typed, accident=Accident(moment, action.id)).exit == -9, action.title
    assert history(opskit)[0]["outcome"] == "lost"
    refused = run("resume", "last")
    assert refused.exit == 4
    assert f"opskit undo {applied.name}" in refused.err
    scene.settle()
    said = run("undo", "last", "--type", typed, "--json")
    assert (said.exit, said.data["outcome"]) == (0, "taken back")
    assert run("undo", "last", "--type", typed).exit == 4  # taken back already
    happened, undone = scene.done(), scene.done("undone")
    for action in back:
        if action.name == "stripe.enable_endpoint":
            assert happened[action.id] == 0
        elif action.name == "test.put":
            assert (happened[action.id], undone[action.id]) == (1, 1)
        else:
            assert happened[action.id] == 2  # there and back, once each
    scene.plan(outputs)
    assert (
        run("apply", newest(outputs).name, accident=Accident("after the intent")).exit == -9
    )  # nothing lost is in its way


def test_a_second_undo_leaves_alone_what_another_run_did_since(
    scene: Scene, run: Run, opskit: Opskit, outputs: Path
) -> None:
    """The same changes, made again by another plan, look just like those of the first, which were taken back."""
    first, last = scene.of("test.put")
    assert run("apply", scene.plan(outputs, [first, last]).name).exit == 0
    applied = newest(outputs)
    file = Path(last.arguments["file"])
    file.write_text("somebody else's")
    typed = ("--type", f"{scene.name} 2", "--json")
    scene.settle()
    partly = run("undo", applied.name, *typed)
    assert (partly.data["outcome"], partly.data["taken_back"]) == ("partly applied", 1)
    left_alone = f"not taken back, stale {last.title} (changed since, so not touched: "
    assert left_alone in opskit("show", "last").stdout
    assert data(opskit("show", "last", "--json"))["undone"][0]["result"] == "stale"
    scene.settle()
    assert run("apply", scene.plan(outputs, [first]).name).exit == 0
    assert Path(first.arguments["file"]).read_text() == "ink"
    file.write_text("ink")  # whoever changed it put it back
    for _ in range(2):
        scene.settle()
        said = run("undo", applied.name, *typed)
    assert Path(first.arguments["file"]).read_text() == "ink"
    assert not file.exists()
    assert scene.done("undone")[first.id] == scene.done("undone")[last.id] == 1
    assert said.exit == 4  # the one before took back the rest
    shown = opskit("show", "last").stdout
    assert shown.count("taken back  ") == 2


def test_a_lost_apply_that_was_taken_back_is_in_nobodys_way(
    scene: Scene, run: Run, opskit: Opskit, outputs: Path
) -> None:
    first, last = scene.of("test.put")
    planned = scene.plan(outputs, [first, last])
    assert run("apply", planned.name, accident=Accident("before the intent", last.id)).exit == -9
    lost = newest(outputs)
    scene.settle()
    assert run("undo", lost.name, "--type", f"{scene.name} 1").exit == 0
    assert record.verify(lost, Path("nobody")).wrong == ()  # it was sealed as lost
    scene.settle()
    assert run("apply", scene.plan(outputs, [last]).name).exit == 0
    assert opskit("verify").exit_code == 0


# What the outside world does while nobody looks.


class Late(Put):
    """When it is tried, an earlier attempt has just had its effect."""

    name = "test.late"

    def do(self, services: Any, of: dict[str, Any], before: Any, key: str) -> None:
        super().do(services, of, before, key)
        raise Refused("it is not as it was")


@pytest.mark.parametrize(("begun", "expected"), [(True, Result.DONE), (False, Result.ALREADY)])
def test_an_attempt_that_takes_effect_late_is_not_forgotten(begun: bool, expected: Result, scene: Scene) -> None:
    """It lands between our look and our own attempt: ours, if we had begun it; else somebody was quicker."""
    action = scene.file(Late, "late")
    log = journal.Journal(scene.files / "journal.jsonl")
    if begun:
        log.write("action.begun", action=action.id, key="k")
    ((_, result, _),) = carry_out([action], None, log)
    assert result is expected


def test_a_plan_of_another_opskit_is_refused(scene: Scene, run: Run, outputs: Path) -> None:
    unknown = replace(scene.file(Put, "a"), name="test.unheard_of")
    planned = scene.plan(outputs, [scene.file(Put, "b"), unknown])
    assert run("apply", planned.name, accident=Accident("after the intent")).exit == -9
    scene.settle()
    said = run("resume", "last")
    assert said.exit == 4
    assert "this opskit knows no test.unheard_of" in said.err
    assert "Use opskit " in said.err


def test_a_line_that_the_disk_takes_in_part_is_an_error_and_announces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, whole = journal.Journal(tmp_path / "journal.jsonl"), os.write
    log.write("first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, raw: whole(handle, raw[:10]))
        with pytest.raises(OSError, match="No space left"):
            log.write("action.begun", action="a")
    log.write("last")
    assert [event["event"] for event in log.read()] == ["first", "last"]
