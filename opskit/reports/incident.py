"""What the records of one incident say when they are read together: nothing here is judged, and nothing written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from pathlib import Path
from typing import Any

from opskit import archive, files, journal, plan, priorities, record
from opskit.actions import Action, Result
from opskit.archive import Archive
from opskit.checks import HEALTHY, UNKNOWN
from opskit.errors import BadInput
from opskit.journal import Event
from opskit.outcome import Outcome

UNTRIED = PLANNED, NOT_BEGUN = "planned, not approved", "approved, not begun"
TAKEN_BACK = "taken back"
KINDS = {"undoes": "took back", "resumes": "resumed", "applies": "applied"}


@dataclass(frozen=True)
class Record:
    """One run of an incident, numbered from the oldest."""

    number: int
    folder: Path
    head: dict[str, Any]
    found: dict[str, Any]  # its summary
    events: list[Event]  # its own: none carried over from the run that it follows, none by whoever closed it later
    allowed: Path | None  # whose keys are whose, where somebody says so

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        """Whether it looked, applied, resumed or took back."""
        return next((word for key, word in KINDS.items() if self.head.get(key)), "looked")

    @property
    def follows(self) -> str:
        """The run whose plan it applied, resumed or took back; empty where it looked."""
        return next((str(self.head[key]) for key in KINDS if self.head.get(key)), "")

    @property
    def looked(self) -> bool:
        return self.kind == "looked"

    @property
    def began(self) -> datetime:
        return datetime.fromisoformat(self.head["started"])

    @property
    def ended(self) -> datetime:
        """When it was last heard of."""
        return at(self.events[-1]) if self.events else self.began

    @property
    def zone(self) -> tzinfo:
        """Its operator's."""
        local = self.head.get("started_local")
        return (datetime.fromisoformat(local).tzinfo if local else None) or UTC

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """Those of its executed notebook; none where it has none."""
        return list((load(self.folder / record.NOTEBOOK) or {}).get("cells", []))

    @cached_property
    def plan(self) -> list[Action]:
        try:
            return plan.load(self.folder / "plan.json").actions
        except BadInput:  # there is none, or its process died while writing it
            return []

    @cached_property
    def proof(self) -> record.Finding:
        return record.verify(self.folder, self.allowed)

    @property
    def trouble(self) -> str:
        """What is no longer as it was sealed, or that it never was."""
        return "; ".join(self.proof.wrong)

    @property
    def digest(self) -> str:
        """Of its manifest, which holds all its files' digests; empty where it was never sealed."""
        manifest = self.folder / record.MANIFEST
        return f"sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()}" if manifest.exists() else ""

    @property
    def seal(self) -> str:
        """In words."""
        if self.trouble:
            return f"NOT AS SEALED: {self.trouble}" if self.digest else "never sealed"
        return ", ".join([f"signed by {self.proof.signer}"] * bool(self.proof.signer) + [*self.proof.unproven])

    @property
    def edited(self) -> str:
        """The cells in which it differs from the committed runbook, where somebody ran it by hand."""
        return ", ".join(archive.edited(self.folder))

    @property
    def disorder(self) -> list[str]:
        """In what its notebook, read from top to bottom, does not show what happened."""
        return archive.disorder(self.folder)

    def told(self, kind: str) -> list[Event]:
        """Its own events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    def section(self, title: str) -> list[dict[str, Any]]:
        """The cells of its notebook under a heading such as `Impact`."""
        found, inside = [], False
        for cell in self.cells:
            heading = re.match(r"##? (.+)", "".join(cell["source"])) if cell["cell_type"] == "markdown" else None
            inside = heading[1].strip() == title if heading else inside
            found += [cell] if inside else []
        return found

    def checks(self) -> Iterator[tuple[str, Event]]:
        """Every check as it was last answered, with the id of the cell that asked it."""
        cell, last = "", archive.answers(self.events)
        for event in self.events:
            if event["event"] == "cell.started":
                cell = event.get("cell", "")
            elif event in last:
                yield cell, event


@dataclass(frozen=True)
class Fate:
    """What became of one planned change in the end."""

    action: Action
    word: str
    number: int  # of the record that says so
    when: datetime | None = None
    why: str = ""
    after: Any = None

    @property
    def open(self) -> bool:
        """Whether what was planned is still to be done, or at least to be found out."""
        return self.word not in (Result.DONE, Result.ALREADY, Result.SAID, TAKEN_BACK)


@dataclass(frozen=True)
class Incident:
    name: str
    folder: Path
    records: list[Record]

    @property
    def rehearsal(self) -> bool:
        return self.name.startswith(archive.REHEARSALS)

    @property
    def looks(self) -> list[Record]:
        return [one for one in self.records if one.looked]

    @cached_property
    def telling(self) -> Record:
        """The run that says most of how things were: whose plan was carried out, else the first to name a cause."""
        applied = {one.head.get("applies") for one in self.records}
        named = [one for one in self.looks if set(one.found["causes"]) - {HEALTHY, UNKNOWN}]
        of_plan = [one for one in self.looks if one.name in applied]
        return (of_plan + named + self.looks[::-1] + self.records)[0]

    @cached_property
    def detected(self) -> datetime | None:
        """As somebody said it: that a run began proves nothing about when the trouble was noticed."""
        given = [one.head["parameters"].get("detected_at") for one in self.records]
        return min((datetime.fromisoformat(when) for when in given if when), default=None)

    @cached_property
    def priority(self) -> str:
        """As the run found that tells most, else as the runbook is catalogued; empty if neither."""
        title = "".join("".join(cell["source"]) for cell in self.telling.cells[:1])
        catalogued = re.findall(rf"\*\*Priority\*\*\s*\|\s*\**({'|'.join(priorities.RESPONSE)})", title)
        return next(iter([*(event["priority"] for event in self.telling.told("priority")[-1:]), *catalogued]), "")

    @property
    def respond_by(self) -> datetime | None:
        known = self.detected and self.priority in priorities.RESPONSE
        return priorities.respond_by(self.detected, self.priority) if known and self.detected else None

    @cached_property
    def approvals(self) -> list[dict[str, Any]]:
        """Every approval, oldest first, each with the number of the record whose plan it is for (`of`)."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        numbers = {one.name: one.number for one in self.records}
        beside = [(path.stem, load(path)) for path in sorted((self.folder / "approvals").glob("*.json"))]
        inside = [(one.head.get("applies", ""), load(one.folder / "approval.json")) for one in self.records]
        for run, given in [*beside, *inside]:
            if given and "approver" in given and run in numbers:
                second = load(archive.countersignature(self.folder, given["plan"])) or {}
                valid = second.get("plan") == given["plan"] and second.get("approver") != given["approver"]
                more = {"of": numbers[run], "countersigned": second if valid else None}
                found[run, given["at"]] = {"break_glass": "", **given, **more}
        return sorted(found.values(), key=lambda given: str(given["at"]))

    @cached_property
    def fates(self) -> list[Fate]:
        """What became of every change that was approved, or that the last look planned."""
        fates: dict[str, Fate] = {}
        approved = {given["of"] for given in self.approvals}
        for one in self.records:
            if one.looked:  # a newer plan takes the place of what an older one only proposed
                fates = {key: fate for key, fate in fates.items() if fate.word not in UNTRIED}
            word = NOT_BEGUN if not one.looked or one.number in approved else PLANNED
            for action in one.plan:
                if action.id not in fates or fates[action.id].word in UNTRIED:
                    fates[action.id] = Fate(action, word, one.number)
            for event in one.events:
                if (fate := fates.get(event.get("action", ""))) and (after := _next(fate, event, one.number)):
                    fates[fate.action.id] = after
        return list(fates.values())

    @cached_property
    def causes(self) -> list[dict[str, Any]]:
        """Each cause that a look named: by which check, on what evidence, and what the last look answered."""
        found: dict[str, dict[str, Any]] = {}
        for one in self.looks:
            for _, check in one.checks():
                if check.get("cause") and check["answer"] == "no":
                    found.setdefault(check["cause"], {**check, "number": one.number, "later": None})
                for cause in found.values():
                    if check["name"] == cause["name"] and one.number > cause["number"]:
                        cause["later"] = (check["answer"], one.number)
        return list(found.values())

    @cached_property
    def prevention(self) -> list[Event]:
        """The checks of the Prevention section, as they were last answered."""
        found: dict[str, Event] = {}
        for one in self.records:
            cells = {cell.get("id") for cell in one.section("Prevention")}
            found |= {check["name"]: check for cell, check in one.checks() if cell in cells or _prevents(check["name"])}
        return list(found.values())

    @property
    def open_questions(self) -> dict[str, list[str]]:
        """What the last look asked and could not find out, by the reason."""
        last = {check["name"]: check for one in self.looks[-1:] for _, check in one.checks()}
        found: dict[str, list[str]] = {}
        for check in last.values():
            if check["answer"] == "unknown" and check["required"]:
                found.setdefault(check["because"], []).append(check["question"])
        return found

    @property
    def verified(self) -> datetime | None:
        """When the last run that was to change something ended, if all of it was done and verified."""
        last = [one for one in self.records if not one.looked][-1:]
        return next((one.ended for one in last if one.found["outcome"] == Outcome.VERIFIED), None)

    @property
    def healthy(self) -> Record | None:
        """The last look, where it found everything well and nothing was done after it."""
        last = self.records[-1]
        return last if last.looked and last.found["outcome"] == Outcome.HEALTHY else None

    @property
    def steps(self) -> list[tuple[str, datetime]]:
        """How the response went on, as far as it did."""
        begun = [at(event) for one in self.records for event in one.told("action.begun")]
        named = [at(cause) for cause in self.causes]
        found = [
            ("Detected", self.detected),
            ("First run", self.records[0].began),
            ("First cause named", min(named, default=None)),
            ("First approval", datetime.fromisoformat(self.approvals[0]["at"]) if self.approvals else None),
            ("First change begun", min(begun, default=None)),
            ("Everything verified", self.verified),
            ("Seen healthy", self.healthy.ended if self.healthy else None),
        ]
        return [(step, when) for step, when in found if when]

    @property
    def unseen(self) -> list[str]:
        """What could not be looked at, at some time or other."""
        return _unique(event["problem"] for one in self.records for event in one.told("finding"))

    @property
    def strangers(self) -> list[str]:
        """What an apply would have planned besides what was approved, and so did not do."""
        return _unique(title for one in self.records for event in one.told("difference") for title in event["new"])


