"""Serves the company's services, each on its own port of the loopback address, with the world's faults around them."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opskit.sandbox import SandboxError

if TYPE_CHECKING:
    from opskit.sandbox.world import Fault, World

Hit = Callable[["Fault", str, str], None]  # told of each request (method, path) that a fault answered


class Serving:
    """Services being served. Sockets are bound first, so that every address is known before anything runs."""

    def __init__(self, services: list[str]) -> None:
        self.sockets = {service: _bound() for service in services}
        self.servers: list[uvicorn.Server] = []
        self.threads: list[threading.Thread] = []

    @property
    def addresses(self) -> dict[str, str]:
        return {name: f"http://127.0.0.1:{place.getsockname()[1]}" for name, place in self.sockets.items()}

    def serve(self, service: str, app: ASGIApp) -> None:
        """Serve it from a thread of its own, so that a slow service holds up no other."""
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        config.app = _Connected(app, server)
        thread = threading.Thread(
            target=server.run, args=([self.sockets[service]],), name=f"serve {service}", daemon=True
        )
        thread.start()
        self.servers.append(server)
        self.threads.append(thread)

    def await_ready(self) -> None:
        for server, thread in zip(self.servers, self.threads, strict=True):
            while not server.started:
                if not thread.is_alive():
                    raise SandboxError(f"{thread.name} failed")
                time.sleep(0.005)

    def stop(self) -> None:
        for server in self.servers:
            server.should_exit = True
        for thread in self.threads:
            thread.join(5)


def faulty(world: World, service: str, app: ASGIApp, hit: Hit | None = None) -> ASGIApp:
    """The service as seen from outside: with the world's faults in front of it, and its traffic noted."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        fault = world.faults.strike(service, scope["method"], scope["path"], world.clock.now())
        entry = world.traffic.note(**_facts(service, scope, fault))

        async def answer(message: Message) -> None:
            entry["status"] = message.get("status", entry["status"])
            await send(message)

        if fault is None:
            return await app(scope, receive, answer)
        if fault.status is not None and hit is not None:
            hit(fault, scope["method"], scope["path"])
        return await _misbehave(fault, app, scope, await _heard(receive), answer)

    return serve


async def _misbehave(fault: Fault, app: ASGIApp, scope: Scope, request: Callable[[], Receive], answer: Send) -> None:
    if fault.takes_effect:
        await app(scope, request(), _unheard)
    await asyncio.sleep(fault.delay)
    if fault.reset:
        await scope["opskit.cut"](_reset)
    elif fault.truncate:
        await _half(app, scope, request(), answer)
        await scope["opskit.cut"](_close)
    elif fault.status is None:
        await app(scope, request(), answer)
    else:
        headers = {"content-type": "text/plain; charset=utf-8", **{k.lower(): v for k, v in fault.headers.items()}}
        await Response(fault.body, fault.status, headers)(scope, request(), answer)


def _facts(service: str, scope: Scope, fault: Fault | None) -> dict[str, Any]:
    """What is remembered of a request: never its secrets."""
    said = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return {
        "service": service,
        "method": scope["method"],
        "path": scope["path"],
        "agent": said.get("user-agent", ""),
        "key": said.get("idempotency-key"),
        "struck": fault is not None,
        "passed": fault is None or fault.passes,
        "status": None,  # until it is answered
    }


async def _heard(receive: Receive) -> Callable[[], Receive]:
    """The whole request, to be given to the service even when its sender has hung up meanwhile."""
    heard = [await receive()]
    while heard[-1].get("more_body"):
        heard.append(await receive())

    def request() -> Receive:
        left = list(heard)

        async def again() -> Message:
            return left.pop(0) if left else await receive()

        return again

    return request


async def _unheard(message: Message) -> None:
    """An answer that reaches nobody."""


async def _half(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """The first half of the true answer, under the length of all of it."""
    said: list[Message] = []

    async def keep(message: Message) -> None:
        said.append(message)

    await app(scope, receive, keep)
    start, body = said[0], b"".join(message.get("body", b"") for message in said[1:])
    headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
    await send({**start, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})


class _Connected:
    """Gives requests a way to cut their connection, which ASGI does not have."""

    def __init__(self, app: ASGIApp, server: uvicorn.Server) -> None:
        self.app = app
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def cut(how: Callable[[Any], None]) -> None:
            for connection in list(self.server.server_state.connections):
                if getattr(connection, "client", None) == scope["client"]:
                    how(connection.transport)
            await asyncio.sleep(0)  # lets uvicorn notice before we return without an answer

        await self.app({**scope, "opskit.cut": cut}, receive, send)


def _reset(transport: Any) -> None:
    """Closing a socket that does not linger sends a reset instead of a polite end."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _close(transport: Any) -> None:
    """Ends politely: what was said still arrives."""
    transport.close()


def _bound() -> socket.socket:
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place
