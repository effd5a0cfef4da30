"""The commands of a plan, for the night when somebody has to type them: at a glance, and each whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from opskit.actions import Action
from opskit.commands.listing import shortened
from opskit.plan import Plan

WHOLE = 160  # characters of a command that is short enough to be shown as it is
LINE = 72  # of one that is not
FEW = 3  # actions of one kind, before only the first is shown


def glance(proposed: Plan, run: str) -> str:
    """A line for each action, and one for many of a kind; says how to see each whole where that is not all."""
    numbered = [(number, action) for number, action in enumerate(proposed, 1) if action.by_hand]
    if not numbered:
        return ""
    kinds = groupby(numbered, key=lambda one: one[1].name)
    lines = [line for _, found in kinds for line in _of_one_kind(list(found))]
    if lines != [_line(*one, cut=False) for one in numbered]:
        lines += [f"Each whole, to copy: opskit plan {run} --by-hand"]
    return "\n".join(["The same by hand, on the night when this does not work:", *lines])


def _of_one_kind(found: list[tuple[int, Action]]) -> Iterator[str]:
    shown = found if len(found) <= FEW else found[:1]
    yield from (_line(*one, cut=len(one[1].by_hand) > WHOLE) for one in shown)
    if len(shown) < len(found):
        yield f"      … and alike for {found[1][0]} to {found[-1][0]}"


def _line(number: int, action: Action, *, cut: bool) -> str:
    return f"{number:>4}  {shortened(action.by_hand, LINE) if cut else action.by_hand}"


def whole(proposed: Plan) -> str:
    """Every command as it is to be typed, below a comment that says of which action."""
    steps = [f"# {number}  {proposed.line(action)}\n{action.by_hand}" for number, action in enumerate(proposed, 1)]
    return "\n\n".join(step.rstrip() for step in steps)
