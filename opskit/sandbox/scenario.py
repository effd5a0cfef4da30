"""Scenarios: the data files that say how the company breaks, and what must hold when all is well again.

This module is the format and its messages. `staging` lets a scenario happen; docs/scenarios.md explains it to writers.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from opskit.sandbox import SCENARIOS, SandboxError, moments, scenarios
from opskit.sandbox.happenings import Happening, SetEndpoint
from opskit.sandbox.world import Fault

Env = dict[str, str | None]
Moment = Annotated[str, Field(description="now, 90 minutes ago, 2 h ago, 3 days ago")]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Overrides(Part):
    """What the environment file says differently."""

    facts: dict[str, Any] = {}
    limits: dict[str, int] = {}


class App(Part):
    """What the live code does with webhooks, documents and AI, from the beginning of the scenario on."""

    max_event_age: int | None = 300
    bug: Literal["handler-raises"] | None = None
    writes_per_hour: Annotated[int, Field(ge=1)] = 100  # saves, for each user
    sanitiser_fails_on: str | None = None  # text in which the sanitiser fails, and answers with nothing
    stable_hash: bool = False  # whether the order of keys is of no account
    models: dict[str, str] = {}  # command: the model that this build asks instead of the usual one
    thinking_seconds: Annotated[int, Field(ge=0)] = 0  # that its models take before they write
    sends_along: Annotated[int, Field(ge=0)] = 0  # characters of the manuscript, with every prompt
    blending_fails: bool = False  # whether ensemble and blend fail once all models have answered


class Deployment(Part):
    """A build that went live at that moment."""

    at: Moment
    message: str = "Update"
    env: Env = {}
    behaviour: App | None = None

    @field_validator("at")
    @classmethod
    def _readable(cls, value: str) -> str:
        return _checked(value)


class FaultLine(Part):
    """How one route of one service misbehaves, or that the database is down."""

    service: Literal[
        "app", "stripe", "vercel", "sentry", "supabase", "status", "database", "openai", "anthropic", "deepseek"
    ]  # fmt: skip
    route: str = ".*"
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] | None = None
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    body: str | dict[str, Any] | list[Any] = ""
    headers: dict[str, str] = {}
    delay: Annotated[float, Field(ge=0)] = 0.0
    reset: bool = False
    truncate: bool = False
    takes_effect: bool = False
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    times: Annotated[int | None, Field(ge=1)] = None
    begins: Annotated[Moment | None, Field(alias="from")] = None
    ends: Annotated[Moment | None, Field(alias="until")] = None
    name: str | None = None
    down: bool = False

    @field_validator("begins", "ends")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        return value if value is None else _checked(value)

    @field_validator("route")
    @classmethod
    def _a_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if (self.service == "database") != self.down:
            raise ValueError("'down: true' belongs to service 'database', and is all that can befall it")
        answers = [self.status is not None, self.reset, self.truncate]
        if not (self.down or self.delay or any(answers)):
            raise ValueError("a fault needs one of: status, delay, reset, truncate")
        if sum(answers) > 1:
            raise ValueError("a fault answers in one way: status, reset or truncate")
        if self.takes_effect and not (self.status or self.reset):
            raise ValueError("'takes_effect' belongs to a status or a reset; any other fault passes the request on")
        return self

    def fault(self, now: datetime) -> Fault:
        plain = isinstance(self.body, str)
        return Fault(
            service=self.service,
            route=self.route,
            method=self.method,
            status=self.status,
            body=str(self.body) if plain else json.dumps(self.body),
            headers=self.headers if plain else {"content-type": "application/json", **self.headers},
            delay=self.delay,
            reset=self.reset,
            truncate=self.truncate,
            takes_effect=self.takes_effect,
            share=self.share,
            times=self.times,
            begins=moments.moment(self.begins, now) if self.begins else None,
            ends=moments.moment(self.ends, now) if self.ends else None,
            name=self.name,
        )


class SentryIssue(Part):
    """An error that reached Sentry."""

    type: str
    message: str
    culprit: str
    at: Moment = "now"
    count: Annotated[int, Field(ge=1, le=1000)] = 1

    @field_validator("at")
    @classmethod
    def _readable(cls, value: str) -> str:
        return _checked(value)


class Forbidden(Part):
    """An action that must not be planned; with `arguments`, not with these. Names and values may hold * and ?."""

    action: str
    arguments: dict[str, Any] = {}


class TableTouch(Part):
    """Rows and columns that a right apply may change. `keys`: a group of actors, ids, or "*".

    `where` narrows them further: rows whose column names a member of a group, as new rows have no key yet.
    """

    table: str
    keys: str | list[str] = "*"
    where: dict[str, str] = {}
    columns: list[str] = ["*"]


class ObjectTouch(Part):
    """Fields of an object, as `kind/id` (may hold * and ?), that a right apply may change.

    It is a service's, the database's `schema`, or a file of the migrations `folder`.
    """

    service: Literal["stripe", "vercel", "sentry", "supabase", "schema", "folder"]
    object: str
    fields: list[str] = ["*"]


class Get(Part):
    service: Literal["app", "stripe", "vercel", "sentry", "supabase", "status"]
    path: str


class Holds(Part):
    """Something that must hold when all is well: a query's value, a field of an answer, or profiles equal to Stripe."""

    sql: str | None = None
    get: Get | None = None
    field: str = ""
    equals: Any = None
    agrees: Literal["profiles"] | None = None
    with_: Annotated[Literal["stripe"], Field(alias="with")] = "stripe"
    among: str | None = None

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if sum(question is not None for question in (self.sql, self.get, self.agrees)) != 1:
            raise ValueError("exactly one of: sql, get, agrees")
        if self.agrees is None and "equals" not in self.model_fields_set:
            raise ValueError("'equals' is missing: what should be found?")
        return self


