"""What a request to Stripe's API says: its parameters, checked as Stripe checks them, and the errors it gives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from opskit.sandbox.stripe_shelf import FOREVER, JSON, Cursor, Shelf

Params = dict[str, Any]  # text, or {name: …} for name[key]=, or a list for name[]= and name[0]=

PAGING = ("limit", "starting_after", "ending_before")
NAMES = {
    "checkout_sessions": "checkout.session",
    "webhook_endpoints": "webhook endpoint",
}


class StripeError(Exception):
    """An answer that is an error."""

    kind = "invalid_request_error"

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers: dict[str, str] = {}
        error = {"code": code, "message": message, "param": param, "type": self.kind}
        if code:
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        self.body: JSON = {"error": {name: value for name, value in error.items() if value is not None}}


class IdempotencyError(StripeError):
    kind = "idempotency_error"


class RateLimitError(StripeError):
    """Too many requests, of this endpoint or in all (`reason`: endpoint, global)."""

    def __init__(self, reason: str) -> None:
        message = "Request rate limit exceeded. You can learn more about rate limits in the documentation."
        super().__init__(429, message, "rate_limit")
        self.headers = {"Stripe-Rate-Limited-Reason": f"{reason}-rate"}


def parsed(encoded: str) -> Params:
    """Form parameters, nested. Clients write lists as `a[]=` or as `a[0]=`; both come out as lists."""
    found: Params = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        head, *keys = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", name) or [name]
        place, key = found, head
        for deeper in keys:
            inner = place.setdefault(key, {})
            place, key = (inner if isinstance(inner, dict) else {}), deeper or str(len(inner))
        place[key] = value
    return {name: _listed(value) for name, value in found.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _listed(content) for key, content in value.items()}
    return list(inner.values()) if all(key.isdigit() for key in inner) else inner


def refuse_unknown(params: Params, known: Iterable[str]) -> None:
    for name in params:
        if name not in known:
            raise StripeError(400, f"Received unknown parameter: {name}", "parameter_unknown", name)


def text(params: Params, name: str) -> str | None:
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise StripeError(400, f"Invalid string: {value}", "parameter_invalid_string", name)
    return value


def texts(params: Params, name: str) -> list[str] | None:
    value = params.get(name)
    if value is None or (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        return value
    raise StripeError(400, "Invalid array", "parameter_invalid_array", name)


def integer(value: Any, name: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
        return int(value)
    raise StripeError(400, f"Invalid integer: {value}", "parameter_invalid_integer", name)


def boolean(params: Params, name: str) -> bool | None:
    value = params.get(name)
    if value in (None, "true", "false"):
        return None if value is None else value == "true"
    raise StripeError(400, f"Invalid boolean: {value}", "parameter_invalid_boolean", name)


def choice(params: Params, name: str, allowed: Iterable[str]) -> str | None:
    value = text(params, name)
    if value is not None and value not in allowed:
        raise StripeError(400, f"Invalid {name}: must be one of {', '.join(allowed)}", None, name)
    return value


def span(params: Params, name: str) -> tuple[int, int]:
    """A moment or a range of moments, as its first and last second."""
    value = params.get(name)
    if value is None:
        return 0, FOREVER
    if not isinstance(value, dict):
        return (moment := integer(value, name)), moment
    first, last = 0, FOREVER
    for key, limit in value.items():
        moment = integer(limit, f"{name}[{key}]")
        match key:
            case "gt":
                first = max(first, moment + 1)
            case "gte":
                first = max(first, moment)
            case "lt":
                last = min(last, moment - 1)
            case "lte":
                last = min(last, moment)
            case _:
                param = f"{name}[{key}]"
                raise StripeError(400, f"Received unknown parameter: {param}", "parameter_unknown", param)
    return first, last


def cursor(params: Params, shelf: Shelf, kind: str, created_from: int = 0) -> Cursor:
    limit = integer(params.get("limit", "10"), "limit")
    if limit < 1:
        raise StripeError(400, "This value must be greater than or equal to 1.", None, "limit")
    if limit > 100:
        raise StripeError(400, "This value must be less than or equal to 100.", None, "limit")
    after, before = text(params, "starting_after"), text(params, "ending_before")
    if after is not None and before is not None:
        message = "Received both starting_after and ending_before parameters. Please pass in only one."
        raise StripeError(400, message, None, "starting_after")
    for name, key in (("starting_after", after), ("ending_before", before)):
        if key is not None and key not in shelf:
            raise missing(kind, key, name, status=400)
    first, last = span(params, "created")
    return Cursor(limit, after, before, max(first, created_from), last)


def missing(kind: str, key: str, param: str = "id", status: int = 404) -> StripeError:
    name = NAMES.get(kind, kind.removesuffix("s"))
    return StripeError(status, f"No such {name}: '{key}'", "resource_missing", param)
