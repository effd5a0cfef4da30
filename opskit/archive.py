"""The archive: a folder of records, found again by incident and run; what is sealed goes into its history."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from opskit import approval, commits, files, journal, plan, provenance, record
from opskit.actions import Result
from opskit.checks import Answer
from opskit.errors import BadInput, OpskitError
from opskit.lock import is_attended
from opskit.outcome import Outcome

REHEARSALS = ("drill-", "demo-")  # incidents that are not
BEGINNINGS = ("action.begun", "action.ended", "undo.begun")  # with which a run begins to act
LEEWAY = timedelta(minutes=1)  # by which clocks may differ
FOLLOWING = ("applies", "resumes", "undoes")  # how a run follows another
READ = ("run.json", record.JOURNAL, record.MANIFEST, record.SIGNATURE, "plan.json", "approval.json")
HEAD = ("run", "incident", "runbook", "environment", "operator", "started")
NEEDS = {  # what an event must tell
    "check": ("name", "question", "answer", "because", "required"),
    "action.begun": ("action", "name"),
    "action.progress": ("action", "reached"),
    "action.ended": ("action", "name", "result", "why"),
    "undo.ended": ("action", "name", "result"),
    "run.ended": ("outcome",),
    "finding": ("problem",),
    "edited": ("cells",),
    "disorder": ("notes",),
    "difference": ("gone", "new"),
    "plan": ("digest", "actions", "causes"),
    **dict.fromkeys(("refused", "failed", "interrupted"), ("why",)),
}
UNDER_WAY, UNSEALED = "under way", "unsealed"  # of runs that nobody has classified yet


class Archive:
    """The records below one folder, one folder per incident and run."""

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs

    def runs(self) -> list[Path]:
        """The folder of every run that can be read, newest first."""
        return [folder for folder in self.everything() if not damage(folder)]

    def damaged(self) -> dict[Path, str]:
        """The folders that ought to be runs, and why they cannot be read."""
        return {folder: why for folder in self.everything() if (why := damage(folder))}

    def everything(self) -> list[Path]:
        """Whatever has a run's files, in whatever state they are; newest first."""
        named = (path.parent for path in self.outputs.glob("*/*/*") if path.name in ("run.json", record.MANIFEST))
        return sorted(set(named), key=lambda folder: folder.name, reverse=True)

    def find(self, name: str, applied: bool = False) -> Path:
        """The run of that id, of an unambiguous prefix of it, in that folder, or the `last` one; BadInput otherwise.

        `last` passes over rehearsals; with `applied`, over runs that carried out no plan. A newer one that cannot be
        read may be what is meant, and is named instead.
        """
        if (folder := Path(name)).is_absolute() or "/" in name:  # a run's folder, perhaps from another machine
            return _whole(folder.absolute())
        runs = self.runs()
        if name == "last":
            serious = [run for run in runs if not run.parent.name.startswith(REHEARSALS)]
            if candidates := [run for run in serious if not applied or approved(run) is not None]:
                self._require_newest(candidates[0])
                return candidates[0]
            why = ": none has carried out a plan yet" if applied else ""
            raise BadInput(f"there is no run {name!r} in {self.outputs}{why}.", "`opskit history` lists them.")
        found = [folder for folder in runs if name and folder.name.startswith(name)]
        exact = [folder for folder in found if folder.name == name]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if found:
            named = ", ".join([f.name for f in found[:5]] + ["…"] * (len(found) > 5))
            raise BadInput(f"{name!r} means {len(found)} runs: {named}.", "Give more of it.")
        for folder in self.damaged():
            if name and folder.name.startswith(name):
                return _whole(folder)
        raise BadInput(f"there is no run {name!r} in {self.outputs}.", "`opskit history` lists them.")

    def _require_newest(self, folder: Path) -> None:
        for other, why in self.damaged().items():
            if other.name > folder.name and not other.parent.name.startswith(REHEARSALS):
                raise BadInput(
                    f"a record newer than {folder.name} is damaged: {other}: {why}.",
                    "Name the run that you mean instead of `last`; `opskit verify` says what was changed.",
                )

    def ahead(self) -> Path | None:
        """The newest run, where its id lies in the future: runs are ordered by the clock of whoever ran them."""
        newest = next(iter(self.runs()), None)
        return newest if newest and newest.name > f"{datetime.now(UTC) + LEEWAY:%Y%m%dT%H%M%S}" else None

    def following(self, folder: Path, how: str) -> list[Path]:
        """The runs that began to apply, resume or undo this one (`how`: applies, resumes, undoes), newest first."""
        name = about(folder)["run"]  # whatever a copy of its folder is called
        return [run for run in self.runs() if about(run).get(how) == name and _has_begun(run)]

    def followers(self) -> dict[str, list[tuple[str, str]]]:
        """For each run that others followed: how (applies, resumes, undoes), and which, oldest first."""
        found: dict[str, list[tuple[str, str]]] = {}
        for run in reversed(self.runs()):
            for how in FOLLOWING:
                if other := about(run).get(how):
                    found.setdefault(other, []).append((how, run.name))
        return found

    def lost(self, incident: str) -> list[Path]:
        """Runs of an incident that died while changing things, and that nobody has resumed or taken back."""
        runs = [run for run in self.runs() if run.parent.name == incident and approved(run) is not None]
        lost = [run for run in runs if summary(run)["outcome"] == Outcome.LOST]
        followed = {about(run).get(how) for run in runs for how in ("resumes", "undoes")}
        undone = {about(run).get("undoes") for run in runs if run not in lost} - {None}
        return [run for run in lost if run.name not in followed and about(run).get("undoes") not in undone]

    def taken_back(self, folder: Path) -> Path | None:
        """The run that took back what this one did, to the end."""
        undos = (run for run in self.runs() if about(run).get("undoes") == folder.name)
        return next((run for run in undos if summary(run)["outcome"] == Outcome.UNDONE), None)

    def begun(self, folder: Path) -> Path:
        """Where it is noted, before anything is done, which run begins to carry out a run's plan."""
        head = about(folder)  # whatever a copy of its folder is called, and wherever that lies
        return Path(self.outputs, head["incident"], "approvals", f"{head['run']}.begun.json")

    def carried_out(self, folder: Path) -> str:
        """Why the plan of a run counts as carried out; empty where it certainly was not."""
        proposed = plan.load(folder / "plan.json").digest
        for run in self.runs():
            word = approval.load(run / "approval.json")
            if word and word.plan == proposed and _has_begun(run):
                return f"{run.name} has carried out this plan already"
        note = self.begun(folder)
        if commits.is_gone(self.outputs):
            return "the archive's history is gone, so nobody can see whether this plan was carried out"
        if not note.exists() and not commits.knows(self.outputs, note):
            return ""
        if commits.knows(self.outputs, note) and not commits.holds(self.outputs, note):
            return f"{note} is not as in the archive's history, so nobody can see who began to carry out this plan"
        began, looked = noted(note), about(folder)["run"]
        applied = (about(run) for run in self.runs())
        if any(head["run"] == began and head.get("applies") == looked for head in applied):  # and it did nothing
            return ""
        return f"{began} began to carry out this plan, and its record is not here"

    def approval(self, folder: Path) -> Path:
        """Where the approval of a run's plan is kept: beside the record, which is sealed."""
        return folder.parent / "approvals" / f"{folder.name}.json"

    def summaries(self, text: str = "", **wanted: str | None) -> Iterator[dict[str, Any]]:
        """What there is to say of each run, newest first: those that mention `text`, and are as `wanted` says."""
        for folder in self.runs():
            found = summary(folder)
            if all(value is None or found[key] == value for key, value in wanted.items()):
                found["mentions"] = mentions(folder, text) if text else []
                if not text or found["mentions"]:
                    yield found


