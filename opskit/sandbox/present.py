"""The present: runs the agenda's jobs when they are due, a few at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime

from opskit.sandbox.world import World

log = logging.getLogger(__name__)


class Present:
    """A thread that watches the agenda. `held` stops it between jobs, for whoever changes the whole company."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._gate = threading.RLock()
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(4, "present")
        self._running: set[Future[None]] = set()
        self._thread = threading.Thread(target=self._watch, name="present", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(5)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._gate:
            wait(self._running)
            yield

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            with self._gate:
                while (job := self.world.agenda.due(datetime.now(UTC))) is not None:
                    self._running.add(self._pool.submit(_safely, job[1]))
                self._running = {future for future in self._running if not future.done()}


def _safely(job: Callable[[], object]) -> None:
    try:
        job()
    except Exception:
        log.exception("a job of the agenda failed")  # the company lives on
