"""Every HTTP call to the outside. The only module that imports httpx; its types stay in here.

A service declares the routes that only read; anything else is a change, refused unless the run holds the
credential for changing. Reads are retried here, briefly; changes never: only the loop that carries out actions
may send one again, because only it knows how to find out whether the first one worked.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, wraps
from inspect import isfunction, signature
from typing import Any, TypeVar

import httpx
import stamina

from opskit.errors import Denied, Faulty, NotFound, Refused, ServiceError, Throttled, Unreachable

stamina.instrumentation.set_on_retry_hooks(())  # a retry is no news; what comes of it is reported

TIMEOUT = httpx.Timeout(15, connect=5)
SLOWEST = 0.5  # calls a second: a service that refuses everything must not put us to sleep
HURRIED = httpx.Timeout(3)  # for a service that has just failed us: not every question waits as long
ATTEMPTS = 3
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL)
PATIENCE = 10.0  # seconds that a Retry-After may ask of a read; longer is a finding


@dataclass(frozen=True)
class Read:
    """A route that changes nothing, and the right that the vendor wants for it."""

    method: str
    path: str  # with {placeholders}
    right: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\\{[a-z]+\\}", "[^/]+", re.escape(self.path)))

    def covers(self, method: str, path: str) -> bool:
        return self.method == method and self.pattern.fullmatch(path) is not None


@dataclass
class Pace:
    """At most so many calls a second, evenly spaced, and so many an hour.

    Halved when the vendor says: too much; then, call by call, as before again.
    """

    per_second: float
    per_hour: int | None = None
    _next: float = 0.0
    _sent: deque[float] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._full = self.per_second

    def wait(self) -> None:
        now = time.monotonic()
        at = max(now, self._next)
        if self.per_hour and len(self._sent) >= self.per_hour:
            at = max(at, self._sent.popleft() + 3600)
        if at > now:
            time.sleep(at - now)
        self._next = at + 1 / self.per_second
        self._sent.append(at)

    def halve(self) -> None:
        self.per_second = max(self.per_second / 2, min(SLOWEST, self._full))

    def recover(self) -> None:
        self.per_second = min(self.per_second * 1.2, self._full)


@dataclass(frozen=True)
class Answer:
    """What a service said: the parsed body, its text, and the headers in lower case."""

    status: int
    text: str
    headers: Mapping[str, str]
    service: str

    @property
    def body(self) -> Any:
        """The body as JSON. Raises Faulty where it is something else."""
        try:
            return json.loads(self.text)
        except ValueError:
            start = self.text[:80].replace("\n", " ")
            raise Faulty(self.service, f"answered {self.status} with something that is not JSON: {start!r}") from None

    @property
    def lines(self) -> Iterator[dict[str, Any]]:
        """The body as one JSON object per line; other lines are left out."""
        for line in self.text.splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


Asked = TypeVar("Asked", bound=type[Any])


def documented(face: Asked) -> Asked:
    """A class whose `http` answers its questions: an answer in another shape than documented raises Faulty."""

    def judged(verb: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(verb)
        def question(self: Any, *given: Any, **named: Any) -> Any:
            signature(verb).bind(self, *given, **named)  # a wrong call is not the service's fault
            try:
                return verb(self, *given, **named)
            except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
                raise Faulty(self.http.service, f"answered in a shape it does not document ({error!r}).") from error

        return question

    for name, verb in list(vars(face).items()):
        if isfunction(verb) and not name.startswith("_"):
            setattr(face, name, judged(verb))
    return face


@dataclass
class Http:
    """One outside service at one address."""

    service: str
    address: str
    reads: tuple[Read, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    change_headers: Mapping[str, str] | None = None  # None: this run may not change anything there
    pace: Pace | None = None
    skew: float | None = None  # seconds by which the service's clock is ahead of ours
    _failing: bool = False  # the last question went unanswered, after all attempts

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=TIMEOUT, follow_redirects=False)

    def read(self, path: str, params: Any = None, *, method: str = "GET", body: Any = None) -> Answer:
        """Look. Raises ServiceError when the service does not let us; tries again where that is likely to help."""
        if not any(route.covers(method, path) for route in self.reads):
            raise Refused(f"{self.service}: {method} {path} is not declared as a read, so it was not sent.")
        attempts = 1 if self._failing else ATTEMPTS
        self._failing, before = True, self._failing
        for attempt in stamina.retry_context(on=_worth_waiting, attempts=attempts, timeout=30, wait_initial=0.3):
            with attempt:
                timeout = HURRIED if before else TIMEOUT
                answer = self._send(method, path, self.headers, timeout=timeout, params=params, json=body)
                self._failing = False
                return answer
        raise AssertionError("unreachable: the last attempt returns or raises")

    def change(self, method: str, path: str, *, form: Any = None, body: Any = None, key: str | None = None) -> Answer:
        """Change something, once. `key` lets the service recognise a repetition (Idempotency-Key)."""
        if self.change_headers is None:
            raise Refused(f"{self.service}: this run holds no credential for changing anything there.")
        headers = {**self.change_headers, **({"Idempotency-Key": key} if key else {})}
        return self._send(method, path, headers, data=form, json=body)

    def _send(self, method: str, path: str, headers: Mapping[str, str], **content: Any) -> Answer:
        if self.pace:
            self.pace.wait()
        content = {key: value for key, value in content.items() if value is not None}
        try:
            response = self._client.request(method, path, headers=dict(headers), **content)
            answer = Answer(response.status_code, response.text, dict(response.headers), self.service)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            slow = isinstance(error, httpx.TimeoutException)
            said = (
                f"did not answer {method} {path} in time."
                if slow
                else f"no answer from {self.address} ({_short(error)})."
            )
            trouble = Unreachable(self.service, said)
            trouble.was_sent = not isinstance(error, NEVER_SENT)
            raise trouble from None
        self._watch_clock(answer)
        self._judge(answer, f"{method} {path}")
        return answer

    def _watch_clock(self, answer: Answer) -> None:
        try:
            theirs = parsedate_to_datetime(answer.headers["date"])
            self.skew = (theirs - datetime.now(UTC)).total_seconds()
        except (KeyError, ValueError, TypeError):  # absent, nonsense, or without a zone
            return

    def _judge(self, answer: Answer, call: str) -> None:
        if answer.status < 300:
            if self.pace:
                self.pace.recover()
            return
        said = f"{call} answered {answer.status}: {_message(answer)}"
        kind: type[ServiceError]
        if answer.status in (401, 403):
            kind = Denied
        elif answer.status == 404:
            kind = NotFound
        elif answer.status == 429:
            kind = Throttled
            if self.pace:
                self.pace.halve()
        else:
            kind = Faulty
        error = kind(self.service, said, status=answer.status)
        if isinstance(error, Throttled):
            error.retry_after = _retry_after(answer)
        raise error


def _worth_waiting(error: Exception) -> bool | float:
    """Whether a read should be tried again, or in how many seconds."""
    if isinstance(error, Throttled):
        wait = error.retry_after
        return True if wait is None else (wait if wait <= PATIENCE else False)
    if isinstance(error, Faulty):
        return error.status is not None and error.status >= 500
    return isinstance(error, Unreachable)


def _retry_after(answer: Answer) -> float | None:
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _message(answer: Answer) -> str:
    """What the vendor says went wrong, whichever of their shapes it comes in."""
    try:
        found = json.loads(answer.text)
    except ValueError:
        return answer.text[:120].strip() or "(empty answer)"
    if isinstance(found, dict):
        error = found.get("error", found)
        if isinstance(error, dict):
            return str(error.get("message") or error.get("detail") or error.get("code") or error)[:300]
        return str(error)[:300]
    return str(found)[:300]


def _short(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__
