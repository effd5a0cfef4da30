"""Which runbooks would fail tonight: what each needs of an environment, held against what is there. Touches nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from pglast.parser import ParseError

from opskit import rights
from opskit.actions import Change
from opskit.doctor import Finding
from opskit.environment import Environment
from opskit.errors import BadInput, CannotTell, Denied, NotFound
from opskit.linting import pages, schema, sql
from opskit.linting.pages import Page
from opskit.linting.queries import PYTHON, queries, renumbered, unknowns
from opskit.linting.schema import Schema
from opskit.runbooks import Runbook
from opskit.services import Services, owners

Told = tuple[bool | None, str]
QUERY = re.compile(r"\s*(with|select|insert|update|delete)\s", re.IGNORECASE)
CONSTANT = re.compile(r"\b[A-Z][A-Z_]{2,}\b")
RIGHT = re.compile(r"(select|insert|update|delete)(?:\s*\(([^)]*)\))?")
MEMBER = re.compile(r"membership of (\w+)(?: and (\w+))?")
HOUR = timedelta(hours=1)
MANY = 3  # names that one reads in a line
OPTIONAL = ("sentry", "status", "app", "supabase")  # without them a runbook sees less, and goes on

TABLE = """
    select name, to_regclass(name) is not null as there, has_table_privilege(to_regclass(name), %(what)s) as whole,
           has_table_privilege(to_regclass(name), %(what)s)
           or (%(what)s <> 'delete' and has_any_column_privilege(
                 to_regclass(name), case %(what)s when 'delete' then 'select' else %(what)s end)) as may
    from unnest(%(tables)s::text[]) as wanted (name)
"""
COLUMNS = """
    select name, (select has_column_privilege(attrelid, attnum, %(what)s) from pg_attribute
                  where attrelid = to_regclass(%(table)s) and attname = name and not attisdropped) as may
    from unnest(%(columns)s::text[]) as wanted (name)
"""
FILTERED = """
    select c.oid::regclass::text as name,
           exists (select 1 from pg_policy p
                   where p.polrelid = c.oid and exists (
                     select 1 from unnest(p.polroles) as named (role)
                     where role = 0 or pg_has_role(role, 'usage'))) as has_policy
    from unnest(%(tables)s::text[]) as wanted (name) join pg_class c on c.oid = to_regclass(wanted.name)
    where c.relrowsecurity and not pg_has_role(c.relowner, 'usage')
      and not (select rolbypassrls or rolsuper from pg_roles where rolname = current_user)
"""
HIDDEN = re.compile(r'row-level security policy for table "(.+?)"')
ROLE = """
    select name, pg_has_role(oid, 'member') as may
    from unnest(%(roles)s::text[]) as wanted (name) left join pg_roles on rolname = name
"""


def tonight(books: Sequence[Runbook], target: Environment, services: Services, changing: Services) -> Iterator[Finding]:
    """What of the runbooks' needs is not there; one line of praise for each that would work."""
    night = Night(target, services, changing)
    for book in books:
        yield from night.needs(book)


@dataclass
class Veil:
    """What row-level security keeps from one role."""

    tables: dict[str, bool] = field(default_factory=dict)  # whether a policy lets it see some rows
    places: list[str] = field(default_factory=list)  # statements that fail for it


