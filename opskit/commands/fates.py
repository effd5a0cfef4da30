"""What became of the actions of a run, as far as people must know or say it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from opskit import journal, plan, record
from opskit.actions import Decision, Past, Result
from opskit.errors import BadInput, Refused


def deciding(command: Callable[..., None]) -> Callable[..., None]:
    """The options with which a person says what became of an action, where nobody can see it."""
    decided = click.option(
        "--decided",
        metavar="ACTION=done|not-done",
        multiple=True,
        help="What became of an action of unknown fate, or of a step by hand.",
    )
    return decided(click.option("--because", metavar="TEXT", default="", help="How you know that.")(command))


def decisions(folder: Path, given: Sequence[str], because: str) -> list[Decision]:
    """What a person says of actions whose fate nobody can see: each `ACTION=done` or `ACTION=not-done`, the action by
    its number in the plan or its id. So too of a step that only people do, and that waits for one: `ACTION=done`.
    Raises BadInput or Refused where there is nothing to decide.
    """
    if bool(given) != bool(because.strip()):
        raise BadInput("--decided and --because belong together.", "Say what you decided, and how you know.")
    planned, past = list(plan.load(folder / "plan.json")), Past(list(journal.read(folder / record.JOURNAL)))
    found = []
    for text in given:
        name, _, word = text.partition("=")
        action = next((a for number, a in enumerate(planned, 1) if name in (str(number), a.id)), None)
        if action is None or word not in ("done", "not-done"):
            numbers = f"1 to {len(planned)}"
            raise BadInput(f"{text!r} decides nothing.", f"Say ACTION=done or ACTION=not-done; ACTION is {numbers}.")
        by_people = action.manual and past.result(action) is Result.WAITING and word == "done"
        if past.result(action) is not Result.UNKNOWN and not by_people:
            remedy = f"First: opskit resume {folder.name}; it asks the outside world." if past.in_doubt(action) else ""
            raise Refused(f"there is nothing to decide about action {name}: {action.title}.", remedy)
        found.append(Decision(action, word == "done", because))
    return found


def in_doubt(folder: Path) -> Iterator[tuple[int, str]]:
    """The actions of which nobody knows whether they happened: their numbers and titles."""
    past = Past(list(journal.read(folder / record.JOURNAL)))
    for number, action in enumerate(plan.load(folder / "plan.json"), 1):
        if past.in_doubt(action):
            yield number, action.title


def waiting(folder: Path) -> Iterator[str]:
    """What the actions of a run still wait for."""
    ended = {e["action"]: e for e in journal.read(folder / record.JOURNAL) if e["event"] == "action.ended"}
    for action in plan.load(folder / "plan.json"):
        if ended.get(action.id, {}).get("result") == Result.WAITING:
            yield action.title
