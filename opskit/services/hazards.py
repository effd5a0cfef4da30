"""What in a migration will block, break or destroy, each with its file, its line and a safer way to write it.

Squawk knows most of it. What it does not know is found here in PostgreSQL's own syntax tree. Matters of taste are left
out, and what squawk asks for and we do anyway (timeouts).
"""

from __future__ import annotations

import glob
import json
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pglast import ast, enums, parser
from pglast.visitors import Visitor

from opskit.errors import CannotTell
from opskit.services import bodies
from opskit.services.bodies import Part
from opskit.services.statements import File, Statement


@dataclass(frozen=True, order=True)
class Hazard:
    """One thing to know before it is applied."""

    file: str
    line: int
    name: str

    @property
    def what(self) -> str:
        return KNOWN[self.name][0]

    @property
    def rewrite(self) -> str:
        return KNOWN[self.name][1]

    @property
    def destroys(self) -> bool:
        return self.name in DESTROYING


DESTROYING = {
    "drop-table",
    "drop-column",
    "drop-schema",
    "drop-owned",
    "drop-extension",
    "truncate",
    "truncate-cascade",
    "merge-delete",
    "unqualified-write",
    "rls-off",
    "cannot-be-seen",  # in doubt a person decides
}
KNOWN = {  # name: what it does, how to write it instead
    "blocking-index": (
        "blocks writes while the index is built",
        "CREATE INDEX CONCURRENTLY, alone in a file of its own",
    ),
    "blocking-index-drop": (
        "waits for every query on the table, and blocks those behind it",
        "DROP INDEX CONCURRENTLY, alone in a file of its own",
    ),
    "blocking-reindex": (
        "blocks writes while the index is built",
        "REINDEX … CONCURRENTLY, alone in a file of its own",
    ),
    "rewrites-table": (
        "rewrites the whole table, and nobody reads or writes it meanwhile",
        "VACUUM without FULL; pg_repack where the room is needed",
    ),
    "validated-constraint": (
        "blocks writes while every row is checked",
        "ADD CONSTRAINT … NOT VALID, and VALIDATE CONSTRAINT in the next file",
    ),
    "blocking-unique": (
        "blocks reads and writes while its index is built",
        "CREATE UNIQUE INDEX CONCURRENTLY in a file of its own, then ADD CONSTRAINT … USING INDEX",
    ),
    "volatile-default": (
        "rewrites the whole table, blocking reads",
        "add the column without it, ALTER COLUMN … SET DEFAULT, backfill in batches",
    ),
    "set-not-null": (
        "blocks reads while every row is checked",
        "CHECK (… IS NOT NULL) NOT VALID, VALIDATE in the next file, then SET NOT NULL, then drop the check",
    ),
    "required-column": (
        "fails on a table that has rows",
        "add it nullable or with a constant default, backfill, then require it",
    ),
    "type-change": (
        "rewrites the whole table and its indexes, blocking reads",
        "add a column of the new type, fill both, backfill in batches, switch the app over",
    ),
    "rename": (
        "breaks the app that is live until the next deployment",
        "add the new name beside the old one (a view, a column), switch the app, then drop the old one",
    ),
    "drop-table": ("destroys a table's rows", "rename it first, keep a copy, drop it in a later release"),
    "drop-column": (
        "destroys a column's data, and breaks the app that is live",
        "take it out of the app first, keep a copy of key and column, then drop it",
    ),
    "drop-schema": ("destroys everything in the schema", "drop what is meant one by one, with copies kept"),
    "drop-owned": ("destroys everything that the role owns", "drop what is meant one by one, with copies kept"),
    "drop-extension": (
        "destroys the columns, indexes and functions that rest on it",
        "name what is meant, with copies kept; no CASCADE",
    ),
    "truncate": (
        "destroys every row, and cannot be told from an accident",
        "DELETE in batches with a WHERE, copy kept",
    ),
    "truncate-cascade": (
        "destroys the rows of every table that refers to this one",
        "name the tables that are meant; no CASCADE",
    ),
    "merge-delete": (
        "destroys every row that its condition finds",
        "DELETE with a WHERE, so that the rows can be counted before; copy kept",
    ),
    "unqualified-write": (
        "changes every row in one transaction",
        "a WHERE; many rows go in batches: `do: backfill`",
    ),
    "cannot-be-seen": (
        "runs what is put together only then: nobody can say here what that will be",
        "the statement itself; or read what it is made of, and approve it by name",
    ),
    "concurrently-mixed": (
        "commits what stands before it: a later failure leaves half a file behind, with no row in the ledger",
        "give each CONCURRENTLY a file of its own",
    ),
    "own-transaction": (
        "ends the CLI's transaction: a later failure leaves half a file behind, with no row in the ledger",
        "take BEGIN and COMMIT out; a file is one transaction anyway",
    ),
    "enum-value-used": (
        "uses an enum's new value in the transaction that adds it: 55P04",
        "ALTER TYPE … ADD VALUE in a file of its own, before",
    ),
    "definer-search-path": (
        "runs with its owner's rights on whatever search_path its caller sets",
        "SET search_path = '' on the function, and names with their schema",
    ),
    "policy-recursion": (
        "reads its own table: every query on it will fail with 42P17",
        "ask through a SECURITY DEFINER function with a fixed search_path",
    ),
    "rls-off": (
        "shows the table to whoever holds the app's public key",
        "leave row-level security on, and write the policy that is missing",
    ),
    "rls-missing": (
        "makes a table in public that whoever holds the app's public key may read",
        "ALTER TABLE … ENABLE ROW LEVEL SECURITY in the same file, with its policies",
    ),
}
# Its rules that we pass on; where two names stand for one thing, it is told once. What destroys we find ourselves: a
# comment in the file silences squawk, and it does not look into bodies.
SQUAWK = {
    "require-concurrent-index-creation": "blocking-index",
    "require-concurrent-index-deletion": "blocking-index-drop",
    "constraint-missing-not-valid": "validated-constraint",
    "adding-foreign-key-constraint": "validated-constraint",
    "ban-alter-domain-with-add-constraint": "validated-constraint",
    "disallowed-unique-constraint": "blocking-unique",
    "adding-serial-primary-key-field": "volatile-default",
    "adding-field-with-default": "volatile-default",
    "adding-not-nullable-field": "set-not-null",
    "adding-required-field": "required-column",
    "changing-column-type": "type-change",
    "renaming-column": "rename",
    "renaming-table": "rename",
}
HOLDING = {  # what holds data
    enums.ObjectType.OBJECT_TABLE,
    enums.ObjectType.OBJECT_SCHEMA,
    enums.ObjectType.OBJECT_MATVIEW,
    enums.ObjectType.OBJECT_TYPE,
    enums.ObjectType.OBJECT_DOMAIN,
}
DROPS = {enums.ObjectType.OBJECT_TABLE: "drop-table", enums.ObjectType.OBJECT_SCHEMA: "drop-schema"}
CASCADING = {  # what falls with it
    enums.ObjectType.OBJECT_EXTENSION: "drop-extension",
    enums.ObjectType.OBJECT_TYPE: "drop-column",
    enums.ObjectType.OBJECT_DOMAIN: "drop-column",
}
TAKING = {  # of ALTER TABLE: the hazard, and the word that such a command begins with
    enums.AlterTableType.AT_DropColumn: ("drop-column", "DROP"),
    enums.AlterTableType.AT_DisableRowSecurity: ("rls-off", "DISABLE_P"),
}
LONG = 300.0  # seconds that squawk may take


