"""How every command answers: prose for people, one versioned JSON object with --json, exit codes as documented."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from opskit import disk, provenance, record, signatures
from opskit.archive import Archive
from opskit.errors import BadInput, CannotTell, OpskitError, Refused
from opskit.outcome import Exit
from opskit.spelling import printable

RECORDS = ("run.json", record.MANIFEST, ".locks")  # what records and archives hold, whosever they are
FORMAT = 1  # of the JSON answer; a field may be added without raising it

people = Console(highlight=False, soft_wrap=True)
trouble = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass
class Reply:
    """What a command found: data for programs, text for people, and its exit code."""

    data: Any = None
    text: str = ""
    exit: Exit = Exit.OK
    table: Any = field(default=None, repr=False)  # a rich table, printed before the text


def verb(command: Callable[..., Reply]) -> Callable[..., None]:
    """A command that answers with a Reply; its errors come out as one message with the remedy."""

    @click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
    @functools.wraps(command)
    def wrapper(*args: Any, as_json: bool, **named: Any) -> None:
        people.stderr = as_json  # progress and prose must not mix with the answer
        try:
            reply = command(*args, **named)
        except OpskitError as error:
            reply = _failed(error)
        except OSError as error:
            if error.errno not in disk.REFUSALS:
                raise
            reply = _failed(OpskitError(disk.refusal(error, Path(error.filename or outputs())), "Make room there."))
        if as_json:
            _as_json(click.get_current_context().info_name, reply)
        elif isinstance(reply.data, Failed):
            trouble.print(printable(reply.text), style="bold", markup=False)
        else:
            if reply.table is not None:
                people.print(reply.table)
            if reply.text:
                people.print(printable(reply.text), markup=False)
        sys.exit(reply.exit)

    return wrapper


class Verbs(click.Group):
    """The commands. Misuse of one, which no command gets to hear of, is answered to programs like any bad input."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **named: Any) -> click.Context:
        as_json = "--json" in args  # before they are parsed, which may be what fails
        with _misuse(as_json):
            context = super().make_context(info_name, args, *rest, **named)
        context.meta[__name__] = as_json
        return context

    def invoke(self, ctx: click.Context) -> Any:
        with _misuse(ctx.meta[__name__]):
            return super().invoke(ctx)


@contextmanager
def _misuse(as_json: bool) -> Iterator[None]:
    """Answers wrong usage as JSON where that was asked for; else click tells it."""
    try:
        yield
    except click.UsageError as error:
        if not as_json or error.ctx is None:
            raise
        help_on = f"`{error.ctx.command_path} --help` says more."
        remedy = f"{' '.join(error.ctx.get_usage().split())}; {help_on}"
        _as_json(error.ctx.info_name, _failed(BadInput(error.format_message(), remedy)))
        sys.exit(Exit.BAD_INPUT)


def _as_json(command: str | None, reply: Reply) -> None:
    answer = {"opskit": FORMAT, "command": command, "exit": reply.exit, "data": reply.data}
    sys.stdout.write(json.dumps(answer, default=str, indent=1) + "\n")


class Failed(dict[str, str]):
    """The data of a command that ended in an error."""


def _failed(error: OpskitError) -> Reply:
    code = Exit.ERROR
    if isinstance(error, BadInput):
        code = Exit.BAD_INPUT
    elif isinstance(error, Refused):
        code = Exit.REFUSED
    elif isinstance(error, CannotTell):
        code = Exit.PEOPLE
    text = error.message if not error.remedy else f"{error.message}\n{error.remedy}"
    return Reply(Failed(error=error.message, remedy=error.remedy), text, code)


def root() -> Path:
    return provenance.find_root()


def outputs() -> Path:
    return provenance.outputs(root())


def allowed() -> Path:
    """Who may sign, and with which keys."""
    return root() / signatures.ALLOWED


def allowed_if_here() -> Path | None:
    """The same, where we stand in a repository: whoever was sent a record need not have one."""
    with suppress(BadInput):
        return allowed()
    return None


def archive() -> Archive:
    return Archive(outputs())


def require_elsewhere(path: Path) -> None:
    """Raise BadInput where a file that somebody names lies among records, whosever they are: those are sealed."""
    if any(os.path.lexists(place / name) for place in path.resolve().parents for name in RECORDS):
        raise BadInput(f"{path} lies among the records, which are sealed.", "Name a file elsewhere.")
