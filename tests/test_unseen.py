"""Blind is not healthy: what could not be seen is unknown, with everything that rests on it, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from opskit import unseen
from opskit.errors import CannotTell, Denied, Refused
from opskit.unseen import Unseen


class Told:
    """A shell with the guard on, and what it reported. `look(name)` fails, `see(value)` does not."""

    def __init__(self) -> None:
        self.shell = InteractiveShell(
            config=Config({"HistoryManager": {"enabled": False}, "HistoryAccessor": {"enabled": False}})
        )
        self.reported: list[tuple[str, list[tuple[str, str]]]] = []
        self.checked: list[tuple[Any, ...]] = []
        unseen.install(self.shell, lambda error, checks: self.reported.append((error.message, checks)))
        self.shell.user_ns |= {"look": self.look, "run": self, "pd": pd}

    @staticmethod
    def look(name: str = "there") -> Any:
        raise Denied(name, "does not let us look.")

    def check(self, name: str, answer: Any, question: str, **_: Any) -> None:
        self.checked.append((name, bool(answer)))

    def __call__(self, code: str) -> Any:
        """Runs a cell; answers what it shows. Anything but a missing answer is an error here as in a notebook."""
        result = self.shell.run_cell(code, store_history=False, silent=False)
        result.raise_error()
        return result.result

    def __getitem__(self, name: str) -> Any:
        return self.shell.user_ns[name]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Iterator[Told]:
    InteractiveShell.clear_instance()
    found = Told()
    yield found
    found.shell.reset(new_session=False)
    capsys.readouterr()


def test_ordinary_cells_are_as_ever(told: Told) -> None:
    assert told("a = 1\nb = a + 1\na + b") == 3
    assert told("") is None
    assert told("def f(x):\n    return x * 2\nf(4)") == 8
    assert told("import math\nfrom os import path\nmath.floor(2.5)") == 2
    assert told("for n in range(3): pass") is None
    assert told("'a string'") == "a string"
    assert told("[n for n in range(3)]") == [0, 1, 2]
    assert told("%time 5") == 5
    assert told.reported == []


def test_the_last_expression_may_name_and_may_wait(told: Told) -> None:
    assert told("(found := 5)") == 5
    assert told["found"] == 5
    assert told("import asyncio\nawait asyncio.sleep(0, 'waited')") == "waited"


def test_other_errors_stay_errors(told: Told) -> None:
    for code, kind in (("1 / 0", ZeroDivisionError), ("x = nobody", NameError), ("raise KeyError(1)", KeyError)):
        with pytest.raises(kind):
            told(code)
    told.shell.user_ns["refuse"] = lambda: (_ for _ in ()).throw(Refused("no"))
    with pytest.raises(Refused):
        told("next(refuse())")
    with pytest.raises(SyntaxError):
        told("x = (")


def test_a_missing_answer_ends_its_statement_only(told: Told) -> None:
    assert told("a = look('stripe')\nb = 2\nb") == 2
    assert isinstance(told["a"], Unseen)
    assert told.reported == [("stripe: does not let us look.", [])]


def test_what_rests_on_it_is_unseen_for_the_same_reason(told: Told) -> None:
    told("a = look('stripe')")
    told("b = a + 1\nc = len(a)\nd = [x for x in a]\ne = f'{a}'\nok = 5")
    assert all(isinstance(told[name], Unseen) for name in "abcde")
    assert told["ok"] == 5
    assert {message for message, _ in told.reported} == {"stripe: does not let us look."}


def test_an_expression_that_cannot_be_shown_shows_nothing(told: Told) -> None:
    told("1")
    assert told("look()") is None
    assert told("look()\n") is None
    assert len(told.reported) == 2


def test_something_unseen_says_so_when_looked_at(told: Told) -> None:
    told("a = look('vercel')")
    assert repr(told["a"]) == "unseen: vercel: does not let us look."
    assert isinstance(told("a"), Unseen)  # showing it is no use of it
    assert len(told.reported) == 1


@pytest.mark.parametrize(
    "code",
    [
        "found = []\nfor name in ('a', 'b'):\n    found.append(name)\n    look(name)",
        "found = []\nfound.append(look())",
        "found = []\nfound.extend(x for x in [1, look()])",
        "found = {}\nfound['a'] = look()",
        "found = {}\nfor k in 'ab':\n    found[k] = k\n    look()",
        "found = 1\nfound += look()",
        "found = 1\nwith look() as found: pass",
        "for found in look(): pass",
        "found, other = look()",
        "if look():\n    found = 1\nelse:\n    found = 2",
        "try:\n    found = look()\nfinally:\n    pass",
        "(found := look())",
        "found: int = look()",
    ],
)
def test_what_may_be_half_filled_is_unseen(told: Told, code: str) -> None:
    told(code)
    assert isinstance(told["found"], Unseen)


def test_modules_are_not_lost(told: Told) -> None:
    told("pd.concat([look()])\nsize = len(pd.DataFrame({'a': [1]}))")
    assert told["pd"] is pd
    assert told["size"] == 1


def test_a_runbook_may_catch_it_itself(told: Told) -> None:
    told("from opskit.errors import CannotTell\ntry:\n    a = look()\nexcept CannotTell:\n    a = 'blind'")
    assert told["a"] == "blind"
    assert told.reported == []


def test_functions_are_guarded_where_they_are_called(told: Told) -> None:
    told("def ask():\n    return look('sentry')\nanswer = ask()")
    assert isinstance(told["answer"], Unseen)


def test_a_check_without_its_answer_is_reported_by_name_and_question(told: Told) -> None:
    told("run.check('ok', True, 'Well?')\nrun.check('blind', look('stripe'), 'Seen?')\nrun.check('also', True, 'Too?')")
    assert told.checked == [("ok", True), ("also", True)]
    assert told.reported == [("stripe: does not let us look.", [("blind", "Seen?")])]


def test_a_check_on_something_unseen_is_reported(told: Told) -> None:
    told(
        "a = look('stripe')\nrun.check('one', a, 'One?')\nrun.check('two', not a, 'Two?')\n"
        "run.check('three', len(a) == 0, 'Three?')"
    )
    assert told.checked == []
    assert [checks for _, checks in told.reported[1:]] == [[("one", "One?")], [("two", "Two?")], [("three", "Three?")]]


def test_checks_inside_a_loop_or_a_condition_are_reported_too(told: Told) -> None:
    told("for x in look():\n    run.check('looped', x, 'Each?')")
    told("if look():\n    run.check('yes', True, 'A?')\nelse:\n    run.check('no', False, 'B?')")
    assert [checks for _, checks in told.reported] == [[("looped", "Each?")], [("yes", "A?"), ("no", "B?")]]


USES = [
    "a.b", "a()", "a[0]", "a + 1", "1 + a", "a - 1", "a * 2", "a / 2", "2 / a", "a // 2", "a & 1", "1 | a",
    "a ^ 1", "-a", "~a", "a == 1", "1 == a", "a != 1", "a < 1", "1 < a", "a >= 1", "not a", "bool(a)", "len(a)",
    "list(a)", "next(a)", "1 in a", "a in [1]", "{a}", "{a: 1}", "str(a)", "f'{a}'", "f'{a:>5}'", "int(a)",
    "float(a)", "hash(a)", "print(a)", "a and 1", "1 if a else 2", "sorted([a, 1])", "max(a, 1)", "sum([a])",
    "range(a)", "'%s' % a", "[*a]", "{**a}", "a.columns", "pd.DataFrame(a)", "isinstance(a.x, str)",
    "getattr(a, 'x', None)", "a.__dict__", "a % 2", "a ** 2", "'x'.join(a)", "dict(a)", "tuple(a)", "set(a)",
    "any(a)", "abs(a)", "round(a)", "divmod(a, 2)", "1 - a", "2 ** a", "a @ a", "a << 1",
]  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_every_use_of_something_unseen_raises(use: str) -> None:
    with pytest.raises(CannotTell, match="why"):
        eval(use, {"a": Unseen("why"), "pd": pd})  # noqa: S307


def test_setting_a_part_of_it_raises() -> None:
    for code in ("a[0] = 1", "a.b = 1", "del a[0]", "a += 1"):
        with pytest.raises(CannotTell):
            exec(code, {"a": Unseen("why")})  # noqa: S102


def test_it_is_guarded_once_however_often_it_is_installed(told: Told) -> None:
    unseen.install(told.shell, lambda error, checks: told.reported.append((error.message, checks)))
    told("a = look()")
    assert len(told.reported) == 1
