"""Running: look and plan, approve, apply, resume, undo."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from opskit import (
    actions,
    approval,
    environment,
    followup,
    journal,
    plan,
    provenance,
    record,
    signatures,
)
from opskit import archive as records
from opskit.actions import Action, Change, Result
from opskit.commands import answering, fates, manual
from opskit.commands.answering import Reply, allowed, archive, outputs, require_elsewhere, root, verb
from opskit.commands.asking import accepted, asked, every_secret
from opskit.environment import Environment
from opskit.errors import BadInput, Refused
from opskit.lab import copies
from opskit.lock import Lock, alone, is_attended
from opskit.outcome import Exit, Outcome
from opskit.parameters import refuse_secrets
from opskit.redaction import redactor
from opskit.services import Secrets, connect
from opskit.spelling import printable


@click.command()
@click.argument("runbook")
@click.option("-f", "files", multiple=True, type=click.Path(path_type=Path), help="A YAML file with parameters.")
@click.option("-p", "pairs", multiple=True, nargs=2, metavar="NAME VALUE", help="One parameter.")
@click.option("--incident", help="The incident this run belongs to.")
@click.option("--environment", "target", help="Where to look; see parameters/environments.")
@verb
def run(runbook: str, files: tuple[Path, ...], pairs: tuple[tuple[str, str], ...], incident: str, target: str) -> Reply:
    """Look, diagnose and plan. Nothing is touched; the record is kept."""
    return ended(*look(runbook, asked(files, pairs, incident, target)))


def look(runbook: str, given: dict[str, Any]) -> tuple[Path, Outcome]:
    """Validate everything, then run a runbook in plan mode. Nothing has happened where this raises BadInput."""
    checked, target, secrets = accepted(runbook, given)
    for lost in archive().lost(checked.get("incident") or ""):
        line = f"{lost.name}, of this incident, was lost on the way: {to_finish(lost)}"
        answering.people.print(printable(line), markup=False)
    return _execute(provenance.describe(runbook, root(), checked), target, secrets)


@click.command(name="plan")
@click.argument("run", metavar="RUN")
@click.option("--export", type=click.Path(path_type=Path), help="Write the plan to a file, to be approved elsewhere.")
@click.option("--by-hand", is_flag=True, help="Only the commands, each whole, as they are to be typed.")
@verb
def show_plan(run: str, export: Path | None, by_hand: bool) -> Reply:
    """Show a run's plan: every action, its state now, and the command by hand."""
    folder = archive().find(run)
    if export:
        require_elsewhere(export)
    _require_made(folder)
    proposed = plan.load(folder / "plan.json")
    glance = [repr(proposed), manual.glance(proposed, folder.name)]
    text = manual.whole(proposed) if by_hand else "\n\n".join(filter(None, glance))
    if export:
        _export(proposed, export)
        text += f"\n\nWritten to {export}. There: opskit approve {export}"
    elif proposed.actions and not by_hand and not records.follows(folder):
        text += f"\n\nNext: {_approving(folder.name, len(proposed.removals))}"
    return Reply({"run": folder.name, "digest": proposed.digest, **proposed.data()}, text)


def _require_made(folder: Path) -> None:
    """Raise BadInput where whoever ran a notebook by hand has made no plan since they last began."""
    events = list(journal.read(folder / record.JOURNAL))
    made = next((e for e in reversed(journal.session(events)) if e["event"] in ("plan", "plan.aside")), {})
    if made.get("event") == "plan" or records.follows(folder) or any(e["event"] == "run.accepted" for e in events):
        return
    head, kinds = records.about(folder), {e["event"] for e in events}
    if "run.begun" not in kinds and (copies.KEY not in head or (folder / "plan.json").exists()):
        return  # whoever reads the plan says what is amiss
    said = made.get("why", "no plan to approve: `run.apply()` was not run")
    again = f"Run it in a new investigation: opskit lab {head['runbook']} --incident {head['incident']}"
    on = again if (folder / record.MANIFEST).exists() else "Go on, and run that cell: opskit lab"
    raise BadInput(f"{folder.name}: {said}.", on)


