"""Stripe's HTTP API over the store: keys, versions, request limits, idempotency; then `stripe_routes` answers."""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as WebRoute

from opskit.sandbox import stripe_webhooks
from opskit.sandbox.stripe_rendering import render
from opskit.sandbox.stripe_requests import (
    IdempotencyError,
    Params,
    RateLimitError,
    StripeError,
    parsed,
    refuse_unknown,
    texts,
)
from opskit.sandbox.stripe_routes import ROUTES, Call, Route
from opskit.sandbox.stripe_shelf import JSON

if TYPE_CHECKING:
    from opskit.sandbox.stripe import StripeStore
    from opskit.sandbox.world import World

EXPANDABLE = {
    "customer": "customers",
    "subscription": "subscriptions",
    "latest_invoice": "invoices",
    "invoice": "invoices",
    "product": "products",
    "default_price": "prices",
}

Answer = tuple[int, dict[str, str], bytes]


class Throttle:
    """Requests of the last second, for each endpoint and in all."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {}

    def check(self, route: Route, limits: dict[str, int]) -> None:
        now = time.monotonic()
        for reason, name in (("global", "global"), ("endpoint", f"{route.method} {route.path}")):
            recent = self._recent.setdefault(name, deque())
            while recent and recent[0] <= now - 1:
                recent.popleft()
            if len(recent) >= limits[reason]:
                raise RateLimitError(reason)
            recent.append(now)


def application(world: World) -> Starlette:
    throttle = Throttle()

    async def endpoint(request: Request) -> Response:
        body = (await request.body()).decode()
        status, headers, content = await run_in_threadpool(_answer, world, throttle, request, body)
        return Response(content, status, headers, "application/json")

    return Starlette(routes=[WebRoute("/{path:path}", endpoint, methods=["GET", "POST", "DELETE"])])


def _answer(world: World, throttle: Throttle, request: Request, body: str) -> Answer:
    store = world.stripe
    with store.lock:  # one request at a time: each is quick and none waits for anything
        common = {"Request-Id": f"req_{secrets.token_hex(7)}"}
        try:
            version = _version(store, request)
            common["Stripe-Version"] = version
            route, key = _route(request)
            _authorize(world, request, route)
            throttle.check(route, store.request_limits)
            params = parsed(f"{request.url.query}&{body}")
            saved = _Saved(store, request, route, params)
            if saved.answer is not None:
                status, headers, content = saved.answer
                return status, {**headers, **common, "Idempotent-Replayed": "true"}, content
            refuse_unknown(params, (*route.params, "expand"))
            found = route.answer(Call(world, params, key))
            content = json.dumps(_shown(store, found, version, texts(params, "expand") or [])).encode()
            return saved.save(200, common, content)
        except StripeError as error:
            return error.status, {**common, **error.headers}, json.dumps(error.body).encode()


class _Saved:
    """What was answered before to the same idempotency key. Only what was carried out is saved, not refusals."""

    def __init__(self, store: StripeStore, request: Request, route: Route, params: Params) -> None:
        self.answer: Answer | None = None
        self._store = store
        self._key = request.headers.get("idempotency-key") if route.method == "POST" else None
        self._said: tuple[Any, ...] = (request.url.path, params)
        if self._key is None:
            return
        if len(self._key) > 255:
            raise StripeError(400, "Idempotency-Key must be at most 255 characters long.", None, "Idempotency-Key")
        at, said, answer = store.idempotent.get(self._key, (0, None, None))
        if at < store.now() - 86400:
            return
        if said != self._said:
            message = (
                "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"Try using a key other than '{self._key}' if you meant to execute a different request."
            )
            raise IdempotencyError(400, message)
        self.answer = answer

    def save(self, status: int, headers: dict[str, str], content: bytes) -> Answer:
        answer = (status, headers, content)
        if self._key is not None:
            self._store.idempotent[self._key] = (self._store.now(), self._said, answer)
        return answer


def _version(store: StripeStore, request: Request) -> str:
    version = request.headers.get("stripe-version", store.api_version)
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}(\.\w+)?", version):
        raise StripeError(400, f"Invalid Stripe API version: {version}")
    return version


def _route(request: Request) -> tuple[Route, str]:
    for route in ROUTES:
        key = route.match(request.method, request.url.path)
        if key is not None:
            return route, key
    message = (
        f"Unrecognized request URL ({request.method}: {request.url.path}). Please see https://stripe.com/docs "
        "or we can help at https://support.stripe.com/."
    )
    raise StripeError(404, message)


def _authorize(world: World, request: Request, route: Route) -> None:
    key = _api_key(request.headers.get("authorization", ""))
    if not key:
        message = (
            "You did not provide an API key. You need to provide your API key in the Authorization header, using "
            "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
        )
        raise StripeError(401, message)
    shown = f"{key[:8]}{'*' * max(0, len(key) - 12)}{key[-4:]}"
    if key == world.secrets["stripe_change"] or (key == world.secrets["stripe_read"] and route.method == "GET"):
        return
    if key == world.secrets["stripe_read"]:
        message = (
            f"The provided key '{shown}' does not have the required permissions for this endpoint on account "
            f"'{world.stripe.account['id']}'. Having the 'rak_{route.permission}_write' permission would allow "
            "this request to continue."
        )
        raise StripeError(403, message)
    raise StripeError(401, f"Invalid API Key provided: {shown}")


def _api_key(header: str) -> str:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _shown(store: StripeStore, value: JSON, version: str, expand: list[str]) -> JSON:
    """As the requested version shows it, with what was asked to be expanded."""
    if value["object"] == "list":
        shown: JSON = {**value, "data": [_object(store, one, version) for one in value["data"]]}
    else:
        shown = _object(store, value, version)
    for path in expand:
        shown = _expanded(store, shown, version, path, path.split("."))
    return shown


def _object(store: StripeStore, value: JSON, version: str) -> JSON:
    shown = render(value, version)
    if shown["object"] == "event":
        shown["pending_webhooks"] = stripe_webhooks.pending_webhooks(store, shown["id"])
    return shown


def _expanded(store: StripeStore, value: JSON, version: str, path: str, parts: list[str]) -> JSON:
    head, *rest = parts
    inner = value.get(head)
    if isinstance(inner, str) and head in EXPANDABLE:
        inner = render(getattr(store, EXPANDABLE[head])[inner], version)
    elif head not in value or isinstance(inner, str | int):
        raise StripeError(400, f"This property cannot be expanded ({path}).", None, "expand")
    if rest and isinstance(inner, list):
        inner = [_expanded(store, one, version, path, rest) for one in inner]
    elif rest and isinstance(inner, dict):
        inner = _expanded(store, inner, version, path, rest)
    return {**value, head: inner}
