"""The plan of a run: an ordered list of actions, as data, with a digest; and the approval of one."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opskit.actions import Action, digest
from opskit.errors import BadInput, Refused
from opskit.redaction import Redactor

VALID = timedelta(minutes=60)
HEAD = 50  # actions of a long plan shown in a notebook; plan.json has them all


@dataclass
class Plan:
    """What a run proposes. `made_for` names everything that, if it changes, makes the plan stale."""

    made_for: dict[str, Any]
    actions: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids = {action.id for action in self.actions}

    def add(self, action: Action) -> None:
        """Append an action, once: the same change of the same thing is not planned twice."""
        if (key := action.id) not in self._ids:
            self._ids.add(key)
            self.actions.append(action)

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
        with path.open("w", encoding="utf-8") as file:  # piece by piece: a long plan's text would fill the kernel
            json.dump(self.data(), file, indent=1, ensure_ascii=False)

    def __len__(self) -> int:
        return len(self.actions)

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions)

    def __repr__(self) -> str:
        return self._text(self.actions)

    def _text(self, shown: list[Action]) -> str:
        if not self.actions:
            return "The plan is empty: nothing to change."
        lines = [f"{n:>4}  {a.title}{_marks(a)}" for n, a in enumerate(shown, 1)]
        return "\n".join([f"Plan of {len(self)} actions, {self.digest[:19]}", *lines, *self._more(shown)])

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
            f"<td style='text-align:left'>{html.escape(_marks(a).strip())}</td></tr>"
            for n, a in enumerate(head, 1)
        )
        more = "".join(f"<p>{line}</p>" for line in self._more(head))
        return (
            f"<p><b>Plan of {len(self)} actions</b> <code>{self.digest[:19]}</code></p>"
            f"<table><thead><tr><th></th><th>Action</th><th></th></tr></thead><tbody>{rows}</tbody></table>{more}"
        )


def _marks(action: Action) -> str:
    marks = ["by hand"] * action.manual + ["REMOVES ACCESS"] * action.removes_access
    return f"  ({', '.join(marks)})" if marks else ""


def load(path: Path) -> Plan:
    """The plan saved at `path`. Raises BadInput where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Plan(data["made_for"], [Action(**action) for action in data["actions"]])
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{path}: holds no plan.") from None


@dataclass(frozen=True)
class Approval:
    """A named person's word for exactly one plan, in one environment, until it expires."""

    plan: str  # its digest
    environment: str
    actions: int
    removals: int  # how many of them take access away, agreed to by name
    approver: str
    at: str
    expires: str

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def approve(plan: Plan, approver: str, typed: str, *, with_removals: bool = False, max_actions: int) -> Approval:
    """Approve `plan`. `typed` repeats its environment and number of actions, such as `production 37`.

    Raises Refused where the plan is empty, removes access and that was not agreed to, or `typed` differs.
    """
    environment = plan.made_for["environment"]
    if not plan.actions:
        raise Refused("the plan is empty: there is nothing to approve.")
    expected = f"{environment} {len(plan)}"
    if " ".join(typed.split()) != expected:
        above = f" It is above this environment's max_actions of {max_actions}." if len(plan) > max_actions else ""
        raise Refused(f"not approved: {typed!r} is not {expected!r}.{above}", f"Type {expected!r} to approve.")
    if plan.removals and not with_removals:
        titles = "\n".join(f"  {action.title}" for action in plan.removals[:5])
        raise Refused(
            f"{len(plan.removals)} of {len(plan)} actions take access away from users:\n{titles}",
            "Look at them, then approve with --with-removals.",
        )
    now = datetime.now(UTC)
    return Approval(
        plan.digest,
        environment,
        len(plan),
        len(plan.removals),
        approver,
        now.isoformat(timespec="seconds"),
        (now + VALID).isoformat(timespec="seconds"),
    )


def load_approval(path: Path) -> Approval | None:
    """The approval saved at `path`, or None. Raises BadInput where the file is not one."""
    if not path.exists():
        return None
    try:
        found = Approval(**json.loads(path.read_text(encoding="utf-8")))
        begins, ends = datetime.fromisoformat(found.at), datetime.fromisoformat(found.expires)
        if ends - begins > VALID + timedelta(seconds=1) or ends.tzinfo is None:
            raise ValueError("no approval lasts that long")
        return found
    except (ValueError, TypeError):
        raise BadInput(f"{path}: is not an approval.") from None


def require(approval: Approval | None, plan: Plan, now_for: dict[str, Any], run: str) -> None:
    """Raise Refused unless `approval` covers exactly `plan`, has not expired, and nothing it rests on has changed."""
    if approval is None:
        raise Refused("this plan is not approved.", f"Next: opskit approve {run}")
    if approval.plan != plan.digest:
        raise Refused("the approval is for another plan; this one was changed after it.", f"Next: opskit approve {run}")
    if datetime.fromisoformat(approval.expires) < datetime.now(UTC):
        raise Refused(f"the approval expired at {approval.expires}.", "Run the runbook again and approve its new plan.")
    stale = [key for key, value in now_for.items() if plan.made_for.get(key) != value]
    if stale:
        raise Refused(f"the plan is stale: {', '.join(stale)} changed since.", "Run the runbook again.")