def _export(proposed: plan.Plan, path: Path) -> None:
    try:
        proposed.save(path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}.") from None


@click.command()
@click.argument("plan_of", metavar="RUN|FILE")
@click.option("--with-removals", is_flag=True, help="Also approve the actions that take access away from users.")
@click.option("--type", "typed", help="The environment and the number of actions, instead of typing them.")
@click.option(
    "--break-glass", metavar="REASON", default="", help="Approve alone what takes two; shown until countersigned."
)
@click.option("--plan", "only", hidden=True, default="", help="Only the plan of that digest, which a person was shown.")
@verb
def approve(plan_of: str, with_removals: bool, typed: str | None, break_glass: str, only: str) -> Reply:
    """Approve exactly this plan, for an hour, and sign that. Asks for the environment and the number of actions.

    FILE is a plan that `opskit plan RUN --export FILE` wrote elsewhere; the answer is an approval to paste there.
    """
    folder = None if Path(plan_of).is_file() else archive().find(plan_of)
    if folder:
        _require_made(folder)
    proposed = plan.load(Path(plan_of)) if folder is None else _proposed(folder)
    if only and proposed.digest != only:
        raise Refused("this run has another plan by now than the one shown.", f"Look at it: opskit plan {plan_of}")
    made_for, approver = proposed.made_for, provenance.operator()
    target = environment.load(made_for["environment"], root())
    refuse_secrets({"break-glass": break_glass}, every_secret())
    if target.production and approver == made_for["operator"] and not break_glass:
        raise Refused(
            f"{approver} ran this runbook; in production another person approves.",
            "Let a colleague run `opskit approve` with their own OPSKIT_OPERATOR and key; "
            "or, if nobody can be reached: --break-glass REASON.",
        )
    if typed is None:
        typed = _ask(f"{made_for['environment']} {len(proposed)}", "approve", repr(proposed))
    word = approval.approve(
        proposed, approver, typed,
        with_removals=with_removals, max_actions=target.limits.max_actions, break_glass=break_glass,
    )  # fmt: skip
    signed = "and signed" if word.signature else "but not signed: no SSH key could sign it"
    text = f"Approved {signed}, until {word.expires}. Next: "
    if folder is None:
        text += _elsewhere(word, made_for["run"])
    elif _countersigns(word, folder):
        approval.require_signer(word, allowed(), made_for["operator"], production=target.production)
        _two_people(word, folder, target)
        word.save(place := records.countersignature(folder.parent, word.plan))
        why = records.keep(f"{folder.name} countersigned by {approver}", place)
        text = f"Countersigned {signed}.{not_kept(why)}"
    else:
        _require_unspent(folder)
        word.save(place := archive().approval(folder))
        why = records.keep(f"{folder.name} approved by {approver}", place)
        here = not records.is_from_elsewhere(folder, outputs())
        text += (f"opskit apply {folder.name}" if here else _elsewhere(word, folder.name)) + not_kept(why)
    data = {"plan": word.plan, "expires": word.expires, "signed": bool(word.signature), "token": word.token}
    return Reply({"run": folder.name if folder else None, **data}, text)


def _elsewhere(word: approval.Approval, run: str) -> str:
    return f"on the other machine, opskit apply {run} --approval '{word.token}'"


def _countersigns(word: approval.Approval, folder: Path) -> bool:
    """Whether it is the second person's word for what one person approved alone and carried out."""
    applied = archive().following(folder, "applies")
    first = approval.load(applied[0] / "approval.json") if applied else None
    alone = first is not None and bool(first.break_glass) and first.approver != word.approver
    return alone and not word.break_glass


