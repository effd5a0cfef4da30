"""What a statement's shape gives away, beside the schema's constraints: conditions that no row can ever meet, questions
to a whole growing table.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pglast.ast
from pglast.enums import A_Expr_Kind as Kind
from pglast.enums import BoolExprType, JoinType, NullTestType, SubLinkType
from pglast.visitors import Visitor

from opskit.linting.schema import Column, Schema

nodes: Any = pglast.ast  # each part is there where its kind of node has it
Verdict = tuple[str, int, str]  # rule, where in the statement, what is wrong
COMPARING = ("=", "<>", "!=", "~~", "~~*", "!~~", "!~~*")


@dataclass(frozen=True)
class Level:
    """The tables of one FROM by the name they go by (None: what is made on the way), and those around it."""

    names: Mapping[str, str | None]
    nullable: frozenset[str] = frozenset()  # names whose row may be missing, after an outer join
    around: Level | None = None
    made: frozenset[str] = field(default_factory=frozenset)  # by WITH

    def column(self, node: Any, schema: Schema) -> tuple[str, Column] | None:
        """(the name it goes by, its column), where that is a table's."""
        if not isinstance(node, nodes.ColumnRef) or not all(isinstance(part, nodes.String) for part in node.fields):
            return None
        parts = [part.sval for part in node.fields]
        if len(parts) > 1:
            if parts[-2] in self.names:
                table = self.names[parts[-2]]
                return (parts[-2], (table, parts[-1])) if table else None
        else:
            having = [(n, t) for n, t in self.names.items() if t and parts[0] in schema.columns.get(t, ())]
            if len(having) == 1 and having[0][1]:
                return having[0][0], (having[0][1], parts[0])
        return self.around.column(node, schema) if self.around else None


def judge(statement: Any, schema: Schema) -> Iterator[Verdict]:
    """What the shape of one parsed statement says."""
    yield from _level(statement, schema, None, frozenset())


def _level(node: Any, schema: Schema, around: Level | None, made: frozenset[str]) -> Iterator[Verdict]:
    if not isinstance(node, nodes.SelectStmt | nodes.UpdateStmt | nodes.DeleteStmt | nodes.InsertStmt):
        return
    if node.withClause:
        made |= {cte.ctename for cte in node.withClause.ctes}
        for cte in node.withClause.ctes:
            yield from _level(cte.ctequery, schema, around, made)
    for side in (getattr(node, "larg", None), getattr(node, "rarg", None)):
        yield from _level(side, schema, around, made)
    if isinstance(node, nodes.InsertStmt):
        yield from _inserted(node, schema)
        yield from _level(node.selectStmt, schema, around, made)
        return
    sources = list(getattr(node, "fromClause", None) or getattr(node, "usingClause", None) or ())
    sources += [node.relation] if isinstance(node, nodes.UpdateStmt | nodes.DeleteStmt) else []
    names, nullable = _names(sources, made, schema)
    level = Level(names, frozenset(nullable), around, made)
    for source in sources:
        yield from _joins(source, level, schema)
    yield from _whole(node, level, schema)
    yield from _conditions(node, level, schema)
    if isinstance(node, nodes.UpdateStmt):
        table = names.get(node.relation.alias.aliasname if node.relation.alias else node.relation.relname)
        for target in node.targetList or ():
            yield from _stored(table, target.name, target.val, schema)


def _names(sources: list[Any], made: frozenset[str], schema: Schema) -> tuple[dict[str, str | None], set[str]]:
    """What each source goes by, and which of them an outer join may leave empty."""
    names: dict[str, str | None] = {}
    nullable: set[str] = set()
    for source in sources:
        if isinstance(source, nodes.JoinExpr):
            left, left_null = _names([source.larg], made, schema)
            right, right_null = _names([source.rarg], made, schema)
            names |= left | right
            nullable |= left_null | right_null
            nullable |= set(right) if source.jointype in (JoinType.JOIN_LEFT, JoinType.JOIN_FULL) else set()
            nullable |= set(left) if source.jointype in (JoinType.JOIN_RIGHT, JoinType.JOIN_FULL) else set()
        elif isinstance(source, nodes.RangeVar):
            table = f"{source.schemaname}.{source.relname}" if source.schemaname else source.relname
            table = table.removeprefix("public.")
            known = table in schema.columns and table not in made
            names[source.alias.aliasname if source.alias else source.relname] = table if known else None
        elif getattr(source, "alias", None):
            names[source.alias.aliasname] = None
    return names, nullable