class Night:
    """One environment, asked once for what several runbooks need. `changing` may only ever be asked what it may do."""

    def __init__(self, target: Environment, services: Services, changing: Services) -> None:
        self.target, self.services, self.changing = target, services, changing
        self._said: dict[str, Told] = {}
        self._veils: dict[str, Veil] = {}  # by role, of the runbook that is looked at

    def needs(self, book: Runbook) -> Iterator[Finding]:
        """What of a runbook's needs is not there, or cannot be told; one line of praise where there is nothing."""
        page = pages.read(book.path, book.path.parent)
        wrong = list(self._wrong(book, page))
        if not wrong:
            statements = [q for q in queries(page) if q.cell.kind == "code"]
            used = ", ".join(name for name in rights.MODULES if book.calls(name))
            wrong = [(True, f"{len(statements)} statements, and those of its services; {used or 'the database alone'}")]
        yield from (Finding(f"runbook {book.name}", good, said) for good, said in dict.fromkeys(wrong))

    def _wrong(self, book: Runbook, page: Page) -> Iterator[Told]:
        self._veils = {"read": Veil(), "change": Veil()}
        for part in (self._statements, self._rights, self._hidden, self._variables, self._reached):
            try:
                yield from part(book, page)
            except CannotTell as error:
                yield None, str(error)

    def _statements(self, book: Runbook, page: Page) -> Iterator[Told]:
        """Tables, columns, types, functions and values, as the cells and the services name them."""
        database, living = self.services.database, self._living
        for query in queries(page):
            if query.cell.kind == "code":
                for rule, place, wrong in sql.held(query.text, database, living, query.block):
                    yield from self._failing(rule, f"{query.cell.id}:{query.at(place)}", wrong)
        for name, text in sent(book).items():
            for rule, _, wrong in sql.held(renumbered(unknowns(text, PYTHON)), database, living):
                yield from self._failing(rule, name, wrong)

    def _failing(self, rule: str, place: str, wrong: str) -> Iterator[Told]:
        """One role's lack of one right is told once for all the statements that it hits."""
        if rule == "right" and (table := HIDDEN.search(wrong)):
            self._veils["read"].tables.setdefault(table[1], False)
            self._veils["read"].places.append(place)
        else:
            yield False, f"{place}: {wrong}"

    @cached_property
    def _living(self) -> Schema:
        """Which values columns may hold there. What else a constraint forbids makes a condition needless, not wrong."""
        return replace(schema.learn(self.services.database), filled=set(), keys=set(), growing=set())

    def _rights(self, book: Runbook, page: Page) -> Iterator[Told]:
        needed = [(access, right) for access, service, right in rights.needed(book) if service == "database"]
        reads = [right.removeprefix("select on ") for access, right in needed if right.startswith("select on ")
                 if access == "plan"]  # fmt: skip
        askers = _askers(book, page)
        for table in reads:
            for good, said in self._may(self.services, "select", [table]):
                yield good, _needed(said, askers.get(table, []))
        self._filtered(self.services, reads)
        lacking: dict[Told, list[str]] = {}
        for access, right in needed:
            if access == "apply":
                for told in self._may_change(right):
                    lacking.setdefault(told, []).extend(_planning(book, right))
            elif roles := MEMBER.search(right):
                yield from self._member(self.services, right, roles)
        yield from ((good, _needed(said, actions)) for (good, said), actions in lacking.items())

    def _may(self, services: Services, what: str, tables: list[str]) -> Iterator[Told]:
        who = "read" if services is self.services else "change"
        for row in services.database.rows(TABLE, what=what, tables=tables):
            if not row["there"]:
                yield False, f"there is no table {row['name']}."
            elif not row["may"]:
                yield False, f"the {who} role may not {what} on {row['name']}."
            elif not row["whole"]:
                yield None, f"the {who} role may {what} some columns of {row['name']} only; any other fails."

    def _filtered(self, services: Services, tables: list[str]) -> None:
        """Row-level security changes nothing, silently, where it hides the rows."""
        veil = self._veils.setdefault("read" if services is self.services else "change", Veil())
        veil.tables |= {row["name"]: row["has_policy"] for row in services.database.rows(FILTERED, tables=tables)}

    def _hidden(self, _: Runbook, __: Page) -> Iterator[Told]:
        """Once for a role, since one right would mend all of it."""
        for who, veil in self._veils.items():
            dark = sorted(table for table, has_policy in veil.tables.items() if not has_policy)
            dim = sorted(table for table, has_policy in veil.tables.items() if has_policy)
            if veil.places:
                fail = f"{_listed(veil.places)} fail{'s' if len(veil.places) == 1 else ''}"
                rows = (
                    f"row-level security hides rows of {_listed([*dark, *dim], len(veil.tables))} from the {who} role"
                )
                yield False, f"{rows}, which lacks bypassrls: {fail}."
                continue
            if dark:
                rows = f"row-level security hides every row of {_listed(dark, len(dark))} from the {who} role"
                yield False, f"{rows}, which lacks bypassrls."
            if dim:
                yield None, f"a policy decides which rows of {_listed(dim, len(dim))} the {who} role sees."

    def _member(self, services: Services, right: str, named: re.Match[str]) -> Iterator[Told]:
        who = "read" if services is self.services else "change"
        roles = [services.migrations.role] if right == owners.RIGHT else [role for role in named.groups() if role]
        for row in services.database.rows(ROLE, roles=roles):
            if row["may"] is None:
                yield False, f"there is no role {row['name']}."
            elif not row["may"]:
                yield False, f"the {who} role is no member of {row['name']}."

    def _may_change(self, right: str) -> Iterator[Told]:
        if roles := MEMBER.search(right):
            yield from self._member(self.changing, right, roles)
            return
        for part in right.split(";"):
            left, _, names = part.partition(" on ")
            tables = re.findall(r"[\w.]+", names)
            self._filtered(self.changing, tables)
            for what, columns in RIGHT.findall(left) if tables else ():
                if not columns:
                    yield from self._may(self.changing, what, tables)
                    continue
                wanted = {"what": what, "table": tables[0], "columns": re.findall(r"\w+", columns)}
                for row in self.changing.database.rows(COLUMNS, **wanted):
                    if not row["may"]:
                        then = "there is no" if row["may"] is None else f"the change role may not {what}"
                        yield False, f"{then} {tables[0]}.{row['name']}."

    def _variables(self, book: Runbook, page: Page) -> Iterator[Told]:
        """Names of the app's variables that the environment's facts promise."""
        name = self.target.facts.ai_routing_variable
        if name and any("ai_routing_variable" in cell.text for cell in page.code()):
            listed = set(self.services.vercel.variables()["key"])
            if name not in listed:
                yield False, f"the app has no variable {name}, which ai_routing_variable names."

    def _reached(self, book: Runbook, _: Page) -> Iterator[Told]:
        for service, look in self._looks.items():
            if book.calls(service) or (service == "stripe" and book.calls("profiles")):
                good, said = self._asked(service, look)
                if good is not True and not (service in OPTIONAL and good is None):
                    yield good, said

    def _asked(self, service: str, look: Callable[[], object]) -> Told:
        if service not in self._said:
            try:
                look()
                self._said[service] = True, ""
            except (Denied, NotFound, BadInput) as error:
                self._said[service] = False, str(error)
            except CannotTell as error:
                self._said[service] = None, str(error)
        return self._said[service]

    @cached_property
    def _looks(self) -> Mapping[str, Callable[[], object]]:
        """The cheapest question to each service; Stripe's is asked in the version whose shapes we read."""
        services = self.services
        return {
            "stripe": services.stripe.account,
            "vercel": lambda: services.vercel.project_id(),
            "sentry": lambda: services.sentry.issues(since=datetime.now(UTC) - HOUR),
            "supabase": lambda: services.supabase.about(),
            "providers": lambda: _keys(services.providers.look()),
        }