def _ask(expected: str, purpose: str, shown: str) -> str:
    """Show what it is about, and have a person type the environment and the number of actions."""
    if not sys.stdin.isatty():
        raise BadInput(f"this asks a person, and there is no terminal to {purpose} on.", f"Say --type '{expected}'.")
    answering.people.print(shown, markup=False)
    return str(click.prompt(f"Type the environment and the number of actions to {purpose} ({expected})", err=True))


def _approving(run: str, removals: int) -> str:
    return f"opskit approve {run}" + (f" --with-removals  ({removals} take access away)" if removals else "")


NO_LOCK = click.option(
    "--no-lock", metavar="REASON", default="", help="Go on although the database, which holds the lock, is down."
)


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--approval", "given", metavar="FILE|TEXT", help="An approval that was given on another machine.")
@click.option("--rate", type=click.FloatRange(min=0.01, max=100), help="Calls to Stripe a second.")
@NO_LOCK
@verb
def apply(run: str, given: str | None, rate: float | None, no_lock: str) -> Reply:
    """Carry out the approved plan of a run, and verify every action. A run of its own, of the same incident."""
    folder = archive().find(run)
    if given:
        word = approval.from_anywhere(given)
        _may_apply(folder, word)
        word.save(place := archive().approval(folder))
        records.keep(f"{folder.name} approved by {word.approver}", place)
    return ended(*carry_out(folder, rate, no_lock))


def carry_out(folder: Path, rate: float | None = None, no_lock: str = "") -> tuple[Path, Outcome]:
    """Apply the approved plan of a sealed run. Raises Refused where anything it rests on has changed."""
    target = environment.load(records.about(folder)["environment"], root())
    _may_apply(folder, approval.load(archive().approval(folder)))
    with _alone(target, "apply", no_lock) as (secrets, lock):
        # Once more, now that nobody else changes anything: waiting for secrets and lock took its time.
        approved, word = _may_apply(folder, approval.load(archive().approval(folder)))
        head = records.about(folder)
        about = provenance.describe(head["runbook"], root(), head["parameters"])
        about |= {"incident": head["incident"], "applies": head["run"], "rate": rate, "lock": lock}
        _note_begun(folder, about)
        return _execute(about, target, secrets, (approved, word))


def _note_begun(folder: Path, about: dict[str, Any]) -> None:
    """Say in the history that a plan begins to be carried out: whoever loses that record must not do it again."""
    note = archive().begun(folder)
    record.write(note, json.dumps({key: about[key] for key in ("run", "operator", "host", "started")}, indent=1))
    records.keep(f"{folder.name} begun by {about['run']}", note)


def _may_apply(folder: Path, word: approval.Approval | None) -> tuple[plan.Plan, approval.Approval]:
    """The plan of a run and the word for it. Raises Refused where it may not be carried out now."""
    approved, head = _proposed(folder), records.about(folder)
    _require_unspent(folder)
    if approved.made_for.get("archive") != provenance.archive(outputs()):
        raise Refused(
            f"{head['run']} was made in another archive. Whether its plan was carried out there, and taken back since, "
            "nobody can see from here.",
            "Apply it there; or run the runbook here, and approve its new plan.",
        )
    for other, why in archive().damaged().items():
        if other.parent.name == head["incident"]:
            raise Refused(
                f"{other.name}, of this incident, is damaged ({why}): it may have carried out this plan already.",
                f"`opskit verify {other}` says what was changed; put it back from the archive's history.",
            )
    if lost := archive().lost(head["incident"]):
        raise Refused(f"{lost[0].name}, of this incident, was lost on the way.", f"Next: {to_finish(lost[0])}")
    target = environment.load(head["environment"], root())
    if (left := records.summary(folder))["outcome"] == records.UNSEALED and not left["sealed"]:
        raise Refused(f"{folder.name} was run by hand, and is still open.", f"Close it first: {_closing(folder)}")
    if trouble := record.verify(folder, allowed()).wrong:
        raise Refused(f"the record of {folder.name} is not as it was sealed: {'; '.join(trouble)}.", "Run it again.")
    notebook = provenance.notebook_digest(root() / "notebooks" / f"{head['runbook']}.ipynb")
    now_for = {"notebook": notebook, "opskit": provenance.code(), "target": target.digest}
    found = approval.require(word, approved, now_for, folder.name)
    approval.require_signer(found, allowed(), head["operator"], production=target.production)
    _two_people(found, folder, target)
    return approved, found


