"""Parameters, declared once: in the notebook's parameters cell, which is also the form a person fills in.

    since: Moment = "24h"      # how far back to look
    customer: Optional[CustomerId] = None  # one customer's story only

The cell is parsed, never run, to validate before a kernel starts (`declared`), and its annotations are read again
in the kernel by `begin` (`declared_here`), so that the command line, papermill and a hand-edited cell get the same
answer from the same declaration.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Optional

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictInt,
    StringConstraints,
    ValidationError,
    create_model,
)

from opskit.errors import BadInput
from opskit.redaction import Redactor, each
from opskit.spelling import sound

PLAIN = (str, int, float, bool, list, dict, NoneType)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def span(text: str) -> timedelta:
    """`90m`, `2h`, `3d` as a length of time. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+)\s*([smhd])", text.strip())
    if not match or not int(match[1]):
        raise ValueError("give a number and a unit, such as 90m, 2h or 3d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def moment(value: Any) -> datetime:
    """An ISO 8601 time with its zone, or a length of time before now. Naive times are refused: whose clock?"""
    try:
        found = _moment(value)
    except OverflowError:
        raise ValueError("that is outside the times that a calendar has") from None
    if found > datetime.now(UTC) + timedelta(minutes=1):  # clocks differ a little
        raise ValueError("that is in the future")
    return found


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        found = value
    elif not isinstance(value, str):
        raise ValueError("give a time such as 2026-11-23T03:10:00Z, or a span such as 90m")
    elif re.fullmatch(r"\s*\d+\s*[smhd]\s*", value):
        return datetime.now(UTC) - span(value)
    else:
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("give a time such as 2026-11-23T03:10:00Z, or a span such as 90m") from None
    if found.tzinfo is None:
        raise ValueError("the time has no zone; add Z for UTC or an offset such as +02:00")
    return found.astimezone(UTC)


WORDS: dict[str, str] = {}  # by its pattern, what to give where something is written as a pattern wants it


def written(pattern: str, what: str, words: str) -> Any:
    WORDS[pattern] = words
    return Annotated[str, StringConstraints(pattern=pattern), Field(title=what)]


def identifier(prefix: str, what: str) -> Any:
    return written(rf"^{prefix}[A-Za-z0-9]+$", what, f"give {what}, such as {prefix}1OuVfe2eZvKY")


def name(what: str) -> Any:
    return written(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", what, "give up to 64 letters, digits, dots and dashes")


Text = Annotated[str, StringConstraints(max_length=2000)]
Flag = StrictBool
Count = Annotated[StrictInt, Field(ge=0)]
Hours = Annotated[float, Field(gt=0, le=720)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Moment = Annotated[datetime, BeforeValidator(moment), PlainSerializer(lambda at: at.isoformat(), when_used="json")]
IncidentId = name("an incident's id")
EnvironmentName = name("an environment's name")
UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
DocumentId = written(UUID, "a document's id", "give an id such as 4f6b1c9e-0d2a-4b57-9c38-5e7a1d3f2b60")
CustomerId = identifier("cus_", "a Stripe customer")
EndpointId = identifier("we_", "a Stripe webhook endpoint")
EventId = identifier("evt_", "a Stripe event")
Folder = Annotated[str, StringConstraints(min_length=1, max_length=1000), Field(title="a folder's path")]
Versions = written(
    r"^(pending|[0-9]+(\s*,\s*[0-9]+)*)$",
    "versions",
    "give pending, or versions such as 20251103090000, 20251104100000",
)
Work = Literal["preflight", "apply", "diagnose", "backfill", "rollback"]
Base = Literal["target", "empty"]

KINDS: dict[str, Any] = {
    "Text": Text,
    "Flag": Flag,
    "Count": Count,
    "Hours": Hours,
    "Seconds": Seconds,
    "Moment": Moment,
    "IncidentId": IncidentId,
    "EnvironmentName": EnvironmentName,
    "DocumentId": DocumentId,
    "CustomerId": CustomerId,
    "EndpointId": EndpointId,
    "EventId": EventId,
    "Folder": Folder,
    "Versions": Versions,
    "Work": Work,
    "Base": Base,
}

Declaration = dict[str, tuple[Any, Any]]  # name -> (kind, default with its description)


def declared(source: str) -> type[BaseModel]:
    """The parameters that a cell declares, without running it.

    Raises BadInput where the cell holds anything but imports of kinds and lines `name: Kind = value  # meaning`.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise BadInput(f"the parameters cell is not Python: {error.msg}, line {error.lineno}.") from None
    except (RecursionError, UnicodeEncodeError):
        raise BadInput("the parameters cell is not Python that anybody wrote: nested too deeply, or no text.") from None
    comments = _comments(source)
    fields: Declaration = {}
    for line in tree.body:
        if isinstance(line, ast.ImportFrom) and line.module in ("opskit.parameters", "typing"):
            continue
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name) or line.value is None:
            raise BadInput(
                f"the parameters cell, line {line.lineno}, is not a declaration.",
                "Write `name: Kind = value  # meaning`, with a kind from opskit.parameters.",
            )
        try:
            default = ast.literal_eval(line.value)
        except (ValueError, TypeError):
            raise BadInput(f"parameter {line.target.id!r}: its default must be a plain value.") from None
        if line.target.id.startswith("_") or hasattr(BaseModel, line.target.id):
            raise BadInput(f"{line.target.id!r} cannot be a parameter's name.", "Choose another word.")
        kind, written = _kind(line), ast.unparse(line.annotation)
        meaning = comments.get(line.lineno, "")
        fields[line.target.id] = (kind, Field(default, description=meaning, json_schema_extra={"kind": written}))
    return _model(fields)


def declared_here(namespace: Mapping[str, Any]) -> type[BaseModel]:
    """The parameters that were declared in this kernel, from the annotations that Python keeps."""
    annotations = namespace.get("__annotations__", {})
    return _model({key: (kind, Field(namespace.get(key))) for key, kind in annotations.items()})


REMEMBERED = " Where its line is corrected already, this kernel still remembers it: restart the kernel."


def undeclared(namespace: Mapping[str, Any]) -> list[str]:
    """Plain values set before `begin` that nobody declared: a mistyped parameter, injected by name."""
    known = namespace.get("__annotations__", {})
    ours = {"In", "Out", "exit", "quit", "open", "get_ipython"}
    return [
        key
        for key, value in namespace.items()
        if isinstance(value, PLAIN) and not key.startswith("_") and key not in ours and key not in known
    ]


def validate(model: type[BaseModel], given: Mapping[str, Any], source: str, more: str = "") -> BaseModel:
    """`given` as the model wants it. Raises BadInput that names every wrong parameter and what it should be.

    `more` is what to say of a parameter that nobody knows.
    """
    unknown = [key for key in given if key not in model.model_fields]
    if unknown:
        known = ", ".join(model.model_fields)
        strange = ", ".join(map(repr, unknown))
        raise BadInput(f"{source}: unknown parameter {strange}.", f"This runbook has: {known}.{more}")
    try:
        return model(**given)
    except ValidationError as error:
        lines = [
            f"parameter {'.'.join(map(str, e['loc']))!r}: {_plain(e)} (given: {e['input']!r})"
            for e in error.errors(include_url=False)
        ]
        raise BadInput(f"{source}: " + "; ".join(lines) + ".", "`opskit describe` lists what is accepted.") from None


def refuse_secrets(given: Mapping[str, Any], redactor: Redactor) -> None:
    """Raise BadInput where a parameter holds a known secret: it would be kept, and shown to whoever lists processes."""
    for key, value in given.items():
        if held := redactor.named(f"{key}\n{value}"):
            raise BadInput(
                f"parameter {redactor.text(key)!r} holds the secret {held[0]!r}, which is not repeated here.",
                "Leave it out: a run gets its secrets from its environment. Others may have seen this one: replace it.",
            )


def from_file(path: Path) -> dict[str, Any]:
    """The parameters in a YAML file. Raises BadInput naming file and line."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}.", "Give the path of a YAML file with parameters.") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is not UTF-8 text.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a 13th month is a ValueError
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{line}: is not YAML: {getattr(error, 'problem', error)}.") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadInput(f"{path}: must hold parameters as `name: value` lines.")
    for key in found:
        if not (isinstance(key, str) and key.isidentifier()):
            raise BadInput(
                f"{path}: {key!r} cannot be a parameter's name.", "Names are letters, digits and underscores."
            )
    # YAML reads times by itself, and a naive one must reach our own validator as it was written.
    found = {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in found.items()}
    return {key: each(value, sound) for key, value in found.items()}


def from_text(key: str, value: str) -> Any:
    """A value given as `-p NAME VALUE`: read as YAML, so that 5, true and null mean what they say."""
    if not key.isidentifier():
        raise BadInput(f"{key!r} cannot be a parameter's name.", "Names are letters, digits and underscores.")
    try:
        found = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):  # `2026-13-45` is no date, nor anything else
        return sound(value)
    return sound(value) if hasattr(found, "isoformat") else each(found, sound)


def _kind(line: ast.AnnAssign) -> Any:
    match line.annotation:
        case ast.Name(id=key) if key in KINDS:
            return KINDS[key]
        case ast.Subscript(value=ast.Name(id="Optional"), slice=ast.Name(id=key)) if key in KINDS:
            return Optional[KINDS[key]]  # noqa: UP045  # KINDS holds Annotated forms; `|` needs a class
    target = ast.unparse(line.target)
    raise BadInput(
        f"parameter {target!r}: {ast.unparse(line.annotation)!r} is not a kind.",
        f"Kinds: {', '.join(KINDS)}, each also as Optional[…].",
    )


def _comments(source: str) -> dict[int, str]:
    """Line number -> the comment at its end."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def _model(fields: Declaration) -> type[BaseModel]:
    make: Callable[..., type[BaseModel]] = create_model
    return make("Parameters", __config__=ConfigDict(extra="forbid", validate_default=True), **fields)


def _plain(error: Any) -> str:
    """What pydantic says, in words for people."""
    if words := WORDS.get(error.get("ctx", {}).get("pattern", "")):
        return words
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
