"""Keep known secrets out of everything that is shown, sent or written.

We know the exact values, so nothing is guessed: each secret is looked for as it is and in the forms in which
text travels (URL-quoted, HTML- and JSON-escaped, base64 at its three alignments). A secret in hexadecimal,
reversed, spaced out or in other letters is not recognised, and we do not claim it.
"""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

SHORTEST = 8  # a shorter secret would blank out innocent words; validation refuses it


def forms(secret: str) -> set[str]:
    """The ways in which `secret` may be spelled in text."""
    found = {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        html.escape(secret),
        html.escape(secret, quote=False),
        html.escape(secret).replace("&#x27;", "&#39;"),  # as templates spell it
        html.escape(secret, quote=False).replace('"', "&quot;"),  # as XML writers do
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    }
    for text in tuple(found):
        found |= base64_forms(text.encode())
    return {form for form in found if len(form) >= SHORTEST}


def base64_forms(raw: bytes) -> set[str]:
    """What survives of `raw` inside the base64 of a longer text, whatever stands before and after it."""
    found = set()
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * shift + raw).decode().rstrip("=")
            first = (0, 2, 3)[shift]  # characters that also carry bits of what stands before
            last = len(text) if (shift + len(raw)) % 3 == 0 else -1  # and of what follows
            found.add(text[first:last])
    return found


class Redactor:
    """Replaces every form of every secret by `[secret NAME]`."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._labels = {form: f"[secret {name}]" for name, value in secrets.items() for form in forms(value)}
        longest_first = sorted(self._labels, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._longest = len(longest_first[0]) if longest_first else 0

    def text(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: self._labels[match[0]], text)

    def tree(self, value: Any) -> Any:
        """The same for whatever JSON can hold, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.tree(key): self.tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.tree(item) for item in value)
        return value

    def held_back(self, text: str) -> int:
        """How many characters at the end of `text` could be the beginning of a secret."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-size:]
            if any(form.startswith(end) for form in self._labels):
                return size
        return 0


def redactor(secrets: Mapping[str, Mapping[str, str]]) -> Redactor:
    """Of an environment's secrets: "read" and perhaps "change" -> service -> secret."""
    return Redactor({f"{s} {access}": value for access, found in secrets.items() for s, value in found.items()})


class Stream:
    """Redacts a text that arrives in pieces, so that a secret split across two writes is still seen."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._tail = ""

    def feed(self, piece: str) -> str:
        text = self._redactor.text(self._tail + piece)
        keep = self._redactor.held_back(text)
        self._tail = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        tail, self._tail = self._tail, ""
        return tail


# What a kernel sends to be shown; anything else either carries no text of ours or must not be delayed.
STREAM = "stream"
BOUNDARIES = {"display_data", "update_display_data", "execute_result", "error", "status", "clear_output"}


def guard(session: Any, redactor: Redactor) -> None:
    """Redact every message that a kernel's `session` sends, whoever sends it.

    All of a kernel's output passes `Session.send`; hooks on its streams are per thread and would miss some.
    """
    plain = session.send
    streams: dict[str, Stream] = {}
    origin: dict[str, tuple[Any, Any, Any]] = {}
    lock = threading.RLock()

    def release() -> None:
        for name, stream in streams.items():
            if tail := stream.flush():
                socket, parent, ident = origin[name]
                plain(socket, STREAM, {"name": name, "text": tail}, parent=parent, ident=ident)

    def send(
        socket: Any,
        message: Any,
        content: Any = None,
        parent: Any = None,
        ident: Any = None,
        *rest: Any,
        **named: Any,
    ) -> Any:
        kind = message["header"]["msg_type"] if isinstance(message, dict) else message
        body = message["content"] if isinstance(message, dict) else content
        with lock:
            if kind == STREAM:
                name = body["name"]
                origin[name] = (
                    socket,
                    message["parent_header"] if isinstance(message, dict) else parent,
                    ident,
                )
                text = streams.setdefault(name, Stream(redactor)).feed(body["text"])
                if not text:
                    return None  # wholly held back
                body = {**body, "text": text}
            else:
                if kind in BOUNDARIES:
                    release()
                body = redactor.tree(body)
            if isinstance(message, dict):
                message = {**message, "content": body}
            else:
                content = body
            return plain(socket, message, content, parent, ident, *rest, **named)

    session.send = send