def _joins(source: Any, level: Level, schema: Schema) -> Iterator[Verdict]:
    match source:
        case nodes.JoinExpr():
            yield from _joins(source.larg, level, schema)
            yield from _joins(source.rarg, level, schema)
            yield from _expression(source.quals, level, schema)
        case nodes.RangeSubselect():
            around = level if source.lateral else level.around
            yield from _level(source.subquery, schema, around, level.made)


def _whole(node: Any, level: Level, schema: Schema) -> Iterator[Verdict]:
    """Reads all of a table that grows with every event."""
    if isinstance(node, nodes.SelectStmt) and node.fromClause and not node.limitCount:
        if _narrowed(node.whereClause, level, schema) or _at_the_end(node, level, schema):
            return
        bounded = set(_bounded(node.fromClause))
        for name, table in level.names.items():
            if table in schema.growing and name not in bounded:
                place = next(_places(node.fromClause, table), 0)
                yield "unbounded", place, f"reads all of {table}, which only grows."


def _narrowed(where: Any, level: Level, schema: Schema) -> bool:
    """Whether a condition leaves anything out: `true` does not, nor that what is never null is not null."""

    def idle(node: Any) -> bool:
        if isinstance(node, nodes.NullTest) and node.nulltesttype == NullTestType.IS_NOT_NULL:
            column = level.column(node.arg, schema)
            return bool(column and column[1] in schema.filled and column[0] not in level.nullable)
        return isinstance(node, nodes.A_Const)

    return not all(idle(conjunct) for conjunct in _conjuncts(where))


def _at_the_end(node: Any, level: Level, schema: Schema) -> bool:
    """Whether only the least, or greatest, of an index is asked for: that is one row, of however many."""
    if len(level.names) != 1 or node.groupClause:
        return False
    for target in node.targetList or ():
        match target.val:
            case nodes.FuncCall(
                funcname=[*_, nodes.String(sval="min" | "max")], args=[one], agg_filter=None, over=None
            ):
                column = level.column(one, schema)
                if not column or column[1] not in schema.indexed:
                    return False
            case _:
                return False
    return bool(node.targetList)


def _bounded(sources: Any) -> Iterator[str]:
    """The names of which a join wants more than a key that is another's."""
    for source in sources:
        if isinstance(source, nodes.JoinExpr):
            yield from _bounded([source.larg, source.rarg])
            for conjunct in _conjuncts(source.quals):
                sides = (getattr(conjunct, "lexpr", None), getattr(conjunct, "rexpr", None))
                if not all(isinstance(side, nodes.ColumnRef) for side in sides):
                    yield from (side.fields[0].sval for side in sides if isinstance(side, nodes.ColumnRef))


def _places(nodes: Any, table: str) -> Iterator[int]:
    found: list[int] = []

    class Tables(Visitor):
        def visit_RangeVar(self, _: Any, node: Any) -> None:  # noqa: N802  # pglast names it
            if node.relname == table.rpartition(".")[2]:
                found.append(node.location or 0)

    for node in nodes:
        Tables()(node)
    yield from found


def _conditions(node: Any, level: Level, schema: Schema) -> Iterator[Verdict]:
    where = node.whereClause
    for conjunct in _conjuncts(where):
        yield from _impossible(conjunct, node, level, schema)
    yield from _expression(where, level, schema)
    for part in (getattr(node, "targetList", None), getattr(node, "havingClause", None)):
        yield from _expression(part, level, schema)


def _conjuncts(node: Any) -> Iterator[Any]:
    if isinstance(node, nodes.BoolExpr) and node.boolop == BoolExprType.AND_EXPR:
        for arg in node.args:
            yield from _conjuncts(arg)
    elif node is not None:
        yield node


def _expression(node: Any, level: Level, schema: Schema) -> Iterator[Verdict]:
    """Comparisons anywhere in an expression; what is asked below it is a level of its own."""
    match node:
        case None | str() | int() | bool():
            return
        case list() | tuple():
            for part in node:
                yield from _expression(part, level, schema)
        case nodes.SelectStmt():
            yield from _level(node, schema, level, level.made)
        case nodes.Node():
            if isinstance(node, nodes.A_Expr):
                yield from _compared(node, level, schema)
            yield from _at_once(node, level, schema)
            for name in node:
                yield from _expression(getattr(node, name), level, schema)