def _closing(folder: Path) -> str:
    """The command that makes a record of what a person ran."""
    return f"opskit seal {folder.name}" if copies.copy_of(folder, outputs()) else "opskit seal NOTEBOOK"


def _require_unspent(folder: Path) -> None:
    """Raise Refused where a run's plan has been carried out: nothing is done twice."""
    if why := archive().carried_out(folder):
        raise Refused(f"{why}.", "Next: opskit resume it, or run the runbook again.")


def _two_people(word: approval.Approval, folder: Path, target: Environment) -> None:
    """In production another person approves: another name is not enough where it is the same key."""
    sealed = folder / record.SIGNATURE
    if not (target.production and word.signature and not word.break_glass and sealed.exists()):
        return
    own = signatures.public_key(sealed.read_text(encoding="utf-8"))
    if own and own == signatures.public_key(word.signature):
        raise Refused(
            f"{word.approver} approved with the key that signed the run: in production another person approves.",
            "Let a colleague approve with a key of their own; or, if nobody can be reached: --break-glass REASON.",
        )


def _proposed(folder: Path) -> plan.Plan:
    """The plan of a run that looked. Raises Refused for one that followed up: what it did is not to be done again."""
    if records.follows(folder):
        raise Refused(
            f"{folder.name} carried out a plan itself; it is not applied again.", f"Next: {to_finish(folder)}"
        )
    return plan.load(folder / "plan.json")


@click.command()
@click.argument("run", metavar="RUN")
@fates.deciding
@NO_LOCK
@verb
def resume(run: str, no_lock: str, decided: tuple[str, ...], because: str) -> Reply:
    """Finish an apply that stopped: find out what really happened, then do the rest.

    RUN may also be the folder of a run that was begun on another machine. Where it stops because the fate of an action
    cannot be known, find out yourself, and say: --decided ACTION=done (or not-done) --because TEXT.
    """
    refuse_secrets({"because": because}, every_secret())
    folder = _intact(archive().find(run, applied=True))
    if undone := records.about(folder).get("undoes"):
        raise Refused(f"{folder.name} took back what {undone} did.", f"To finish that: opskit undo {undone}")
    if other := next(iter(archive().following(folder, "undoes")), None):
        raise Refused(f"{other.name} has taken back what {folder.name} did.", "Run the runbook again.")
    target = environment.load(records.about(folder)["environment"], root())
    _require_approved(folder, target)
    _require_begun_in_time(folder)
    words = fates.decisions(folder, decided, because)
    with _alone(target, "resume", no_lock) as (secrets, lock):
        _intact(folder)  # once more, now that nobody else changes anything
        if archive().following(folder, "undoes"):
            raise Refused(f"{folder.name} was taken back meanwhile.", "Run the runbook again.")
        if records.is_from_elsewhere(folder, outputs()):
            _say(f"? {followup.ELSEWHERE.format(folder.name)}. Whoever handed it over must not go on there.")
        return ended(*followup.resume(folder, target, secrets, outputs(), _tell, lock, words))


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--type", "typed", help="The environment and the number of changes, instead of typing them.")
@fates.deciding
@NO_LOCK
@verb
def undo(run: str, typed: str | None, no_lock: str, decided: tuple[str, ...], because: str) -> Reply:
    """Take back what an apply did, last first; what somebody changed since is left alone. Asks before it does."""
    refuse_secrets({"because": because}, every_secret())
    folder = archive().find(run, applied=True)
    if undone := records.about(folder).get("undoes"):
        folder = archive().find(undone)
    _intact(folder)
    if other := archive().taken_back(folder):
        raise Refused(f"{other.name} has taken back what {folder.name} did.", "Run the runbook again.")
    target = environment.load(records.about(folder)["environment"], root())
    _require_approved(folder, target)
    changes, words = followup.standing(folder), fates.decisions(folder, decided, because)
    final = {a.title: Change.known[a.name].final for a in changes if Change.known[a.name].final}
    if changes and len(final) == len(changes) and not words:
        raise Refused("; ".join(f"{title} cannot be undone: {why}" for title, why in final.items()) + ".")
    expected = f"{target.name} {len(changes)}"
    for said in actions.undo_means(changes):
        answering.people.print(printable(f"Mind: {said}."), markup=False)
    if typed is None:
        lines = [f"{'For good: ' if a.title in final else 'To take back: '}{a.title}" for a in changes]
        typed = _ask(expected, "take back", "\n".join(lines))
    if " ".join(typed.split()) != expected:
        raise Refused(f"nothing was taken back: {typed!r} is not {expected!r}.", f"Type {expected!r}.")
    with _alone(target, "undo", no_lock) as (secrets, lock):
        _intact(folder)  # once more, now that nobody else changes anything
        if archive().taken_back(folder) or len(followup.standing(folder)) != len(changes):
            raise Refused(f"{folder.name} was resumed or taken back meanwhile.", "Next: opskit history")
        return ended(*followup.undo(folder, target, secrets, outputs(), _tell_back, lock, words))


