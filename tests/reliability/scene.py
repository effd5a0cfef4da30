"""Where crashes happen: a living company, a plan of twenty mixed actions for it, and all that can be counted there.

What was done is counted in the world itself: rows that were updated, deliveries that the app got, lines in files,
rings of a bell. A journal is never asked.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import victims
import yaml
from support import REPOSITORY, notebook
from victims import Accident, Put, Ring, Sign

from opskit import approval, archive, environment, plan, provenance, record
from opskit.actions import Action
from opskit.journal import Journal, read
from opskit.sandbox import company, daemon
from opskit.sandbox.environment import SECRETS, described, write
from opskit.sandbox.serving import Serving
from opskit.services import Services, connect

INCIDENT, RUNBOOK = "INC-1", "crashes"
SCENARIO = {
    "name": "crashes",
    "title": "The endpoint was disabled for a while",
    "runbook": "stripe-webhook-replay",
    "app": {"max_event_age": None},
    "happenings": [
        {"what": "set_endpoint", "status": "disabled", "when": "3 hours ago"},
        {"what": "change_plan", "name": "changed", "count": 5, "tier": "hobbyist", "to": "professional",
         "when": "160 minutes ago .. 20 minutes ago"},
        {"what": "renew", "name": "renewed", "count": 6, "when": "160 minutes ago .. 20 minutes ago"},
    ],
    "causes": ["endpoint-disabled"],
}  # fmt: skip
AUDIT = """
    create table audit (profile text, by text);
    create function note() returns trigger language plpgsql security definer as $$
        begin
            insert into audit values (new.id::text, current_setting('application_name'));
            return null;
        end $$;
    create trigger note after update on user_profiles for each row execute function note();
    create table kept as select * from user_profiles;
"""
MISCOUNT = """
    update user_profiles set ai_words_used_this_month = ai_words_used_this_month + 1000
    where id in (select id from user_profiles where subscription_tier <> 'free' and not id::text = any(%s)
                 order by id limit 3)
    returning id::text
"""
RESTORE = """
    truncate audit;
    alter table user_profiles disable trigger all;
    delete from user_profiles p using kept k where p.id = k.id;
    insert into user_profiles select * from kept;
    alter table user_profiles enable trigger all;
"""
LOCKED = "select 1 from pg_locks where locktype = 'advisory'"
PARAMETERS = """from typing import Optional
from opskit.parameters import IncidentId
incident: Optional[IncidentId] = None  # the incident's id
environment: EnvironmentName = "sandbox"  # where to look"""
BEGIN = "import os, signal, sys, time\nfrom opskit import begin\nrun = begin('small')"
CELLS = (f"import victims\nvictims.arm()\nfrom opskit import begin\nrun = begin({RUNBOOK!r})", "run.apply()")


