"""The app itself, from outside: does it answer, and would its webhook route take a delivery?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opskit.actions import Action, Arguments, Change
from opskit.errors import CannotTell, Faulty, Throttled
from opskit.http import Http, Read

HEALTH = "/api/health"


def reads(webhook_path: str) -> tuple[Read, ...]:
    """An empty, unsigned POST to the webhook route is a read: the handler refuses it before it does anything."""
    return (Read("GET", HEALTH, "none"), Read("POST", webhook_path, "none"))


@dataclass
class App:
    """The app at one address."""

    http: Http
    webhook_path: str

    def health(self) -> dict[str, Any]:
        """What the health route says of its parts; `ok` tells whether it answered 200."""
        try:
            answer = self.http.read(HEALTH)
        except Faulty as error:
            return {"ok": False, "status": error.status, "said": error.message}
        return {"ok": True, "status": answer.status, "said": answer.text[:300]}

    def takes_deliveries(self) -> bool:
        """Whether the webhook handler itself answers, however it does: it refuses an unsigned call with 400.

        An edge without the handler behind it answers 404 or 502 to 504, or nothing.
        """
        try:
            self.http.read(self.webhook_path, method="POST", body={})
        except Faulty as error:
            return error.status in (400, 500)
        except Throttled:
            return True  # it is there; it counts us
        except CannotTell:
            return False
        return False

    def restore(self, url: str, endpoint: str) -> Action:
        """Have a person bring the webhook route back at `url`, and let the endpoint point there."""
        return RestoreRoute().plan({"url": url, "endpoint": endpoint}, {"answers": False, "points_there": False})


class RestoreRoute(Change):
    name = "app.restore_route"
    title = "By hand: make {url} answer again, and let endpoint {endpoint} point there"
    manual = True

    def look(self, services: Any, of: Arguments) -> Any:
        points_there = services.stripe.endpoint(of["endpoint"])["url"] == of["url"]
        return {"answers": services.app.takes_deliveries(), "points_there": points_there}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["answers"] and now["points_there"])

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"curl -si -X POST {of['url']} | head -1  # 400 means: the handler is back"
