"""Environments: named targets, what they must really be, and where their secrets come from.

A secret is never in a file here: an environment says which variable or which command yields it, separately for
reading and for changing. A plan-mode run resolves only the first.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from opskit.errors import BadInput
from opskit.redaction import SHORTEST

Access = Literal["read", "change"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Secret(Strict):
    """Where a secret comes from: an environment variable or a command that prints it."""

    env: str | None = None
    command: str | None = None

    @model_validator(mode="after")
    def one_source(self) -> Secret:
        if bool(self.env) == bool(shlex.split(self.command or "")):
            raise ValueError("a secret comes from `env: NAME` or from `command: …`, one of them")
        return self

    @property
    def source(self) -> str:
        return f"environment variable {self.env}" if self.env else f"command `{self.command}`"


class Credential(Strict):
    """A secret and, for a database, the user it belongs to."""

    user: str | None = None
    secret: Secret


SECRETIVE = re.compile(r"passw|secret|token|api_?-?key|credential|signature", re.IGNORECASE)  # names that secrets have


OPEN = re.compile(
    r'public\.([a-z_][a-z0-9_]*|"[^"]+") (select|insert|update|delete)( by (stranger|anonymous))?'
)  # as `access` tells of it
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+")  # in a command
VARIABLE = re.compile(r":\$\{?\w+\}?@")  # a password that the shell fills in
HARMLESS = {  # settings of a database's address that hold no secret; `options` and others can
    "sslmode", "sslrootcert", "connect_timeout", "target_session_attrs", "gssencmode", "channel_binding",
}  # fmt: skip


def _secret_in(address: str) -> str:
    """What in an address may be a secret; empty where nothing is. Addresses stand in every record as they are."""
    parts = urlsplit(address)
    if not parts.scheme and "=" in address:  # libpq takes this form too
        return "settings such as `password=…`; write it as postgresql://…, and"
    if parts.password or (parts.username and parts.scheme in ("http", "https")):
        return "a password" if parts.password else "a user, which may be a token,"
    named = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True) if key not in HARMLESS]
    return f"{named[0]!r} in its query, which may be a secret" if named else ""


def _secret_in_command(words: list[str]) -> str:
    """What in a command may be a secret; empty where nothing is. A variable is none: `$NAME`."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, given, value = word.partition("=")
        if not given and word.startswith("-"):
            value = "" if after.startswith("-") else after
        named = SECRETIVE.search(name) or (name == "-p" and not value.isdigit())  # supabase's; psql's is a port
        if named and value and not value.startswith("$"):
            return f"a value for {name}"
        if (place := ADDRESS.search(word)) and (what := _secret_in(VARIABLE.sub("@", place[0]))):
            return what
    return ""


class Service(BaseModel):
    """An outside system: where it is, and the credentials for looking and for changing. More keys name its parts."""

    model_config = ConfigDict(extra="allow", frozen=True)
    address: str
    read: Credential | None = None
    change: Credential | None = None

    @model_validator(mode="after")
    def no_secret_beside_its_source(self) -> Service:
        if what := _secret_in(self.address) or _secret_in(str(self.part("direct") or "")):
            raise ValueError(f"the address holds {what}; name its source under `read` and `change` instead")
        for key in self.model_extra or {}:
            if SECRETIVE.search(key):
                raise ValueError(f"{key!r} looks like a secret; name its source under `read` and `change` instead")
        return self

    def part(self, key: str) -> Any:
        """One of the service's further keys, such as `project`; None where the environment does not say."""
        return (self.model_extra or {}).get(key)


class Services(Strict):
    database: Service
    stripe: Service
    vercel: Service | None = None
    sentry: Service | None = None
    supabase: Service | None = None
    app: Service | None = None
    openai: Service | None = None
    anthropic: Service | None = None
    deepseek: Service | None = None
    status: dict[str, str] = Field(default_factory=dict, description="status pages: vendor -> base address")

    @model_validator(mode="after")
    def no_secret_in_a_status_page(self) -> Services:
        if wrong := [vendor for vendor, address in self.status.items() if _secret_in(address)]:
            raise ValueError(f"status: the address of {wrong[0]} holds {_secret_in(self.status[wrong[0]])}")
        return self


