"""The commands in a piece of shell, with their words and lines; nothing is expanded and nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1([^\n]*)\n(.*?)^\t*\2[ \t]*$", re.DOTALL | re.MULTILINE)
REDIRECT = re.compile(r"(\d*|&)(>>?|<|>&)(&?\d+)?")
PLACEHOLDER = re.compile(r"<([A-Za-z][\w .-]*)>")
ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
OPENING = {"if", "then", "else", "elif", "do", "while", "until", "time", "!", "{", "sudo", "exec", "env", "command"}
NOT_COMMANDS = {"for", "case", "done", "fi", "esac", "in", "}", "function", "[", "[[", "select", "return", "local"}


@dataclass(frozen=True)
class Command:
    """One simple command. `fed` is what a here-document gives it, which begins on line `fed_line`."""

    words: tuple[str, ...]
    line: int
    fed: str = ""
    fed_line: int = 0


def commands(text: str, first: int = 1) -> Iterator[Command]:
    """The commands of a text whose first line has that number. What is `unreadable` is left out."""
    text = PLACEHOLDER.sub(lambda m: f"[{m[1].replace(' ', '_')}]", text)
    fed: dict[int, tuple[str, int]] = {}  # by the line of the command

    def take(found: re.Match[str]) -> str:
        line = found.string.count("\n", 0, found.start())
        fed[line] = (found[4], first + line + 1)
        return found[3] + "\n" * found[0].count("\n")

    text = HEREDOC.sub(take, text)
    for start, piece in _pieces(text):
        line = text.count("\n", 0, start)
        try:
            words = shlex.split(piece.replace("\\\n", " "), comments=False)
        except ValueError:
            continue
        for inner in re.findall(r"\$\(([^()]*)\)", piece):
            yield from commands(inner, first + line)
        if words := list(_plain(words)):
            body, at = fed.get(line + piece.rstrip().count("\n"), ("", 0))
            yield Command(tuple(words), first + line, body, at)


def unreadable(text: str, first: int = 1) -> Iterator[tuple[int, str]]:
    """Where a text that is shell cannot be read as such, and why: from there on nobody knows what its commands are."""
    text = HEREDOC.sub(lambda m: m[3] + "\n" * m[0].count("\n"), PLACEHOLDER.sub("[x]", text))
    for start, piece in _pieces(text):
        try:
            shlex.split(piece.replace("\\\n", " "), comments=False)
        except ValueError as error:
            yield first + text.count("\n", 0, start), str(error).lower().rstrip(".")


def _plain(words: list[str]) -> Iterator[str]:
    """Without redirections, variables set before, and words of the shell's own."""
    begun = skip = False
    for word in words:
        if skip:
            skip = False
        elif found := REDIRECT.match(word):
            skip = found.end() == len(word) and not found[3]
        elif begun or not (ASSIGNED.match(word) or word in OPENING):
            if not begun and word in NOT_COMMANDS:
                return
            begun = True
            yield word


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Where each simple command begins, and its text: cut at separators that are not quoted, without comments."""
    start, piece, quote, place = 0, "", "", 0
    while place < len(text):
        char, step = text[place], 1
        if char == "\\" and quote != "'":
            step = 2
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (place == 0 or text[place - 1].isspace()):
            step = (text.find("\n", place) % (len(text) + 1)) - place
            place += step
            continue
        elif text.startswith("$(", place) and ")" in text[place:]:
            step = text.index(")", place) + 1 - place
        elif char in "\n;|()" or (char == "&" and not piece.endswith(">") and not text.startswith("&>", place)):
            if piece.strip():
                yield start, piece
            piece, place = "", place + 1
            continue
        if not piece.strip():
            piece, start = "", place
        piece += text[place : place + step]
        place += step
    if piece.strip():
        yield start, piece
