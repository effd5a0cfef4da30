"""Actions: nothing is done twice, nothing done is forgotten, and what changed meanwhile is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import everything

from opskit.actions import Action, Change, Past, Result, carry_out, digest, plain, take_back
from opskit.errors import Denied, Faulty, NotFound, Refused, Throttled, Unreachable
from opskit.journal import Journal
from opskit.sandbox import Sandbox


class Shelf:
    """Where the changes of these tests act: files in a folder, a log of all that was done, and a mood."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.troubles: list[Exception] = []  # raised by the next calls of `do`
        self.blind: list[Exception] = []  # raised by the next looks
        self.deaf = False  # what is done has no effect

    def read(self, name: str) -> str | None:
        path = self.folder / name
        return path.read_text() if path.exists() else None

    def write(self, name: str, text: str | None) -> None:
        if text is None:
            (self.folder / name).unlink()
        else:
            (self.folder / name).write_text(text)

    @property
    def done(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().split() if log.exists() else []

    def note(self, name: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(f"{name}\n")


class Put(Change):
    name = "shelf.put"
    title = "Put {text} into {file}"

    def look(self, shelf: Any, of: dict[str, Any]) -> Any:
        if shelf.blind:
            raise shelf.blind.pop(0)
        return {"has": shelf.read(of["file"]), "due": of["text"]}

    def done(self, now: Any, before: Any) -> bool | None:
        return bool(now["has"] == now["due"])

    def do(self, shelf: Any, of: dict[str, Any], before: Any, key: str) -> None:
        shelf.note(of["file"])
        if shelf.troubles:
            raise shelf.troubles.pop(0)
        if not shelf.deaf:
            shelf.write(of["file"], of["text"])

    def undo(self, shelf: Any, of: dict[str, Any], before: Any, after: Any, key: str) -> None:
        shelf.write(of["file"], before["has"])


class Shout(Put):
    """Its effect cannot be seen."""

    name = "shelf.shout"

    def done(self, now: Any, before: Any) -> bool | None:
        return None


class Burn(Put):
    name = "shelf.burn"
    final = "ashes"


class Ask(Put):
    name = "shelf.ask"
    manual = True


class Slow(Put):
    """Its effect shows only at the third look."""

    name = "shelf.slow"
    settles = 5.0
    looks = 0

    def look(self, shelf: Any, of: dict[str, Any]) -> Any:
        Slow.looks += 1
        return {"has": shelf.read(of["file"]) if Slow.looks > 3 else None, "due": of["text"]}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def put(file: str, text: str = "new", before: str | None = None, change: type[Change] = Put) -> Action:
    return change().plan({"file": file, "text": text}, {"has": before, "due": text})


def results(*actions: Action, shelf: Shelf, journal: Journal) -> list[Result]:
    return [result for _, result, _ in carry_out(actions, shelf, journal)]


def undone(*actions: Action, shelf: Shelf, journal: Journal) -> list[tuple[str, Result]]:
    return [(action.arguments["file"], result) for action, result, _ in take_back(actions, shelf, journal)]


def kinds(journal: Journal) -> list[str]:
    return [event["event"] for event in journal.read()]


# An order.


def test_what_comes_after_a_step_by_hand_waits_until_that_is_done(shelf: Shelf, journal: Journal) -> None:
    step = put("cause", change=Ask)
    text = replace(put("text"), after=[step.id])
    waiting = list(carry_out([step, text, put("other")], shelf, journal))
    assert [result for _, result, _ in waiting] == [Result.WAITING, Result.WAITING, Result.DONE]
    assert waiting[1][2] == f"first: {step.title}"
    assert shelf.done == ["other"]
    shelf.write("cause", "new")
    assert results(step, text, put("other"), shelf=shelf, journal=journal) == [Result.DONE, Result.DONE]
    assert shelf.read("text") == "new"


def test_what_comes_after_something_that_is_not_in_the_plan_waits(shelf: Shelf, journal: Journal) -> None:
    assert results(replace(put("text"), after=["elsewhere"]), shelf=shelf, journal=journal) == [Result.WAITING]


# Planning.


def test_planning_does_nothing(shelf: Shelf) -> None:
    action = put("a")
    assert (action.title, action.manual, action.before) == ("Put new into a", False, {"has": None, "due": "new"})
    assert shelf.read("a") is None


def test_an_action_is_the_same_for_the_same_change_of_the_same_things() -> None:
    assert put("a").id == put("a", before="other").id
    assert len({put("a").id, put("b").id, put("a", "x").id, put("a", change=Burn).id}) == 4


def test_states_compare_as_json_gives_them_back() -> None:
    assert plain({"at": Path("/x"), "pair": (1, 2), 5: None}) == {"at": "/x", "pair": [1, 2], "5": None}


def test_a_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len({digest([1, 2]), digest([2, 1]), digest(["1", 2]), digest("\ud800")}) == 4


# Carrying out.


def test_what_is_approved_is_done_in_order_and_journalled_around(shelf: Shelf, journal: Journal) -> None:
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.DONE, Result.DONE]
    assert shelf.done == ["a", "b"]
    assert kinds(journal) == ["action.begun", "action.ended"] * 2
    assert journal.read()[1]["after"] == {"has": "new", "due": "new"}


def test_what_is_so_already_is_not_done(shelf: Shelf, journal: Journal) -> None:
    shelf.write("a", "new")
    assert results(put("a"), shelf=shelf, journal=journal) == [Result.ALREADY]
    assert shelf.done == []


def test_what_changed_since_is_skipped_and_the_rest_is_done(shelf: Shelf, journal: Journal) -> None:
    shelf.write("a", "somebody else's")
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.STALE, Result.DONE]
    assert shelf.read("a") == "somebody else's"