class Pins(Strict):
    """What the credentials must really reach. `begin` compares, and refuses a mismatch."""

    stripe_account: str | None = None
    stripe_livemode: bool | None = None
    vercel_project: str | None = None
    supabase_ref: str | None = None
    database_system: str | None = None


class Facts(Strict):
    """What only the team knows about its app."""

    webhook_path: str = "/api/webhooks/stripe"
    webhook_max_event_age: int | None = Field(None, description="seconds after which the handler refuses an event")
    webhook_requests_per_hour: int | None = Field(None, description="the app's own limit per sender")
    price_tiers: dict[str, str] = Field(default_factory=dict, description="Stripe price id -> tier")
    ai_routing_variable: str | None = Field(
        None, description="names what reroutes models: MODEL=MODEL,… ; null: code does"
    )
    ai_models: dict[str, str] = Field(
        default_factory=dict, description="model -> provider, where its name does not tell"
    )
    ai_background_model: str | None = Field(None, description="the model that background tasks ask for")
    ai_ensemble_partial: bool = Field(False, description="whether ensemble answers with what it has")
    ai_function_seconds: int | None = Field(None, description="after which the host kills a function of the app")
    migrate_with: str | None = Field(None, description="the team's own command that migrates; null: opskit does")
    open_on_purpose: list[str] = Field(
        default_factory=list, description="what others than the owner may do with a row: public.TABLE COMMAND"
    )

    @field_validator("open_on_purpose")
    @classmethod
    def each_a_table_and_a_command(cls, pairs: list[str]) -> list[str]:
        """A table alone would open all of it, and one day somebody's mistake too."""
        if wrong := [pair for pair in pairs if not OPEN.fullmatch(pair)]:
            asked = "is a table of public and one command, such as `public.profiles select`, or the same `by stranger`"
            raise ValueError(f"{wrong[0]!r}: each {asked} or `by anonymous`")
        return pairs

    @field_validator("migrate_with")
    @classmethod
    def one_command_that_holds_no_secret(cls, command: str | None) -> str | None:
        """It is shown to people as it is, and kept in every record."""
        if command is None:
            return None
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"is no command that a shell could read: {error}") from None
        if not words or "\n" in command.strip():
            raise ValueError("is one command in one line, such as `supabase db push --linked`; null: opskit migrates")
        if what := _secret_in_command(words):
            raise ValueError(f'holds {what}; let the command take it from a variable, such as "$DATABASE_URL"')
        return command.strip()


class Limits(Strict):
    max_actions: Annotated[int, Field(ge=1)] = 25
    stripe_requests_per_second: Annotated[float, Field(gt=0)] = 6.25  # a quarter of what one endpoint allows
    run_minutes: Annotated[float, Field(gt=0)] = 240  # after which a whole run is ended
    step_minutes: Annotated[float, Field(gt=0)] = 10  # for which one step may give no sign of life
    grace_seconds: Annotated[float, Field(gt=0)] = 60  # for an action in flight to finish once an end was asked for


class Environment(Strict):
    name: str
    production: bool = True
    about: str = ""
    services: Services
    pins: Pins = Pins()
    facts: Facts = Facts()
    limits: Limits = Limits()
    retention_days: int = 90

    @property
    def digest(self) -> str:
        """Of everything in it: a plan made for an environment is stale once this changes."""
        return "sha256:" + hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def credentials(self, access: Access) -> dict[str, Credential]:
        services = {key: getattr(self.services, key) for key in Services.model_fields if key != "status"}
        found = {key: getattr(service, access) for key, service in services.items() if service}
        return {key: credential for key, credential in found.items() if credential}

    @property
    def single_secrets(self) -> list[str]:
        """Services whose reading secret can also change things, as far as this file tells."""
        read, change = self.credentials("read"), self.credentials("change")
        return [key for key in read if key not in change or change[key].secret == read[key].secret]


