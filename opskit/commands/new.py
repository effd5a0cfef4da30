"""A runbook from the template: its notebook, parameters, first scenario and test, which run at once on the sandbox."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from opskit import files, sandbox
from opskit.commands.answering import Reply, root, verb
from opskit.errors import BadInput
from opskit.priorities import RESPONSE, span
from opskit.runbooks import TEMPLATE

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 50


@click.command()
@click.argument("name")
@click.option("--title", help="What people call it; by default, as NAME says.")
@click.option(
    "--priority", type=click.Choice([*RESPONSE], case_sensitive=False), default="MEDIUM", show_default=True,
    help="How urgent such an incident is.",
)  # fmt: skip
@verb
def new(name: str, title: str | None, priority: str) -> Reply:
    """A new runbook from the template: notebook, parameters, first scenario and test, which run at once."""
    title = name.replace("-", " ").capitalize() if title is None else title.strip()
    _refuse_ill_formed(name, title)
    pages = _pages(root(), name, title, priority.upper())
    _refuse_taken(name, pages)
    _write(pages)
    places = {what: path.relative_to(root()).as_posix() for what, path in zip(PARTS, pages, strict=True)}
    lines = [f"{what:<11} {place}" for what, place in places.items()]
    lines += [
        "",
        f"It runs already: opskit sandbox start, opskit run {name}, opskit drill {name}",
        f"Next: jupyter lab {places['notebook']}, and replace what stands below each `Write here`.",
        "CONTRIBUTING.md, “A new runbook”, goes through it.",
    ]
    return Reply({"runbook": name, "title": title, "priority": priority.upper(), **places}, "\n".join(lines))


PARTS = {
    "notebook": f"notebooks/{TEMPLATE}.ipynb",
    "parameters": f"parameters/{TEMPLATE}/example.yaml",
    "scenario": f"opskit/sandbox/scenarios/{TEMPLATE}-example.yaml",
    "test": f"tests/test_{TEMPLATE.replace('-', '_')}.py",
}


def _refuse_ill_formed(name: str, title: str) -> None:
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise BadInput(
            f"{name!r} cannot be a runbook's name.",
            f"Small letters, digits and single hyphens, such as scheduled-emails; at most {LONGEST} characters.",
        )
    if not title or not title.isprintable() or len(title) > LONGEST:
        raise BadInput(f"{title!r} cannot be a title.", f"Give one line of at most {LONGEST} characters.")


def _refuse_taken(name: str, pages: dict[Path, str]) -> None:
    """Raise BadInput where anything of that name exists: nothing is ever written over."""
    taken = [path for path in pages if os.path.lexists(path)]
    taken += [folder for folder in [root() / "parameters" / name] if os.path.lexists(folder)]
    if taken:
        raise BadInput(f"{name!r} is taken: there is {taken[0].relative_to(root())}.", "Choose another name.")
    if name in sandbox.scenarios():
        raise BadInput(f"{name!r} is taken: a scenario is called so.", "Choose another name.")


def _pages(repository: Path, name: str, title: str, priority: str) -> dict[Path, str]:
    """Where each part of the new runbook goes, and what stands in it: the template's own, under the new name."""
    if not sandbox.SCENARIOS.resolve().is_relative_to(repository):
        raise BadInput(
            f"opskit runs from {sandbox.SCENARIOS.parents[1]}, and scenarios lie beside it: not in {repository}.",
            "Install this repository (`make install`), and use the opskit in its .venv.",
        )
    found = {}
    for what, place in PARTS.items():
        try:
            text = (repository / place).read_text(encoding="utf-8")
        except OSError as error:
            raise BadInput(f"the template lacks {place}: {error.strerror}.", "Restore it from git.") from None
        found[repository / _renamed(place, name)] = (
            _notebook(text, name, title, priority) if what == "notebook" else _renamed(text, name)
        )
    return found


def _renamed(text: str, name: str) -> str:
    return text.replace(TEMPLATE, name).replace(TEMPLATE.replace("-", "_"), name.replace("-", "_"))


def _notebook(text: str, name: str, title: str, priority: str) -> str:
    """The template's notebook with its title block filled in."""
    content = json.loads(text)
    for cell in content["cells"]:
        source = _renamed("".join(cell["source"]), name)
        if cell["id"] == "title":
            facts = {
                "Priority": priority,
                "Respond within": span(RESPONSE[priority]),
                "Last updated": f"{datetime.now(UTC):%Y-%m-%d}",
            }
            source = re.sub(r"^# .*", lambda _: f"# {title}", source)
            for fact, value in facts.items():
                source = re.sub(rf"^\| \*\*{fact}\*\* \| .* \|$", f"| **{fact}** | {value} |", source, flags=re.M)
        source = source.replace('run.rate("HIGH"', f'run.rate("{priority}"')
        cell["source"] = source.splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _write(pages: dict[Path, str]) -> None:
    """Write all of it, or nothing."""
    written: list[Path] = []
    try:
        for path, text in pages.items():
            path.parent.mkdir(exist_ok=True)
            written.append(path)
            files.write(path, text)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()  # the one of parameters, which nobody else has filled
        raise BadInput(f"cannot write {path}: {error.strerror}.", "Nothing was written.") from None