def find(files: Sequence[File], beside: Iterable[File] = ()) -> list[Hazard]:
    """Every hazard in these files, in their order. Raises CannotTell where squawk is missing or fails.

    `beside`: others that make functions which they may call.
    """
    return _once([*known_to_squawk(files), *known_to_us(files, beside)])


def _once(found: Iterable[Hazard]) -> list[Hazard]:
    """Each thing once: a unique constraint is one hazard, though squawk finds it twice."""
    all_of = set(found)
    said_better = {Hazard(h.file, h.line, "validated-constraint") for h in all_of if h.name == "blocking-unique"}
    return sorted(all_of - said_better)


def known_to_squawk(files: Sequence[File]) -> list[Hazard]:
    """What squawk finds. Raises CannotTell where it is missing or fails, or does not see the files."""
    paths = {str(file.path.parent.resolve() / file.path.name): file.path.name for file in files if not file.trouble}
    if not paths:
        return []
    patterns = map(glob.escape, paths)  # a name with a bracket would stand for others
    command = [str(_squawk()), "--assume-in-transaction", "--reporter", "json", *patterns]
    try:  # in a folder where no .squawk.toml of the team's silences it
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotTell(f"squawk could not read the files: {error}.") from None
    if done.returncode not in (0, 1) or not done.stdout.strip():  # of files without a fault it says []
        raise CannotTell(f"squawk ended with exit code {done.returncode}: {done.stderr.strip()[:200]}.")
    try:
        told = json.loads(done.stdout)
    except ValueError as error:
        raise CannotTell(f"squawk could not read the files: {error}.") from None
    return [
        Hazard(paths[one["file"]], one["line"] + 1, SQUAWK[one["rule_name"]])
        for one in told
        if one["rule_name"] in SQUAWK
    ]