def noted(note: Path) -> str:
    """The run that a note in `approvals/` names; the note itself, where it names none."""
    try:
        return str(json.loads(files.read(note))["run"])
    except (OSError, ValueError, LookupError, TypeError):
        return note.name


def _has_begun(folder: Path) -> bool:
    """Whether a run has itself begun to act."""
    events = journal.read(folder / record.JOURNAL)
    return any(event["event"] in BEGINNINGS and "carried_over" not in event for event in events)


def about(folder: Path) -> dict[str, Any]:
    """Who ran what: the head of a record."""
    try:
        found: dict[str, Any] = json.loads(files.read(folder / "run.json"))
    except (OSError, ValueError, RecursionError):
        raise BadInput(f"{folder}: is not a run.") from None
    return found


def _whole(folder: Path) -> Path:
    """The folder, if its run can be read. Raises BadInput that says why not."""
    about(folder)
    if why := damage(folder):
        raise BadInput(f"{folder}: this record is damaged: {why}.", "`opskit verify` says what of it was changed.")
    return folder


def damage(folder: Path) -> str:
    """Why what lies in a folder cannot be read as a run; empty where it can. Whether it was changed, `verify` says.

    The one judge of that, so that nothing that reads a run need doubt what it finds there.
    """
    try:
        stamps = tuple(_stamp(folder / name) for name in READ)
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    return _damage(folder, stamps)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return ()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=10_000)
def _damage(folder: Path, stamps: tuple[tuple[int, ...], ...]) -> str:
    """`stamps` tell apart what stood there at one time and at another."""
    try:
        head = about(folder)
        if wrong := [name for name in HEAD if not isinstance(head[name], str)] or [folder.name] * folder.is_symlink():
            return f"{wrong[0]} is not what it should be"
        if datetime.fromisoformat(head["started"]).tzinfo is None:
            return "nobody can tell when it began"
        if not isinstance(head["parameters"], dict):
            return "nobody can tell with which parameters it was run"
        for event in journal.read(folder / record.JOURNAL):
            if datetime.fromisoformat(event["at"]).tzinfo is None:
                return "nobody can tell when what happened"
            if lacking := [name for name in NEEDS.get(event["event"], ()) if name not in event]:
                return f"its journal has an event {event['event']!r} without {lacking[0]!r}"
        summary(folder)
    except OpskitError as error:
        return error.message.rstrip(".")
    except (LookupError, TypeError, ValueError, AttributeError, OSError, RecursionError) as error:
        return f"its files do not fit together ({type(error).__name__}: {error})"
    return ""


