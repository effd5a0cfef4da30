"""Copies of a scratch database, each as it was behind some file: a rehearsal goes on from the latest that still fits.

What a copy is of is a link in a chain: the digest of its base, and then of one file after the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opskit import actions
from opskit.database import Session
from opskit.services.statements import File

MOST = 6  # copies that are kept
APART = 5.0  # seconds of rehearsal between two of them, at least
PREFIX = "behind_"
COPIES = "select datname as name from pg_database where starts_with(datname, 'behind_')"
# What a cluster has in common for all its databases: where a file changes that, no copy is what it seems.
SHARED = """
    select to_jsonb(r) - 'oid' as row from pg_roles r
    union all select to_jsonb(m) - 'oid' from pg_auth_members m
    union all select to_jsonb(s) from pg_db_role_setting s
    order by 1
"""


def chain(base: Sequence[str], files: Sequence[File]) -> list[str]:
    """The link of the base, and one for each file behind it."""
    links = [actions.digest(list(base))]
    for file in files:
        links.append(actions.digest([links[-1], file.path.name, file.trouble, *file.texts]))
    return [PREFIX + link[7:39] for link in links]


class Checkpoints:
    """The copies in one server. `first` is a session there, in a database that is never copied."""

    def __init__(self, first: Session, folder: Path) -> None:
        self._first, self._folder = first, folder
        self._shared: list[Any] | None = None
        self._begun = self._last = time.monotonic()

    def latest(self, links: Sequence[str]) -> tuple[int, Any]:
        """How far along the chain there is a copy, and what was noted with it; -1: nowhere."""
        there = {row["name"] for row in self._first.execute(COPIES)}
        if there:
            self._shared = self._now()
        for number in reversed(range(len(links))):
            note = self._note(links[number])
            if links[number] in there and note.exists():
                note.touch()
                return number, json.loads(note.read_text(encoding="utf-8"))
        return -1, None

    def begin(self, name: str, owner: str, copy_of: str = "template1") -> None:
        """A new database; `copy_of`: a link that there is."""
        self._first.execute(f'drop database if exists "{name}"')
        self._first.execute(f'create database "{name}" owner "{owner}" template "{copy_of}"')

    def due(self) -> bool:
        """Whether so much was done since the last copy that another is worth its time."""
        now = time.monotonic()
        return now - self._last > max(APART, (self._last - self._begun) / 2)

    def keep(self, name: str, link: str, noted: Any) -> None:
        """Copy a database, in which nobody is, and forget the copies that were of no use for longest."""
        self._shared = self._shared or self._now()  # the first is of the base, which no file has touched
        there = {row["name"] for row in self._first.execute(COPIES)}
        if link not in there:
            self._first.execute(f'create database "{link}" template "{name}"')
        self._note(link).write_text(json.dumps(noted), encoding="utf-8")
        for old in sorted(there, key=self._used)[: max(len(there) + 1 - MOST, 0)]:
            self._first.execute(f'drop database if exists "{old}"')
            self._note(old).unlink(missing_ok=True)
        self._last = time.monotonic()

    @property
    def sound(self) -> bool:
        """Whether no file has changed what is common to all databases."""
        return self._shared == self._now()

    def _now(self) -> list[Any]:
        return [row["row"] for row in self._first.execute(SHARED)]

    def _note(self, link: str) -> Path:
        return self._folder / f"{link}.json"

    def _used(self, link: str) -> float:
        note = self._note(link)
        return note.stat().st_mtime if note.exists() else 0.0