def _at_once(node: Any, level: Level, schema: Schema) -> Iterator[Verdict]:
    """One column that is to equal two constants at the same time."""
    if not isinstance(node, nodes.BoolExpr) or node.boolop != BoolExprType.AND_EXPR:
        return
    equal: dict[Any, dict[str, str]] = {}
    for conjunct in _conjuncts(node):
        for column, values, place in _equal(conjunct, level, schema):
            before = equal.get(column, values)
            equal[column] = {key: text for key, text in values.items() if key in before}
            if not equal[column]:
                one, other = (" or ".join(found.values()) for found in (before, values))
                yield "never", place, f"{'.'.join(column[1])} cannot be {one} and {other} at once."
                return


def _equal(node: Any, level: Level, schema: Schema) -> Iterator[tuple[Any, dict[str, str], int]]:
    """(column by what it goes by, the constants of which it is to equal one, where that stands)."""
    if not isinstance(node, nodes.A_Expr) or node.kind not in (Kind.AEXPR_OP, Kind.AEXPR_IN):
        return
    for one, other in ((node.lexpr, node.rexpr), (node.rexpr, node.lexpr)):
        column = level.column(_as_text(one), schema) or _spelled(one)
        listed = list(other) if isinstance(other, list | tuple) else [other]
        found = [value for part in listed for value in _constant(part)]
        if node.name[-1].sval == "=" and column and len(found) == len(listed):
            yield column, dict(found), node.location


def _constant(node: Any) -> Iterator[tuple[str, str]]:
    """(what makes it another than the next, how it is written)."""
    match node:
        case nodes.A_Const(val=nodes.Integer(ival=number)):
            yield str(number), str(number)
        case nodes.A_Const() | nodes.TypeCast():
            yield from ((text.strip().casefold(), repr(text)) for text, _ in _values(node))


def _spelled(node: Any) -> tuple[str, tuple[str, ...]] | None:
    """The same of what no table here has, such as a column of WITH."""
    if isinstance(node, nodes.ColumnRef) and all(isinstance(part, nodes.String) for part in node.fields):
        names = tuple(part.sval for part in node.fields)
        return ".".join(names), names
    return None


def _compared(node: Any, level: Level, schema: Schema) -> Iterator[Verdict]:
    operator = node.name[-1].sval
    for one, other in ((node.lexpr, node.rexpr), (node.rexpr, node.lexpr)):
        column = level.column(_as_text(one), schema)
        if column is None or column[1] not in schema.allowed:
            continue
        allowed, spelled = schema.allowed[column[1]], ".".join(column[1])
        if (second := level.column(other, schema)) and one is node.lexpr and operator == "=":
            if not allowed & schema.allowed.get(second[1], allowed):
                yield "never", node.location, f"{spelled} and {'.'.join(second[1])} have no value in common."
            continue
        always = operator in ("<>", "!=", "!~~", "!~~*") and node.kind != Kind.AEXPR_OP_ANY
        for value, place in _values(other, node.kind == Kind.AEXPR_OP_ANY):
            pattern = node.kind in (Kind.AEXPR_LIKE, Kind.AEXPR_ILIKE)
            if operator in COMPARING and not _met(value, allowed, pattern, operator):
                then = "is always true" if always else "never holds"
                may = ", ".join(sorted(allowed))
                yield "never", place or node.location, f"{value!r} {then}: {spelled} is one of {may}."


def _as_text(node: Any) -> Any:
    """`status` of `status::text`: a text as text, or the label of an enum, is what it was."""
    cast = isinstance(node, nodes.TypeCast) and not node.typeName.arrayBounds
    return node.arg if cast and node.typeName.names[-1].sval in ("text", "varchar") else node


def _met(value: str, allowed: frozenset[str], pattern: bool, operator: str) -> bool:
    if not pattern:
        return value in allowed
    shape = value.replace("*", "[*]").replace("?", "[?]").replace("%", "*").replace("_", "?")
    fold = str.lower if operator.endswith("*") else str
    return any(fnmatch.fnmatchcase(fold(one), fold(shape)) for one in allowed)


