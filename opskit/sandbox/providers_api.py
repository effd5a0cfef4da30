"""The AI providers over HTTP: each on an address of its own, with the headers that its clients read."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from opskit.sandbox import providers
from opskit.sandbox.app_call import Answer

if TYPE_CHECKING:
    from opskit.sandbox.world import World

REQUEST_ID = {"openai": "x-request-id", "anthropic": "request-id", "deepseek": "x-ds-trace-id"}
KEEP_ALIVE = 0.05  # seconds between the blank lines that DeepSeek sends while it works


def application(name: str) -> Callable[[World], Starlette]:
    """How one of the three is served."""

    def serve(world: World) -> Starlette:
        async def page(request: Request) -> Response:
            body = await request.body()
            asked = (request.method, request.url.path, request.headers, body, request.query_params)
            said = await run_in_threadpool(providers.receive, world, name, *asked)
            headers = {REQUEST_ID[name]: f"req_{secrets.token_hex(12)}", **said.headers, **_limits(world, name)}
            if name == "deepseek" and said.status == 200 and request.method == "POST":
                return StreamingResponse(_kept_alive(said), said.status, headers)
            return Response(said.body, said.status, headers)

        return Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST"])])

    return serve


async def _kept_alive(said: Answer) -> AsyncIterator[bytes]:
    """DeepSeek sends blank lines before its answer, so that a busy hour does not look like a dead connection."""
    for _ in range(2):
        yield b"\n"
        await asyncio.sleep(KEEP_ALIVE)
    yield said.body


def _limits(world: World, name: str) -> dict[str, str]:
    """What is left of our pace, as OpenAI and Anthropic tell with every answer."""
    provider = world.providers[name]
    if provider.per_minute is None or name == "deepseek":
        return {}
    left = str(max(0, provider.per_minute - len(provider.admitted)))
    begins = "x-ratelimit" if name == "openai" else "anthropic-ratelimit-requests"
    ends = "-requests" if name == "openai" else ""
    return {f"{begins}-limit{ends}": str(provider.per_minute), f"{begins}-remaining{ends}": left}