def _require_approved(folder: Path, target: Environment) -> None:
    """Raise Refused where nobody who may approve has approved what a run carried out, whatever its folder says."""
    carried_out = followup.applied_plan(folder, target)
    word = approval.load(folder / "approval.json")
    assert word is not None  # noqa: S101  # or `applied_plan` had refused
    approval.require_signer(word, allowed(), carried_out.made_for["operator"], production=target.production)


def _require_begun_in_time(folder: Path) -> None:
    """Raise Refused where a plan was not begun while its approval held: to finish it is to begin it."""
    word = approval.load(folder / "approval.json")
    begun = [e["at"] for e in journal.read(folder / record.JOURNAL) if e["event"] == "action.begun"]
    first = min(map(datetime.fromisoformat, begun), default=datetime.now(UTC))
    if word and first > datetime.fromisoformat(word.expires) + records.LEEWAY:
        raise Refused(
            f"{folder.name} had begun nothing when its approval expired at {word.expires}.",
            "Run the runbook again, and approve its new plan.",
        )


def _intact(folder: Path) -> Path:
    """The record of a run, which may be unsealed where its process died. Raises Refused where it was altered."""
    if is_attended(folder):
        raise Refused(f"{folder.name} is still under way.", "Wait until it ended.")
    if (folder / record.MANIFEST).exists() and (trouble := record.verify(folder, allowed()).wrong):
        raise Refused(f"the record of {folder.name} is not as it was sealed: {'; '.join(trouble)}.")
    if other := next(iter(archive().following(folder, "resumes")), None):  # it knows what was done since
        raise Refused(f"{other.name} went on from {folder.name}.", f"Name that one: {other.name}")
    return folder


def to_finish(lost: Path) -> str:
    undone = records.about(lost).get("undoes")
    return f"opskit undo {undone}" if undone else f"opskit resume {lost.name}"


@contextmanager
def _alone(target: Environment, purpose: str, no_lock: str) -> Iterator[tuple[Secrets, Lock]]:
    """The secrets for changing an environment, while nobody else changes it."""
    record.check_writable(outputs())
    secrets = {"read": environment.resolve(target, "read"), "change": environment.resolve(target, "change")}
    refuse_secrets({"no-lock": no_lock}, redactor(secrets, environment.standing(target)))
    database = connect(target, secrets, f"opskit/{purpose}").database
    with alone(target.name, database, outputs(), purpose, no_lock) as lock:
        yield secrets, lock


def _tell(action: Action, result: Result, why: str) -> None:
    _say(f"{result}: {action.title}{f' ({why})' if why else ''}")


