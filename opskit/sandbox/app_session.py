"""Who calls: the access token that a signed-in browser sends along, as Supabase signs it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opskit.sandbox.app_call import Call
    from opskit.sandbox.world import World


def token(world: World, user: str, lasts: timedelta = timedelta(hours=1)) -> str:
    """A session of that user, from now on."""
    now = world.clock.now()
    claims = {"sub": user, "role": "authenticated", "iat": _seconds(now), "exp": _seconds(now + lasts)}
    said = f"{_encoded(json.dumps({'alg': 'HS256', 'typ': 'JWT'}))}.{_encoded(json.dumps(claims))}"
    return f"{said}.{_signature(world, said)}"


def user(call: Call) -> str | None:
    """The user whose genuine, living session comes with a request; else None."""
    scheme, _, given = call.headers.get("authorization", "").partition(" ")
    said, _, signature = given.rpartition(".")
    if scheme != "Bearer" or not hmac.compare_digest(signature.encode(), _signature(call.world, said).encode()):
        return None
    claims: dict[str, Any] = json.loads(_decoded(said.partition(".")[2]))
    return str(claims["sub"]) if _seconds(call.world.clock.now()) < claims["exp"] else None


def _signature(world: World, said: str) -> str:
    digest = hmac.new(world.secrets["jwt"].encode(), said.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
