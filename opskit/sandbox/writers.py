"""Writers at their desks: the app's code in a browser, as far as it decides what becomes of a text.

A tab keeps the text; what it believes to be stored it knows by the hash that it computed itself. Before each attempt
it notes time and length in the undo history, straight in the database; a manual save goes there straight as well. A
refused save is reported, and nothing of its text is stored anywhere: the tab holds the only copy.
"""

from __future__ import annotations

import hashlib
import json
import random
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from opskit.sandbox import app, app_autosave, app_database, app_session, writing

if TYPE_CHECKING:
    from opskit.sandbox.world import World

JSON = dict[str, Any]

UNDO_KEPT = 100  # entries, the newest
OPAQUE = "[object Object]"  # what becomes of an error that is an object where a text is wanted
LASTS, OVER = timedelta(hours=1), timedelta(0)  # a session
UNREACHED = (502, 503, 504)  # no answer of the app: the browser takes it for the network

OPEN = """
    select d.content, h.undo_stack from documents d
    left join document_undo_history h on h.document_id = d.id and h.user_id = %(user)s where d.id = %(document)s
"""
NOTE = """
    insert into document_undo_history (document_id, user_id, undo_stack, updated_at) values (%s, %s, %s, %s)
    on conflict (document_id, user_id) do update set undo_stack = excluded.undo_stack, updated_at = excluded.updated_at
"""


@dataclass(frozen=True)
class Desk:
    """One writer and the document they work on; with more than one device."""

    world: World
    user: str
    document: str
    rng: random.Random

    def open(self, device: int = 0) -> Tab:
        """The document in a new tab, as it is stored."""
        agents = writing.AGENTS
        first = int(hashlib.sha256(self.user.encode()).hexdigest(), 16)
        tab = Tab(self, agents[(first + device) % len(agents)])
        tab.reload()
        return tab

    @property
    def address(self) -> str:
        digest = hashlib.sha256(self.user.encode()).digest()
        return f"198.18.{digest[0]}.{digest[1]}"


@dataclass
class Tab:
    """One open tab. `base` is the hash of what it believes to be stored."""

    desk: Desk
    agent: str
    content: JSON = field(default_factory=dict)
    base: str | None = None
    undo: list[JSON] = field(default_factory=list)
    retries: int = 0
    signed_in: bool = True

    def reload(self) -> None:
        """Take what is stored, and lose what was not. What cannot be read leaves an empty page."""
        self.content, self.undo = {"html": "", "structure": [], "metadata": {}}, []
        with suppress(psycopg.Error), app_database.as_user(self.desk.world, self.desk.user) as connection:
            found = connection.execute(OPEN, {"user": self.desk.user, "document": self.desk.document}).fetchone()
            if found:
                self.content, self.undo = found[0], found[1] or []
        self.base = self.hash

    @property
    def paragraphs(self) -> list[str]:
        return [part for part in self.content["html"].split("</p>") if part]

    def type(self, text: str | None = None) -> None:
        """Write one more paragraph."""
        self._write([*self.paragraphs, f"<p>{text or writing.paragraph(self.desk.rng)}"])

    def cut(self, share: float) -> None:
        """Take away the end of the text, and leave that share of its words."""
        left, kept = max(round(self.words * share), 1), []
        for words in (paragraph.removeprefix("<p>").split() for paragraph in self.paragraphs):
            kept.append(f"<p>{' '.join(words[:left])}")
            left -= len(words)
            if left <= 0:
                break
        self._write(kept)

    def add_chapter(self) -> None:
        """In the sidebar. The browser orders a chapter's keys in its own way."""
        structure = self.content["structure"]
        chapter = {"title": writing.title(self.desk.rng), "id": writing.identifier(self.desk.rng)}
        self.content = {**self.content, "structure": [*structure, {**chapter, "order": len(structure)}]}

    def autosave(self, *, reached: bool = True) -> int | None:
        """One attempt. Answers the status; None where no answer came, as when nobody was `reached`."""
        self._note()
        asked = {"content": self.content, "baseHash": self.base, "wordCount": self.words}
        path = f"/api/documents/{self.desk.document}/autosave"
        status = self._post(path, asked) if reached else None
        if status == 200:
            self.base, self.retries = self.hash, 0
        elif status is None or status in UNREACHED:
            self._report("network", "Failed to fetch")
        else:
            self._report("conflict" if status == 409 else "error", OPAQUE)
        return status

    def save(self) -> None:
        """The Save button: straight into the database, whatever is there, and without a snapshot."""
        row = [Jsonb(self.content), self.words, self.desk.document]
        with suppress(psycopg.Error), app_database.as_user(self.desk.world, self.desk.user) as connection:
            connection.execute(app_autosave.UPDATE, row)
            self.base = self.hash

    @property
    def words(self) -> int:
        return app_autosave.words(self.content["html"])

    @property
    def hash(self) -> str:
        """As the browser computes it: its code comes with the build that is live."""
        return app_autosave.hashed(self.content, self.desk.world.vercel.live().behaviour["stable_hash"])

    def _write(self, paragraphs: list[str]) -> None:
        self.content = {**self.content, "html": "".join(f"{one}</p>" for one in paragraphs)}

    def _note(self) -> None:
        """The only ledger of attempts: when, and how much was written; no text."""
        if not self.signed_in:  # the database refuses, as the app will
            return
        now, before = self.desk.world.clock.now(), self.undo[-1].get("words", 0) if self.undo else 0
        entry = {"timestamp": now.isoformat(), "delta": self.words - before, "words": self.words}
        self.undo = [*self.undo, entry][-UNDO_KEPT:]
        row = [self.desk.document, self.desk.user, Jsonb(self.undo), now]
        with suppress(psycopg.Error), app_database.as_user(self.desk.world, self.desk.user) as connection:
            connection.execute(NOTE, row)

    def _report(self, kind: str, message: str) -> None:
        told = {"documentId": self.desk.document, "failureType": kind, "errorMessage": message}
        self._post(app.TELEMETRY, {**told, "clientHash": self.hash, "retryCount": self.retries})
        self.retries += 1

    def _post(self, path: str, body: JSON) -> int | None:
        world = self.desk.world
        headers = {
            "Content-Type": "application/json",
            "User-Agent": self.agent,
            "Authorization": f"Bearer {app_session.token(world, self.desk.user, LASTS if self.signed_in else OVER)}",
        }
        return app.posted(world, path, headers, json.dumps(body).encode(), self.desk.address)
