"""The app's hosting: deployments, environment variables and request logs. `vercel_api` serves them over HTTP.

A deployment's environment and code are fixed when it is built: changing a variable changes nothing that runs, and
rolling back brings the old values back with the old code.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from opskit.sandbox.vercel_api import application

if TYPE_CHECKING:
    from opskit.sandbox.world import World

__all__ = ["Deployment", "LogLine", "RequestLog", "Variable", "VercelStore", "application"]

ALPHABET = string.ascii_letters + string.digits
SENSITIVE = ("SECRET", "KEY", "DATABASE")  # names that hold these words cannot be read back
HISTORY = (  # the peaceful past: days ago, commit message
    (34, "Let writers reorder chapters by dragging"),
    (27, "Show remaining AI words in the sidebar"),
    (19, "Faster word count for long documents"),
    (12, "Ensemble: keep the writer's formatting"),
    (6, "Fix export of folders without documents"),
)
BEHAVIOUR: dict[str, Any] = {  # what the code of today does, as scenarios may change it
    "max_event_age": 300,
    "bug": None,
    "writes_per_hour": 100,
    "sanitiser_fails_on": None,
    "stable_hash": False,
    "models": {},
    "thinking_seconds": 0,
    "sends_along": 0,
    "blending_fails": False,
}


@dataclass(frozen=True)
class Variable:
    id: str
    key: str
    value: str
    type: str  # encrypted: readable later; sensitive: not
    created: datetime
    updated: datetime
    target: tuple[str, ...] = ("production", "preview")


@dataclass(frozen=True)
class Deployment:
    """One build. `memory` is what its running instance remembers; it is gone with the instance."""

    id: str
    url: str
    created: datetime
    env: dict[str, str]
    behaviour: dict[str, Any]
    message: str
    commit: str
    creator: str
    state: str = "READY"
    target: str = "production"
    action: str = ""  # "redeploy": the same code, built again
    memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class LogLine:
    at: datetime
    level: str  # info, warning, error
    message: str


@dataclass(frozen=True)
class RequestLog:
    """One request that reached the edge, with what the function printed. No lines and a 5xx: the edge answered."""

    id: str
    at: datetime
    method: str
    path: str
    status: int
    deployment: str
    lines: tuple[LogLine, ...] = ()


@dataclass(frozen=True)
class AliasRequest:
    """The latest promotion or rollback."""

    type: str
    deployment: str
    requested: datetime


class VercelStore:
    """One team with one project. Copies (`copy.deepcopy`) share the world and what never changes."""

    def __init__(self, world: World, name: str = "quillfolio", team: str = "quillfolio-team") -> None:
        self.world = world
        self.rng = random.Random(f"vercel {world.seed}")
        self.name, self.team_slug = name, team
        self.team_id, self.project_id = f"team_{self.token(24)}", f"prj_{self.token(28)}"
        self.user_id, self.username = self.token(24), "deploys"
        self.domain = f"{name}.example"
        self.opened = world.clock.now() - timedelta(days=900)
        self.deployments: list[Deployment] = []
        self.production = ""  # the deployment that serves the domain
        self.variables: dict[str, Variable] = {}  # by name
        self.requests: list[RequestLog] = []
        self.log_retention = timedelta(days=30)
        self.last_alias_request: AliasRequest | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> VercelStore:
        twin = VercelStore.__new__(VercelStore)
        twin.__dict__.update(vars(self))
        twin.rng = random.Random()
        twin.rng.setstate(self.rng.getstate())
        twin.deployments = [
            replace(one, env=dict(one.env), behaviour=dict(one.behaviour), memory={}) for one in self.deployments
        ]
        twin.variables, twin.requests = dict(self.variables), list(self.requests)
        return twin

    def dump(self) -> dict[str, Any]:
        """The project's state as JSON, without logs and what instances remember."""
        deployments = [{k: v for k, v in asdict(one).items() if k != "memory"} for one in self.deployments]
        variables = {name: asdict(variable) for name, variable in self.variables.items()}
        state = {"deployments": deployments, "production": self.production, "variables": variables}
        return dict(json.loads(json.dumps(state, default=str)))

    def token(self, length: int) -> str:
        return "".join(self.rng.choices(ALPHABET, k=length))

    # Environment variables

    def set_variable(
        self, key: str, value: str, kind: str | None = None, target: Sequence[str] | None = None
    ) -> Variable:
        """Set a variable for the builds to come. What runs keeps what it was built with."""
        now, old = self.world.clock.now(), self.variables.get(key)
        if old is None:
            sensitive = not key.startswith("NEXT_PUBLIC_") and any(word in key for word in SENSITIVE)
            old = Variable(self.token(16), key, value, "sensitive" if sensitive else "encrypted", now, now)
        new = replace(old, value=value, type=kind or old.type, updated=now, target=tuple(target or old.target))
        self.variables[key] = new
        return new

    def remove_variable(self, key: str) -> None:
        self.variables.pop(key, None)

    def change_environment(self, env: Mapping[str, str | None]) -> None:
        """Set variables for the builds to come; None takes one away."""
        for key, value in env.items():
            if value is None:
                self.remove_variable(key)
            else:
                self.set_variable(key, value)

    def environment(self, target: str = "production") -> dict[str, str]:
        """What a build of now would get."""
        return {key: one.value for key, one in self.variables.items() if target in one.target}

    # Deployments

    def live(self) -> Deployment:
        return self.deployment(self.production)

    def deployment(self, key: str) -> Deployment:
        """By id or by URL; KeyError if there is none."""
        for one in self.deployments:
            if key in (one.id, one.url):
                return one
        raise KeyError(key)

    def deploy(
        self,
        env: dict[str, str | None] | None = None,
        behaviour: dict[str, Any] | None = None,
        message: str = "Update",
        target: str = "production",
    ) -> Deployment:
        """Build and, for production, serve. `env` is set on the project first (None takes a variable away);
        `behaviour` changes what the code so far does."""
        self.change_environment(env or {})
        before = self.live().behaviour if self.production else BEHAVIOUR
        commit = f"{self.rng.getrandbits(160):040x}"
        return self._build({**before, **(behaviour or {})}, message, commit, target)

    def redeploy(self, key: str, state: str = "READY") -> Deployment:
        """Build the same code again, with today's variables."""
        one = self.deployment(key)
        return self._build(one.behaviour, one.message, one.commit, one.target, state, action="redeploy")

    def finish_build(self, key: str) -> None:
        """A build that was under way is ready, and serves if it is production's."""
        for index, one in enumerate(self.deployments):
            if one.id == key:
                self.deployments[index] = replace(one, state="READY")
                if one.target == "production":
                    self.production = key

    def rollback(self, key: str | None = None) -> Deployment:
        """Serve an earlier build again, with the environment it was built with; by default the one before."""
        one = self.deployment(key) if key else self._before_live()
        self._serve(one, "rollback")
        return one

    def promote(self, key: str) -> Deployment:
        """Serve this deployment. A preview is built again, with production's environment."""
        one = self.deployment(key)
        if one.target != "production":
            one = self._build(one.behaviour, one.message, one.commit, "production")
        self._serve(one, "promote")
        return one

    def _before_live(self) -> Deployment:
        ready = [one for one in self.deployments if one.target == "production" and one.state == "READY"]
        position = [one.id for one in ready].index(self.production)
        if not position:
            raise KeyError("there is no earlier deployment")
        return ready[position - 1]

    def _serve(self, one: Deployment, how: str) -> None:
        self.production = one.id
        self.last_alias_request = AliasRequest(how, one.id, self.world.clock.now())

    def _build(
        self, behaviour: dict[str, Any], message: str, commit: str, target: str, state: str = "READY", action: str = ""
    ) -> Deployment:
        one = Deployment(
            id=f"dpl_{self.token(28)}",
            url=f"{self.name}-{self.token(9).lower()}-{self.team_slug}.vercel.app",
            created=self.world.clock.now(),
            env=self.environment(target),
            behaviour=dict(behaviour),
            message=message,
            commit=commit,
            creator=self.username,
            state=state,
            target=target,
            action=action,
        )
        self.deployments.append(one)
        if target == "production" and state == "READY":
            self.production = one.id
        return one

    # Logs

    def log_request(
        self,
        method: str,
        path: str,
        status: int,
        lines: Sequence[LogLine] = (),
        at: datetime | None = None,
        deployment: str | None = None,
    ) -> None:
        """Note a request that the edge saw. Without lines: answered by the edge, or a quiet success."""
        moment = at or self.world.clock.now()
        name = f"iad1::{self.token(5).lower()}-{int(moment.timestamp() * 1000)}-{self.token(12).lower()}"
        served = deployment or self.production
        self.requests.append(RequestLog(name, moment, method, path, status, served, tuple(lines)))

    def history(self, since: datetime, until: datetime, deployment: str | None = None) -> list[RequestLog]:
        """Requests of a span, oldest first, as far back as logs are kept."""
        oldest = max(since, datetime.now(UTC) - self.log_retention)
        kept = [row for row in self.requests if oldest <= row.at <= until and deployment in (None, row.deployment)]
        return sorted(kept, key=lambda row: row.at)


