"""Supabase's logs as one table that is asked in SQL: as much of its dialect as people need to find an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opskit.sandbox.supabase import LogLine

Row = dict[str, Any]
Test = Callable[[Row], bool]

ALL = "select id, ts_ms, source, severity_text, level, event_message, log_attributes from logs limit 100"
LEVELS = {"LOG": "info", "ERROR": "error", "FATAL": "error", "PANIC": "error", "WARNING": "warn"}
SELECT = re.compile(
    r"select\s+(?P<columns>.+?)\s+from\s+logs(?:\s+where\s+(?P<where>.+?))?"
    r"(?:\s+order\s+by\s+(?P<order>ts_ms|timestamp)(?P<down>\s+desc|\s+asc)?)?(?:\s+limit\s+(?P<limit>\d+))?\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)
PLACE = r"(?P<place>\w+|log_attributes\['[^']+'\])"
TEXT = r"'(?:[^']|'')*'"
CONDITION = re.compile(
    rf"{PLACE}\s*(?:(?P<sign>=|!=|<>|>=|<=|>|<)\s*(?P<value>{TEXT}|\d+)|(?P<no>not\s+)?"
    rf"(?:(?P<like>i?like)\s+(?P<pattern>{TEXT})|in\s*\(\s*(?P<members>{TEXT}(?:\s*,\s*{TEXT})*)\s*\)))",
    re.IGNORECASE,
)
SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<>": lambda a, b: a != b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


def row(line: LogLine) -> Row:
    return {
        "id": line.id,
        "ts_ms": int(line.at.timestamp() * 1000),
        "source": line.source,
        "source_name": line.source,  # the announcement's name for it
        "severity_text": line.severity,
        "level": LEVELS.get(line.severity, "info"),
        "event_message": line.message,
        "log_attributes": line.attributes,
    }


def select(query: str, rows: list[Row]) -> list[Row]:
    """The rows that a query asks for. Raises ValueError where it says more than is known here."""
    asked = SELECT.fullmatch(query.strip())
    if asked is None:
        raise ValueError("Syntax error: expected SELECT … FROM logs [WHERE …] [ORDER BY ts_ms] [LIMIT n]")
    tests = [_test(part) for part in re.split(r"\s+and\s+", asked["where"] or "", flags=re.IGNORECASE) if part]
    found = [one for one in rows if all(test(one) for test in tests)]
    found.sort(key=lambda one: one["ts_ms"], reverse="desc" in (asked["down"] or "").lower())
    columns = [name.strip() for name in asked["columns"].split(",")]
    return [{name: _at(one, name) for name in columns} for one in found[: int(asked["limit"] or 1000)]]


def _test(text: str) -> Test:
    told = CONDITION.fullmatch(text.strip())
    if told is None:
        raise ValueError(f"Syntax error: cannot read the condition {text.strip()!r}")
    place, wanted = told["place"], told["no"] is None
    if told["sign"]:
        value = _value(told["value"])
        return lambda one: SIGNS[told["sign"]](_at(one, place), value)
    if told["members"]:
        members = [_value(member) for member in re.findall(TEXT, told["members"])]
        return lambda one: (_at(one, place) in members) == wanted
    pattern = str(_value(told["pattern"])).replace("[", "[[]").replace("%", "*").replace("_", "?")
    if told["like"].lower() == "ilike":
        return lambda one: fnmatchcase(str(_at(one, place)).lower(), pattern.lower()) == wanted
    return lambda one: fnmatchcase(str(_at(one, place)), pattern) == wanted


def _value(written: str) -> str | int:
    return written[1:-1].replace("''", "'") if written.startswith("'") else int(written)


def _at(one: Row, place: str) -> Any:
    if place.startswith("log_attributes["):
        return one["log_attributes"].get(place[16:-2], "")
    if place not in one:
        raise ValueError(f"Unknown identifier: {place}")
    return one[place]
