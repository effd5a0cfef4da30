"""Whether a runbook's calls fit what they call: arguments of a run's and a service's verbs, values of a statement."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from opskit.linting.findings import Finding
from opskit.linting.pages import Page
from opskit.linting.queries import ASKED
from opskit.linting.structure import services

# As the driver reads it, also within quotes and comments.
PLACEHOLDER = re.compile(r"%(?:%|\((\w+)\)[sbt]|(.?))", re.DOTALL)
Verdict = tuple[str, str, str]  # rule, what is wrong, remedy


def check(page: Page) -> Iterator[Finding]:
    literals = _literals(page)
    for cell in page.code():
        for node in ast.walk(cell.tree) if cell.tree else ():
            if isinstance(node, ast.Call):
                for rule, wrong, remedy in (*_arguments(node), *_values(node, literals)):
                    yield Finding(page.name, cell.id, node.lineno, rule, wrong, remedy)


def _literals(page: Page) -> dict[str, ast.expr]:
    """Names that are given a statement once, and nothing else anywhere."""
    bound: Counter[str] = Counter()
    found: dict[str, ast.expr] = {}
    for cell in page.code():
        for node in ast.walk(cell.tree) if cell.tree else ():
            match node:
                case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                    bound[name] += 1
                case ast.Assign(targets=[ast.Name(id=name)], value=(ast.Constant() | ast.JoinedStr()) as value):
                    found[name] = value
    return {name: value for name, value in found.items() if bound[name] == 1}


def _values(call: ast.Call, literals: Mapping[str, ast.expr]) -> Iterator[Verdict]:
    """Placeholders of a statement that get no value, and values that no placeholder takes."""
    match call.func:
        case ast.Attribute(attr=verb, value=ast.Attribute(attr="database")) if verb in ASKED:
            pass
        case _:
            return
    given = [keyword.arg for keyword in call.keywords]
    if len(call.args) != 1 or None in given:  # with ** only a run knows
        return
    sent = call.args[0]
    statement = literals.get(sent.id) if isinstance(sent, ast.Name) else sent
    match statement:
        case ast.Constant(value=str(text)):
            whole = True
        case ast.JoinedStr(values=parts):
            whole = False
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "?" for part in parts)
        case _:
            return
    names = list(map(str, given))
    yield from _missing(text, names)
    if whole:
        yield from _unused(text, names)


def _missing(text: str, given: list[str]) -> Iterator[Verdict]:
    wanted = dict.fromkeys(found[1] for found in PLACEHOLDER.finditer(text) if found[1])
    for name in wanted:
        if name not in given:
            spare = [one for one in given if one not in wanted]
            yield (
                "value",
                f"%({name})s gets no value.",
                _nearest(name, spare) or f"Write {name}=… behind the statement.",
            )
    if given and (odd := next((f for f in PLACEHOLDER.finditer(text) if f[0] != "%%" and not f[1]), None)):
        wrong = f"{odd[0]!r} is no placeholder, and a statement with values takes no other “%”."
        yield "value", wrong, "Write %% for a percent sign, %(name)s for a value."


def _unused(text: str, given: list[str]) -> Iterator[Verdict]:
    wanted = [found[1] for found in PLACEHOLDER.finditer(text) if found[1]]
    for name in given:
        if name not in wanted and not _nearest(name, [one for one in wanted if one not in given]):  # that is said there
            yield "value", f"no placeholder takes {name}.", f"Write %({name})s where it belongs, or take it out."


def _arguments(call: ast.Call) -> Iterator[Verdict]:
    """What the verb of a run, or of one of its services, does not take, or does not get."""
    name, verbs = _called(call.func)
    given = [keyword.arg for keyword in call.keywords]
    if not verbs or None in given or any(isinstance(one, ast.Starred) for one in call.args):
        return
    said = [list(_misfit(name, call, verb)) for verb in verbs]
    if all(said):
        yield from said[0]


def _called(func: ast.expr) -> tuple[str, list[Any]]:
    """What a call calls, and each function that this may be."""
    from opskit.run import Run  # noqa: PLC0415  # it brings pandas along, which not everybody who lints needs

    match func:
        case ast.Attribute(value=ast.Name(id="run"), attr=verb):
            faces: list[type[Any]] = [Run]
            name = f"run.{verb}"
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="run"), attr=service), attr=verb):
            faces = services().get(service, [])
            name = f"run.{service}.{verb}"
        case _:
            return "", []
    found = [inspect.getattr_static(face, verb, None) for face in faces]
    return name, [one for one in found if inspect.isfunction(one)]


def _misfit(name: str, call: ast.Call, verb: Any) -> Iterator[Verdict]:
    takes = inspect.signature(verb)
    known = list(takes.parameters)[1:]
    names = [str(keyword.arg) for keyword in call.keywords]
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.parameters.values())
    unknown = [one for one in names if one not in known and not open_ended]
    for one in unknown:
        yield "verb", f"{name} takes no {one}.", _nearest(one, known) or f"It takes: {', '.join(known)}."
    if not unknown:
        try:
            takes.bind(None, *call.args, **dict.fromkeys(names))
        except TypeError as error:
            yield "verb", f"{name}: {error}.", f"It takes: {', '.join(known)}."


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"The nearest is {near[0]}." if near else ""
