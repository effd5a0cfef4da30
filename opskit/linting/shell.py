"""The commands in a piece of shell, with their words and lines; nothing is expanded and nothing is run. A command that
another one runs (`sudo`, `timeout`, `bash -c '…'`, `ssh host …`) is one of them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

HEREDOC = re.compile(r"(?<!<)<<-?\s*(['\"]?)(\w+)\1([^\n]*)\n(.*?)^\t*\2[ \t]*$", re.DOTALL | re.MULTILINE)
REDIRECT = re.compile(r"(\d*|&)(>>?|<|>&)(&?\d+)?")
PLACEHOLDER = re.compile(r"<([A-Za-z][\w .-]*)>")
ASSIGNED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
FUNCTION = re.compile(r"^[ \t]*(?:function\s+([\w-]+)|([\w-]+)\s*\(\s*\))\s*[({]", re.MULTILINE)
OPENING = {"if", "then", "else", "elif", "do", "while", "until", "!", "{"}
NOT_COMMANDS = {  # the shell's own, about which there is nothing to say
    "for", "case", "done", "fi", "esac", "in", "}", "function", "[", "[[", "select", "return", "local", "read", "exit",
    "trap", "break", "continue", "shift", ":", ".", "declare", "typeset", "readonly", "alias", "unalias", "type",
    "hash", "jobs", "fg", "bg", "disown", "ulimit", "umask", "let", "shopt", "getopts", "mapfile", "readarray",
    "pushd", "popd", "history", "eval",
}  # fmt: skip
WRAPPERS = {  # that run the command behind them: which of their flags take a value, and how many words come before it
    "sudo": ("ughpCDRTU", 0), "doas": ("uC", 0), "env": ("uCS", 0), "timeout": ("ks", 1), "nohup": ("", 0),
    "nice": ("n", 0), "ionice": ("cnp", 0), "exec": ("a", 0), "time": ("fo", 0), "command": ("", 0),
    "builtin": ("", 0), "setsid": ("", 0), "stdbuf": ("ioe", 0), "npx": ("pc", 0), "bunx": ("", 0),
}  # fmt: skip
VALUED = {"--user", "--group", "--unset", "--chdir", "--kill-after", "--signal", "--adjustment", "--package"}
SHELLS = {"bash", "sh", "zsh", "dash"}
HANDING = {"op", "doppler", "infisical", "dotenv", "kubectl"}  # that run what stands behind `--`
SSH = "bcDEeFIiJLlmOopQRSWw"  # its flags that take a value
MEANT = {("psql", "PGPORT"): "--port"}  # variables that say what a flag says


@dataclass(frozen=True)
class Command:
    """One simple command. `fed` is what a here-document gives it, which begins on line `fed_line`."""

    words: tuple[str, ...]
    line: int
    fed: str = ""
    fed_line: int = 0


@dataclass
class Piece:
    """One simple command. Of what it puts in (`$(…)`) its text keeps one word, `inner` the commands, with places."""

    start: int
    text: str = ""
    end: int = 0
    ended: str = ""  # by which separator
    inner: list[tuple[int, str]] = field(default_factory=list)


def commands(text: str, first: int = 1) -> Iterator[Command]:
    """The commands of a text whose first line has that number. What is `unreadable` is left out."""
    text = PLACEHOLDER.sub(lambda m: f"[{m[1].replace(' ', '_')}]", text)
    fed: dict[int, tuple[str, int]] = {}  # by the line of the command

    def take(found: re.Match[str]) -> str:
        line = found.string.count("\n", 0, found.start())
        fed[line] = (found[4], first + line + 1)
        return found[3] + "\n" * found[0].count("\n")

    text = HEREDOC.sub(take, text)
    made, exported = {name for names in FUNCTION.findall(text) for name in names}, dict[str, str]()
    for piece in _pieces(text):
        line = text.count("\n", 0, piece.start)
        try:
            words = shlex.split(piece.text.replace("\\\n", " "), comments=False)
        except ValueError:
            continue
        for place, inner in piece.inner:
            yield from commands(inner, first + text.count("\n", 0, place))
        set_before, handed = dict(exported), _handed(words)
        if (words := _plain(words, set_before)) and words[0] not in made:
            if words[0] == "export":
                exported |= {m[1]: m[2] for word in words[1:] if (m := ASSIGNED.fullmatch(word))}
            body, at = fed.get(text.count("\n", 0, piece.end), (handed, first + line))
            yield Command((words[0], *_said(words[0], set_before), *words[1:]), first + line, body, at)
            yield from _fed(_run_by(words, text[piece.start : piece.end], first + line), body, at)
            if body and words[0] in {*SHELLS, "ssh"} and not _operands(words):
                yield from commands(body, at)


def unreadable(text: str, first: int = 1) -> Iterator[tuple[int, str]]:
    """Where a text that is shell cannot be read as such, and why: from there on nobody knows what its commands are."""
    text = HEREDOC.sub(lambda m: m[3] + "\n" * m[0].count("\n"), PLACEHOLDER.sub("[x]", text))
    for piece in _pieces(text):
        try:
            shlex.split(piece.text.replace("\\\n", " "), comments=False)
        except ValueError as error:
            yield first + text.count("\n", 0, piece.start), str(error).lower().rstrip(".")


def _plain(words: list[str], set_before: dict[str, str]) -> list[str]:
    """Without redirections, variables set before (which are noted), the shell's own words, and what wraps a command."""
    rest = list(_undirected(words))
    while rest:
        if found := ASSIGNED.fullmatch(rest[0]):
            set_before[found[1]] = found[2]
            rest = rest[1:]
        elif rest[0] in OPENING:
            rest = rest[1:]
        elif rest[0] in NOT_COMMANDS or rest[0].startswith("((") or rest[:2] in (["command", "-v"], ["command", "-V"]):
            return []
        elif rest[0] in WRAPPERS:
            valued, before = WRAPPERS[rest[0]]
            fetched = rest[0] in ("npx", "bunx")
            rest = _unflagged(rest[1:], valued)[before:]
            if fetched and rest:  # `npx supabase@latest`
                rest = [re.sub(r"(?<=.)@[\w.^~-]+$", "", rest[0]), *rest[1:]]
        else:
            return rest
    return []


