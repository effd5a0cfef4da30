"""The kernel's side of a run: `begin`, and the small face that notebooks see.

Whether changes are allowed is decided by what lies in the run's folder (an approved plan) and by which secrets the
runner handed over; never by a parameter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from IPython import get_ipython
from pydantic import BaseModel

from opskit import (
    actions,
    approval,
    checks,
    environment,
    guard,
    masking,
    parameters,
    plan,
    priorities,
    provenance,
    redaction,
    unseen,
)
from opskit import display as looks
from opskit.checks import Answer, Check
from opskit.errors import CannotTell, Refused
from opskit.journal import Journal
from opskit.lab import hand
from opskit.lock import attended
from opskit.permit import permit
from opskit.services import Services, connect, pins
from opskit.spelling import sound

_at_work = ExitStack()  # as long as this kernel lives, its run is not lost
SKEW = 30.0  # seconds between clocks that are still all right


def _service(name: str) -> Any:
    return property(lambda run: getattr(run._services, name))


class Run:
    """One execution of a runbook for an incident against an environment."""

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        given: BaseModel,
        target: environment.Environment,
        services: Services,
        journal: Journal,
    ) -> None:
        self.folder = folder
        self.about = about
        self.parameters = given
        self.environment = target
        self.journal = journal
        self._services = services
        self._checks: dict[str, Check] = {}
        self._told: set[str] = set()  # reasons for not seeing
        self._dark: set[int] = set()  # cells that have said so
        self.plan = plan.Plan({**{key: about[key] for key in plan.MADE_FOR}, "target": target.digest})

    # The services, by name.

    app = _service("app")
    database = _service("database")
    documents = _service("documents")
    migrations = _service("migrations")
    policies = _service("policies")
    profiles = _service("profiles")
    providers = _service("providers")
    sentry = _service("sentry")
    sessions = _service("sessions")
    status = _service("status")
    stripe = _service("stripe")
    supabase = _service("supabase")
    tasks = _service("tasks")
    vercel = _service("vercel")

    @property
    def since(self) -> datetime:
        """From when on this run looks: the parameter of that name."""
        found: datetime = self.parameters.since  # type: ignore[attr-defined]  # a runbook's own parameter
        return found

    # Checks and causes.

    def check(
        self,
        name: str,
        answer: bool | None,
        question: str,
        cause: str | None = None,
        because: str = "",
        required: bool = True,
    ) -> None:
        """Answer a diagnostic question: True is well, False is not (and may name a `cause`), None cannot be told."""
        word = Answer.UNKNOWN if answer is None else Answer.YES if bool(answer) else Answer.NO
        check = Check(name, word, question, cause, because, required)
        self._checks[name] = check
        self.journal.write("check", **check.__dict__)
        looks.answer(check.mark, question, cause if cause and word is Answer.NO else "", because)

    @property
    def causes(self) -> list[str]:
        """The causes found so far; `["healthy"]` or `["unknown"]` where there are none."""
        return checks.causes(self._checks.values())

    def found(self, cause: str) -> bool:
        return cause in self.causes

    @property
    def open_questions(self) -> list[str]:
        """Required checks that could not be answered."""
        return [c.name for c in self._checks.values() if c.answer is Answer.UNKNOWN and c.required]

    # Evidence.

    def rate(self, priority: str, because: str) -> None:
        """Say how urgent the incident is, and by when somebody must have responded; the postmortem takes it from here.

        `priority` is CRITICAL, HIGH, MEDIUM or LOW. The clock begins with `detected_at` of the parameters, or this run.
        """
        detected = getattr(self.parameters, "detected_at", None) or datetime.fromisoformat(self.about["started"])
        deadline = priorities.respond_by(detected, priority)
        self.journal.write("priority", priority=priority, because=because, detected=detected.isoformat())
        looks.say(f"{priority}, respond by {deadline:%Y-%m-%d %H:%M} UTC: {because}.")

    def show(self, thing: Any, title: str = "") -> None:
        """Show a table or a chart. A long table shows its head; the whole of it goes into an evidence file.

        People's addresses, names and texts are masked, by column; with the parameter `unmask` they are shown, and
        the record says so.
        """
        if isinstance(thing, pd.Series):
            thing = thing.to_frame()
        if not isinstance(thing, pd.DataFrame):
            looks.chart(thing)
            return
        unmasked = looks.personal_columns(thing) if getattr(self.parameters, "unmask", False) else []
        frame = looks.level(thing if getattr(self.parameters, "unmask", False) else looks.masked(thing))
        note = f"{len(frame)} rows" if len(frame) != 1 else "1 row"
        if len(frame) > looks.HEAD:
            note += f"; the first {looks.HEAD} here, all in {self._keep(frame, title)}"
        if unmasked:
            self.journal.write("unmasked", title=title, columns=unmasked)
            note += f"; shown in full, because this run was asked to: {', '.join(unmasked)}"
        looks.emit(looks.table(frame, title, note), looks.text(frame, title, note))

    def _keep(self, frame: pd.DataFrame, title: str) -> str:
        """Write a whole table into an evidence file; its name and digest."""
        path = self._place("evidence") / f"{_slug(self._redactor.text(title))}.csv"
        path.parent.mkdir(exist_ok=True)
        text = self._redactor.text(sound(frame.to_csv(index=False)))
        path.write_text(text, encoding="utf-8")
        return f"evidence/{path.name} ({actions.digest(path.read_text(encoding='utf-8'))[:19]})"

    def draft(self, name: str, text: str) -> None:
        """Keep a message to a person as a draft in the record. Nothing is sent."""
        name = _slug(masking.addresses(self._redactor.text(name)))
        private = self._place("private")
        private.mkdir(mode=0o700, exist_ok=True)
        (private / f"{name}.txt").write_text(self._redactor.text(sound(text)), encoding="utf-8")
        self.journal.write("draft", name=name)
        looks.say(f"Draft “{name}”, not sent: private/{name}.txt beside this record.")

    # Doing.

    def apply(self) -> None:
        """Carry out the approved plan, and verify each action; without an approval nothing is done.

        What the approved plan does not hold is not done, even if this run would plan it: the difference is shown.
        """
        self.plan.redact(self._redactor)
        self.journal.write(
            "plan",
            digest=self.plan.digest,
            actions=len(self.plan),
            removals=len(self.plan.removals),
            manual=_manual(self.plan),
            causes=self.causes,
        )
        approved = self._approved()
        if approved is None:
            self.plan.save(self.folder / "plan.json")
            if self.plan.actions and _manual(self.plan) == len(self.plan):
                looks.say("Nothing was done: every step of this plan is a person's.")
            elif self.plan.actions:
                hand.offer(self.folder, self.plan, _at_work)
            else:
                looks.say("Nothing was done: the plan is empty.")
            return
        self.plan.save(self.folder / "proposed.json")
        self._show_difference(approved)
        with permit(self.about.get("lock"), self._services.database, patient=True) as may_begin:
            asked = actions.telling(may_begin, _tell)
            for action, result, why in actions.carry_out(approved.actions, self._services, self.journal, asked):
                _tell(action, result, why)

    def _approved(self) -> plan.Plan | None:
        if not (self.folder / "approval.json").exists():
            return None
        approved = plan.load(self.folder / "plan.json")
        now_for = {key: self.plan.made_for[key] for key in ("notebook", "opskit", "target")}
        approval.require(approval.load(self.folder / "approval.json"), approved, now_for, self.about["run"])
        return approved

    def _show_difference(self, approved: plan.Plan) -> None:
        planned, now = {a.id: a for a in approved}, {a.id: a for a in self.plan}
        gone = [a.title for key, a in planned.items() if key not in now]
        known = {a.title for a in approved}  # a person's step names what it waits for, which may be another by now
        new = [a.title for key, a in now.items() if key not in planned and a.title not in known]
        self.journal.write("difference", gone=gone, new=new)
        for title in new:
            looks.say(f"Not in the approved plan, so not done: {title}")

    # Inner.

    def _place(self, name: str) -> Path:
        """A folder of the record. Raises Refused where that is sealed."""
        if hand.is_closed(self.folder):
            raise Refused(f"run {self.about['run']} is closed, and its record is sealed.", "Begin another.")
        return self.folder / name

    @property
    def _redactor(self) -> redaction.Redactor:
        return self.journal.redactor

    def _could_not_look(self, error: CannotTell, asked: list[tuple[str, str]]) -> None:
        """What `unseen` calls when a statement failed for want of an answer. The same reason is told once."""
        if error.message not in self._told:
            self._told.add(error.message)
            self.journal.write("finding", problem=error.message)
            looks.say(f"? Could not look. {error.message} {error.remedy}".strip())
        elif not asked and self._cell() not in self._dark:
            looks.say("? Not seen, for a reason given above.")
        self._dark.add(self._cell())
        for name, question in asked:
            self.check(name, None, question, because=error.message)

    def _cell(self) -> int:
        shell = get_ipython()
        return shell.execution_count if shell else 0


def begin(runbook: str) -> Run:
    """Start a run in this kernel: parameters checked, pins compared, output redacted, the journal open.

    Raises BadInput for a wrong parameter and Refused where the credentials reach another target than the
    environment's pins say.
    """
    shell = get_ipython()
    namespace = shell.user_ns if shell else {}
    handed = os.environ.pop("OPSKIT_SECRETS", None)
    model = parameters.declared_here(namespace)
    again = unseen.SEE in namespace  # what cells have set since is no mistyped parameter
    mistyped = [] if again else parameters.undeclared(namespace)
    given = {key: namespace[key] for key in (*model.model_fields, *mistyped)}
    checked = parameters.validate(model, given, runbook, parameters.REMEMBERED if mistyped and not handed else "")
    about = _about(runbook, checked)
    target = environment.load(about["environment"], Path(about["root"]))
    secrets = json.loads(handed) if handed else {"read": environment.resolve(target, "read")}
    redactor = redaction.redactor(secrets, environment.standing(target))
    _forget_other_secrets(target, Path(about["root"]))
    if shell:
        _guard(shell, redactor)
    parameters.refuse_secrets(given, redactor)
    folder = _folder(about)
    journal = Journal(folder / "journal.jsonl", redactor)
    _at_work.enter_context(attended(folder))
    services = connect(target, secrets, f"opskit/{about['run']}", about.get("rate"))
    run = Run(folder, about, checked, target, services, journal)
    unseen.install(shell, run._could_not_look)
    journal.write("run.begun", kernel=os.getpid(), single_secrets=target.single_secrets)
    if shell and not handed:  # no runner notes what is executed
        hand.watch(shell, journal)
    _compare_pins(run)
    looks.say(f"{runbook} on {target.name}, run {about['run']}. {_mode(folder)}")
    return run


def _about(runbook: str, given: BaseModel) -> dict[str, Any]:
    """The head of the record: as the runner wrote it; else our own, for a notebook run by hand or by bare papermill."""
    if prepared := os.environ.get("OPSKIT_RUN"):
        found: dict[str, Any] = json.loads((Path(prepared) / "run.json").read_text(encoding="utf-8"))
        return hand.filled_in(Path(prepared), found, given) if "copy" in found else found
    root = provenance.find_root()
    about = provenance.describe(runbook, root, given.model_dump(mode="json"))
    return about | {"retention_days": environment.load(about["environment"], root).retention_days}


def _folder(about: Mapping[str, Any]) -> Path:
    """The folder that the runner prepared; else one of our own."""
    if prepared := os.environ.get("OPSKIT_RUN"):
        return Path(prepared)
    folder: Path = provenance.outputs(Path(about["root"])) / about["incident"] / about["run"]
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return folder


def _forget_other_secrets(target: environment.Environment, root: Path) -> None:
    """A notebook run by hand inherits whatever its person has: only what reads here may stay in this process."""
    reading = {credential.secret.env for credential in target.credentials("read").values()}
    for name in environment.all_variables(root) - reading:
        os.environ.pop(name, None)


def _guard(shell: Any, redactor: redaction.Redactor) -> None:
    """Nothing leaves this kernel unredacted, and nothing typed is remembered outside the record."""
    guard.guard(shell.kernel.session, redactor)
    shell.history_manager.enabled = False
    pd.set_option("display.max_colwidth", None)  # a cut-off cell could hide half a secret from redaction
    # Figures that a cell shows by itself are drawings of text, unless they are asked to keep it.
    shell.config.InlineBackend.figure_formats = {"svg"}
    shell.config.InlineBackend.rc = {"svg.fonttype": "none"}


def _compare_pins(run: Run) -> None:
    """Refuse to go on where a credential reaches something else than the environment promises."""

    def blind(name: str, error: CannotTell) -> None:
        run.journal.write("finding", problem=f"pin {name} could not be compared: {error.message}")
        looks.say(f"? Pin {name} could not be compared: {error.message}")

    try:
        pins.compare(run.environment, run._services, blind)
    except Refused as error:
        run.journal.write("refused", why=error.message)
        raise
    skew = max((abs(http.skew) for http in run._services.http() if http.skew is not None), default=0.0)
    run.journal.write("pins", compared=True, clock_skew_seconds=round(skew, 1))
    if skew > SKEW:
        looks.say(f"? This machine's clock differs from the services' by {skew:.0f} s; times below may mislead.")


def _mode(folder: Path) -> str:
    if (folder / "approval.json").exists():
        return "Apply: the approved plan will be carried out."
    return "Plan mode: it looks, and touches nothing."


def _tell(action: actions.Action, result: actions.Result, why: str) -> None:
    print(f"{result}: {action.title}{f' ({why})' if why else ''}", flush=True)  # noqa: T201  # as it goes


def _manual(proposed: plan.Plan) -> int:
    return sum(action.manual for action in proposed)


def _slug(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split()) or "table"