class Step(Part):
    """What a person does by hand."""

    lift: str | None = None
    env: Env = {}
    redeploy: bool = False
    behaviour: App | None = None
    rollback: bool = False
    sql: str | None = None
    set_endpoint: dict[str, Any] | None = None
    happenings: list[Happening] = []

    @field_validator("set_endpoint")
    @classmethod
    def _an_endpoint(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            SetEndpoint.model_validate({"what": "set_endpoint", **value})
        return value


class Twin(Part):
    """What is added so that the decisive evidence is gone, and what may then be concluded."""

    faults: list[FaultLine] = []
    env: Env = {}
    sql: list[str] = []
    status_pages: dict[str, dict[str, Any]] = {}
    causes: list[str] = ["unknown"]


class Scenario(Part):
    """One way in which the company breaks."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    runbook: str
    parameters: dict[str, Any] = {}
    environment: Overrides = Overrides()
    app: App | None = None
    deployments: list[Deployment] = []
    happenings: list[Happening] = []
    faults: list[FaultLine] = []
    env: Env = {}
    sql: list[str] = []
    status_pages: dict[str, dict[str, Any]] = {}
    sentry: list[SentryIssue] = []
    causes: Annotated[list[str], Field(min_length=1)]
    forbidden: list[str | Forbidden] = []
    touches: list[TableTouch | ObjectTouch] = []
    healed: list[Holds] = []
    by_hand: list[Step] = []
    waits: list[str] = []
    twin: Twin | None = None

    @field_validator("touches", mode="before")
    @classmethod
    def _told_apart(cls, value: Any) -> Any:
        """A clear message instead of one for each kind of touch."""
        if not isinstance(value, list):
            return value
        return [_touch(index, one) for index, one in enumerate(value)]

    @model_validator(mode="after")
    def _groups_exist(self) -> Self:
        groups = {getattr(one, "name", None) or one.what for one in self.happenings}
        documents = {f"{group}_{what}" for group in groups for what in ("documents", "tasks")}
        for touch in self.touches:
            keys = [touch.keys] if isinstance(touch, TableTouch) and isinstance(touch.keys, str) else []
            where = list(touch.where.values()) if isinstance(touch, TableTouch) else []
            for unknown in {*keys, *where} - groups - documents - {"*"}:
                raise ValueError(f"touches: no happening has the name {unknown!r}")
        for one in self.healed:
            if one.among is not None and one.among not in groups:
                raise ValueError(f"healed: among: no happening has the name {one.among!r}")
        names = {fault.name for fault in self.faults}
        for step in self.by_hand:
            if step.lift is not None and step.lift not in names:
                raise ValueError(f"by_hand: lift: no fault has the name {step.lift!r}")
        return self

    def with_twin(self) -> Scenario:
        """The scenario with its decisive evidence removed."""
        if self.twin is None:
            raise SandboxError(f"The scenario {self.name!r} has no twin.")
        twin = self.twin
        return self.model_copy(
            update={
                "faults": [*twin.faults, *self.faults],  # the first that matches a request answers it
                "env": {**self.env, **twin.env},
                "sql": [*self.sql, *twin.sql],
                "status_pages": {**self.status_pages, **twin.status_pages},
                "causes": twin.causes,
            }
        )

    def forbidden_as_json(self) -> list[dict[str, Any]]:
        return [
            {"action": one, "arguments": {}} if isinstance(one, str) else one.model_dump() for one in self.forbidden
        ]


_touches: dict[str, TypeAdapter[Any]] = {"table": TypeAdapter(TableTouch), "service": TypeAdapter(ObjectTouch)}


def _touch(index: int, one: Any) -> Any:
    for key, adapter in _touches.items():
        if isinstance(one, dict) and key in one:
            return adapter.validate_python(one)
    raise ValueError(f"entry {index + 1}: a touch names a 'table' or a 'service'")


def load(name: str) -> Scenario:
    """A scenario by the name of a shipped one, or by the path of a file."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in scenarios():
            raise SandboxError(f"There is no scenario {name!r}.{_nearest(name)} A file's name ends in .yaml.")
        path = SCENARIOS / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SandboxError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SandboxError(f"{path}: is not UTF-8 text.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a 13th month; a thousand brackets
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SandboxError(f"{path}{line}: is not YAML: {getattr(error, 'problem', error)}.") from error
    if not isinstance(content, dict):
        raise SandboxError(f"{path}: a scenario is a mapping of fields, beginning with 'name'")
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        raise SandboxError(complaint(path, error)) from error
    except OverflowError as error:
        raise SandboxError(f"{path.name}: a moment lies outside the times that a calendar has") from error


def fault_line(content: dict[str, Any]) -> FaultLine:
    """One fault, as a scenario's `faults` would say it."""
    try:
        return FaultLine.model_validate(content)
    except ValidationError as error:
        raise SandboxError(complaint(Path("fault"), error)) from error


WRITTEN = {  # how a field is written, where only a pattern says so
    "name": "small letters, digits and hyphens, such as card-declined",
    "linked": "a project's twenty letters, or ${project} for the right one",
    "migration": "small letters, digits and underscores, such as add_slug",
    "path": "a path from the root of the app, such as /api/webhooks",
    "status": "capital letters, such as ACTIVE_HEALTHY",
    "version": "a version of Stripe's API, such as 2025-09-30.clover",
}


def complaint(path: Path, error: ValidationError) -> str:
    """One line for each thing that is wrong: file, field, what is wrong with it."""
    lines = []
    for one in error.errors(include_url=False):
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            message = "there is no such field"
        if one["type"] == "string_pattern_mismatch":
            message = f"give {WRITTEN[str(one['loc'][-1])]} (given: {one['input']!r})"
        lines.append(f"{path.name}: {_field(one['loc'])}{message}")
    return "\n".join(lines)


def _field(place: Sequence[str | int]) -> str:
    """`happenings[2].count`, counted from 1 as people do, without pydantic's names of alternatives."""
    text = ""
    kinds = {"function-before", "str", "Forbidden"}
    before: str | int = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        elif part not in kinds and not (isinstance(before, int) and text.startswith("happenings")):
            text += f".{part}" if text else part
        before = part
    return f"{text}: " if text else ""


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, scenarios(), 1)
    return f" Did you mean {close[0]!r}?" if close else f" There are: {', '.join(scenarios())}."


def _checked(value: str) -> str:
    moments.moment(value, datetime.now(UTC))
    return value
