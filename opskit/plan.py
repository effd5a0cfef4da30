"""The plan of a run: an ordered list of actions, as data, with a digest."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opskit import files
from opskit.actions import Action, digest
from opskit.errors import BadInput
from opskit.redaction import Redactor

MADE_FOR = ("run", "operator", "runbook", "notebook", "opskit", "environment", "parameters", "incident", "archive")
HEAD = 50  # actions of a long plan shown in a notebook; plan.json has them all


@dataclass
class Plan:
    """What a run proposes. `made_for` names everything that, if it changes, makes the plan stale."""

    made_for: dict[str, Any]
    actions: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = {action.id for action in self.actions}

    def add(self, action: Action, after: Sequence[Action] = ()) -> None:
        """Append an action, once: the same change of the same thing is not planned twice.

        It waits until those it comes `after` are done.
        """
        if (key := action.id) not in self._ids:
            self._ids.add(key)
            self.actions.append(replace(action, after=[one.id for one in after]) if after else action)

    def redact(self, redactor: Redactor) -> None:
        """Take known secrets out of it, before anything rests on its digest."""
        self.actions[:] = [Action(**redactor.tree(action.data())) for action in self.actions]

    @property
    def digest(self) -> str:
        return digest(self.data())

    @property
    def removals(self) -> list[Action]:
        return [action for action in self.actions if action.removes_access]

    def data(self) -> dict[str, Any]:
        return {"made_for": self.made_for, "actions": [action.data() for action in self.actions]}

    def save(self, path: Path) -> None:
        spelled = json.JSONEncoder(indent=1, ensure_ascii=False)
        files.write(path, spelled.iterencode(self.data()))  # piece by piece: a long plan's text would fill the kernel

    def __len__(self) -> int:
        return len(self.actions)

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions)

    def __repr__(self) -> str:
        return self._text(self.actions)

    def _text(self, shown: list[Action]) -> str:
        if not self.actions:
            return "The plan is empty: nothing to change."
        lines = [f"{n:>4}  {self.line(a)}" for n, a in enumerate(shown, 1)]
        return "\n".join([f"Plan of {len(self)} actions, {self.digest[:19]}", *lines, *self._more(shown)])

    def line(self, action: Action) -> str:
        """An action in one line, whatever its title quotes, with what is special about it."""
        return f"{' '.join(action.title.split())}{self._marks(action)}"

    def _marks(self, action: Action) -> str:
        marks = ["by hand"] * action.manual + ["REMOVES ACCESS"] * action.removes_access
        if action.after:
            first = (str(n) for n, one in enumerate(self.actions, 1) if one.id in action.after)
            marks.append(f"after {', '.join(first)}")
        return f"  ({', '.join(marks)})" if marks else ""

    def _more(self, shown: list[Action]) -> list[str]:
        left = len(self) - len(shown)
        return [f"… and {left} more in plan.json"] if left else []

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The text beside the HTML in a notebook, which must stay small however long the plan."""
        printer.text(self._text(self.actions[:HEAD]))

    def _repr_html_(self) -> str:
        if not self.actions:
            return "<p>The plan is empty: nothing to change.</p>"
        head = self.actions[:HEAD]
        rows = "".join(
            f"<tr><td>{n}</td><td style='text-align:left'>{html.escape(a.title)}</td>"
            f"<td style='text-align:left'>{html.escape(self._marks(a).strip())}</td></tr>"
            for n, a in enumerate(head, 1)
        )
        more = "".join(f"<p>{line}</p>" for line in self._more(head))
        return (
            f"<p><b>Plan of {len(self)} actions</b> <code>{self.digest[:19]}</code></p>"
            f"<table><thead><tr><th></th><th>Action</th><th></th></tr></thead><tbody>{rows}</tbody></table>{more}"
        )


def load(path: Path) -> Plan:
    """The plan saved at `path`. Raises BadInput where there is none."""
    try:
        data = json.loads(files.read(path))
        return Plan(data["made_for"], [Action(**action) for action in data["actions"]])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{path}: holds no plan.") from None
