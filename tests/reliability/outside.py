"""An apply on a bad night: what it needs to be lived through, and to be judged afterwards."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import watching
import yaml
from support import RUNBOOK, Opskit, data, notebook

from opskit import journal, record
from opskit.sandbox import Sandbox

PROFILES = {"columns": ["stripe_*", "subscription_*"], "table": "user_profiles"}
FEW: dict[str, Any] = {
    "name": "few",
    "title": "The endpoint was disabled, and a few profiles fell behind",
    "runbook": RUNBOOK,
    "app": {"max_event_age": None},
    "environment": {"facts": {"webhook_max_event_age": None}},
    "happenings": [
        {"what": "set_endpoint", "status": "disabled", "when": "3 hours ago"},
        {"what": "change_plan", "name": "changed", "count": 2, "tier": "hobbyist", "to": "professional",
         "when": "170 minutes ago .. 10 minutes ago"},
        {"what": "renew", "name": "renewed", "count": 3, "when": "170 minutes ago .. 10 minutes ago"},
    ],
    "causes": ["endpoint-disabled"],
    "touches": [
        {"service": "stripe", "object": "webhook_endpoints/*", "fields": ["status"]},
        {**PROFILES, "keys": "changed"},
        {**PROFILES, "keys": "renewed"},
    ],
    "healed": [
        {"get": {"service": "stripe", "path": "/v1/webhook_endpoints/{webhook_endpoint}"}, "field": "json.status",
         "equals": "enabled"},
        {"agrees": "profiles", "with": "stripe"},
    ],
}  # fmt: skip

# The same repair as the runbook's, without its charts: most of these nights are about what is done, not about looking.
SMALL = (
    'from opskit import begin\nrun = begin("small")',
    """from datetime import UTC, datetime, timedelta
from opskit.services import billing
endpoint = run.stripe.endpoint()
events = run.stripe.events(since=datetime.now(UTC) - timedelta(hours=6))
drift = run.profiles.drift()
run.check("enabled", endpoint["status"] == "enabled", "Enabled?", cause="endpoint-disabled")
run.check("agrees", not drift, "Profiles agree with Stripe?", cause="endpoint-disabled")""",
    """stories = {key: rows.to_dict("records") for key, rows in events.groupby("customer")}
if run.found("endpoint-disabled"):
    run.plan.add(run.stripe.enable_endpoint(endpoint["id"]))
for d in drift:
    event = billing.resendable(stories.get(d.customer, []), d.state["due"], None, datetime.now(UTC))
    if event:
        run.plan.add(run.stripe.resend_event(event["event"], endpoint["id"], d.profile, d.customer, d.state))
for d in drift:
    if not billing.resendable(stories.get(d.customer, []), d.state["due"], None, datetime.now(UTC)):
        run.plan.add(run.profiles.reconcile(d.profile, d.customer, d.state))