class Bell(ThreadingHTTPServer):
    """Rings, and tells nobody how often it did but these tests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Ringing)
        self.rung: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Ringing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.rung.append(self.path)  # type: ignore[attr-defined]
        try:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
        except OSError:
            return  # whoever rang is dead

    def log_message(self, *_: Any) -> None:
        """Quietly."""


@dataclass
class Scene:
    """The company, and the place of everything."""

    name: str
    folder: Path  # the sandbox's
    root: Path  # of the runbooks
    firm: company.Company
    bell: Bell
    files: Path
    actions: list[Action] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)  # attempts of deliveries, by event
    described: dict[str, Any] = field(default_factory=dict)  # the environment

    # The plan.

    def prepare(self) -> None:
        """Break the company, and plan twenty actions."""
        story = self.folder / "story.yaml"
        story.write_text(yaml.safe_dump(SCENARIO))
        actors = company.break_with(self.firm, str(story), False)["actors"]
        self._describe()
        with self.firm.world.database.connect() as connection:
            concerned = [*actors["changed"], *actors["renewed"]]
            miscounted = [key for (key,) in connection.execute(MISCOUNT, [concerned]).fetchall()]
            connection.execute(AUDIT)
        self.actions = self._twenty(actors, miscounted)
        self.before = {a.arguments["event"]: self._attempts(a) for a in self.of("stripe.resend_event")}

    def _describe(self) -> None:
        """An environment with its secrets in variables, and no need to go slowly."""
        found = described(self.firm.world, self.folder, {})
        for service, access in ((s, a) for s in found["services"] if s != "status" for a in ("read", "change")):
            if credential := found["services"][service].get(access):
                name = next(n for n in (f"{service}_{access}", service) if n in SECRETS)
                credential["secret"] = {"env": f"CRASH_{name.upper()}"}
        found["facts"] |= {"webhook_max_event_age": None, "webhook_requests_per_hour": None}
        found["limits"] = {"max_actions": 25, "stripe_requests_per_second": 1000, "grace_seconds": 30}
        self.described = found
        self.limit()

    def limit(self, **limits: float) -> None:
        """Let the environment have other limits, until the next test."""
        found = {**self.described, "limits": {**self.described["limits"], **limits}}
        write(self.folder / "environment.yaml", yaml.safe_dump(found))

    def keep(self, name: str, *cells: str) -> None:
        """Put a small runbook into the repository."""
        content = json.dumps(notebook(*cells, parameters=PARAMETERS))
        (self.root / "notebooks" / f"{name}.ipynb").write_text(content)

    @property
    def secrets(self) -> dict[str, str]:
        """Where the environment looks for them."""
        return {f"CRASH_{name.upper()}": self.firm.world.secrets[name] for name in SECRETS}

    def services(self) -> Services:
        target, word = environment.load(self.name, self.root), self.firm.world.secrets
        read = {"database": word["database_read"], "stripe": word["stripe_read"]}
        return connect(target, {"read": read}, "tests")

    def _twenty(self, actors: dict[str, list[str]], miscounted: Sequence[str]) -> list[Action]:
        ask = self.services()
        events = ask.stripe.events(datetime.now(UTC) - timedelta(hours=5), ["customer.subscription.updated"])
        last = {event.user: event for event in events[::-1].itertuples()}
        endpoint = ask.stripe.endpoint()["id"]
        profiles = {row["id"]: row["stripe_customer_id"] for row in ask.profiles.paying()}
        resend = [
            ask.stripe.resend_event(last[p].event, endpoint, p, profiles[p], ask.profiles.beside_stripe(p, profiles[p]))
            for p in actors["changed"]
        ]
        reconcile = [ask.profiles.reconcile(p, profiles[p]) for p in actors["renewed"]]
        recount = [ask.profiles.recount_words(p) for p in miscounted]
        put = [self.file(Put, "a"), self.file(Put, "b")]
        pairs = [[p, profiles[p]] for p in (*actors["changed"], *actors["renewed"])]
        ask.database.close()
        return [
            ask.stripe.enable_endpoint(endpoint), put[0], *reconcile[:3], *resend[:3], *recount[:2],
            self.file(Sign, "signed"), *reconcile[3:], *resend[3:], recount[2], put[1],
            ask.profiles.look_again(pairs), self.ring("/last"),
        ]  # fmt: skip

    def file(self, change: type[Put], name: str) -> Action:
        return change().plan({"file": str(self.files / name), "text": "ink"}, {"has": None, "due": "ink"})

    def ring(self, way: str) -> Action:
        return Ring().plan({"bell": self.bell.address, "way": way}, {})

    def of(self, name: str) -> list[Action]:
        return [action for action in self.actions if action.name == name]

    # The world.

    def restore(self) -> None:
        """As it was when the plan was made."""
        world = self.firm.world
        self.settle()
        with world.database.connect() as connection:
            connection.execute(RESTORE)
        with world.stripe.lock:
            endpoint = self.of("stripe.enable_endpoint")[0].arguments["endpoint"]
            world.stripe.webhook_endpoints[endpoint]["status"] = "disabled"
            self.before = {a.arguments["event"]: self._attempts(a) for a in self.of("stripe.resend_event")}
        self.bell.rung.clear()
        shutil.rmtree(self.files, ignore_errors=True)
        self.files.mkdir()
        self.limit()

    def settle(self) -> None:
        """Wait until nothing is on its way: no delivery, and no session that holds the lock."""
        agenda, deadline = self.firm.world.agenda, time.monotonic() + 60
        with self.firm.world.database.connect() as connection:
            while (agenda._heap and agenda._heap[0][0] <= datetime.now(UTC)) or connection.execute(LOCKED).fetchone():
                assert time.monotonic() < deadline, "the world does not come to rest"
                time.sleep(0.01)
        with self.firm.present.held():
            pass

    def sign(self) -> None:
        """What a person does."""
        (self.files / "signed").write_text("ink")

    def _attempts(self, action: Action) -> int:
        found = self.firm.world.stripe.deliveries.get(action.arguments["event"], {})
        delivery = found.get(action.arguments["endpoint"])
        return delivery.attempts if delivery else 0

    def done(self, verb: str = "put") -> dict[str, int]:
        """How often each action was done, by its id, as the world knows it."""
        self.settle()
        with self.firm.world.database.connect() as connection:
            rows = connection.execute("select profile from audit where by like 'opskit%'").fetchall()
        updated = [profile for (profile,) in rows]
        return {action.id: self._done(action, updated, verb) for action in self.actions}

    def _done(self, action: Action, updated: list[str], verb: str) -> int:
        of = action.arguments
        match action.name:
            case "stripe.enable_endpoint":
                return int(self.firm.world.stripe.webhook_endpoints[of["endpoint"]]["status"] == "enabled")
            case "stripe.resend_event":
                return self._attempts(action) - self.before[of["event"]]
            case "profiles.reconcile" | "profiles.recount_words":
                return updated.count(of["profile"])
            case "test.put" | "test.linger":
                log = Path(of["file"] + ".log")
                return log.read_text().split().count(verb) if log.exists() else 0
            case "test.ring":
                return self.bell.rung.count(of["way"])
            case "test.sign":
                return int(Path(of["file"]).exists())
        return 0  # it only looks

    # Records.

    def plan(
        self, outputs: Path, actions: Sequence[Action] | None = None, started: str = "", archive_of: str = ""
    ) -> Path:
        """A sealed run that ended in this plan, and the approval of it. `started`: another id than the clock's;
        `archive_of`: the name of another archive that it is for.
        """
        about = provenance.describe(RUNBOOK, self.root, {"incident": INCIDENT, "environment": self.name})
        about |= {"run": started or about["run"], "archive": archive_of or provenance.archive(outputs)}
        target = environment.load(self.name, self.root)
        found = plan.Plan(
            {**{name: about[name] for name in plan.MADE_FOR}, "target": target.digest}, list(actions or self.actions)
        )
        folder = record.prepare(outputs, about)
        found.save(folder / "plan.json")
        journal = Journal(folder / record.JOURNAL)
        journal.write("run.accepted", runner=0, **{n: about[n] for n in ("run", "operator", "host")})
        journal.write(
            "plan", digest=found.digest, actions=len(found), removals=0, manual=1, causes=["endpoint-disabled"]
        )
        journal.write("run.ended", outcome="plan awaits approval", exit=3)
        archive.seal(folder)
        word = approval.approve(found, "ana", f"{self.name} {len(found)}", max_actions=25)
        word.save(place := archive.Archive(outputs).approval(folder))
        archive.keep(f"{folder.name} approved by ana", place)
        return folder


@contextmanager
def stage(state: Path, place: Path, seed: int = 5) -> Iterator[Scene]:
    """A scene of this process's own, which ends with it."""
    name = f"crashes-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    folder, root, files = state / name, place / "repository", place / "files"
    for path in (folder, root, files):
        path.mkdir(parents=True)
    for part in ("notebooks", "parameters"):
        shutil.copytree(REPOSITORY / part, root / part)
    serving = Serving([*daemon.SERVICES, "control"])
    addresses = {key: value for key, value in serving.addresses.items() if key != "control"}
    firm = company.create(folder, seed, addresses)
    bell = Bell()
    try:
        daemon.serve(firm, serving)
        scene = Scene(name, folder, root, firm, bell, files)
        scene.keep(RUNBOOK, *CELLS)
        scene.prepare()
        firm.world.stripe.request_limits = {"endpoint": 10_000, "global": 10_000}
        yield scene
    finally:
        serving.stop()
        bell.shutdown()
        bell.server_close()
        firm.present.stop()
        firm.world.database.stop()


