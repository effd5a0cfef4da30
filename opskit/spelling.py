"""How a text is spelled when it travels: quoted for a shell, escaped for JSON, HTML or an address, encoded.

Each way of travelling is a list of places, and each place a tuple of the spellings that may stand there. So one list
stands for every mixture, such as `%2F` beside `%2f`, or JSON inside JSON.
"""

from __future__ import annotations

import base64
import html
import html.entities
import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby, product
from urllib.parse import quote

Places = list[tuple[str, ...]]  # the spellings of each place, longest first

BACKSLASHES = (1, 2, 3, 7)  # as a shell, a pattern in JSON, JSON in JSON, and that once more put before punctuation
DOUBLED = "'\"%${}\\"  # what SQL, CSV, configuration files and templates write twice to mean it once
HALVES = "surrogatepass"  # half of a pair can be in an environment variable, and must not stop us
SHORT = {"\n": "n", "\r": "r", "\t": "t", "\f": "f", "\b": "b", "\v": "v", "\a": "a"}


def printable(text: str) -> str:
    """`text` as a terminal may show it: what would move its cursor or turn the reading order is spelled out.

    Names of files and people come from whoever made a record, and a terminal obeys what it is shown.
    """
    return "".join(c if c in "\n\t\xa0" or c.isprintable() else repr(c)[1:-1] for c in text)


def ways(text: str) -> Iterator[Places]:
    """The ways in which `text` may stand inside other text."""
    yield escaped(text)
    written = {text, quote(text, errors=HALVES), quote(text, safe="", errors=HALVES), html.escape(text)}
    written |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    for found in sorted(set().union(*(base64_forms(one.encode(errors=HALVES)) for one in written))):
        yield [_base64_letter(letter) for letter in found]
    digits = text.encode(errors=HALVES).hex()
    yield [(digits,)]
    yield [(digits.upper(),)]


def escaped(text: str) -> Places:
    """`text` with every character as it is, or escaped in whatever way."""
    return [spellings(run) for run in _runs(text)]


def _runs(text: str) -> Iterator[str]:
    """Single characters; those that are written twice come as runs, or there would be too many ways to read them."""
    for letter, run in groupby(text):
        if letter in DOUBLED:
            yield "".join(run)
        else:
            yield from run


@lru_cache(maxsize=1024)
def spellings(run: str) -> tuple[str, ...]:
    """The ways to write a run of one and the same character."""
    letter = run[0]
    if letter.isascii() and letter.isalnum():
        return (run,)
    found = {way * len(run) for way in _spellings(letter)}
    if letter in DOUBLED:
        found.add(run * 2)
    if letter == "\\":
        found |= {run * 4, run * 8}
    return tuple(sorted(found, key=lambda way: (-len(way), way)))


def _spellings(letter: str) -> set[str]:
    found = {letter, *_percent(letter), *_entities(letter), *_backslash(letter)}
    match letter:
        case " ":
            found.add("+")
        case "\n":
            found.add("\r\n")
        case "'":
            found |= {"'\\''", "'\"'\"'"}  # as shells have it
    return found


def _percent(letter: str) -> set[str]:
    raw = letter.encode(errors=HALVES)
    once = {"".join(way) for way in product(*({f"%{byte:02X}", f"%{byte:02x}"} for byte in raw))}
    return once | {way.replace("%", "%25") for way in once}


def _entities(letter: str) -> set[str]:
    number = ord(letter)
    once = {f"&#{number};", f"&#x{number:x};", f"&#x{number:X};"}
    if named := {"'": "apos"}.get(letter) or html.entities.codepoint2name.get(number):
        once.add(f"&{named};")
    return once | {way.replace("&", "&amp;") for way in once}


def _backslash(letter: str) -> set[str]:
    number, raw = ord(letter), letter.encode(errors=HALVES)
    pairs = letter.encode("utf-16-be", errors=HALVES)
    units = [int.from_bytes(pairs[at : at + 2]) for at in range(0, len(pairs), 2)]
    once = {"".join(f"\\u{unit:04x}" for unit in units), "".join(f"\\u{unit:04X}" for unit in units)}
    once |= {"".join(f"\\x{byte:02x}" for byte in raw), f"\\U{number:08x}"}
    if number < 256:
        once |= {f"\\x{number:02x}", f"\\x{number:02X}"}
    if letter in SHORT:
        once.add(f"\\{SHORT[letter]}")
    twice = {way.replace("\\", "\\\\") for way in once}
    if letter != "\\":
        once |= {"\\" * many + letter for many in BACKSLASHES}
    return once | twice


def base64_forms(raw: bytes) -> set[str]:
    """What survives of `raw` inside the base64 of a longer text, whatever stands before and after it."""
    found = set()
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        first = (0, 2, 3)[shift]  # characters that also carry bits of what stands before
        last = len(text) if (shift + len(raw)) % 3 == 0 else -1  # and of what follows
        found.add(text[first:last])
    return found


def _base64_letter(letter: str) -> tuple[str, ...]:
    """Addresses have another alphabet for base64, or quote the usual one."""
    return {"+": (*spellings("+"), "-"), "/": (*spellings("/"), "_")}.get(letter, (letter,))


def sound(text: str) -> str:
    """`text` as UTF-8 can write it: half of a surrogate pair becomes the replacement character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", errors=HALVES).decode("utf-16", errors="replace")
    return text
