"""Blind is not healthy: what happens in a notebook when a question could not be answered.

When a statement of a cell raises `CannotTell` (a service is down, refuses us, or hides rows), the notebook goes on.
The names that the statement would have set become `Unseen`, and every use of an `Unseen` raises `CannotTell` again:
so whatever rests on the missing answer is unknown too, and nothing else is. Checks that the statement would have
made are recorded as unknown. A runbook's author writes plain code and gets this for free.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from opskit.errors import CannotTell

SEE = "__opskit_see__"
SHOWN = "__opskit_shown__"


class Unseen:
    """Stands for a value that could not be seen. Any use of it raises `CannotTell` with the reason."""

    def __init__(self, reason: str) -> None:
        object.__setattr__(self, "_reason", reason)

    def __repr__(self) -> str:
        return f"unseen: {object.__getattribute__(self, '_reason')}"

    def __getattribute__(self, name: str) -> Any:
        # The notebook's own machinery asks every value how to show itself; that is not a use.
        if name.startswith(("_repr_", "_ipython_")) or name in ("__class__", "__repr__"):
            return object.__getattribute__(self, name)
        return _refuse(self)


def _refuse(self: Unseen, *_: Any, **__: Any) -> NoReturn:
    raise CannotTell(object.__getattribute__(self, "_reason"))


USES = (
    "bool len iter next reversed contains getitem setitem delitem setattr delattr call await enter exit fspath "
    "eq ne lt le gt ge hash str bytes format int float complex index round trunc floor ceil neg pos abs invert "
    "add sub mul truediv floordiv mod divmod pow matmul lshift rshift and or xor "
    "radd rsub rmul rtruediv rfloordiv rmod rdivmod rpow rmatmul rlshift rrshift rand ror rxor"
)
for use in USES.split():
    setattr(Unseen, f"__{use}__", _refuse)


class Guarded(ast.NodeTransformer):
    """Wraps each statement of a cell, so that `CannotTell` ends that statement only.

    The last expression's value is kept, and stands alone at the end of the cell, so that the cell still shows it.
    """

    def visit_Module(self, node: ast.Module) -> ast.Module:
        node.body = [part for line in node.body for part in self._guard(line, last=line is node.body[-1])]
        return ast.fix_missing_locations(node)

    def _guard(self, line: ast.stmt, last: bool) -> list[ast.stmt]:
        if isinstance(line, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
            return [line]
        lost = ast.Tuple([ast.Constant(name) for name in sorted(touched(line))], ast.Load())
        pairs = checks_in(line)
        asked: list[ast.expr] = [ast.Tuple([ast.Constant(part) for part in pair], ast.Load()) for pair in pairs]
        report = ast.Call(
            ast.Name(SEE, ast.Load()),
            [ast.Name("__cannot_tell", ast.Load()), lost, ast.Tuple(asked, ast.Load())],
            [],
        )
        reason = ast.Attribute(ast.Name(SEE, ast.Load()), "reason", ast.Load())
        tried, shown = [line], []
        instead: list[ast.stmt] = [ast.Expr(report)]
        if isinstance(line, ast.Expr) and last:
            tried, shown = [_keep(line.value)], [ast.Expr(ast.Name(SHOWN, ast.Load()))]
            instead.append(_keep(ast.Constant(None)))
        caught = ast.ExceptHandler(reason, "__cannot_tell", instead)
        return [ast.copy_location(part, line) for part in (ast.Try(tried, [caught], [], []), *shown)]


def _keep(value: ast.expr) -> ast.stmt:
    return ast.copy_location(ast.Assign([ast.Name(SHOWN, ast.Store())], value), value)


def touched(line: ast.stmt) -> set[str]:
    """The names that a statement sets, or fills in passing: half-filled, they must not be trusted."""
    names = {n.id for n in ast.walk(line) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in ast.walk(line):
        match node:
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
                names.add(name)  # found.append(…), counts.update(…)
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store()):
                names.add(name)
    return names - {"run"}


def checks_in(line: ast.stmt) -> list[tuple[str, str]]:
    """Name and question of each check that a statement makes."""
    found = []
    for node in ast.walk(line):
        match node:
            case ast.Call(func=ast.Attribute(attr="check"), args=[ast.Constant(value=str(name)), _, question, *_]):
                found.append((name, str(getattr(question, "value", name))))
    return found


def install(shell: Any, report: Callable[[CannotTell, list[tuple[str, str]]], None]) -> None:
    """Guard every later cell of `shell`; `report` hears of each failure and of the checks it leaves unknown."""

    def see(error: CannotTell, lost: tuple[str, ...], checks: tuple[tuple[str, str], ...]) -> None:
        for name in lost:
            if not isinstance(shell.user_ns.get(name), ModuleType):  # `pd.concat(…)` fills nothing in
                shell.user_ns[name] = Unseen(error.message)
        report(error, list(checks))

    see.reason = CannotTell  # type: ignore[attr-defined]  # the except clause of a guarded statement
    shell.user_ns[SEE] = see
    shell.user_ns_hidden |= {SEE: see, SHOWN: None}
    shell.ast_transformers[:] = [t for t in shell.ast_transformers if not isinstance(t, Guarded)]
    shell.ast_transformers.append(Guarded())