def test_what_changes_at_the_last_moment_is_stale_too(shelf: Shelf, journal: Journal) -> None:
    shelf.troubles = [Refused("it has changed since it was read")]
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.STALE, Result.DONE]


def test_what_has_no_effect_failed_and_stops_everything(shelf: Shelf, journal: Journal) -> None:
    shelf.deaf = True
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.FAILED]
    assert shelf.done == ["a"]


def never_sent() -> Unreachable:
    error = Unreachable("shelf")
    error.was_sent = False
    return error


@pytest.mark.parametrize("trouble", [never_sent(), Faulty("shelf", status=400)])
def test_trouble_that_had_no_effect_failed(shelf: Shelf, journal: Journal, trouble: Exception) -> None:
    shelf.troubles = [trouble]
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.FAILED]


@pytest.mark.parametrize("trouble", [Unreachable("shelf"), Faulty("shelf", status=500), Faulty("shelf", status=503)])
def test_what_was_sent_and_never_answered_may_still_happen(shelf: Shelf, journal: Journal, trouble: Exception) -> None:
    shelf.troubles = [trouble]
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.UNKNOWN]
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.DONE, Result.DONE]
    first, again = [e["key"] for e in journal.read() if e["event"] == "action.begun"][:2]
    assert first == again  # so that who did the first one late does not do the second


def test_a_failure_whose_effect_comes_late_is_found_and_not_sent_again(shelf: Shelf, journal: Journal) -> None:
    shelf.troubles = [Faulty("shelf", status=500)]
    assert results(put("a"), shelf=shelf, journal=journal) == [Result.UNKNOWN]
    assert undone(put("a"), shelf=shelf, journal=journal) == [("a", Result.UNKNOWN)]  # resume first
    shelf.write("a", "new")
    assert results(put("a"), shelf=shelf, journal=journal) == [Result.DONE]
    assert shelf.done == ["a"]
    assert undone(put("a"), shelf=shelf, journal=journal) == [("a", Result.DONE)]