run.plan.add(run.profiles.look_again([[d.profile, d.customer] for d in drift]))""",
    "run.apply()",
)
SMALL_PARAMETERS = 'environment: EnvironmentName = "sandbox"  # where to look'

Trouble = Callable[[], AbstractContextManager[None]]


@dataclass
class Night:
    """One apply and what followed it, with everything that was asked of the company meanwhile."""

    firm: Sandbox
    before: dict[str, Any]
    exits: list[int] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    traffic: list[dict[str, Any]] = field(default_factory=list)
    statements: list[dict[str, Any]] = field(default_factory=list)

    def said(self) -> str:
        """Everything that the records give as a reason."""
        found = [e for folder in self.folders for e in journal.read(folder / record.JOURNAL)]
        return " ".join(str(e.get(key, "")) for e in found for key in ("why", "problem", "because"))

    def begun(self) -> list[tuple[datetime, str]]:
        """When each action was announced, and the things that it was about."""
        events = [e for folder in self.folders for e in journal.read(folder / record.JOURNAL)]
        return [
            (datetime.fromisoformat(e["at"]), json.dumps(e["arguments"]))
            for e in events
            if e["event"] == "action.begun"
        ]

    def results(self, number: int) -> dict[str, str]:
        """How each action ended in one of the records."""
        events = journal.read(self.folders[number] / record.JOURNAL)
        return {e["action"]: e["result"] for e in events if e["event"] == "action.ended"}


def look(opskit: Opskit, firm: Sandbox, runbook: str) -> tuple[int, dict[str, Any]]:
    """Run a runbook; its exit code, and what the command said."""
    given = ("-p", "since", "6h") if runbook == RUNBOOK else ()
    result = opskit("run", runbook, *given, "--environment", firm.name, "--json")
    return result.exit_code, data(result)


def break_it(firm: Sandbox, folder: Path) -> None:
    path = folder / "few.yaml"
    path.write_text(yaml.safe_dump(FEW))
    firm.break_with(path)


def plan(opskit: Opskit, firm: Sandbox, folder: Path, runbook: str) -> str:
    """Break the company, look, and approve what is planned. Answers the run."""
    break_it(firm, folder)
    _, found = look(opskit, firm, runbook)
    assert found["outcome"] == "plan awaits approval", found
    approved = opskit("approve", found["run"], "--type", f"{firm.name} {found['actions']}", "--with-removals")
    assert approved.exit_code == 0, approved.output
    return str(found["run"])


def keep_small(repository: Path) -> None:
    (repository / "notebooks" / "small.ipynb").write_text(
        json.dumps(notebook(*SMALL, parameters=f"from opskit.parameters import EnvironmentName\n{SMALL_PARAMETERS}"))
    )


def live_through(opskit: Opskit, firm: Sandbox, run: str, *troubles: Trouble) -> Night:
    """Apply an approved plan in the midst of one trouble, resume it in the next; and finish it when all are over."""
    night = Night(firm, firm.state())
    began = len(firm.traffic())
    with firm.statements() as log:
        for trouble in troubles:
            with trouble():
                _go_on(night, opskit, run)
            judge(night, firm.traffic()[began:], log())
            firm.lift()
        for _ in range(2):
            if night.outcomes[-1] != "done and verified":
                _go_on(night, opskit, run)
        judge(night, firm.traffic()[began:], log())
    assert opskit("verify").exit_code == 0
    return night


def _go_on(night: Night, opskit: Opskit, run: str) -> None:
    """Apply, or resume where an apply has left something undone."""
    if night.folders and night.outcomes[-1] != "done and verified":
        _note(night, opskit, "resume", night.folders[-1].name)
    elif not night.folders:
        _note(night, opskit, "apply", run)


def _note(night: Night, opskit: Opskit, verb: str, run: str) -> None:
    began = time.monotonic()
    result = opskit(verb, run, "--json")
    assert result.stdout, result.output
    found = data(result)
    night.seconds.append(time.monotonic() - began)
    night.exits.append(result.exit_code)
    night.outcomes.append(found["outcome"])
    night.folders.append(Path(found["folder"]))


def judge(night: Night, traffic: list[dict[str, Any]], statements: list[dict[str, Any]]) -> None:
    """What must hold at any moment: whatever was done was announced before, and nothing was done twice."""
    night.traffic, night.statements = traffic, statements
    trouble = [*record.verify(night.folders[-1]).wrong, *unannounced(night), *repeated(night)]
    assert not trouble, trouble


def unannounced(night: Night) -> list[str]:
    """Changes that reached the company without a line in the journal that came first."""
    writes = [(e["at"], e["path"]) for e in watching.changing(night.traffic)]
    writes += [(e["at"], e["values"]) for e in watching.modifying(night.statements)]
    begun = night.begun()

    def announced(at: str, about: str) -> bool:
        moment = datetime.fromisoformat(at)
        return any(when <= moment and _about(arguments, about) for when, arguments in begun)

    found = [f"{at} {about}" for at, about in writes if not announced(at, about)]
    changes = night.firm.changes(night.before)
    assert changes["stray"] == [], changes["stray"]
    known = " ".join(arguments for _, arguments in begun)
    return found + [c["key"] for c in changes["allowed"] if c["key"].rpartition("/")[2] not in known]


def _about(arguments: str, text: str) -> bool:
    """Whether what was asked names one of the things that the action is about."""
    return any(word in text for word in re.findall(r"\w+_\w{8,}|[0-9a-f-]{36}", arguments))


def repeated(night: Night) -> list[str]:
    """What was done more than once. A request that is sent again under the same key is one, and a refused one none.

    An event that did not arrive at the app has to be sent once more, which is another request.
    """
    acting = [e for e in watching.changing(night.traffic) if e["path"].endswith("/retry") and e["passed"]]
    keys = {(e["path"], e["key"]) for e in acting}
    paths = [path for path, _ in keys]
    sent = [e for e in night.traffic if e["agent"].startswith("Stripe/")]
    delivered = [e for e in sent if e["status"] == 200 and e["passed"]]
    found = [f"{len(delivered)} deliveries of {len(set(paths))} events"] if len(delivered) > len(set(paths)) else []
    if len(paths) - len(set(paths)) > len(sent) - len(delivered):
        found += [f"{path} under more than one key" for path in set(paths) if paths.count(path) > 1]
    return found


@contextmanager
def meanwhile(outputs: Path, begun: int, do: Callable[[], Any]) -> Iterator[None]:
    """Do something in the middle of an apply: as soon as so many actions have been begun."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            texts = [path.read_text(errors="replace") for path in outputs.glob("*/*/journal.jsonl")]
            if any(text.count('"action.begun"') >= begun for text in texts):
                do()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