def is_from_elsewhere(folder: Path, outputs: Path) -> bool:
    """Whether a run was made in another archive, so that what followed it there may be unknown here."""
    return bool(about(folder).get("archive") != provenance.archive(outputs))


def seal(folder: Path) -> str:
    """Seal a record and put it into the archive's history; answers as `keep`."""
    if not (folder / record.MANIFEST).exists():
        record.seal(folder, provenance.operator())
    return keep(f"{folder.name} {about(folder)['runbook']}: {summary(folder)['outcome']}", folder)


def keep(message: str, *places: Path) -> str:
    """Put records and approvals, and nothing beside them, into the archive's history.

    Answers why that failed, or nothing. They stand then all the same, and `verify` says that they are not in it.
    """
    if not places:
        return ""
    outputs = places[0].parents[1] if places[0].is_dir() else places[0].parents[2]
    try:
        commits.commit(outputs, places, message)
    except (OpskitError, OSError) as error:
        return error.message if isinstance(error, OpskitError) else f"{error.filename}: {error.strerror}."
    return ""


def is_kept(folder: Path) -> bool:
    """Whether the archive's history has this sealed record."""
    try:
        return commits.holds(folder.parents[1], folder / record.MANIFEST)
    except OpskitError:
        return False


def finish(folder: Path) -> str:
    """Close the journal of a run whose process died, as lost; one that ended is left as it is. Answers the outcome."""
    found = str(summary(folder)["outcome"])
    if not any(event["event"] == "run.ended" for event in journal.read(folder / record.JOURNAL)):
        found = Outcome.LOST
        journal.Journal(folder / record.JOURNAL).write(
            "run.ended", outcome=found, exit=Outcome.LOST.exit, closed_by=provenance.operator()
        )
    return found


def summary(folder: Path) -> dict[str, Any]:
    """What a run was about, what it found and how it ended."""
    head = about(folder)
    events = list(journal.read(folder / record.JOURNAL))
    ended = next((e for e in events if e["event"] == "run.ended"), None)
    proposed = next((e for e in reversed(journal.session(events)) if e["event"] in ("plan", "plan.aside")), {})
    results = [e for e in events if e["event"] == "action.ended"]
    return {
        "run": head["run"],
        "incident": head["incident"],
        "runbook": head["runbook"],
        "environment": head["environment"],
        "operator": head["operator"],
        "started": head["started"],
        "outcome": ended["outcome"] if ended else outcome(folder, events),
        "causes": proposed.get("causes", _named(events)),
        "actions": proposed.get("actions", 0) if (planned := approved(folder)) is None else planned,
        "removals": proposed.get("removals", 0),
        "done": len({e["action"] for e in results if Result(e["result"]).good}),
        "sealed": (folder / record.MANIFEST).exists(),
        "signed": (folder / record.SIGNATURE).exists(),
        "follows": {how: head[how] for how in FOLLOWING if how in head},
        "taken_back": sum(e["event"] == "undo.ended" and e["result"] == "done" for e in events),
        "break_glass": glass(folder),
        "folder": str(folder),
    }


def answers(events: list[journal.Event]) -> list[journal.Event]:
    """What each check answered last, since the run was last begun: a person asks again."""
    return list({e["name"]: e for e in journal.session(events) if e["event"] == "check"}.values())