def _keys(probed: Any) -> None:
    """Raises Denied where a provider does not take our key."""
    for row in probed.itertuples():
        if row.key is False:
            raise Denied(row.provider, "does not take our key.")


def _askers(book: Runbook, page: Page) -> dict[str, list[str]]:
    """By table, the cells and services that read it."""
    found: dict[str, list[str]] = {}
    asked = [(query.cell.id, query.text) for query in queries(page) if query.cell.kind == "code"]
    asked += [(f"services/{name}", text) for name, texts in rights.TABLES.items() if book.calls(name) for text in texts]
    for asker, text in asked:
        try:
            tables = rights.tables_in(text)
        except ParseError:
            continue
        for table in tables:
            found.setdefault(table, []).append(asker)
    return found


def _planning(book: Runbook, right: str) -> list[str]:
    """The actions of a runbook that declare a right."""
    declare = [name for name, change in Change.known.items() if change.right == right]
    verbs = {name: rights.VERBS.get(name, name).partition(".") for name in declare}
    return [name for name in declare if verbs[name][2] in book.calls(verbs[name][0])] or declare


def _needed(said: str, names: list[str]) -> str:
    """The same, with who needs it."""
    names = list(dict.fromkeys(names))
    return f"{said.rstrip('.')}: {_listed(names)} need{'s' if len(names) == 1 else ''} it." if names else said


def _listed(names: Sequence[str], most: int = MANY) -> str:
    """a, b and c; of many the first, and how many more."""
    names = list(dict.fromkeys(names))
    shown = [*names[:most], f"{len(names) - most} more"] if len(names) > most + 1 else names
    return " and ".join([part for part in (", ".join(shown[:-1]), shown[-1]) if part])


def sent(book: Runbook) -> dict[str, str]:
    """By name, the SQL that the services would send for what a runbook asks of them."""
    from opskit.linting.structure import services  # noqa: PLC0415  # the two look at services from different sides

    found: dict[str, str] = {}
    for service, faces in services().items():
        face = faces[0] if faces else None
        if face is None or service not in rights.TABLES or not book.calls(service):
            continue
        module = inspect.getmodule(face)
        for name in _constants(module, face, rights.reached(face, book.calls(service))):
            text = getattr(module, name)
            if isinstance(text, str) and QUERY.match(text):
                found[f"services/{service} {name}"] = text
    return found


def _constants(module: Any, face: type[Any], verbs: set[str]) -> set[str]:
    """Constants of a module in the source of these verbs, and of what they call there."""
    functions = {name: inspect.getsource(of) for name, of in vars(module).items() if inspect.isfunction(of)
                 and of.__module__ == module.__name__}  # fmt: skip
    waiting = [rights.source(face, verb) for verb in verbs]
    seen: set[str] = set()
    found: set[str] = set()
    while waiting:
        text = waiting.pop()
        found |= {name for name in CONSTANT.findall(text) if hasattr(module, name)}
        for name in set(re.findall(r"\b(\w+)\(", text)) & functions.keys() - seen:
            seen.add(name)
            waiting.append(functions[name])
    return found