def destroys(file: File, left: Collection[int] | None = None, beside: Iterable[File] = ()) -> bool:
    """Whether a file takes data or protection away, so that it has to be approved by name. Asks nobody but us.

    `left`: only these of its statements are sent. `beside`: others that make functions which it may call.
    """
    sent = [one for one in file.statements if left is None or one.number in left]
    known = bodies.functions([file, *beside])
    return any(_holds(part.node) or any(_destroying(part)) for part in bodies.run(sent, known))


def _holds(node: Any) -> bool:
    return isinstance(node, ast.DropStmt) and node.removeType in HOLDING


def _squawk() -> Path:
    """The program, beside this Python or on PATH."""
    beside = Path(sys.executable).with_name("squawk")
    found = beside if beside.is_file() else shutil.which("squawk")
    if not found:
        raise CannotTell("squawk is not installed.", "pip install 'opskit[migrations]'")
    return Path(found)


def known_to_us(files: Sequence[File], beside: Iterable[File] = ()) -> Iterator[Hazard]:
    """What squawk does not know."""
    known = bodies.functions([*files, *beside])
    for file in files:
        for statement in file.statements:
            for name in _of_statement(statement):
                yield Hazard(file.path.name, statement.line, name)
        for part in bodies.run(file.statements, known):
            yield from (Hazard(part.file, line, name) for name, line in _destroying(part))
        yield from _of_file(file)


def _of_statement(statement: Statement) -> Iterator[str]:
    yield from _of_rights(statement.node)
    match statement.node:
        case ast.ReindexStmt() if not statement.alone:
            yield "blocking-reindex"
        case _ if rewrites(statement.node):
            yield "rewrites-table"
    if statement.transaction:
        yield "own-transaction"


def rewrites(node: Any) -> bool:
    """Whether it shuts everybody out of a table until all of it is written anew."""
    match node:
        case ast.ClusterStmt():
            return True
        case ast.VacuumStmt(options=options):
            return any(option.defname == "full" for option in options or ())
    return False


def _destroying(part: Part) -> Iterator[tuple[str, int]]:
    """What of data or protection a statement takes away, and the line that says so."""
    match part.node:
        case None:
            yield "cannot-be-seen", part.line
        case ast.UpdateStmt(whereClause=where) | ast.DeleteStmt(whereClause=where) if _is_every_row(where):
            yield "unqualified-write", part.line
        case ast.TruncateStmt(behavior=behavior):
            cascade = behavior == enums.DropBehavior.DROP_CASCADE
            yield "truncate-cascade" if cascade else "truncate", part.line
        case ast.DropStmt(removeType=kind) if kind in DROPS:
            yield DROPS[kind], part.line
        case ast.DropStmt(removeType=kind, behavior=enums.DropBehavior.DROP_CASCADE) if kind in CASCADING:
            yield CASCADING[kind], part.line
        case ast.MergeStmt(mergeWhenClauses=clauses) if any(map(_deletes, clauses or ())):
            yield "merge-delete", part.line
        case ast.DropOwnedStmt():
            yield "drop-owned", part.line
        case ast.AlterTableStmt(cmds=commands):
            for number, command in enumerate(commands or ()):
                if command.subtype in TAKING:
                    name, word = TAKING[command.subtype]
                    yield name, part.line + _lines_before(part.text, number, word)


