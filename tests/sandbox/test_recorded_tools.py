"""What is recorded of the vendors' tools is what they say themselves, of every command that one is told to type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from npm import REPOSITORY, tool
from support import script
from test_stripe_cli import PACKAGE as STRIPE
from test_supabase_cli import PACKAGE as SUPABASE
from test_supabase_cli import PLACE

from opskit.linting import pages, tools

recorder = script("tools")
PAGES = [*sorted((REPOSITORY / "notebooks").glob("*.ipynb")), REPOSITORY / "README.md"]
KNOWN = tools.recorded()


def typed(name: str) -> set[tuple[str, tuple[str, ...]]]:
    """(command, flags) of a tool, wherever a runbook or the README has it."""
    found = set()
    for path in PAGES:
        for snippet in pages.read(path, REPOSITORY).snippets("bash"):
            for command in tools.typed(snippet, KNOWN):
                if command.words[0] == name:
                    reached, wrong = tools.walk(KNOWN[name], list(command.words[1:]))
                    if not wrong:
                        used = tuple(word.partition("=")[0] for word in command.words if word.startswith("-"))
                        found.add((reached, used))
    return found


def flags(name: str, program: Any, path: str) -> set[str]:
    page = program.ask(*path.split(), "--help")
    return set(recorder.flags(recorder._stripe(page) if name == "stripe" else page))


@pytest.mark.parametrize(
    ("name", "package", "place"),
    [("stripe", STRIPE, REPOSITORY), pytest.param("supabase", SUPABASE, PLACE, marks=pytest.mark.deep)],
)
def test_the_record_is_what_the_tool_says(
    name: str, package: str, place: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lock = tmp_path_factory.getbasetemp().parent / f"npm-{name}.lock"
    program = recorder.Program(str(tool(package, name, place, lock)), tmp_path)
    assert KNOWN[name].version == package.rpartition("@")[2] == recorder.version(program, "--version")
    commands = {path for path, _ in typed(name)}
    assert len(commands) > 3
    for path in commands:
        said, noted = flags(name, program, path), set(KNOWN[name].commands[path])
        assert said <= noted, path
        for flag in noted - said:  # of the version before; it says nothing of them, and takes them still
            assert "Unrecognized flag: --nothing" in program.ask(*path.split(), flag, "--nothing"), f"{path} {flag}"


@pytest.mark.parametrize(("name", "words"), [("psql", ["--help"]), ("curl", ["--help", "all"])])
def test_what_runbooks_ask_of_a_tool_of_this_machine_it_takes(name: str, words: list[str], tmp_path: Path) -> None:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name} on this machine")
    has = set(recorder.flags(recorder.Program(path, tmp_path).ask(*words)))
    for _, used in typed(name):
        for flag in used:
            assert {flag} <= has or {f"-{char}" for char in flag[1:]} <= has, f"{name} {flag}"


def test_help_pages_of_every_kind_are_read() -> None:
    page = """
  Commands:

    Basic

      ls | list            [app]       Lists deployments
      rm | remove          [id]        Removes a deployment

  Options:

    -d,  --debug                Debug mode
         --cwd <DIR>            Sets the folder
    -1 ("one"), --single        as one
         --[no-]verify          or not
         --remote[=<ref>]       perhaps with a value
         --limit <integer>
"""
    assert list(recorder.listed(page)) == [["ls", "list"], ["rm", "remove"]]
    assert recorder.flags(page) == {
        "-d": "", "--debug": "", "--cwd": "value", "-1": "", "--single": "", "--verify": "", "--no-verify": "",
        "--remote": "", "--limit": "integer",
    }  # fmt: skip


def test_a_record_comes_back_as_it_was() -> None:
    known = {"": {"--help": ""}, **{f"do {n}": {"--help": "", "-v": "", f"--n{n}": "integer"} for n in range(30)}}
    raw = {"tool": "x", "version": "1", "recorded": "now", "silent": False, **recorder.packed(known)}
    assert "@common" in json.dumps(raw)
    assert tools.read(json.loads(json.dumps(raw))).commands == known
