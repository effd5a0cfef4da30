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
from starlette.types import ASGIApp, Receive, Scope, Send

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
    """The service as seen from outside: with the world's faults in front of it."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        fault = world.faults.strike(service, scope["method"], scope["path"], world.clock.now())
        if fault is None:
            return await app(scope, receive, send)
        await asyncio.sleep(fault.delay)
        if fault.reset:
            await scope["opskit.cut"]()
            return None
        if fault.status is None:
            return await app(scope, receive, send)
        if hit is not None:
            hit(fault, scope["method"], scope["path"])
        headers = {"content-type": "text/plain; charset=utf-8", **{k.lower(): v for k, v in fault.headers.items()}}
        return await Response(fault.body, fault.status, headers)(scope, receive, send)

    return serve


class _Connected:
    """Gives requests a way to cut their connection, which ASGI does not have."""

    def __init__(self, app: ASGIApp, server: uvicorn.Server) -> None:
        self.app = app
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def cut() -> None:
            for connection in list(self.server.server_state.connections):
                if getattr(connection, "client", None) == scope["client"]:
                    _reset(connection.transport)
            await asyncio.sleep(0)  # lets uvicorn notice before we return without an answer

        await self.app({**scope, "opskit.cut": cut}, receive, send)


def _reset(transport: Any) -> None:
    """Closing a socket that does not linger sends a reset instead of a polite end."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _bound() -> socket.socket:
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place
