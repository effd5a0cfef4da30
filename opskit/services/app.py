"""The app itself, from outside: does it answer, and would its webhook route take a delivery?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opskit.actions import Action, Arguments, Change
from opskit.errors import CannotTell, Denied, Faulty, NotFound, Throttled
from opskit.http import Http, Read

HEALTH = "/api/health"
SAVING = "/api/documents/opskit/autosave"  # of no document; a GET is refused before anything is looked up
KNOCKS = 8  # an outage of the hosting hits a share of the requests


def reads(webhook_path: str) -> tuple[Read, ...]:
    """An empty, unsigned POST to the webhook route is a read: the handler refuses it before it does anything."""
    return (
        Read("GET", HEALTH, "none"),
        Read("POST", webhook_path, "none"),
        Read("GET", "/api/documents/{id}/autosave", "none"),
    )


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

    def takes_saves(self) -> bool:
        """Whether the autosave route answers, every time: it refuses a GET with 405, or asks who we are with 401."""
        return all(self._knock() for _ in range(KNOCKS))

    def _knock(self) -> bool:
        try:
            self.http.read(SAVING)
        except Faulty as error:
            return error.status in (401, 405)
        except (Denied, NotFound, Throttled):
            return True  # the app itself spoke
        except CannotTell:
            return False
        return True

    def restore_saving(self) -> Action:
        """Have a person bring the autosave route back: the hosting's outage, or a deployment to be rolled back."""
        return RestoreSaving().plan({"path": SAVING}, {"answers": False})

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


class RestoreSaving(Change):
    name = "app.restore_saving"
    title = "By hand: roll back a deployment that correlates, or wait out the hosting's outage; saves must answer again"
    manual = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"answers": services.app.takes_saves()}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["answers"])

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"curl -si https://APP{of['path']} | head -1  # 405 means: the app is back"
