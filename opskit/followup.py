"""What can follow an apply: finishing it, and taking it back. From plan and journal alone, without the notebook:
a diagnosis that must first succeed on a half-repaired system would fail when it is needed most.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from opskit import actions, archive, journal, plan, provenance, record
from opskit.actions import Action, Result
from opskit.environment import Environment
from opskit.errors import Refused
from opskit.outcome import Outcome, classify
from opskit.redaction import Redactor
from opskit.services import Secrets, Services, connect, pins

Tell = Callable[[Action, Result, str], None]
ACTION_EVENTS = ("action.begun", "action.ended")


def resume(folder: Path, target: Environment, secrets: Secrets, outputs: Path, tell: Tell) -> tuple[Path, Outcome]:
    """Finish an apply that stopped: ask the outside world about what was begun, then do the rest.

    The answer is a record of its own, which names the one it resumes and carries its action events over.
    """
    approved = applied_plan(folder, target)
    services = _connect(target, secrets)
    new, log = _open(folder, "resumes", outputs, secrets)
    shutil.copy(folder / "approval.json", new)
    log.write("plan", digest=approved.digest, actions=len(approved), manual=0, causes=[])
    for action, result, why in actions.carry_out(approved.actions, services, log):
        tell(action, result, why)
    return _close(new, log, classify(log.read(), len(approved)))


def undo(folder: Path, target: Environment, secrets: Secrets, outputs: Path, tell: Tell) -> tuple[Path, Outcome]:
    """Take back what an apply did, last first. What somebody changed since is left alone and said."""
    approved = applied_plan(folder, target)
    standing(folder)
    services = _connect(target, secrets)
    new, log = _open(folder, "undoes", outputs, secrets)
    good = True
    for action, result, why in actions.take_back(approved.actions, services, log):
        good = good and result.good
        tell(action, result, why)
    return _close(new, log, Outcome.UNDONE if good else Outcome.PARTLY)


def standing(folder: Path) -> list[Action]:
    """The changes that a run made and that can be taken back. Raises Refused where there are none."""
    if not (folder / "approval.json").exists():
        raise Refused(f"{folder.name} carried out no plan: there is nothing to take back.")
    events = list(journal.read(folder / record.JOURNAL))
    found = actions.to_take_back(plan.load(folder / "plan.json").actions, events)
    if not found and not any(event["event"] == "action.begun" for event in events):
        raise Refused(f"{folder.name} changed nothing itself: there is nothing to take back.")
    return found


def applied_plan(folder: Path, target: Environment) -> plan.Plan:
    """The plan that a run carried out. Refused where it carried out none, or its environment was changed since."""
    if not (folder / "approval.json").exists():
        raise Refused(f"{folder.name} carried out no plan: there is nothing to resume or to take back.")
    approved, approval = plan.load(folder / "plan.json"), plan.load_approval(folder / "approval.json")
    if approval is None or approval.plan != approved.digest:
        raise Refused(f"the plan in {folder.name} is not the one that was approved.")
    if approved.made_for["target"] != target.digest:
        raise Refused(f"environment {target.name} was changed since that plan was made.", "Run the runbook again.")
    return approved


def _connect(target: Environment, secrets: Secrets) -> Services:
    """The services, once their credentials are known to reach what the environment promises."""
    services = connect(target, secrets, "opskit/followup")
    pins.compare(target, services, lambda *_: None)  # a service that cannot be asked is found out by its actions
    return services


def _open(folder: Path, relation: str, outputs: Path, secrets: Secrets) -> tuple[Path, journal.Journal]:
    """A record for what follows, pointing at what it follows and carrying its actions over."""
    old = archive.about(folder)
    head: dict[str, Any] = provenance.describe(old["runbook"], provenance.find_root(), old["parameters"])
    head |= {"incident": old["incident"], "environment": old["environment"], relation: old["run"]}
    new = record.prepare(outputs, head)
    shutil.copy(folder / "plan.json", new)
    redactor = Redactor({f"{s} {access}": v for access, found in secrets.items() for s, v in found.items()})
    log = journal.Journal(new / record.JOURNAL, redactor)
    log.write("run.accepted", runner=os.getpid(), **{k: head[k] for k in ("run", "operator", "host", relation)})
    for event in journal.read(folder / record.JOURNAL):
        if event["event"] in ACTION_EVENTS:
            log.write(**{**event, "carried_over": True})
    return new, log


def _close(folder: Path, log: journal.Journal, outcome: Outcome) -> tuple[Path, Outcome]:
    log.write("run.ended", outcome=outcome, exit=outcome.exit)
    record.seal(folder)
    return folder, outcome


def waiting(folder: Path) -> Iterator[str]:
    """What the actions of a run still wait for."""
    ended = {e["action"]: e for e in journal.read(folder / record.JOURNAL) if e["event"] == "action.ended"}
    for action in plan.load(folder / "plan.json"):
        if ended.get(action.id, {}).get("result") == Result.WAITING:
            yield action.title
