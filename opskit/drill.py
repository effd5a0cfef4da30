"""Drills: a scenario rehearsed end to end, as an engineer would live through it, and scored.

break → run → are the causes right, and nothing forbidden planned? → a person does the manual steps → approve →
apply → does everything hold that must, and has nothing else changed?
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from opskit import archive, journal, plan, record
from opskit.actions import Result
from opskit.outcome import Outcome

Look = Callable[[str, dict[str, Any]], tuple[Path, Outcome]]  # runbook, parameters
Apply = Callable[[Path], tuple[Path, Outcome]]


class Sandbox(Protocol):
    """What a drill needs of a sandbox."""

    @property
    def name(self) -> str: ...

    def break_with(self, scenario: str | Path, twin: bool = ...) -> dict[str, Any]: ...
    def by_hand(self) -> list[str]: ...
    def reset(self, seed: int | None = ...) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def healed(self) -> list[dict[str, Any]]: ...
    def changes(self, before: dict[str, Any]) -> dict[str, list[dict[str, Any]]]: ...


@dataclass
class Score:
    """How one drill went. It passes when nothing is wrong."""

    scenario: str
    seed: int
    twin: bool
    causes: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    actions: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    records: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.wrong

    def data(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def rehearse(sandbox: Sandbox, scenario: str | Path, seed: int, twin: bool, look: Look, apply: Apply) -> Score:
    """Live through one scenario on a sandbox, which is reset before."""
    began = time.monotonic()
    score = Score(Path(scenario).stem, seed, twin)
    sandbox.reset(seed)
    truth = sandbox.break_with(scenario, twin)
    before = sandbox.state()
    given = {**truth["parameters"], "environment": sandbox.name, "incident": _incident(score)}
    folder, outcome = look(truth["runbook"], given)
    proposed = plan.load(folder / "plan.json") if (folder / "plan.json").exists() else None
    score.records.append(str(folder))
    score.outcomes.append(outcome)
    score.causes = archive.summary(folder)["causes"]
    score.actions = len(proposed) if proposed else 0
    score.wrong += _diagnosis(score, truth) + _forbidden(proposed, truth["forbidden"])
    score.wrong += [f"looking changed {c}" for c in _strays(sandbox, before)]
    if not twin and proposed and proposed.actions and (outcome is Outcome.PLANNED or truth["manual"]):
        score.wrong += _resolve(sandbox, score, folder, before, apply, truth)
    elif not twin:
        sandbox.by_hand()  # nothing that we could do: people do it
        score.wrong += _unhealed(sandbox)
    score.seconds = round(time.monotonic() - began, 1)
    return score


def _incident(score: Score) -> str:
    return f"drill-{score.scenario}-{'twin-' if score.twin else ''}{score.seed}"


def _resolve(
    sandbox: Sandbox, score: Score, folder: Path, before: dict[str, Any], apply: Apply, truth: dict[str, Any]
) -> list[str]:
    sandbox.by_hand()
    applied, outcome = apply(folder)
    score.records.append(str(applied))
    score.outcomes.append(outcome)
    manual, waits = truth["manual"], set(truth["waits"])
    expected = (Outcome.PARTLY,) if waits else (Outcome.VERIFIED,) if manual else (Outcome.VERIFIED, Outcome.PARTLY)
    wrong = [] if outcome in expected else [f"apply ended as: {outcome} {'; '.join(archive.reasons(applied))}"]
    ended = [e for e in journal.read(applied / record.JOURNAL) if e["event"] == "action.ended"]
    left = (Result.DONE, Result.ALREADY) if manual else (Result.DONE, Result.ALREADY, Result.WAITING)
    waiting = {e["name"] for e in ended if e["result"] == Result.WAITING}
    wrong += [f"does not wait: {name}" for name in waits - waiting]
    wrong += [
        f"{e['result']}: {e['name']} {e['why']}"
        for e in ended
        if e["result"] not in left and not (e["result"] == Result.WAITING and e["name"] in waits)
    ]
    return wrong + _unhealed(sandbox) + [f"changed outside `touches`: {c}" for c in _strays(sandbox, before)]


def _diagnosis(score: Score, truth: dict[str, Any]) -> list[str]:
    missed = [f"missed cause: {c}" for c in truth["causes"] if c not in score.causes]
    return missed + [f"false cause: {c}" for c in score.causes if c not in truth["causes"]]


def _forbidden(proposed: plan.Plan | None, forbidden: list[Any]) -> list[str]:
    """Actions that must not be planned: by a pattern of their name, or by name and some arguments."""
    found = []
    for action in proposed or ():
        for rule in forbidden:
            name, arguments = (rule, {}) if isinstance(rule, str) else (rule["action"], rule.get("arguments") or {})
            if fnmatchcase(action.name, name) and _like(action.arguments, arguments):
                found.append(f"forbidden action planned: {action.title}")
    return found


def _like(given: dict[str, Any], patterns: dict[str, Any]) -> bool:
    return all(fnmatchcase(str(given.get(key)), str(pattern)) for key, pattern in patterns.items())


def _unhealed(sandbox: Sandbox) -> list[str]:
    return [f"not healed: {h}" for h in sandbox.healed() if not h["ok"]]


def _strays(sandbox: Sandbox, before: dict[str, Any]) -> list[str]:
    return [str(change) for change in sandbox.changes(before)["stray"]]
