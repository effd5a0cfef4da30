"""A person's word for what became of an action, where nobody can see it: kept, shown, and never called verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scene import Said, Scene
from support import Opskit, data
from victims import Accident

from opskit import archive, journal, record
from opskit.actions import Action

Run = Callable[..., Said]


@pytest.fixture
def stopped(scene: Scene, run: Run, outputs: Path) -> list[Action]:
    """A plan of three actions that stopped at its second, a bell: nobody can see whether it was rung."""
    first, last = scene.of("test.put")
    actions = [first, scene.ring("/middle"), last]
    planned = scene.plan(outputs, actions)
    assert run("apply", planned.name, accident=Accident("in the action", actions[1].id)).exit == -9
    scene.settle()
    early = run("resume", "last", "--decided", "2=done", "--because", "we heard it")
    assert (early.exit, "it asks the outside world" in early.err) == (4, True)
    said = run("resume", "last")
    assert (said.exit, "Fate unknown: 2  Ring /" not in said.out, "--decided 2=done|not-done" in said.out) == (
        5,
        True,
        True,
    )
    scene.settle()
    return actions


def decide(run: Run, verb: str, word: str, *more: str) -> Said:
    return run(verb, "last", *more, "--decided", f"2={word}", "--because", "we asked who was there", "--json")


def why(outputs: Path, action: Action) -> list[str]:
    folder = archive.Archive(outputs).runs()[0]
    found = [e for e in journal.read(folder / record.JOURNAL) if e["event"] == "action.ended"]
    return [e["why"] for e in found if e["action"] == action.id and e.get("decided_by")]


def test_what_a_person_says_was_done_is_not_done_again(
    scene: Scene, run: Run, opskit: Opskit, outputs: Path, stopped: list[Action]
) -> None:
    """It is never called verified; the report says whose word it is; an undo leaves it to people."""
    said = decide(run, "resume", "done")
    assert (said.exit, said.data["outcome"], said.data["done"]) == (5, "done but not all verified", 3)
    assert scene.bell.rung == ["/middle"]
    assert [scene.done()[action.id] for action in (stopped[0], stopped[2])] == [1, 1]
    word = "ana decided that it was done: we asked who was there"
    assert why(outputs, stopped[1]) == [word]
    assert "done, a person says  Ring" in opskit("show", "last").stdout
    assert word in opskit("show", "last").stdout
    report = Path(data(opskit("report", "INC-1", "--json"))["paths"]["markdown"]).read_text()
    assert word in report
    undone = run("undo", "last", "--type", f"{scene.name} 2", "--json")
    assert (undone.exit, undone.data["outcome"], undone.data["taken_back"]) == (5, "partly applied", 2)
    assert "a person said that it was done, and nobody saw it: take it back by hand" in undone.err
    assert scene.bell.rung == ["/middle"]


def test_what_a_person_says_was_not_done_is_done(scene: Scene, run: Run, outputs: Path, stopped: list[Action]) -> None:
    """With the key of the first attempt: if the person was wrong, whoever honours keys does it once all the same."""
    said = decide(run, "resume", "not-done")
    assert (said.exit, said.data["outcome"]) == (0, "done and verified")
    assert scene.bell.rung == ["/middle", "/middle"]
    assert why(outputs, stopped[1]) == ["ana decided that it was not done: we asked who was there"]
    folder = archive.Archive(outputs).runs()[0]
    begun = [e for e in journal.read(folder / record.JOURNAL) if e["event"] == "action.begun"]
    keys = [e["key"] for e in begun if e["action"] == stopped[1].id]
    assert (len(keys), len(set(keys))) == (2, 1)


def test_an_undo_takes_the_word_too_and_does_nothing_new(scene: Scene, run: Run, stopped: list[Action]) -> None:
    """Without it, it stops: nothing is taken back under an action that may have happened."""
    typed = ("--type", f"{scene.name} 1")
    assert run("undo", "last", *typed).exit == 5
    assert scene.done("undone")[stopped[0].id] == 0
    said = decide(run, "undo", "not-done", *typed)
    assert (said.exit, said.data["outcome"], said.data["taken_back"]) == (0, "taken back", 1)
    assert [scene.done("undone")[action.id] for action in (stopped[0], stopped[2])] == [1, 0]
    assert scene.bell.rung == ["/middle"]


WRONG = (
    (["--decided", "2=done"], 2, "belong together"),
    (["--because", "x"], 2, "belong together"),
    (["--decided", "2=perhaps", "--because", "x"], 2, "ACTION=done or ACTION=not-done"),
    (["--decided", "4=done", "--because", "x"], 2, "ACTION is 1 to 3"),
    (["--decided", "1=done", "--because", "x"], 4, "nothing to decide about action 1"),
    (["--decided", "3=done", "--because", "x"], 4, "nothing to decide about action 3"),
)


def test_nothing_else_can_be_decided(run: Run, outputs: Path, stopped: list[Action]) -> None:
    before = archive.Archive(outputs).runs()
    for words, code, said in WRONG:
        answer = run("resume", "last", *words)
        assert (answer.exit, said in answer.err) == (code, True), answer
    assert archive.Archive(outputs).runs() == before


def test_a_step_of_a_person_that_nobody_can_see_ends_by_their_word(scene: Scene, run: Run, outputs: Path) -> None:
    """Only once it waits for them; it is never called verified. Of one that is done nothing is decided."""
    planned = scene.plan(outputs, [*scene.of("test.put"), *scene.of("test.sign")])
    number = len(scene.of("test.put")) + 1
    early = run("resume", planned.name, "--decided", f"{number}=done", "--because", "I did it")
    assert early.exit != 0
    assert run("apply", planned.name).exit == 5
    scene.settle()
    not_done = run("resume", "last", "--decided", f"{number}=not-done", "--because", "nobody did")
    assert (not_done.exit, "nothing to decide" in not_done.err) == (4, True)
    said = run("resume", "last", "--decided", f"{number}=done", "--because", "I did it", "--json")
    assert (said.exit, said.data["outcome"]) == (5, "done but not all verified")
    again = run("resume", "last", "--decided", "1=done", "--because", "I did it")
    assert (again.exit, "nothing to decide" in again.err) == (4, True)
