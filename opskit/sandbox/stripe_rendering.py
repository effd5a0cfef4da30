"""How an object looks in a given version of Stripe's API.

The store holds objects in their newest shape: periods on subscription items, an invoice's subscription under `parent`.
Before version 2025-03-31.basil they lay elsewhere, and the app was written for that. The nested object wins: an older
shape is made from it, never the other way round.
"""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]

BASIL = "2025-03-31"
PERIOD = ("current_period_start", "current_period_end")


def render(value: JSON, version: str) -> JSON:
    """The object as that version shows it. Never changes its argument; shares what is the same."""
    if value.get("object") == "event":
        return render_event(value, value["api_version"])
    if version[:10] >= BASIL:
        return value
    return _before_basil(value.get("object", ""), value)


def render_event(event: JSON, version: str) -> JSON:
    """An event's data keeps the version of its creation, or that of the endpoint it is delivered to."""
    kind = event["data"]["object"].get("object", "")
    if version[:10] >= BASIL or kind not in ("subscription", "invoice"):
        return {**event, "api_version": version}
    data = {part: _before_basil(kind, content) for part, content in event["data"].items()}
    return {**event, "api_version": version, "data": data}


def _before_basil(kind: str, value: JSON) -> JSON:
    if kind == "subscription":
        return _subscription(value)
    if kind == "invoice":
        return _invoice(value)
    return value


def _subscription(value: JSON) -> JSON:
    """Periods on the subscription. Also renders `previous_attributes`, which hold only some of the fields."""
    old = {name: content for name, content in value.items() if name not in ("billing_mode", "billing_schedules")}
    if (items := value.get("items")) and items.get("data"):
        first = items["data"][0]
        old.update({name: first[name] for name in PERIOD if name in first})
        trimmed = [{k: v for k, v in item.items() if k not in PERIOD} for item in items["data"]]
        if any(trimmed):
            old["items"] = {**items, "data": trimmed}
        else:
            del old["items"]
    return old


def _invoice(value: JSON) -> JSON:
    old = {name: content for name, content in value.items() if name != "parent"}
    details = (value.get("parent") or {}).get("subscription_details") or {}
    if details:
        old["subscription"] = details["subscription"]
        old["subscription_details"] = {"metadata": details["metadata"]}
    if "status" in value:
        old["paid"] = value["status"] == "paid"
    if "lines" in value:
        old["lines"] = {**value["lines"], "data": [_line(line) for line in value["lines"]["data"]]}
    return old


def _line(value: JSON) -> JSON:
    old = {name: content for name, content in value.items() if name not in ("parent", "pricing")}
    details = value["parent"]["subscription_item_details"]
    price = value["pricing"]["price_details"]
    return {
        **old,
        "type": "subscription",
        "subscription": details["subscription"],
        "subscription_item": details["subscription_item"],
        "proration": details["proration"],
        "price": {"id": price["price"], "object": "price", "product": price["product"]},
    }
