"""Whether the next action may begin: nobody has asked us to stop, and the lock on the environment is still ours."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from opskit.actions import Action, Change
from opskit.database import Database
from opskit.errors import CannotTell, Refused

# A terminal that is closed ends what runs in it, unless that was started under `nohup`.
HANGING_UP = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else ()
STOPPING = (signal.SIGINT, signal.SIGTERM, *HANGING_UP)


class Interrupted(KeyboardInterrupt):
    """Somebody asked to stop, and the action in flight was let finish."""


class Permit:
    """Asked before each action. `lock` is what `lock.alone` gave; None where there is nothing to hold."""

    def __init__(self, lock: Mapping[str, Any] | None, database: Database, patient: bool = False) -> None:
        self._patient = patient  # it is a runner that asks, perhaps repeatedly; a person who asks twice means it
        self._lock = lock or {}
        self._database = database
        self._asked_to_stop = False

    def __call__(self, action: Action, reached: Any = None) -> str:
        """Why this action has to wait; empty: it may begin, or go on from what it has `reached`.

        Raises Interrupted or Refused where nothing more may begin.
        """
        if self._asked_to_stop:
            raise Interrupted("stopped between two actions")
        if "without" in self._lock and Change.known[action.name].in_database:
            return "it needs the database, which could not be locked; resume when it is back"
        if (backend := self._lock.get("backend")) is not None:
            self._require(backend)
        return ""

    def _require(self, backend: int) -> None:
        try:
            ours = self._database.holds_lock(backend)
        except CannotTell as error:
            raise Refused(
                f"whether the lock is still ours cannot be seen, so no more was done. {error.message}"
            ) from None
        if not ours:
            raise Refused("the lock on the environment was lost, so no more was done.", "Next: opskit resume last")

    def stop(self, sign: int, frame: FrameType | None) -> None:
        """A signal's handler: the first lets the action in flight finish, a person's second does not."""
        if self._asked_to_stop and not self._patient:
            raise KeyboardInterrupt
        self._asked_to_stop = True


@contextmanager
def undisturbed() -> Iterator[None]:
    """While a record is closed, nobody's signal ends it: that would only leave a run that seems lost."""
    with handled_by(signal.SIG_IGN):
        yield


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM, and a terminal that closes, like Ctrl-C: what is under way ends in order."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with handled_by(interrupt):
        yield


@contextmanager
def handled_by(handler: Any) -> Iterator[None]:
    """The signals that ask a process to stop go to `handler` meanwhile."""
    if threading.current_thread() is not threading.main_thread():  # signals are not ours to hear
        yield
        return
    before = {sign: signal.signal(sign, handler) for sign in STOPPING}
    try:
        yield
    finally:
        for sign, former in before.items():
            signal.signal(sign, former)


@contextmanager
def permit(lock: Mapping[str, Any] | None, database: Database, patient: bool = False) -> Iterator[Permit]:
    """A permit that hears the signals of this process, while it lasts."""
    found = Permit(lock, database, patient)
    with handled_by(found.stop):
        yield found