def read(records: Archive, name: str, allowed: Path | None = None) -> Incident:
    """The incident of that name. Raises BadInput that lists the known ones."""
    folders = [folder for folder in reversed(records.runs()) if folder.parent.name == name]
    if not folders:
        known = sorted({folder.parent.name for folder in records.runs()})
        some = ", ".join(known[:20]) + (" …" if len(known) > 20 else "")
        raise BadInput(f"there is no incident {name!r} in {records.outputs}.", f"There are: {some or 'none yet'}.")
    return Incident(name, folders[0].parent, [of(folder, allowed, number) for number, folder in enumerate(folders, 1)])


def of(folder: Path, allowed: Path | None = None, number: int = 1) -> Record:
    """The record in a folder."""
    events = journal.read(folder / record.JOURNAL)
    own = [event for event in events if not event.get("carried_over") and not event.get("closed_by")]
    return Record(number, folder, archive.about(folder), archive.summary(folder), own, allowed)


def at(event: Event) -> datetime:
    return datetime.fromisoformat(event["at"])


def load(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none."""
    try:
        found = json.loads(files.read(path))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _next(fate: Fate, event: Event, number: int) -> Fate | None:
    """What one more event makes of a change; None where it tells nothing."""
    now = replace(fate, number=number, when=at(event))
    match event:
        case {"event": "action.begun"}:
            return replace(now, word=Result.UNKNOWN, why="it was begun, and its end was not recorded")
        case {"event": "action.ended", "result": word}:
            return replace(now, word=word, why=event.get("why", ""), after=event.get("after"))
        case {"event": "undo.ended", "result": Result.DONE}:
            return replace(now, word=TAKEN_BACK, why="")
        case {"event": "undo.ended", "result": word}:
            return replace(fate, why=f"taking it back: {word}{', ' * bool(event.get('why'))}{event.get('why', '')}")
    return None


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _prevents(name: str) -> bool:
    return name.startswith("prevention")
