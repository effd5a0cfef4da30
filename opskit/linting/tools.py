"""Whether the commands of a page exist: tools, their commands and flags, and what they do when they are misunderstood.

What the vendors' tools have is recorded, with version and date, by `scripts/tools.py`; opskit's own is looked up.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from opskit.linting import shell
from opskit.linting.findings import Finding
from opskit.linting.pages import Page, Snippet
from opskit.linting.pitfalls import PITFALLS
from opskit.linting.shell import Command

MANY = 12  # commands or flags that one reads in a line
RECORDED = Path(__file__).with_name("recorded")
PLAIN = {  # of every machine; their flags are not looked at
    "awk", "base64", "bash", "cat", "cd", "chmod", "cp", "cut", "date", "diff", "dig", "echo", "export", "false",
    "find", "grep", "head", "jq", "jupyter", "kill", "ls", "make", "mkdir", "mv", "op", "openssl", "papermill",
    "pg_dump", "ping", "pip", "pre-commit", "printf", "ps", "pwd", "python", "python3", "rm", "sed", "set",
    "sha256sum", "sleep", "sort", "source", "ssh", "ssh-keygen", "tail", "tar", "tee", "test", "touch", "tr",
    "true", "uniq", "unset", "unzip", "wait", "watch", "wc", "xargs", "yes",
}  # fmt: skip
PLACEHOLDER = re.compile(r"\[.*\]|\{.*\}|[<$].*|[A-Z_]{2,}|.*(xxx|…|\.\.\.|Replace).*")


@dataclass(frozen=True)
class Tool:
    """What one version of a tool takes. "" among the commands is the tool itself."""

    name: str
    version: str
    recorded: str
    silent: bool  # whether a command that it does not have ends with exit code 0, and nothing is done
    commands: Mapping[str, Mapping[str, str]]  # flag -> kind of its value, "" where it takes none

    def below(self, path: str) -> list[str]:
        start = f"{path} " if path else ""
        return [
            c.removeprefix(start) for c in self.commands if c and c.startswith(start) and " " not in c[len(start) :]
        ]


def recorded() -> dict[str, Tool]:
    """Every tool of which there is a record."""
    return {path.stem: read(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(RECORDED.glob("*.json"))}


def read(raw: dict[str, object]) -> Tool:
    """A tool from its record."""
    common = str(raw["common"])
    known = {path: _flags(str(of).replace("@common", common)) for path, of in dict(raw["commands"]).items()}  # type: ignore[call-overload]
    return Tool(str(raw["tool"]), str(raw["version"]), str(raw["recorded"]), bool(raw["silent"]), known)


def _flags(words: str) -> dict[str, str]:
    return {name: kind for name, _, kind in (word.partition("=") for word in words.split())}


def introspected(group: click.Group, name: str, version: str) -> Tool:
    """A tool of ours, as it is right now."""
    known: dict[str, dict[str, str]] = {}

    def visit(command: click.Command, path: str) -> None:
        help_names = command.get_help_option_names(click.Context(command, **group.context_settings))
        known[path] = dict.fromkeys(help_names, "") | {
            flag: "" if option.is_flag or option.count else "value"
            for option in command.params
            if isinstance(option, click.Option)
            for flag in (*option.opts, *option.secondary_opts)
        }
        for child, below in getattr(command, "commands", {}).items():
            visit(below, f"{path} {child}".strip())

    visit(group, "")
    return Tool(name, version, "now", False, known)


def check(page: Page, tools: Mapping[str, Tool]) -> Iterator[Finding]:
    for snippet in page.snippets("bash"):
        for line, why in shell.unreadable(snippet.text, snippet.line) if snippet.text.endswith("\n") else ():
            yield Finding(page.name, snippet.cell.id, line, "command", f"the shell cannot read this: {why}.")
        for command in typed(snippet, tools):
            place = (page.name, snippet.cell.id, command.line)
            for rule, wrong, remedy in _judge(command, tools, snippet.told):
                yield Finding(*place, rule, wrong, remedy)


def typed(snippet: Snippet, tools: Mapping[str, Tool]) -> Iterator[Command]:
    """The commands of a snippet. A word that is only spoken of is one where it names a tool, and more than that."""
    for command in shell.commands(snippet.text, snippet.line):
        if "\n" not in snippet.text and not _is_typed(snippet, command, tools):
            continue
        yield command
        if command.words[0] == "xargs":
            rest = [n for n, word in enumerate(command.words) if word in tools]
            if rest:
                yield Command((*command.words[rest[0] :], "[piped]"), command.line)


def _is_typed(snippet: Snippet, command: Command, tools: Mapping[str, Tool]) -> bool:
    fenced = snippet.text.endswith("\n")
    return fenced or command.words[0] in tools or (command.words[0] in ("npm", "yarn") and len(command.words) > 1)


Verdict = tuple[str, str, str]


def _judge(command: Command, tools: Mapping[str, Tool], told: bool) -> Iterator[Verdict]:
    name, *words = command.words
    if name in ("npm", "yarn", "pnpm"):
        if words[:1] == ["run"]:
            said = f"`{name} {' '.join(words)}` is a script of the app, which this repository does not hold."
            yield "command", said, "Write the command that it would run."
        return
    if name not in tools:
        if name not in PLAIN and not PLACEHOLDER.fullmatch(name) and "/" not in name and not name.startswith("."):
            remedy = "Record it with scripts/tools.py, or write it with a tool that is."
            yield "tool", f"nothing is known of {name}.", remedy
        return
    tool = tools[name]
    path, wrong = walk(tool, words)
    yield from wrong
    if told and not wrong:
        for pitfall in PITFALLS:
            if pitfall.applies(name, path, words):
                yield "pitfall", f"`{' '.join([name, path]).strip()}` {pitfall.does}", pitfall.remedy


def walk(tool: Tool, words: list[str]) -> tuple[str, list[Verdict]]:
    """The command that the words reach, and what the tool would not understand of them."""
    path, waiting, settled = "", list(words), False
    wrong: list[Verdict] = []
    while waiting and (word := waiting.pop(0)) != "--":
        below = tool.below(path)
        if word.startswith("-") and len(word) > 1 and not word[1:].isdigit():
            wrong += _flag(tool, path, word, waiting)
        elif settled or not below:
            continue
        elif word in below:
            path = f"{path} {word}".strip()
        elif PLACEHOLDER.fullmatch(word) or "/" in word:  # a path: the tool takes some without a command
            settled = True
        else:
            return path, [*wrong, _unknown(tool, path, word)]
    return path, wrong


def _unknown(tool: Tool, path: str, word: str) -> Verdict:
    typed = f"{tool.name} {path}".strip()
    then = "It prints help and ends with exit code 0: nothing is done." if tool.silent and path else ""
    said = f"{typed} {tool.version} has no command {word}. {then}".strip()
    return "command", said, _nearest(word, tool.below(path))


def _flag(tool: Tool, path: str, word: str, waiting: list[str]) -> Iterator[Verdict]:
    known = {**tool.commands[""], **tool.commands[path]}
    names = [word] if word.startswith("--") else [f"-{char}" for char in word[1:]]
    for place, spelled in enumerate(names, 1):
        name, equals, value = spelled.partition("=")
        if name not in known and "*" in known:  # not all are recorded
            return
        if name not in known:
            typed = f"{tool.name} {path}".strip()
            yield "flag", f"{typed} {tool.version} has no flag {name}.", _nearest(name, list(known))
            return
        if known[name]:
            if not word.startswith("--") and place < len(names):
                value = word[place + 1 :]
            elif not equals and waiting:
                value = waiting.pop(0)
            if known[name] == "integer" and value and not (value.isdigit() or PLACEHOLDER.fullmatch(value)):
                yield "flag", f"{tool.name} {path} takes a whole number after {name}, not {value}.", ""
            return


def _nearest(word: str, known: list[str]) -> str:
    if near := difflib.get_close_matches(word, known, 1):
        return f"The nearest is {near[0]}."
    return f"There are: {', '.join(sorted(known)[:MANY])}{', …' if len(known) > MANY else '.'}"