def _values(node: Any, array: bool = False) -> Iterator[tuple[str, int]]:
    """The texts that stand there, with their places; also those in the text of an array."""
    match node:
        case nodes.A_Const(val=nodes.String(sval=value)) if array and value.startswith("{"):
            yield from ((one.strip('" '), getattr(node, "location", 0) or 0) for one in value.strip("{}").split(","))
        case nodes.A_Const(val=nodes.String(sval=value)):
            yield value, getattr(node, "location", 0) or 0
        case nodes.TypeCast():
            yield from _values(node.arg, array)
        case nodes.A_ArrayExpr():
            yield from _values(node.elements)
        case list() | tuple():
            for part in node:
                yield from _values(part)


def _impossible(node: Any, whole: Any, level: Level, schema: Schema) -> Iterator[Verdict]:
    """A missing row, or value, that a constraint makes sure is there."""
    match node:
        case nodes.NullTest(nulltesttype=NullTestType.IS_NULL):
            column = level.column(node.arg, schema)
            if column and column[1] in schema.filled:
                place, spelled = node.arg.location, ".".join(column[1])
                if column[0] not in level.nullable:
                    yield "never", place, f"{spelled} is never null."
                elif column[0] in level.names and _always_joined(whole, column[0], level, schema):
                    yield "never", place, f"no row is without its {column[1][0]}: a foreign key sees to it."
        case nodes.BoolExpr(boolop=BoolExprType.NOT_EXPR, args=[nodes.SubLink() as sub]):
            if _always_there(sub, level, schema):
                yield "never", sub.location or node.location, "no row is without the other: a foreign key sees to it."


def _always_joined(whole: Any, name: str, level: Level, schema: Schema) -> bool:
    """Whether the row of `name` is joined by a foreign key alone that is always filled."""
    found: list[Any] = []

    class Joins(Visitor):
        def visit_JoinExpr(self, _: Any, node: Any) -> None:  # noqa: N802
            side = node.larg if node.jointype == JoinType.JOIN_RIGHT else node.rarg
            if isinstance(side, nodes.RangeVar) and name in _names([side], level.made, schema)[0]:
                found.append(node.quals)

    for source in getattr(whole, "fromClause", None) or ():
        Joins()(source)
    return len(found) == 1 and _by_key(found[0], level, level.nullable, schema)


def _always_there(sub: Any, level: Level, schema: Schema) -> bool:
    query = sub.subselect
    if not isinstance(query, nodes.SelectStmt) or not query.fromClause or len(query.fromClause) != 1:
        return False
    names, _ = _names(list(query.fromClause), level.made, schema)
    within = Level(names, frozenset(), level, level.made)
    if sub.subLinkType == SubLinkType.EXISTS_SUBLINK:
        return _by_key(query.whereClause, within, frozenset(names), schema)
    if sub.subLinkType == SubLinkType.ANY_SUBLINK and query.whereClause is None and query.targetList:
        one, other = level.column(sub.testexpr, schema), within.column(query.targetList[0].val, schema)
        return bool(one and other and (one[1], other[1]) in schema.keys and one[1] in schema.filled)
    return False


def _by_key(quals: Any, level: Level, others: frozenset[str], schema: Schema) -> bool:
    """Whether it is one equality: of a key that is always filled, and none of these others', with what it refers to."""
    if not isinstance(quals, nodes.A_Expr) or quals.kind != Kind.AEXPR_OP or quals.name[-1].sval != "=":
        return False
    one, other = level.column(quals.lexpr, schema), level.column(quals.rexpr, schema)
    if not one or not other:
        return False
    return any(
        (a[1], b[1]) in schema.keys and a[1] in schema.filled and a[0] not in others
        for a, b in ((one, other), (other, one))
    )


def _inserted(node: Any, schema: Schema) -> Iterator[Verdict]:
    table = node.relation.relname
    columns = [target.name for target in node.cols or ()]
    for row in getattr(node.selectStmt, "valuesLists", None) or ():
        for column, value in zip(columns, row, strict=False):
            yield from _stored(table, column, value, schema)


def _stored(table: str | None, column: str, value: Any, schema: Schema) -> Iterator[Verdict]:
    allowed = schema.allowed.get((str(table), column))
    for text, place in _values(value) if allowed else ():
        if allowed and text not in allowed:
            yield "never", place, f"{text!r} is refused: {table}.{column} is one of {', '.join(sorted(allowed))}."