def _named(events: list[journal.Event]) -> list[str]:
    """The causes that checks had named when a run ended before its plan."""
    told = (e.get("cause") for e in answers(events) if e.get("answer") == Answer.NO)
    return list(dict.fromkeys(str(cause) for cause in told if cause))


def outcome(folder: Path, events: list[journal.Event]) -> str:
    """What became of a run that nobody has classified: it is under way, was run by hand, or its process died."""
    if is_attended(folder):
        return UNDER_WAY
    return Outcome.LOST if any(e["event"] == "run.accepted" for e in events) else UNSEALED


def approved(folder: Path) -> int | None:
    """How many actions a run was to carry out; None where it was only to look."""
    return len(plan.load(folder / "plan.json")) if (folder / "approval.json").exists() else None


def mentions(folder: Path, text: str) -> list[str]:
    """The files of a record in which a text stands, whatever its case. What is private is not searched."""
    places = [path for path in sorted(folder.rglob("*")) if folder / record.PRIVATE not in path.parents]
    wanted, found = text.casefold(), []
    for path in places:
        with suppress(OSError):  # it is a folder, or nothing that a record has
            if path.suffix != ".sig" and wanted in files.read(path).decode(errors="replace").casefold():
                found.append(path.relative_to(folder).as_posix())
    return found


def follows(folder: Path) -> bool:
    """Whether a run carried out, finished or took back what another one planned."""
    return any(how in about(folder) for how in FOLLOWING)


def glass(folder: Path) -> str:
    """Why one person approved alone what this run carried out; empty once somebody countersigned, as a rule."""
    word = approval.load(folder / "approval.json")
    if word is None or not word.break_glass:
        return ""
    counter = approval.load(countersignature(folder.parent, word.plan))
    second = counter and counter.plan == word.plan and counter.approver != word.approver and approval.is_signed(counter)
    return "" if second else word.break_glass


def countersignature(incident: Path, plan_digest: str) -> Path:
    """Where a second person's word for a plan is kept that one person approved alone."""
    return incident / "approvals" / f"countersigned-{plan_digest[7:23]}.json"


def reasons(folder: Path) -> list[str]:
    """Why a run was refused or failed, in its journal's words."""
    events = journal.session([*journal.read(folder / record.JOURNAL)])
    return list(dict.fromkeys(e["why"] for e in events if e["event"] in ("refused", "failed", "interrupted")))


def edited(folder: Path) -> list[str]:
    """The cells in which a hand-run notebook differs from the committed runbook."""
    events = journal.read(folder / record.JOURNAL)
    return next((e["cells"] for e in events if e["event"] == "edited"), [])


def disorder(folder: Path) -> list[str]:
    """In what a hand-run notebook, read from top to bottom, does not show what happened."""
    events = journal.read(folder / record.JOURNAL)
    return next((e["notes"] for e in events if e["event"] == "disorder"), [])


def open_questions(folder: Path) -> list[str]:
    """The questions that a run could not answer, with the reason."""
    last = answers(list(journal.read(folder / record.JOURNAL)))
    return [f"{e['question']}? {e['because']}" for e in last if e["answer"] == "unknown" and e["required"]]


def planned(folder: Path) -> list[str]:
    """What a run planned, in words."""
    path = folder / "plan.json"
    return [action.title for action in plan.load(path)] if path.exists() else []


def verdict(folder: Path) -> str:
    """What came of a run, in Markdown."""
    found = summary(folder)
    done = (
        f"{found['done']} of {found['actions']} actions" if approved(folder) else f"{found['actions']} actions planned"
    )
    lines = [
        f"> **{found['outcome'].capitalize()}**: {', '.join(found['causes']) or 'no cause'}; {done}.",
        f"> Run `{found['run']}` of incident `{found['incident']}` on **{found['environment']}**, "
        f"by {found['operator']}, {found['started']}.",
        *(f"> - open: {question}" for question in open_questions(folder)),
        *(f"> - why: {why}" for why in reasons(folder)),
        *(f"> - **approved by one person alone**: {why}" for why in [glass(folder)] if why),
        *(f"> - edited by hand: {', '.join(f'`{cell}`' for cell in cells)}" for cells in [edited(folder)] if cells),
        *(f"> - {note}" for note in disorder(folder)),
    ]
    return "\n>\n".join(lines[:2]) + "".join(f"\n{line}" for line in ([">", *lines[2:]] if lines[2:] else []))