def _undirected(words: list[str]) -> Iterator[str]:
    skip = False
    for word in words:
        if skip or word == "<<<":
            skip = not skip
        elif found := REDIRECT.match(word):
            skip = found.end() == len(word) and not found[3]
        else:
            yield word


def _handed(words: list[str]) -> str:
    """What `<<<` gives a command."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("<<<"):
            return word[3:] or after
    return ""


def _unflagged(words: list[str], valued: str) -> list[str]:
    """From the first word on that is no flag, nor the value of one."""
    rest = list(words)
    while rest and rest[0].startswith("-") and len(rest[0]) > 1:
        flag = rest.pop(0)
        if flag == "--":
            break
        if flag in VALUED or (not flag.startswith("--") and flag[-1] in valued and not set(flag[1:-1]) & set(valued)):
            rest = rest[1:]
    return rest


def _operands(words: list[str]) -> list[str]:
    """What a shell is given to run: here, or on another machine."""
    if words[0] == "ssh":
        return _unflagged(_unflagged(words[1:], SSH)[1:], SSH)
    return _unflagged(words[1:], "oc")


def _said(name: str, variables: dict[str, str]) -> Iterator[str]:
    for (tool, variable), flag in MEANT.items():
        if name == tool and variable in variables:
            yield f"{flag}={variables[variable]}"


def _fed(run: Iterator[Command], body: str, at: int) -> Iterator[Command]:
    """What `ssh host psql` is fed, psql is."""
    for number, command in enumerate(run):
        yield command if number or command.fed else replace(command, fed=body, fed_line=at)


def _run_by(words: list[str], piece: str, line: int) -> Iterator[Command]:
    """What a command is told to run: `bash -c '…'`, `watch …`, `ssh host …`, `op run -- …`."""
    told = ""
    if words[0] in SHELLS:
        told = next((after for word, after in pairwise(words) if re.fullmatch(r"-[a-z]*c", word)), "")
    elif words[0] == "watch":
        told = " ".join(_unflagged(words[1:], "nq"))
    elif words[0] == "ssh":
        told = " ".join(_operands(words))
    elif words[0] in HANDING and "--" in words:
        told = shlex.join(words[words.index("--") + 1 :])
    if told:
        yield from commands(told, line + piece.count("\n", 0, max(piece.find(told), 0)))


def _pieces(text: str) -> list[Piece]:
    """Each simple command: cut at separators that are not quoted, without comments, patterns of `case`, arithmetic."""
    found: list[Piece] = []
    piece, quote, place, depth = Piece(0), "", 0, 0
    while place < len(text):
        char, kept, end = text[place], "", place + 1
        if char == "\\" and quote != "'":
            end = place + 2
        elif quote != "'" and (passed := _substituted(text, place)):
            kept, end = f"$({re.sub(r'[^A-Za-z0-9_.:-]', '_', text[place:passed])})", passed
        elif quote or char in "'\"":
            quote = "" if char == quote else quote or char
        elif char == "#" and (place == 0 or text[place - 1].isspace()):
            place = text.find("\n", place) % (len(text) + 1)
            continue
        elif passed := _whole(text, place, piece.text):
            kept, end = f"{text[place : place + 2].strip()} ", passed
        elif char in "\n;|()" or (char == "&" and piece.text[-1:] not in (">", "<") and text[place + 1 :][:1] != ">"):
            depth += {"(": 1, ")": -1}.get(char, 0)
            if depth < 0:  # the end of a pattern of `case`, with all its alternatives
                piece, depth = Piece(0), 0
                while found and found[-1].ended == "|":
                    found.pop()
            elif piece.text.strip() and text[place : place + 2] != "()":  # `name()` makes a function
                piece.ended = "||" if text.startswith("||", place) else char
                found.append(piece)
            piece, place = Piece(0), place + 1
            continue
        if not piece.text.strip():
            piece = Piece(place)
        if kept:
            piece.inner += _inner(text, place, end)
        piece.text += kept or text[place:end]
        piece.end = place = end
    return [*found, piece] if piece.text.strip() else found


def _whole(text: str, place: int, before: str) -> int:
    """The end of what is one however it looks: `[[ a && b ]]`, `((n + 1))`, `ids=(a b)`; 0 where there is none."""
    if text.startswith("[[ ", place):
        return text.find("]]", place) + 2 if "]]" in text[place:] else 0
    if text.startswith("((", place):
        return _closed(text, place)
    return _closed(text, place) if text[place] == "(" and re.search(r"\w\+?=$", before) else 0


def _substituted(text: str, place: int) -> int:
    """The end of `$(…)`, or of what stands in backticks; 0 where there is none."""
    if text[place] == "`":
        return text.find("`", place + 1) + 1
    return _closed(text, place + 1) if text.startswith("$(", place) else 0


def _inner(text: str, place: int, end: int) -> Iterator[tuple[int, str]]:
    """The commands in what is put in, with their places; in arithmetic, those that are put in there."""
    while place < end:
        closed = _substituted(text, place)
        if closed and not text.startswith("$((", place):
            opened = place + (1 if text[place] == "`" else 2)
            yield opened, text[opened : closed - 1]
            place = closed
        else:
            place += 1


def _closed(text: str, place: int) -> int:
    """Just behind the bracket that closes the one at this place, whatever is quoted; 0 where none does."""
    depth, quote = 0, ""
    while place < len(text):
        char = text[place]
        if char == "\\" and quote != "'":
            place += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
            if not depth:
                return place + 1
        place += 1
    return 0