def test_trouble_on_the_way_back_is_no_trouble(shelf: Shelf, journal: Journal) -> None:
    class Hurt(Put):
        name = "shelf.hurt"

        def do(self, shelf: Any, of: dict[str, Any], before: Any, key: str) -> None:
            super().do(shelf, of, before, key)
            raise Unreachable("shelf", "the answer was lost")

    assert results(put("a", change=Hurt), shelf=shelf, journal=journal) == [Result.DONE]
    assert shelf.done == ["a"]


@pytest.mark.parametrize("trouble", [Denied("shelf"), NotFound("shelf")])
def test_where_we_are_not_let_in_a_person_may_be(shelf: Shelf, journal: Journal, trouble: Exception) -> None:
    shelf.troubles = [trouble]
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.WAITING, Result.DONE]


def test_told_to_slow_down_it_waits_and_sends_the_same_again(shelf: Shelf, journal: Journal) -> None:
    slow_down = Throttled("shelf")
    slow_down.retry_after = 0.01
    shelf.troubles = [slow_down, slow_down]
    assert results(put("a"), shelf=shelf, journal=journal) == [Result.DONE]
    assert shelf.done == ["a"] * 3


def test_an_effect_may_take_its_time(shelf: Shelf, journal: Journal) -> None:
    Slow.looks = 0
    assert results(put("a", change=Slow), shelf=shelf, journal=journal) == [Result.DONE]
    assert shelf.done == ["a"]


def test_what_cannot_be_seen_is_unknown_and_stops_everything(shelf: Shelf, journal: Journal) -> None:
    assert results(put("a", change=Shout), put("b"), shelf=shelf, journal=journal) == [Result.UNKNOWN]
    assert shelf.done == ["a"]


def test_what_cannot_be_looked_at_is_not_begun(shelf: Shelf, journal: Journal) -> None:
    shelf.blind = [Unreachable("shelf")]
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.FAILED]
    assert shelf.done == []


def test_going_blind_afterwards_is_unknown(shelf: Shelf, journal: Journal) -> None:
    class Blinding(Put):
        name = "shelf.blinding"

        def do(self, shelf: Any, of: dict[str, Any], before: Any, key: str) -> None:
            super().do(shelf, of, before, key)
            shelf.blind = [Unreachable("shelf")]

    assert results(put("a", change=Blinding), put("b"), shelf=shelf, journal=journal) == [Result.UNKNOWN]


def test_a_manual_step_waits_and_the_rest_goes_on(shelf: Shelf, journal: Journal) -> None:
    assert results(put("a", change=Ask), put("b"), shelf=shelf, journal=journal) == [Result.WAITING, Result.DONE]
    assert shelf.done == ["b"]
    shelf.write("a", "new")  # the person does it
    assert results(put("a", change=Ask), put("b"), shelf=shelf, journal=journal) == [Result.DONE]


# Again: the same loop resumes.


def test_what_was_ended_is_not_done_again(shelf: Shelf, journal: Journal) -> None:
    results(put("a"), put("b"), shelf=shelf, journal=journal)
    shelf.write("a", "changed since")
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == []
    assert shelf.done == ["a", "b"]


def test_what_failed_is_tried_again_by_a_resume(shelf: Shelf, journal: Journal) -> None:
    shelf.deaf = True
    results(put("a"), put("b"), shelf=shelf, journal=journal)
    shelf.deaf = False
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.DONE, Result.DONE]


def test_what_was_begun_and_then_changed_by_others_is_unknown(shelf: Shelf, journal: Journal) -> None:
    journal.write("action.begun", action=put("a").id)
    shelf.write("a", "neither old nor new")
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.UNKNOWN]
    assert shelf.done == []


def test_what_was_begun_and_cannot_be_seen_is_unknown_until_it_can(shelf: Shelf, journal: Journal) -> None:
    journal.write("action.begun", action=put("a").id)
    shelf.blind = [Unreachable("shelf")]
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.UNKNOWN]
    shelf.write("a", "new")  # it had worked
    assert results(put("a"), put("b"), shelf=shelf, journal=journal) == [Result.DONE, Result.DONE]
    assert shelf.done == ["b"]