def _tell_back(action: Action, result: Result, why: str) -> None:
    word = "taken back" if result is Result.DONE else f"not taken back, {result}"
    _say(f"{word}: {action.title}{f' ({why})' if why else ''}")


def _say(line: str) -> None:
    with suppress(OSError, SystemExit):  # whoever read along has left; the work goes on
        answering.people.print(line, markup=False)


def _execute(about: dict[str, Any], target: Environment, secrets: Any, pair: Any = None) -> tuple[Path, Outcome]:
    from opskit import runner  # noqa: PLC0415  # brings papermill, a second that refusals should not cost

    approved = runner.Approved(*pair) if pair else None
    with _progress(about["runbook"]) as progress:
        return runner.execute(about, root(), target, secrets, outputs=outputs(), approved=approved, progress=progress)


@contextmanager
def _progress(title: str) -> Iterator[Any]:
    """A bar with the step under way, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = TextColumn(title), BarColumn(), TextColumn("{task.fields[step]}"), TimeElapsedColumn()
    with Progress(*columns, console=answering.trouble, transient=True) as bar:
        task = bar.add_task(title, step="starting", total=None)
        yield lambda step, number, total: bar.update(task, step=step, completed=number, total=total)


def ended(folder: Path, outcome: Outcome) -> Reply:
    """What to say at the end of any run."""
    found = records.summary(folder)
    what = ", ".join(found["causes"]) or found["runbook"]
    if records.approved(folder) is not None:  # what it found is beside the point: what became of the plan is not
        what = f"{found['done']} of {found['actions']} actions"
    if "undoes" in found["follows"]:
        what = f"{found['taken_back']} changes of {found['follows']['undoes']} taken back"
    lines = [f"{outcome}: {what}" if what != outcome else str(outcome)]
    if outcome is Outcome.PLANNED:
        lines += [f"{found['actions']} actions planned. Next: opskit plan {found['run']}"]
        lines += [f"Then: {_approving(found['run'], found['removals'])}"]
    if outcome in (Outcome.UNKNOWN, Outcome.PEOPLE):
        lines += [f"Open: {question}" for question in records.open_questions(folder)]
        lines += [f"For a person: {title}" for title in records.planned(folder)]
        lines += ["Next: the Escalation section of the record says whom to call."]
    if outcome in (Outcome.PARTLY, Outcome.CUT_SHORT, Outcome.FATE_UNKNOWN):
        lines += [f"Waits for a person: {title}" for title in fates.waiting(folder)]
        lines += [f"Fate unknown: {number}  {title}" for number, title in fates.in_doubt(folder)]
        lines += [f"Next: opskit show {found['run']}, then {to_finish(folder)}"]
    if outcome is Outcome.FATE_UNKNOWN and "undoes" not in found["follows"]:
        number = next((n for n, _ in fates.in_doubt(folder)), 1)
        lines += [f"If that cannot tell either, find out, and add: --decided {number}=done|not-done --because TEXT"]
    lines += [f"Why: {why}" for why in records.reasons(folder)]
    lines += [f"Mind: {note}" for note in records.disorder(folder)]
    if (last := archive().ahead()) is not None:
        lines += [f"The clock went back: `last` means {last.name}, which is still to come. Name runs by their ids."]
    lines += [f"BREAK GLASS: approved by one person alone: {found['break_glass']}"] if found["break_glass"] else []
    lines += [f"Record: {folder}{'' if found['signed'] else ' (unsigned: no SSH key could sign it)'}"]
    text = "\n".join(lines)
    if found["sealed"] and outputs() in folder.parents and not records.is_kept(folder):
        text += not_kept(f"`opskit seal {folder.name}` tries again, and says why.")
    return Reply(found, text, Exit(outcome.exit))


def not_kept(why: str) -> str:
    """What to say of a record that the archive's history did not take; nothing where there is no reason."""
    return f"\nNOT IN THE ARCHIVE'S HISTORY: whoever removes it there is not found out. {why}" if why else ""