def populate(world: World) -> None:
    """The project's variables and its peaceful past. Needs the secrets, and Stripe's prices."""
    store, played = world.vercel, world.clock.now() if world.clock.playing else None
    try:
        world.clock.play(datetime.now(UTC) - timedelta(days=HISTORY[0][0] + 30))
        for key, value in _variables(world).items():
            store.set_variable(key, value)
        for days, message in HISTORY:
            merged = datetime.now(UTC) - timedelta(days=days, minutes=store.rng.randrange(600))
            world.clock.play(merged - timedelta(minutes=store.rng.randrange(20, 300)))
            store.deploy(message=message, target="preview")
            world.clock.play(merged)
            store.deploy(message=message)
    finally:
        world.clock.play(played)


def _variables(world: World) -> dict[str, str]:
    token = world.vercel.token
    prices = {tier: world.stripe.price_of(tier) for tier in ("hobbyist", "professional", "studio")}
    return {
        "NEXT_PUBLIC_APP_URL": f"https://{world.vercel.domain}",
        "NEXT_PUBLIC_SUPABASE_URL": f"https://{token(20).lower()}.supabase.example",
        "NEXT_PUBLIC_SUPABASE_ANON_KEY": token(64),
        "SUPABASE_SERVICE_ROLE_KEY": token(64),
        "STRIPE_SECRET_KEY": f"sk_live_{token(40)}",
        "STRIPE_WEBHOOK_SECRET": world.secrets["webhook"],
        **{f"STRIPE_PRICE_{tier.upper()}": price for tier, price in prices.items()},
        "OPENAI_API_KEY": f"sk-{token(40)}",
        "ANTHROPIC_API_KEY": f"sk-ant-{token(40)}",
        "DEEPSEEK_API_KEY": f"sk-{token(32)}",
    }
