"""What can follow an apply: finishing it, and taking it back. From plan and journal alone, without the notebook:
a diagnosis that must first succeed on a half-repaired system would fail when it is needed most.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from opskit import actions, approval, archive, disk, environment, journal, plan, provenance, record
from opskit.actions import Action, Change, Decision, Result
from opskit.archive import Archive
from opskit.environment import Environment
from opskit.errors import Refused
from opskit.journal import Event, Journal
from opskit.lock import Lock, attended
from opskit.outcome import Outcome, classify
from opskit.permit import Permit, permit, undisturbed
from opskit.redaction import redactor
from opskit.scrub import redact_files
from opskit.services import Secrets, Services, connect, pins

Tell = Callable[[Action, Result, str], None]
Decided = Sequence[Decision]
ELSEWHERE = "{} was begun in another archive: what was done there since this copy was made cannot be seen from here"
CARRIED_OVER = ("action.begun", "action.progress", "action.ended", "undo.ended")


def resume(
    folder: Path, target: Environment, secrets: Secrets, outputs: Path, tell: Tell, lock: Lock, decided: Decided = ()
) -> tuple[Path, Outcome]:
    """Finish an apply that stopped: ask the outside world about what was begun, then do the rest.

    The answer is a record of its own, which names the one it resumes and carries its action events over. One whose
    process died is closed and sealed first, as lost.
    """
    approved = applied_plan(folder, target)
    services = _connect(target, secrets)

    def work(log: Journal, permit: Permit) -> Outcome:
        log.write("plan", digest=approved.digest, actions=len(approved), manual=0, causes=[])
        actions.write(decided, log, provenance.operator())
        asked = actions.telling(permit, tell)
        for action, result, why in actions.carry_out(approved.actions, services, log, asked):
            tell(action, result, log.redactor.text(why))
        return classify(log.read(), len(approved))

    return _record(folder, "resumes", target, secrets, outputs, lock, services, work)


def undo(
    folder: Path, target: Environment, secrets: Secrets, outputs: Path, tell: Tell, lock: Lock, decided: Decided = ()
) -> tuple[Path, Outcome]:
    """Take back what an apply did, last first. What somebody changed since is left alone and said."""
    approved = applied_plan(folder, target)
    cautions = actions.undo_means(standing(folder))
    services = _connect(target, secrets)

    def work(log: Journal, permit: Permit) -> Outcome:
        good = True
        for caution in cautions:
            log.write("finding", problem=f"to mind in taking this back: {caution}")
        actions.write(decided, log, provenance.operator())
        for action, result, why in actions.take_back(approved.actions, services, log, permit):
            good = good and result.good
            tell(action, result, log.redactor.text(why))
        return Outcome.UNDONE if good else Outcome.PARTLY

    return _record(folder, "undoes", target, secrets, outputs, lock, services, work)


def _record(
    folder: Path,
    relation: str,
    target: Environment,
    secrets: Secrets,
    outputs: Path,
    lock: Lock,
    services: Services,
    work: Callable[[Journal, Permit], Outcome],
) -> tuple[Path, Outcome]:
    """Do some work on what an apply left, and keep a record of its own of it, whatever happens."""
    _close(folder, outputs)
    new, log = _open(folder, relation, target, outputs, secrets, lock)
    with disk.telling(new), attended(new), permit(lock, services.database) as may_begin:
        try:
            outcome = work(log, may_begin)
        except KeyboardInterrupt as error:
            log.write("interrupted", why=str(error) or "in the middle of an action")
            outcome = _cut(relation, log, archive.approved(new), Outcome.INTERRUPTED)
        except Refused as error:
            log.write("refused", why=error.message)
            outcome = _cut(relation, log, archive.approved(new), Outcome.REFUSED)
        with undisturbed():
            if found := redact_files(new, log.redactor):
                log.write("redacted", files=found)
            log.write("run.ended", outcome=outcome, exit=outcome.exit)
            archive.seal(new)
    return new, outcome


def _cut(relation: str, log: Journal, approved: int | None, nothing_done: Outcome) -> Outcome:
    """The outcome of work that was stopped; what a journal says was done before is not what an undo did."""
    if relation == "resumes":
        return classify(log.read(), approved)
    return Outcome.CUT_SHORT if any(e["event"] == "undo.begun" for e in log.read()) else nothing_done


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
    approved, word = plan.load(folder / "plan.json"), approval.load(folder / "approval.json")
    if word is None or word.plan != approved.digest:
        raise Refused(f"the plan in {folder.name} is not the one that was approved.")
    if unknown := {action.name for action in approved} - Change.known.keys():
        raise Refused(
            f"this opskit knows no {', '.join(sorted(unknown))}: the plan was made by another one.",
            f"Use opskit {archive.about(folder)['opskit']}.",
        )
    if approved.made_for["target"] != target.digest:
        raise Refused(f"environment {target.name} was changed since that plan was made.", "Run the runbook again.")
    return approved


def _connect(target: Environment, secrets: Secrets) -> Services:
    """The services, once their credentials are known to reach what the environment promises."""
    services = connect(target, secrets, "opskit/followup")
    pins.compare(target, services, lambda *_: None)  # a service that cannot be asked is found out by its actions
    return services


def _open(
    folder: Path, relation: str, target: Environment, outputs: Path, secrets: Secrets, lock: Lock
) -> tuple[Path, Journal]:
    """A record for what follows: it names what it follows, and whose that was, and carries its actions over."""
    old = archive.about(folder)
    head: dict[str, Any] = provenance.describe(old["runbook"], provenance.find_root(), old["parameters"])
    head |= {"incident": old["incident"], "environment": old["environment"], "retention_days": target.retention_days}
    head |= {relation: old["run"], "after": {key: old[key] for key in ("operator", "host", "started")}, "lock": lock}
    new = record.prepare(outputs, head)
    log = Journal(new / record.JOURNAL, redactor(secrets, environment.standing(target)))
    log.write("run.accepted", runner=os.getpid(), **{k: head[k] for k in ("run", "operator", "host", relation)})
    _carry_over(folder, outputs, log)
    if archive.is_from_elsewhere(folder, outputs):
        log.write("finding", problem=ELSEWHERE.format(old["run"]))
    for name in ("environment.json", "plan.json", "approval.json"):  # the last makes it one that can be resumed
        record.write(new / name, (folder / name).read_text(encoding="utf-8"))
    return new, log


def _carry_over(folder: Path, outputs: Path, log: Journal) -> None:
    """What an earlier run did, and what undos of it took back, all of it at once: half of it would look as if the rest
    had never been begun.
    """
    past = [e for e in journal.read(folder / record.JOURNAL) if e["event"] in CARRIED_OVER]
    past += [event for undo in _undos(folder, outputs) for event in journal.read(undo) if _is_own_end(event)]
    lines = "".join(json.dumps(log.redactor.tree(e | {"carried_over": True}), ensure_ascii=False) + "\n" for e in past)
    record.write(log.path, log.path.read_text(encoding="utf-8") + lines)


def _undos(folder: Path, outputs: Path) -> list[Path]:
    """The journals of the earlier undos of a run, oldest first; also of those that did not come to their end."""
    name = archive.about(folder)["run"]
    return [r / record.JOURNAL for r in reversed(Archive(outputs).runs()) if archive.about(r).get("undoes") == name]


def _is_own_end(event: Event) -> bool:
    return event["event"] == "undo.ended" and "carried_over" not in event


def _close(folder: Path, outputs: Path) -> None:
    """Seal a run whose process died, as lost. One from another machine's archive does not go into our history."""
    if (folder / record.MANIFEST).exists():
        return
    archive.finish(folder)
    if outputs in folder.parents:
        archive.seal(folder)
    else:
        record.seal(folder, provenance.operator())
