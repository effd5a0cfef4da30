"""What earlier runs of this machine began of a migration and did not finish, as their journals tell.

What a file committed itself shows neither in the ledger nor, where it changed rows, in the schema: a run that planned
the file anew would send it again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opskit import journal
from opskit.actions import Result
from opskit.errors import CannotTell
from opskit.services import migrating
from opskit.services.statements import File

APPLYING = (migrating.Apply.name, migrating.Finish.name)


@dataclass
class Attempt:
    """One that did not come to its end. `record`: its run, or the newest that resumed it."""

    record: str
    file: str | None  # the digest of what was sent
    seen: list[int] = field(default_factory=list)  # the statements that are known to be committed
    doubt: bool = True  # nobody saw how it ended

    def concerns(self, file: File) -> bool:
        """Whether a part may stand, of it or of what it was: a file that is one commit is in the ledger, or not."""
        return bool(self.seen) or not file.together or not self.is_of(file)

    def is_of(self, file: File) -> bool:
        return self.file == migrating.digest(file)


def unfinished(outputs: Path, environment: str, pending: Sequence[File]) -> list[tuple[str, str, str, str]]:
    """(file, record, committed, then) for each attempt at one of these files of which a part stands, or may.

    Raises CannotTell where a record cannot be read.
    """
    history = History()
    for path in sorted(outputs.glob("*/*/journal.jsonl"), key=lambda path: path.parent.name):
        try:
            history.read(path, environment)
        except (OSError, LookupError, TypeError, ValueError, AttributeError):
            raise CannotTell(
                f"the record {path.parent} cannot be read, so nobody sees what it began.",
                "`opskit verify` says what of it was changed.",
            ) from None
    return [
        (file.path.name, one.record, _told(one), _then(one, file))
        for file in pending
        for one in history.attempts.get(file.version, {}).values()
        if one.concerns(file)
    ]


def _told(one: Attempt) -> str:
    seen = f"statements {one.seen}" if one.seen else "nothing that was seen"
    return f"{seen}; of the next nobody knows" if one.doubt else seen


def _then(one: Attempt, file: File) -> str:
    if one.is_of(file):
        return f"opskit resume {one.record}"
    return f"edited since: put it back and `opskit resume {one.record}`, or `do: diagnose`"


class History:
    """The attempts at each version that did not come to their end, by the run that began them."""

    def __init__(self) -> None:
        self.attempts: dict[str, dict[str, Attempt]] = {}
        self._versions: dict[str, str] = {}  # of actions
        self._first: dict[str, str] = {}  # of runs that resume another: the one that began

    def read(self, path: Path, environment: str) -> None:
        """Go through one journal; older ones come first."""
        run, head = path.parent.name, _head(path.parent)
        if head.get("environment", environment) != environment:
            return
        before = head.get("resumes", run)
        self._first[run] = self._first.get(before, before)
        for event in journal.read(path):
            if event["event"] == "action.begun" and event["name"] in (*APPLYING, migrating.Reverse.name):
                self._versions[event["action"]] = event["arguments"]["version"]
            if version := self._versions.get(event.get("action", "")):
                self._go_on(self.attempts.setdefault(version, {}), run, event)

    def _go_on(self, attempts: dict[str, Attempt], run: str, event: journal.Event) -> None:
        first = self._first[run]
        known = attempts.get(first)
        if known:
            known.record = run
        if "carried_over" in event:
            return
        match event["event"]:
            case "action.begun" if event["name"] in APPLYING:
                attempts[first] = Attempt(run, event["before"]["file"], known.seen if known else [])
            case "action.progress" if known:
                known.seen = event["reached"]["statements"]
            case "action.ended" if Result(event["result"]).good:
                attempts.clear()  # it is applied, or taken back
            case "action.ended" if known:
                known.doubt = Result(event["result"]) is Result.UNKNOWN
                if not (known.seen or known.doubt):
                    del attempts[first]


def _head(folder: Path) -> dict[str, Any]:
    """The head of a record; one that cannot be read may be of any environment."""
    try:
        return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