def places(root: Path) -> list[Path]:
    """Where environments are looked for: the repository's, then those of sandboxes on this machine."""
    state = os.environ.get("OPSKIT_STATE")
    home = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()) / "opskit"
    return [root / "parameters" / "environments", Path(state) if state else home]


def load(name: str, root: Path) -> Environment:
    """The environment of that name. Raises BadInput that names the file and what is wrong in it."""
    kept, sandboxes = places(root)
    path = next((p for p in (kept / f"{name}.yaml", sandboxes / name / "environment.yaml") if p.is_file()), None)
    if path is None:
        start = "Start a sandbox with `opskit sandbox start`, or"
        hint = start if name == "sandbox" else f"Known: {', '.join(names(root))};"
        raise BadInput(f"there is no environment {name!r}.", f"{hint} add parameters/environments/{name}.yaml.")
    found = _read(path)
    if found.name != name:
        raise BadInput(f"{path}: says it is {found.name!r}.", "Its `name:` must be what the file is called.")
    return found


def names(root: Path) -> list[str]:
    """Every environment that has a file, those of sandboxes last."""
    kept, sandboxes = places(root)
    found = [path.stem for path in sorted(kept.glob("*.yaml"))]
    return found + [path.parent.name for path in sorted(sandboxes.glob("*/environment.yaml"))]


def _read(path: Path) -> Environment:
    try:
        return Environment.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{line}: is not YAML: {getattr(error, 'problem', error)}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}.") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise BadInput(f"{path}: " + "; ".join(lines) + ".") from None


def resolve(environment: Environment, access: Access) -> dict[str, str]:
    """service -> secret, read from its source. Raises BadInput naming the service and the source."""
    return {key: resolve_one(key, access, item.secret) for key, item in environment.credentials(access).items()}


def resolve_one(service: str, access: Access, secret: Secret) -> str:
    """One secret from its source. Raises BadInput naming the service and the source."""
    value = os.environ.get(secret.env, "") if secret.env else _run(service, access, secret)
    if not value:
        raise BadInput(f"no secret for {service} ({access}): {secret.source} is missing or empty.")
    if len(value) < SHORTEST:
        raise BadInput(
            f"the secret for {service} ({access}) from {secret.source} has fewer than {SHORTEST} characters.",
            "It could not be kept out of the record without blanking innocent words; use a longer one.",
        )
    return value


def _run(service: str, access: Access, secret: Secret) -> str:
    command = shlex.split(secret.command or "")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = "took longer than 30 s" if isinstance(error, subprocess.TimeoutExpired) else error.strerror
        raise BadInput(f"no secret for {service} ({access}): {secret.source}: {reason}.") from None
    if done.returncode:
        raise BadInput(f"no secret for {service} ({access}): {secret.source} ended with exit code {done.returncode}.")
    return done.stdout.strip()


def standing(environment: Environment) -> dict[str, dict[str, str]]:
    """Secrets that this process holds in variables anyway, whether or not a run may have them: access -> service."""
    accesses: tuple[Access, ...] = ("read", "change")
    found = {
        access: {
            service: os.environ.get(credential.secret.env or "", "")
            for service, credential in environment.credentials(access).items()
        }
        for access in accesses
    }
    return {access: {k: v for k, v in some.items() if len(v) >= SHORTEST} for access, some in found.items()}


def known(root: Path) -> list[Environment]:
    """Every environment that the repository names and that can be read."""
    found = []
    for path in sorted(places(root)[0].glob("*.yaml")):
        with suppress(BadInput):  # a broken file is told to whoever asks for it
            found.append(_read(path))
    return found


def all_variables(root: Path) -> set[str]:
    """The same of every environment that the repository names: a kernel needs none of their secrets either."""
    return {name for target in known(root) for name in variables(target)}


def variables(environment: Environment) -> set[str]:
    """Every environment variable that holds one of its secrets: a kernel must not inherit them."""
    both: list[Mapping[str, Credential]] = [
        environment.credentials("read"),
        environment.credentials("change"),
    ]
    return {item.secret.env for found in both for item in found.values() if item.secret.env}
