"""Afterwards: is the schema what the rehearsal said that it would be, and do the same people get at the same rows?

What is expected goes into the plan, of each object a few letters of the digest of its definition: so it is what was
approved, whoever carries it out or resumes it, and wherever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from opskit.actions import Arguments, Change
from opskit.services import access
from opskit.services.catalog import Shape
from opskit.services.rehearsal import Rehearsal

ANY = "in any way"  # what is there by that name; how, another version would spell otherwise


def expected(now: Shape, rehearsed: Rehearsal) -> Shape:
    """What a schema that is so now will be, where files do to it what they did to its copy.

    Only what they change is taken from there: a copy may spell a definition otherwise.
    """
    changes = {name: ANY if letters and rehearsed.version else letters for name, letters in rehearsed.changes.items()}
    then = {**now, **changes, **access.told(rehearsed.after)}
    return {name: letters for name, letters in then.items() if letters is not None}


def differences(
    expected: Mapping[str, str], found: Mapping[str, str], only: Collection[str] | None = None
) -> list[str]:
    """In what it is not as expected, in words; first where somebody gets at rows, or no longer does.

    Where people change other things meanwhile, `only` these names; and wherever others than the owner get at more.
    """
    names = sorted({*expected, *found}, key=lambda name: (not name.startswith(access.KIND), name))
    if only is not None:
        names = [name for name in names if name in only or _opened(name, expected, found)]
    other = (name for name in names if expected.get(name) not in (found.get(name), ANY) or name not in found)
    return [_said(name, expected, found) for name in other]


def _opened(name: str, expected: Mapping[str, str], found: Mapping[str, str]) -> bool:
    denied = access.WORDS_FOR[False]
    others = name.startswith(access.KIND) and not name.endswith(" by owner")
    return others and found.get(name, denied) not in (denied, expected.get(name))


def _said(name: str, expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    if name not in found:
        return f"{name}: missing"
    if name not in expected:
        return f"{name}: not expected"
    return f"{name}: {found[name]}, not {expected[name]}" if name.startswith(access.KIND) else f"{name}: otherwise"


class LookAgain(Change):
    name = "migrations.look_again"
    title = "Look again: the schema, and who gets at whose rows, are as rehearsed{but}"
    only_looks = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"differs": differences(of["expected"], services.migrations.shape(), of.get("only"))}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["differs"] == [])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        """Nothing to do: where it differs, a person has to see why."""

    def by_hand(self, of: Arguments, before: Any) -> str:
        return "supabase db diff --linked"
