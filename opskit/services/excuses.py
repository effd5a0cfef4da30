"""For what a file is not blamed that fails in a rehearsal: what this server lacks, or does not know of the platform."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pglast import ast, enums
from pglast.visitors import Visitor

from opskit.errors import ServiceError
from opskit.services import catalog, things
from opskit.services.things import Thing

UNAVAILABLE = ("0A000", "58P01")  # an extension that this server does not have; but much else is not supported, too
NO_EXTENSION = re.compile(r'extension "[^"]*" is not available|could not open extension control file')
NO_VALUE = re.compile("a value of type internal")  # of what stands in for an extension
FOLLOWS = ("42704", "42883", "3F000")  # what is missing where an extension is
UNCOPIED = ("42704", "42710")  # what the team has on the platform's tables is not there, or twice
# What is the platform's: the stand-ins are not all of it, and what Supabase lets its owner do is not in the catalogue.
ABSENT = ("42P01", "42704", "42883", "3F000")
REFUSED = "42501"
_ITS = "|".join(catalog.PLATFORM)
NAMES_IT = re.compile(rf'schema "?({_ITS})\b|(relation|type) "({_ITS})\.|function ({_ITS})\.|to create extension')
MAY_BE_LENT = (
    ast.AlterEventTrigStmt, ast.AlterPublicationStmt, ast.AlterRoleSetStmt, ast.CreateEventTrigStmt, ast.CreateFdwStmt,
    ast.CreatePublicationStmt,
)  # fmt: skip
REFUSED_THERE = (ast.AlterTableStmt, ast.IndexStmt)  # to whoever does not own the table, and that is the platform


def is_lent(node: Any) -> bool:
    """Whether Supabase lets the schema's owner do this to what is not its own."""
    return _is_on_platform(node) or _is_supautils(node)


def _is_on_platform(node: Any) -> bool:
    """Whether it makes, alters or drops a policy or a trigger on a table of Supabase's own."""
    it: Any = node
    match node:
        case ast.CreatePolicyStmt() | ast.AlterPolicyStmt():
            return it.table.schemaname in catalog.PLATFORM
        case ast.CreateTrigStmt():
            return it.relation.schemaname in catalog.PLATFORM
        case ast.DropStmt(removeType=enums.ObjectType.OBJECT_POLICY | enums.ObjectType.OBJECT_TRIGGER):
            return any(names[0].sval in catalog.PLATFORM for names in it.objects if len(names) > 2)
    return False


def _is_supautils(node: Any) -> bool:
    """Whether it makes, alters or drops an extension, or tells PostgREST something: supautils lets the owner."""
    match node:
        case ast.AlterRoleSetStmt(setstmt=ast.VariableSetStmt(name=str() as name)):
            return name.startswith("pgrst.")
        case ast.CreateExtensionStmt() | ast.AlterExtensionStmt() | ast.AlterExtensionContentsStmt():
            return True
        case ast.DropStmt(removeType=kind) | ast.CommentStmt(objtype=kind):
            return bool(kind == enums.ObjectType.OBJECT_EXTENSION)
    return False


def lacks(error: ServiceError, node: Any) -> bool:
    """Whether an extension is not to be had here."""
    if error.sqlstate == REFUSED:
        return "permission denied to create extension" in error.message  # in a DO block
    made = isinstance(node, ast.CreateExtensionStmt) or NO_EXTENSION.search(error.message)
    return error.sqlstate in UNAVAILABLE and bool(made)


def is_platforms(error: ServiceError, node: Any) -> bool:
    """Whether it failed for what the platform has, or lets its owner do, and this server may not know."""
    named = NAMES_IT.search(error.message) is not None
    if error.sqlstate == REFUSED:
        of_its = not isinstance(node, REFUSED_THERE) and any(one in catalog.PLATFORM for one in _schemas(node))
        return named or of_its or isinstance(node, MAY_BE_LENT)
    if _is_on_platform(node) and error.sqlstate in UNCOPIED:
        return True
    return named and error.sqlstate in ABSENT


def _schemas(node: Any) -> set[str]:
    """Of the relations that a statement names."""
    found: set[str] = set()

    class Schemas(Visitor):
        def visit_RangeVar(self, _: Any, relation: Any) -> None:  # noqa: N802  # pglast names it
            found.add(relation.schemaname or "")

    if node is not None:
        Schemas()(node)
    return found


def is_stand_ins(error: ServiceError) -> bool:
    """Whether it asked what stands in for an extension for a value."""
    return error.sqlstate == "0A000" and NO_VALUE.search(error.message) is not None


def misses(error: ServiceError, unmade: Iterable[Thing]) -> bool:
    """Whether it misses one of these: an earlier file would have made it, had that been rehearsed."""
    asked = things.asked_for(error.message) if error.sqlstate in (*ABSENT, "42703") else None
    return asked is not None and any(asked.fits(one) for one in unmade)
