"""What the company knows: its clock, its agenda, its faults, and the stores of its services.

One `World` lives in the sandbox's process. Services read and write it; nothing outside the sandbox imports it.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import random
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opskit.sandbox import migrations
from opskit.sandbox.locks import Locks

if TYPE_CHECKING:
    from opskit.sandbox.postgres import Postgres
    from opskit.sandbox.providers import Provider
    from opskit.sandbox.sentry import SentryStore
    from opskit.sandbox.stripe import StripeStore
    from opskit.sandbox.supabase import SupabaseStore
    from opskit.sandbox.vercel import VercelStore

MOST_REQUESTS = 20_000  # that are remembered


class Clock:
    """Wall time, except while the past is being played: then the moment being played."""

    def __init__(self) -> None:
        self._played: datetime | None = None

    def now(self) -> datetime:
        return self._played or datetime.now(UTC)

    @property
    def playing(self) -> bool:
        """Whether the past is being played; services then skip the network and waiting."""
        return self._played is not None

    def play(self, moment: datetime | None) -> None:
        self._played = moment


@dataclass(frozen=True)
class Fault:
    """One way in which one route of one service misbehaves, between two moments."""

    service: str  # app, stripe, vercel, sentry, supabase, status
    route: str = ".*"  # regular expression, matched against the whole path
    method: str | None = None
    status: int | None = None  # answer with this status …
    body: str = ""  # … this body …
    headers: dict[str, str] = field(default_factory=dict)  # … and these headers
    delay: float = 0.0  # seconds before answering (or before passing the request on, without a status)
    reset: bool = False  # cut the connection instead of answering
    truncate: bool = False  # break off in the middle of the true answer
    takes_effect: bool = False  # what was asked is done before the fault answers
    share: float = 1.0  # of matching requests, evenly spread: 0.5 hits every second one
    times: int | None = None  # only so many are struck; then all is well
    begins: datetime | None = None
    ends: datetime | None = None
    name: str | None = None  # so that a person's repair (`by_hand`) can lift it

    def covers(self, service: str, method: str, path: str, now: datetime) -> bool:
        return (
            self.service == service
            and self.method in (None, method)
            and re.fullmatch(self.route, path) is not None
            and (self.begins is None or self.begins <= now)
            and (self.ends is None or now < self.ends)
        )

    @property
    def passes(self) -> bool:
        """Whether what was asked is done all the same."""
        return self.takes_effect or (self.status is None and not self.reset)

    def strikes(self, n: int) -> bool:
        """Whether the n-th matching request is struck."""
        struck = int(n * self.share)
        return struck > int((n - 1) * self.share) and (self.times is None or struck <= self.times)


class Faults:
    """The faults in force. `strike` answers which one, if any, hits this request."""

    def __init__(self) -> None:
        self._faults: list[tuple[Fault, itertools.count[int]]] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault, first: bool = False) -> None:
        """Put it in force, after the others; or `first`, so that it decides."""
        with self._lock:
            self._faults.insert(0 if first else len(self._faults), (fault, itertools.count(1)))

    def lift(self, name: str | None = None) -> None:
        """Lift the fault of that name; without a name, all of them."""
        with self._lock:
            self._faults = [(f, n) for f, n in self._faults if name is not None and f.name != name]

    def strike(self, service: str, method: str, path: str, now: datetime) -> Fault | None:
        with self._lock:
            for fault, hits in self._faults:
                if fault.covers(service, method, path, now) and fault.strikes(next(hits)):
                    return fault
        return None


class Traffic:
    """The latest requests that reached the company's services, in the order of their arrival."""

    def __init__(self) -> None:
        self._seen: deque[dict[str, Any]] = deque(maxlen=MOST_REQUESTS)

    def note(self, **facts: Any) -> dict[str, Any]:
        """Remember one; the answer may be filled in later."""
        entry = {"at": datetime.now(UTC).isoformat(), **facts}
        self._seen.append(entry)
        return entry

    def seen(self) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self._seen.copy()]

    def forget(self) -> None:
        self._seen.clear()


class Agenda:
    """Things that will happen: deliveries, retries. Played at once for the past, by a thread for the present."""

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, int, Callable[[], object]]] = []
        self._sequence = itertools.count()
        self._lock = threading.Lock()

    def at(self, moment: datetime, job: Callable[[], object]) -> None:
        with self._lock:
            heapq.heappush(self._heap, (moment, next(self._sequence), job))

    def due(self, now: datetime) -> tuple[datetime, Callable[[], object]] | None:
        """Take the earliest job that is due, or None."""
        with self._lock:
            if self._heap and self._heap[0][0] <= now:
                moment, _, job = heapq.heappop(self._heap)
                return moment, job
        return None

    def clear(self) -> None:
        with self._lock:
            self._heap.clear()


@dataclass
class World:
    """The whole company. `actors` maps a scenario's names for groups of users to their profile ids."""

    seed: int
    database: Postgres
    stripe: StripeStore = None  # type: ignore[assignment]  # set by the daemon, in order
    vercel: VercelStore = None  # type: ignore[assignment]
    sentry: SentryStore = None  # type: ignore[assignment]
    supabase: SupabaseStore = None  # type: ignore[assignment]
    providers: dict[str, Provider] = field(default_factory=dict)  # of AI
    status_pages: dict[str, Any] = field(default_factory=dict)  # vendor -> incident/indicator overrides
    clock: Clock = field(default_factory=Clock)
    faults: Faults = field(default_factory=Faults)
    traffic: Traffic = field(default_factory=Traffic)
    locks: Locks = field(default_factory=Locks)
    agenda: Agenda = field(default_factory=Agenda)
    migrations: migrations.Files = field(default_factory=migrations.shipped)  # in the team's folder
    addresses: dict[str, str] = field(default_factory=dict)  # service -> base URL
    secrets: dict[str, str] = field(default_factory=dict)  # e.g. stripe_read, stripe_change, vercel, sentry, webhook
    actors: dict[str, list[str]] = field(default_factory=dict)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def play_past(self) -> None:
        """Play every job whose moment has passed, in order, each at its own moment."""
        now = datetime.now(UTC)
        gc.disable()  # thousands of events make no garbage in cycles; looking for some takes a third of the time
        try:
            while (job := self.agenda.due(now)) is not None:
                self.clock.play(job[0])
                job[1]()
        finally:
            self.clock.play(None)
            gc.enable()
