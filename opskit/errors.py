"""Everything that opskit raises on purpose.

OpskitError                 exit 1
├── BadInput                exit 2   the person can mend it: names the thing and the remedy
├── Refused                 exit 4   not approved, expired, stale, locked, wrong target
└── CannotTell                       a question that could not be answered; never "all is well"
    └── ServiceError                 an outside system did not let us look
        ├── Unreachable              no answer: refused, timed out, name unknown
        ├── Denied                   401, 403, a missing right, rows hidden from us
        ├── NotFound                 404: it does not exist, or not for us
        ├── Throttled                429 beyond our patience
        └── Faulty                   500s, or an answer that is not what the vendor documents
"""

from __future__ import annotations


class OpskitError(Exception):
    """Something went wrong inside opskit."""

    def __init__(self, message: str = "", remedy: str = "") -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.remedy = remedy
        super().__init__(f"{self.message} {remedy}".strip())

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback: the same as a terminal does."""
        return [line for line in (self.message, self.remedy) if line]


class BadInput(OpskitError):
    """What was given cannot be used."""


class Refused(OpskitError):
    """This is not allowed now."""


class CannotTell(OpskitError):
    """This question could not be answered."""


class ServiceError(CannotTell):
    """An outside system did not let us look."""

    sqlstate: str | None = None  # what a database says it was
    position = 0  # the character of a statement at which it stopped, from 1, where it says so

    def __init__(self, service: str, message: str = "", remedy: str = "", status: int | None = None) -> None:
        self.service = service
        self.status = status
        super().__init__(f"{service}: {message or (type(self).__doc__ or '').strip()}", remedy)


class Unreachable(ServiceError):
    """It did not answer."""

    was_sent = True  # what was asked may have arrived, and may still be done; False: it certainly did not


class Denied(ServiceError):
    """It does not let these credentials look."""


class NotFound(ServiceError):
    """It does not exist, or not for these credentials."""


class Throttled(ServiceError):
    """It asks us to slow down, for longer than we can wait."""

    retry_after: float | None = None  # seconds, where it says so


class Faulty(ServiceError):
    """It answered with a failure of its own."""
