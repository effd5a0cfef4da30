"""The vendors' public status pages, in the JSON of Statuspage's version 2, one base path for each vendor.

All is well unless `world.status_pages[vendor]` says otherwise: `indicator`, `components` (name -> status), `incidents`
(each at least a name), or `html: true` for a page that has moved: it redirects to a page of HTML.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from opskit.sandbox.world import World

JSON = dict[str, Any]

VENDORS: dict[str, tuple[str, str, tuple[str, ...]]] = {  # name, address, components
    "stripe": ("Stripe", "https://www.stripestatus.com", ("API", "Webhooks", "Checkout", "Billing", "Dashboard")),
    "vercel": (
        "Vercel",
        "https://www.vercel-status.com",
        ("Edge Network", "Serverless Functions", "Builds", "API", "Logs"),
    ),
    "supabase": (
        "Supabase",
        "https://status.supabase.com",
        ("API Gateway", "Auth", "Database", "Connection Pooler", "Storage", "Realtime"),
    ),
    "sentry": ("Sentry", "https://status.sentry.io", ("Dashboard", "Event Ingestion - US", "Notifications", "API")),
    "openai": ("OpenAI", "https://status.openai.com", ("Responses", "Chat Completions", "Files", "ChatGPT")),
    "anthropic": ("Claude", "https://status.claude.com", ("Claude API", "Claude Console", "claude.ai")),
    "deepseek": ("DeepSeek", "https://status.deepseek.com", ("API Service", "Web Chat Service")),
}
DESCRIPTIONS = {
    "none": "All Systems Operational",
    "minor": "Minor Service Outage",
    "major": "Partial System Outage",
    "critical": "Major Service Outage",
    "maintenance": "Service Under Maintenance",
}
WORST = {  # a component's status -> the least indicator that it causes
    "operational": "none",
    "degraded_performance": "minor",
    "partial_outage": "major",
    "major_outage": "critical",
    "under_maintenance": "maintenance",
}
SEVERITY = ("none", "maintenance", "minor", "major", "critical")
OVER = ("resolved", "postmortem")


def application(world: World) -> Starlette:
    pages: dict[str, Callable[[World, str], JSON]] = {
        "status": _status,
        "summary": _summary,
        "components": lambda world, vendor: {"components": _components(world, vendor)},
        "incidents": lambda world, vendor: {"incidents": _incidents(world, vendor)},
        "incidents/unresolved": lambda world, vendor: {"incidents": _unresolved(world, vendor)},
    }

    def endpoint(page: Callable[[World, str], JSON]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            vendor = request.path_params["vendor"]
            if vendor not in VENDORS:
                return HTMLResponse("<h1>Page not found</h1>", 404)
            if _overrides(world, vendor).get("html"):
                return RedirectResponse(f"/{vendor}", 302)
            return JSONResponse({"page": _page(world, vendor), **page(world, vendor)})

        return answer

    listed = [Route(f"/{{vendor}}/api/v2/{name}.json", endpoint(page)) for name, page in pages.items()]
    return Starlette(routes=[*listed, Route("/{vendor}", _for_people)])


def _for_people(request: Request) -> Response:
    """The page that people read. Only programs miss something where it has moved."""
    return HTMLResponse("<!doctype html><title>Status</title><h1>Our status page</h1>")


def _overrides(world: World, vendor: str) -> JSON:
    return world.status_pages.get(vendor) or {}


def _id(*parts: str) -> str:
    """The same for the same thing, as on a real page."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def _page(world: World, vendor: str) -> JSON:
    name, url, _ = VENDORS[vendor]
    return {"id": _id(vendor), "name": name, "url": url, "time_zone": "Etc/UTC", "updated_at": _now(world)}


def _now(world: World) -> str:
    return world.clock.now().isoformat(timespec="milliseconds")


def _status(world: World, vendor: str) -> JSON:
    """The indicator that was set, or the worst that components and open incidents cause."""
    causes = [WORST[component["status"]] for component in _components(world, vendor)]
    causes += [incident["impact"] for incident in _unresolved(world, vendor)]
    indicator = _overrides(world, vendor).get("indicator") or max(causes, key=SEVERITY.index)
    return {"status": {"indicator": indicator, "description": DESCRIPTIONS[indicator]}}


def _summary(world: World, vendor: str) -> JSON:
    return {
        **_status(world, vendor),
        "components": _components(world, vendor),
        "incidents": _unresolved(world, vendor),
        "scheduled_maintenances": [],
    }


def _components(world: World, vendor: str) -> list[JSON]:
    """The vendor's components, and any further one that a scenario names."""
    changed: dict[str, str] = _overrides(world, vendor).get("components") or {}
    names = dict.fromkeys([*VENDORS[vendor][2], *changed])
    return [
        {
            "id": _id(vendor, name),
            "name": name,
            "status": changed.get(name, "operational"),
            "created_at": "2021-03-01T00:00:00.000Z",
            "updated_at": _now(world),
            "position": position,
            "description": None,
            "showcase": True,
            "start_date": None,
            "group_id": None,
            "page_id": _id(vendor),
            "group": False,
            "only_show_if_degraded": False,
        }
        for position, name in enumerate(names, 1)
    ]


def _incidents(world: World, vendor: str) -> list[JSON]:
    return [_incident(world, vendor, one) for one in _overrides(world, vendor).get("incidents") or []]


def _unresolved(world: World, vendor: str) -> list[JSON]:
    return [one for one in _incidents(world, vendor) if one["status"] not in OVER]


def _incident(world: World, vendor: str, given: JSON) -> JSON:
    """A whole incident from the little that a scenario says of it."""
    started = given.get("started_at") or (world.clock.now() - timedelta(minutes=45)).isoformat(timespec="milliseconds")
    key, status = _id(vendor, "incident", given["name"]), given.get("status", "investigating")
    update = {
        "id": _id(key, "update"),
        "status": status,
        "body": given.get("body", "We are investigating this issue."),
        "incident_id": key,
        "created_at": started,
        "updated_at": started,
        "display_at": started,
        "affected_components": None,
    }
    return {
        "id": key,
        "name": given["name"],
        "status": status,
        "impact": given.get("impact", "major"),
        "created_at": started,
        "updated_at": started,
        "monitoring_at": None,
        "resolved_at": given.get("resolved_at") or (started if status in OVER else None),
        "started_at": started,
        "page_id": _id(vendor),
        "shortlink": f"{VENDORS[vendor][1]}/incidents/{key}",
        "incident_updates": [update],
        "components": [one for one in _components(world, vendor) if one["name"] in given.get("components", [])],
    }