def test_an_invisible_effect_that_was_begun_is_never_sent_again(shelf: Shelf, journal: Journal) -> None:
    results(put("a", change=Shout), shelf=shelf, journal=journal)
    assert results(put("a", change=Shout), put("b"), shelf=shelf, journal=journal) == [Result.UNKNOWN]
    assert shelf.done == ["a"]


CRASHING = f"""
import json, os, signal, sys
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from opskit.actions import Action, carry_out
from opskit.journal import Journal
from test_actions import Shelf
folder, moment, when = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

class Dying(Journal):
    written = 0

    def write(self, event, **data):
        self.written += 1
        if (self.written, when) == (moment, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(event, **data)
        if (self.written, when) == (moment, "after"):
            os.kill(os.getpid(), signal.SIGKILL)

actions = [Action(**a) for a in json.loads((folder / "plan.json").read_text())]
list(carry_out(actions, Shelf(folder), Dying(folder / "journal.jsonl")))
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_killed_anywhere_nothing_is_done_twice_or_forgotten(
    shelf: Shelf, journal: Journal, moment: int, when: str
) -> None:
    actions = [put("a"), put("b")]
    (shelf.folder / "plan.json").write_text(json.dumps([a.data() for a in actions]))
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, str(shelf.folder), str(moment), when], check=False, timeout=60
    )
    assert done.returncode == -9
    results(*actions, shelf=shelf, journal=journal)
    assert shelf.done == ["a", "b"]
    past = Past(journal.read())
    assert {a.id: past.result(a) for a in actions} == dict.fromkeys(past.begun, Result.DONE)


# Taking back.


def test_what_was_done_is_taken_back_last_first(shelf: Shelf, journal: Journal) -> None:
    shelf.write("b", "old")
    actions = put("a"), put("b", before="old")
    results(*actions, shelf=shelf, journal=journal)
    assert undone(*actions, shelf=shelf, journal=journal) == [("b", Result.DONE), ("a", Result.DONE)]
    assert (shelf.read("a"), shelf.read("b")) == (None, "old")


def test_what_was_not_ours_is_not_taken_back(shelf: Shelf, journal: Journal) -> None:
    shelf.write("a", "new")
    shelf.write("b", "somebody else's")
    actions = put("a"), put("b"), put("c", change=Ask)
    results(*actions, shelf=shelf, journal=journal)
    assert undone(*actions, shelf=shelf, journal=journal) == []
    assert (shelf.read("a"), shelf.read("b")) == ("new", "somebody else's")


def test_what_somebody_changed_since_is_left_alone(shelf: Shelf, journal: Journal) -> None:
    results(put("a"), put("b"), shelf=shelf, journal=journal)
    shelf.write("b", "newer")
    assert undone(put("a"), put("b"), shelf=shelf, journal=journal) == [("b", Result.STALE), ("a", Result.DONE)]
    assert shelf.read("b") == "newer"
    told = [(e["result"], e["why"]) for e in journal.told("undo.ended")]
    assert told == [("stale", 'changed since, so not touched: has was "new", is "newer"'), ("done", "")]


def test_an_undo_writes_down_whatever_it_leaves_alone(shelf: Shelf, journal: Journal) -> None:
    actions = put("a"), put("b", change=Burn), put("c"), put("d")
    results(*actions, shelf=shelf, journal=journal)
    shelf.write("c", None)  # somebody was quicker
    waits = {actions[3].id: "not now"}
    for action, _, _ in take_back(actions, shelf, journal, lambda action: waits.get(action.id, "")):
        shelf.blind = [Unreachable("shelf", "dark")] if action is actions[1] else []
    told = [(e["action"], e["result"], e["why"]) for e in journal.told("undo.ended")]
    assert told == [
        (actions[3].id, "waits for a person", "not now"),
        (actions[2].id, "already so", "it is as it was before"),
        (actions[1].id, "stale", "cannot be undone: ashes"),
        (actions[0].id, "fate unknown", "shelf: dark"),
    ]


def test_what_cannot_be_undone_is_said(shelf: Shelf, journal: Journal) -> None:
    results(put("a", change=Burn), shelf=shelf, journal=journal)
    ((_, result, why),) = take_back([put("a", change=Burn)], shelf, journal)
    assert (result, why) == (Result.STALE, "cannot be undone: ashes")
    assert shelf.read("a") == "new"


def test_taking_back_twice_is_harmless(shelf: Shelf, journal: Journal) -> None:
    results(put("a"), shelf=shelf, journal=journal)
    assert undone(put("a"), shelf=shelf, journal=journal) == [("a", Result.DONE)]
    assert undone(put("a"), shelf=shelf, journal=journal) == [("a", Result.ALREADY)]


def test_what_may_have_happened_is_not_passed_over(shelf: Shelf, journal: Journal) -> None:
    actions = put("a"), put("b")
    results(actions[0], shelf=shelf, journal=journal)
    journal.write("action.begun", action=actions[1].id)  # and the process died
    shelf.write("b", "new")
    assert undone(*actions, shelf=shelf, journal=journal) == [("b", Result.UNKNOWN)]
    assert shelf.read("a") == "new"


# The real changes, on the sandbox.


def test_profiles_are_reconciled_and_taken_back(firm: Sandbox, journal: Journal) -> None:
    firm.break_with("drift")
    before = firm.state()
    _, services = everything(firm.name)
    drift = [d for d in services.profiles.drift() if d.profile and d.state]
    actions = [services.profiles.reconcile(d.profile, d.customer, d.state) for d in drift]
    assert actions
    outcome = [result for _, result, _ in carry_out(actions, services, journal)]
    assert set(outcome) == {Result.DONE}
    assert firm.disagreements() == []
    assert {result for _, result, _ in take_back(actions, services, journal)} == {Result.DONE}
    changes = [change for found in firm.changes(before).values() for change in found]
    assert all(set(change["fields"]) == {"updated_at"} for change in changes)  # the table's own trigger
    services.database.close()


def test_a_profile_that_moved_on_is_not_overwritten(firm: Sandbox, journal: Journal) -> None:
    firm.break_with("drift")
    _, services = everything(firm.name)
    drift = next(d for d in services.profiles.drift() if d.profile and d.state)
    action = services.profiles.reconcile(drift.profile, drift.customer, drift.state)
    with services.database.transaction() as cursor:
        cursor.execute("update user_profiles set stripe_price_id = 'price_newer' where id = %s", (drift.profile,))
    assert [r for _, r, _ in carry_out([action], services, journal)] == [Result.STALE]
    with pytest.raises(Refused, match="has changed since it was read"):  # even when it changes after the look
        Change.known[action.name].do(services, action.arguments, action.before, action.id)
    assert services.profiles.beside_stripe(drift.profile, drift.customer)["profile"]["stripe_price_id"] == "price_newer"
    services.database.close()


def test_an_endpoint_is_enabled_and_disabled_again(firm: Sandbox, journal: Journal) -> None:
    firm.break_with("endpoint-disabled")
    _, services = everything(firm.name)
    endpoint = services.stripe.endpoint()["id"]
    action = services.stripe.enable_endpoint(endpoint)
    assert [r for _, r, _ in carry_out([action], services, journal)] == [Result.DONE]
    assert services.stripe.endpoint(endpoint)["status"] == "enabled"
    assert [r for _, r, _ in take_back([action], services, journal)] == [Result.DONE]
    assert services.stripe.endpoint(endpoint)["status"] == "disabled"


def test_every_change_says_how_it_is_done_by_hand_or_undone() -> None:
    for change in Change.known.values():
        if type(change).__module__.startswith("opskit."):
            assert change.title
            assert change.manual or change.only_looks or change.right
            assert change.manual or change.only_looks or change.final or type(change).undo is not Change.undo