def _deletes(clause: Any) -> bool:
    return bool(clause.commandType == enums.CmdType.CMD_DELETE)


def _is_every_row(where: Any) -> bool:
    """Also with a WHERE that is always true: it is written to please a guard that asks for one."""
    match where:
        case None | ast.A_Const(val=ast.Boolean(boolval=True)):
            return True
        case ast.A_Expr(name=[ast.String(sval="=")], lexpr=left, rexpr=right):
            return bool(left == right)
    return False


def _lines_before(text: str, number: int, word: str) -> int:
    """How many lines stand before a command of ALTER TABLE, which has no place in the syntax tree."""
    at = depth = 0
    for token in parser.scan(text):
        depth += {"ASCII_40": 1, "ASCII_91": 1, "ASCII_41": -1, "ASCII_93": -1}.get(token.name, 0)  # ( [ ) ]
        at += token.name == "ASCII_44" and depth == 0
        if at == number and token.name == word:
            return text.count("\n", 0, token.start)
    return 0


def _of_rights(node: Any) -> Iterator[str]:
    match node:
        case ast.CreateFunctionStmt(options=options) | ast.AlterFunctionStmt(actions=options) if _is_unsafe(options):
            yield "definer-search-path"
        case ast.CreatePolicyStmt() | ast.AlterPolicyStmt() if _reads_own_table(node):
            yield "policy-recursion"


def _of_file(file: File) -> Iterator[Hazard]:
    """What shows only when a file's statements are seen together."""
    name, real = file.path.name, [s for s in file.statements if s.node is not None]
    if len(real) > 1:
        yield from (Hazard(name, s.line, "concurrently-mixed") for s in real if s.alone)
    added = {s.node.newVal for s in real if isinstance(s.node, ast.AlterEnumStmt) and not s.node.oldVal}
    for statement in real:
        if added and not isinstance(statement.node, ast.AlterEnumStmt) and added & _texts(statement.node):
            yield Hazard(name, statement.line, "enum-value-used")
    made = {relation.relname: s for s in real if (relation := _made(s.node)) and _is_public(relation)}
    secured = {_name(s.node.relation) for s in real if isinstance(s.node, ast.AlterTableStmt) and _secures(s.node)}
    yield from (Hazard(name, s.line, "rls-missing") for table, s in made.items() if table not in secured)


def _is_unsafe(options: Any) -> bool:
    """Whether a function gets its owner's rights, and no search_path of its own."""
    definer = any(o.defname == "security" and o.arg.boolval for o in options or ())
    return definer and not any(o.defname == "set" and o.arg.name == "search_path" for o in options)


def _reads_own_table(policy: Any) -> bool:
    own = (policy.table.schemaname or "public", policy.table.relname)
    return any(own == table for part in (policy.qual, policy.with_check) if part for table in _tables(part))


def _secures(alter: ast.AlterTableStmt) -> bool:
    return any(c.subtype == enums.AlterTableType.AT_EnableRowSecurity for c in alter.cmds or ())


def _made(node: Any) -> Any:
    """The table that a statement makes; none where it is a part of another, whose policies count."""
    match node:
        case ast.CreateStmt(partbound=None, relation=table):
            return table
        case ast.CreateTableAsStmt(objtype=enums.ObjectType.OBJECT_TABLE, into=ast.IntoClause(rel=table)):
            return table
    return None


def _is_public(relation: Any) -> bool:
    return relation.schemaname in (None, "public") and relation.relpersistence == "p"


def _name(relation: Any) -> str:
    return str(relation.relname)


def _tables(node: Any) -> set[tuple[str, str]]:
    """Schema and name of the tables that an expression reads."""
    found: set[tuple[str, str]] = set()

    class Tables(Visitor):
        def visit_RangeVar(self, _: Any, node: Any) -> None:  # noqa: N802  # pglast names it
            found.add((node.schemaname or "public", node.relname))

    Tables()(node)
    return found


def _texts(node: Any) -> set[str]:
    """The string literals in a statement."""
    found: set[str] = set()

    class Texts(Visitor):
        def visit_A_Const(self, _: Any, node: Any) -> None:  # noqa: N802
            if isinstance(node.val, ast.String) and node.val.sval:
                found.add(node.val.sval)

    Texts()(node)
    return found
