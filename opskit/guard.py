"""What a kernel may say: nothing with a secret in it, and not without end.

All of a kernel's output passes `Session.send`; hooks on its streams are per thread and would miss some.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from opskit.redaction import Redactor, Stream, each
from opskit.spelling import sound

# What one execution may send. A screen holds a few thousand characters and a large chart a few hundred thousand;
# beyond a million nobody reads on, while `while True: print(…)` would fill memory and disk.
MOST = 1_000_000
EACH = 200  # what a message costs beside its text, in the notebook's JSON
LONGEST_ERROR = 100_000  # characters of one part of an error, which is never left out
PAUSE = 2.0  # seconds before the notice: what comes faster than it is heard is lost on the way, and this must not be
CUT = f"… output cut here: one step may show {MOST:,} characters. It goes on; what it says from here on is not kept."

Origin = dict[str, Any]  # where a message goes, and in whose name

SHOWN = {"stream", "display_data", "update_display_data", "execute_result", "comm_open", "comm_msg"}
ERRORS = {"error", "execute_reply"}
BOUNDARIES = {"display_data", "update_display_data", "execute_result", "error", "status", "clear_output"}


def guard(session: Any, redactor: Redactor) -> None:
    """Redact and limit every message that a kernel's `session` sends, whoever sends it."""
    session.send = Guard(session.send, redactor).send


class Guard:
    """Stands between a kernel and everybody who listens to it."""

    def __init__(self, send: Any, redactor: Redactor) -> None:
        self._send = send
        self._redactor = redactor
        self._streams: dict[str, Stream] = {}
        self._origin: dict[str, Origin] = {}  # of what a stream holds back: where to, and in whose name
        self._left = MOST
        self._last = ""  # the stream that spoke last; its pieces will be one output
        self._renew_lock()
        os.register_at_fork(after_in_child=self._renew_lock)  # somebody else may hold it just then

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()

    def send(
        self,
        stream: Any,
        msg_or_type: Any,
        content: Any = None,
        parent: Any = None,
        ident: Any = None,
        buffers: Any = None,
        track: bool = False,
        header: Any = None,
        metadata: Any = None,
    ) -> Any:
        """In place of `Session.send`, with its parameters. Answers None where nothing is sent now."""
        whole = msg_or_type if isinstance(msg_or_type, dict) else {}
        kind = whole["header"]["msg_type"] if whole else msg_or_type
        origin = {"stream": stream, "parent": whole["parent_header"] if whole else parent, "ident": ident}
        with self._lock:
            body = self._fitting(kind, whole["content"] if whole else content, buffers, origin)
            if body is None:
                return None
            body = self._next_piece(body, origin) if kind == "stream" else self._clean(kind, body)
            if body is None:
                return None
            return self._send(
                stream,
                {**whole, "content": body} if whole else kind,
                None if whole else body,
                parent,
                ident,
                [self._bytes(one) for one in buffers] if buffers else buffers,
                track,
                header,
                self._redactor.tree(metadata),
            )

    # Not without end.

    def _fitting(self, kind: str, body: Any, buffers: Any, origin: Origin) -> Any:
        """As much of a message as may still be said; None where that is nothing."""
        if kind == "execute_input":  # the next step begins
            self._left, self._last = MOST, ""
        if kind in ERRORS:
            return shortened(body)
        if kind not in SHOWN:
            return body
        if self._left <= 0:
            return None
        name = body["name"] if kind == "stream" else ""
        cost = size(body) + sum(map(len, buffers or ())) + (0 if name and name == self._last else EACH)
        self._left, self._last = self._left - cost, name
        if self._left > 0:
            return body
        self._cut(name, body["text"][: self._left] if name else "", origin)
        return None

    def _cut(self, name: str, start: str, origin: Origin) -> None:
        self._left = 0
        said = self._next_piece({"name": name, "text": start}, origin) if start else None
        for stream in self._streams.values():
            stream.held = ""  # what is cut here may be half a secret
        time.sleep(PAUSE)
        self._say(name or "stdout", f"{said['text'] if said else ''}\n{CUT}\n", origin)

    # Nothing with a secret in it.

    def _next_piece(self, body: Any, origin: Origin) -> Any:
        """What may be said now of a stream's next piece; the rest is held back."""
        name = body["name"]
        (piece,) = self._after_held([sound(body["text"])], besides=name)
        text = self._streams.setdefault(name, Stream(self._redactor)).feed(piece)
        self._origin[name] = origin
        return {**body, "text": text} if text else None

    def _clean(self, kind: str, body: Any) -> Any:
        body = each(body, lambda text: self._redactor.text(sound(text)))
        if kind in BOUNDARIES:
            if isinstance(data := body.get("data"), dict):
                texts = {key: text for key, text in data.items() if isinstance(text, str)}
                body = {**body, "data": data | dict(zip(texts, self._after_held([*texts.values()]), strict=True))}
            for name, stream in self._streams.items():
                self._say(name, stream.flush(), self._origin.get(name))
        return body

    def _after_held(self, texts: list[str], besides: str = "") -> list[str]:
        """Texts that follow what a stream holds back, without the end of a secret that begins there."""
        for name, stream in self._streams.items():
            if name != besides and stream.held:
                pairs = [self._redactor.across([stream.held, text]) for text in texts]
                if changed := [start for start, _ in pairs if start != stream.held]:
                    stream.held = ""
                    self._say(name, changed[0], self._origin[name])
                    texts = [rest for _, rest in pairs]
        return texts

    def _say(self, name: str, text: str, origin: Origin | None) -> None:
        if text and origin:
            content = {"name": name, "text": text}
            self._send(origin["stream"], "stream", content, origin["parent"], origin["ident"])

    def _bytes(self, raw: Any) -> Any:
        text = bytes(raw).decode(errors="surrogateescape")
        clean = self._redactor.text(text)
        return raw if clean == text else clean.encode(errors="surrogateescape")


def size(value: Any) -> int:
    """About how many characters a message's content has."""
    if isinstance(value, Mapping):
        return sum(size(key) + size(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return sum(map(size, value))
    return len(value) if isinstance(value, str | bytes) else 8


def shortened(value: Any) -> Any:
    """An error without the bulk of what somebody put into it."""
    if isinstance(value, Mapping):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(item) for item in value]
    if isinstance(value, str) and len(value) > LONGEST_ERROR:
        return f"{value[:LONGEST_ERROR]} … ({len(value) - LONGEST_ERROR:,} characters left out)"
    return value