# Commands, in processes that may die.

_processes = multiprocessing.get_context("forkserver")  # it has loaded everything once: a command then starts at once
_processes.set_forkserver_preload(["victims", "opskit.cli", "opskit.runner"])


@dataclass(frozen=True)
class Said:
    """How a command ended: its exit code, -9 where it was killed, and what it said."""

    exit: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)["data"]


def begin(
    place: Path,
    surroundings: dict[str, str],
    *arguments: object,
    accident: Accident | None = None,
    kernel: bool = False,
) -> Any:
    """A command in a process of its own, just started."""
    place.mkdir(exist_ok=True)
    words = [str(argument) for argument in arguments]
    process = _processes.Process(target=victims.command, args=(words, surroundings, place, accident, kernel))
    process.start()
    return process


def end(process: Any, place: Path) -> Said:
    process.join(120)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"it does not end: {(place / 'err').read_text()}")
    said = Said(process.exitcode, (place / "out").read_text(), (place / "err").read_text())
    process.close()
    assert "Traceback" not in said.err, said.err
    return said


def results(folder: Path) -> dict[str, str]:
    """What a record says of its actions: action id -> result; `begun` where none was written."""
    found: dict[str, str] = {}
    for event in read(folder / record.JOURNAL):
        if event["event"] == "action.begun":
            found[event["action"]] = "begun"
        elif event["event"] == "action.ended":
            found[event["action"]] = event["result"]
    return found
