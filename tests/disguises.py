"""How a secret may lie about in a file, written without opskit's own spelling of it."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

BITS = 6  # of a secret that one character of base64 carries


def _lower(match: re.Match[str]) -> str:
    return match[0].lower()


def _units(letter: str) -> str:
    raw = letter.encode("utf-16-be")
    return "".join(f"\\u{raw[at]:02X}{raw[at + 1]:02X}" for at in range(0, len(raw), 2))


def disguises(secret: str) -> dict[str, str]:
    """Name -> the secret in that form."""
    as_json = json.dumps(secret)[1:-1]
    return {
        "raw": secret,
        "URL, slashes left": quote(secret),
        "URL": quote(secret, safe=""),
        "URL in lower case": re.sub("%..", _lower, quote(secret, safe="")),
        "URL twice": quote(quote(secret, safe=""), safe=""),
        "form": quote_plus(secret),
        "HTML": html.escape(secret),
        "HTML without quotes": html.escape(secret, quote=False),
        "HTML as templates have it": html.escape(secret).replace("&#x27;", "&#39;"),
        "HTML as XML has it": html.escape(secret, quote=False).replace('"', "&quot;").replace("'", "&apos;"),
        "HTML by numbers": "".join(c if c.isalnum() and c.isascii() else f"&#{ord(c)};" for c in secret),
        "HTML twice": html.escape(html.escape(secret)),
        "JSON": as_json,
        "JSON as it is": json.dumps(secret, ensure_ascii=False)[1:-1],
        "JSON with escaped slashes": as_json.replace("/", "\\/"),
        "JSON by numbers": "".join(c if c.isalnum() and c.isascii() else _units(c) for c in secret),
        "JSON in JSON": json.dumps(json.dumps(secret))[3:-3],
        "Python": repr(secret)[1:-1],
        "Python's ASCII": ascii(secret)[1:-1],
        "bytes": repr(secret.encode())[2:-1],
        "shell": shlex.quote(secret).strip("'"),
        "shell, with backslashes": re.sub(r"([^\w-])", r"\\\1", secret, flags=re.ASCII),
        "SQL": secret.replace("'", "''"),
        "CSV": secret.replace('"', '""'),
        "template": secret.replace("%", "%%").replace("{", "{{").replace("}", "}}").replace("$", "$$"),
        "hexadecimal": secret.encode().hex(),
        "hexadecimal in capitals": secret.encode().hex().upper(),
    }


def in_base64(secret: str) -> list[str]:
    """What stands of it in the base64 of any text around it, at the three alignments."""
    raw, found = secret.encode(), []
    for before in range(3):
        text = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        first = -(-before * 8 // BITS)
        found.append(text[first : (before + len(raw)) * 8 // BITS])
    return found


def traces(secret: str) -> set[bytes]:
    """Everything that gives the secret away where it stands in a file."""
    found = {*disguises(secret).values(), *in_base64(secret)}
    return {one.encode() for one in found | {one.replace("+", "-").replace("/", "_") for one in in_base64(secret)}}


def files(*places: Path) -> Iterator[Path]:
    for place in places:
        yield from (path for path in place.rglob("*") if path.is_file())


def leaks(secrets: dict[str, str], *places: Path) -> list[str]:
    """Files in which a secret stands in any form, and files that are called by one."""
    found = []
    marks = {name: traces(secret) for name, secret in secrets.items()}
    for path in files(*places):
        raw = path.read_bytes() + b"\n" + str(path).encode(errors="surrogateescape")
        found += [f"{name} in {path}" for name, some in marks.items() if any(mark in raw for mark in some)]
    return found


def readings(outputs: list[Any]) -> set[str]:
    """What somebody may read of a cell's outputs, following one form of its displays, or one stream."""
    forms = {form for output in outputs for form in output.get("data", {})} | {"text/plain"}
    found = set()
    for form in forms:
        shown = [
            o.get("data", {}).get(form) or o.get("data", {}).get("text/plain") or o.get("text", "") for o in outputs
        ]
        found.add("".join(map(str, shown)))
    for name in ("stdout", "stderr"):
        found.add("".join(output["text"] for output in outputs if output.get("name") == name))
    return found
