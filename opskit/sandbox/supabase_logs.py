"""Supabase's logs as one table that is asked in ClickHouse's SQL: as much of it as the command-line tool speaks."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opskit.sandbox.supabase import LogLine

Row = dict[str, Any]
Value = Callable[[Row], Any]

COLUMNS = ("id", "timestamp", "source", "source_name", "severity_text", "event_message", "log_attributes")
MOST = 1000  # rows of an answer
END = ""  # stands after the last token
TOKEN = re.compile(r"\s*('(?:[^'\\]|''|\\.)*'|\d+|\w+|<=|>=|!=|<>|[=<>()\[\],;*])")
SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"-?\d+", text) else 0


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def _first(*cases: Any) -> Any:
    """What follows the first condition that holds, or the last of all."""
    conditions, results = cases[:-1:2], cases[1::2]
    return next((result for holds, result in zip(conditions, results, strict=True) if holds), cases[-1])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "upper": str.upper,
    "lower": str.lower,
    "toint32orzero": _number,
    "tounixtimestamp64milli": _milliseconds,
    "positioncaseinsensitiveutf8": lambda text, part: text.lower().find(part.lower()) + 1,
    "multiif": _first,
    "if": _first,
}


def row(line: LogLine) -> Row:
    said = (line.source, line.source, line.severity, line.message, line.attributes)  # announced under both names
    values = (line.id, f"{line.at:%Y-%m-%d %H:%M:%S.%f}", *said)
    return dict(zip(COLUMNS, values, strict=True))


def select(query: str, rows: list[Row]) -> list[Row]:
    """The rows that a query asks for. Raises ValueError where it says what is not known here."""
    asked = _Query(query)
    found = []
    try:
        for one in rows:
            shown = {name: value(one) for name, value in asked.shown.items()}
            known = {**one, **shown}  # what is shown under a name can be asked for by it
            if asked.where(known):
                found.append(([value(known) for value, _ in asked.order], shown))
        for place, (_, descending) in reversed(list(enumerate(asked.order))):
            found.sort(key=lambda line: line[0][place], reverse=descending)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"Illegal types of arguments: {error}") from error
    return [shown for _, shown in found[: asked.limit]]


class _Query:
    """A query, read once from left to right: what it shows, which rows, in which order, how many."""

    def __init__(self, query: str) -> None:
        self.left = [*_tokens(query), END]
        self.names = set(COLUMNS)
        self.shown: dict[str, Value] = {}
        self._expect("select")
        self._show()
        self._expect("from")
        self._expect("logs")
        self.where: Value = self._either() if self._accept("where") else lambda _: True
        self.order = self._sorted() if self._accept("order") else []
        self.limit = int(self._value()({})) if self._accept("limit") else MOST
        self._accept(";")
        self._expect(END)

    def _show(self) -> None:
        while True:
            if self._accept("*"):
                self.shown |= {name: _column(name) for name in COLUMNS}
            else:
                said = self.left[0]
                value = self._value()
                name = self._name() if self._accept("as") else said
                self.shown[name] = value
                self.names.add(name)
            if not self._accept(","):
                return

    def _name(self) -> str:
        name = self.left[0]
        self._expect(name.lower())
        return name

    def _sorted(self) -> list[tuple[Value, bool]]:
        self._expect("by")
        found = []
        while True:
            value = self._value()
            descending = self._accept("desc")
            self._accept("asc")
            found.append((value, descending))
            if not self._accept(","):
                return found

    def _either(self) -> Value:
        tests = [self._both()]
        while self._accept("or"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda one: any(test(one) for test in tests)

    def _both(self) -> Value:
        tests = [self._test()]
        while self._accept("and"):
            tests.append(self._test())
        return tests[0] if len(tests) == 1 else lambda one: all(test(one) for test in tests)

    def _test(self) -> Value:
        if self._accept("not"):
            test = self._test()
            return lambda one: not test(one)
        value = self._value()
        if self.left[0] in SIGNS:
            sign, other = SIGNS[self._name()], self._value()
            return lambda one: sign(value(one), other(one))
        wanted = not self._accept("not")
        if self._accept("in"):
            members = self._arguments()
            return lambda one: (value(one) in [member(one) for member in members]) == wanted
        for word, flags in (("like", re.DOTALL), ("ilike", re.DOTALL | re.IGNORECASE)):
            if self._accept(word):
                pattern = re.compile(_like(self._value()({})), flags)
                return lambda one: (pattern.fullmatch(str(value(one))) is not None) == wanted
        return value

    def _value(self) -> Value:
        if self._accept("("):
            inner = self._either()
            self._expect(")")
            return inner
        said = self._name()
        if said.startswith("'"):
            text = re.sub(r"''|\\(.)", lambda found: found[1] or "'", said[1:-1])
            return lambda _: text
        if said.isdigit():
            return lambda _: int(said)
        if self.left[0] == "(" and said.lower() in FUNCTIONS:
            function, given = FUNCTIONS[said.lower()], self._arguments()
            return lambda one: function(*(value(one) for value in given))
        if said not in self.names:
            raise ValueError(f"Unknown expression identifier {said}")
        if self._accept("["):
            key = self._value()({})
            self._expect("]")
            return lambda one: one[said].get(key, "")
        return _column(said)

    def _arguments(self) -> list[Value]:
        """Values or conditions, in brackets."""
        self._expect("(")
        found = [self._either()]
        while self._accept(","):
            found.append(self._either())
        self._expect(")")
        return found

    def _accept(self, word: str) -> bool:
        if self.left[0].lower() != word:
            return False
        if word != END:
            self.left.pop(0)
        return True

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            raise ValueError(f"Syntax error: expected {word or 'the end'}, found {self.left[0] or 'the end'}")


def _tokens(query: str) -> list[str]:
    found, at = [], 0
    while query[at:].strip():
        token = TOKEN.match(query, at)
        if token is None:
            raise ValueError(f"Syntax error: {query[at : at + 20].strip()!r} cannot be read")
        found.append(token[1])
        at = token.end()
    return found


def _column(name: str) -> Value:
    return lambda one: one[name]


def _like(pattern: str) -> str:
    return "".join({"%": ".*", "_": "."}.get(sign, re.escape(sign)) for sign in pattern)
