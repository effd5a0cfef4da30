"""New Stripe objects, whole, in the newest shape of the API. Plain dictionaries, as JSON would give them."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

JSON = dict[str, Any]


def account(key: str, created: int, name: str, email: str) -> JSON:
    return {
        "id": key,
        "object": "account",
        "business_profile": {"name": name, "support_email": email, "url": None},
        "business_type": "company",
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "country": "US",
        "created": created,
        "default_currency": "usd",
        "details_submitted": True,
        "email": email,
        "metadata": {},
        "payouts_enabled": True,
        "settings": {"dashboard": {"display_name": name, "timezone": "Etc/UTC"}},
        "type": "standard",
    }


def product(key: str, created: int, name: str, metadata: JSON) -> JSON:
    return {
        "id": key,
        "object": "product",
        "active": True,
        "created": created,
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": True,
        "marketing_features": [],
        "metadata": metadata,
        "name": name,
        "type": "service",
        "updated": created,
    }


def price(key: str, created: int, product: str, amount: int, nickname: str) -> JSON:
    return {
        "id": key,
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": created,
        "currency": "usd",
        "livemode": True,
        "lookup_key": None,
        "metadata": {},
        "nickname": nickname,
        "product": product,
        "recurring": {"interval": "month", "interval_count": 1, "meter": None, "usage_type": "licensed"},
        "tax_behavior": "unspecified",
        "type": "recurring",
        "unit_amount": amount,
        "unit_amount_decimal": str(amount),
    }


def plan(price: JSON) -> JSON:
    """The same price under its old name: subscription items carry both."""
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": price["recurring"]["interval"],
        "interval_count": price["recurring"]["interval_count"],
        "livemode": True,
        "metadata": price["metadata"],
        "nickname": price["nickname"],
        "product": price["product"],
        "usage_type": "licensed",
    }


def customer(key: str, created: int, email: str, name: str | None, metadata: JSON) -> JSON:
    return {
        "id": key,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": created,
        "currency": "usd",
        "default_source": None,
        "delinquent": False,
        "description": None,
        "email": email,
        "invoice_prefix": key[-8:].upper(),
        "invoice_settings": {"custom_fields": None, "default_payment_method": None, "footer": None},
        "livemode": True,
        "metadata": metadata,
        "name": name,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
    }


def subscription_item(key: str, created: int, subscription: str, price: JSON, period: tuple[int, int]) -> JSON:
    return {
        "id": key,
        "object": "subscription_item",
        "created": created,
        "current_period_start": period[0],
        "current_period_end": period[1],
        "discounts": [],
        "metadata": {},
        "plan": plan(price),
        "price": price,
        "quantity": 1,
        "subscription": subscription,
        "tax_rates": [],
    }


def subscription(customer: str, item: JSON, status: str, metadata: JSON) -> JSON:
    """A new subscription to one item, which already names it."""
    key, created = item["subscription"], item["created"]
    trial_end = item["current_period_end"] if status == "trialing" else None
    return {
        "id": key,
        "object": "subscription",
        "application": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": trial_end or created,
        "billing_mode": {"flexible": None, "type": "classic"},
        "billing_schedules": [],
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": created,
        "currency": "usd",
        "customer": customer,
        "days_until_due": None,
        "default_payment_method": None,
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": {
            "object": "list",
            "data": [item],
            "has_more": False,
            "url": f"/v1/subscription_items?subscription={key}",
        },
        "latest_invoice": None,
        "livemode": True,
        "metadata": metadata,
        "pause_collection": None,
        "pending_setup_intent": None,
        "schedule": None,
        "start_date": created,
        "status": status,
        "trial_end": trial_end,
        "trial_start": created if trial_end else None,
    }


def invoice(keys: tuple[str, str], created: int, customer: JSON, subscription: JSON, paid: bool) -> JSON:
    """The invoice for a subscription's current period, paid or open; `keys` are its own id and its line's."""
    key, line = keys
    amount = 0 if subscription["status"] == "trialing" else invoice_amount(subscription)
    return {
        "id": key,
        "object": "invoice",
        "amount_due": amount,
        "amount_overpaid": 0,
        "amount_paid": amount if paid else 0,
        "amount_remaining": 0 if paid else amount,
        "amount_shipping": 0,
        "attempt_count": 1,
        "attempted": True,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None, "status": None},
        "billing_reason": "subscription_create" if created == subscription["created"] else "subscription_cycle",
        "collection_method": "charge_automatically",
        "created": created,
        "currency": "usd",
        "customer": customer["id"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": None,
        "effective_at": created,
        "ending_balance": 0,
        "issuer": {"type": "self"},
        "lines": {
            "object": "list",
            "data": [_invoice_line(line, key, subscription, amount)],
            "has_more": False,
            "url": f"/v1/invoices/{key}/lines",
        },
        "livemode": True,
        "metadata": {},
        "next_payment_attempt": None if paid else created + 3 * 86400,
        "number": f"{customer['invoice_prefix']}-{key[-4:]}",
        "parent": {
            "quote_details": None,
            "subscription_details": {"metadata": subscription["metadata"], "subscription": subscription["id"]},
            "type": "subscription_details",
        },
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": created,
        "period_start": created,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "paid" if paid else "open",
        "status_transitions": {
            "finalized_at": created,
            "marked_uncollectible_at": None,
            "paid_at": created if paid else None,
            "voided_at": None,
        },
        "subtotal": amount,
        "total": amount,
    }


def invoice_amount(subscription: JSON) -> int:
    return int(subscription["items"]["data"][0]["price"]["unit_amount"])


def _invoice_line(key: str, invoice: str, subscription: JSON, amount: int) -> JSON:
    item = subscription["items"]["data"][0]
    return {
        "id": key,
        "object": "line_item",
        "amount": amount,
        "currency": "usd",
        "description": f"1 x {item['price']['nickname']}",
        "discountable": True,
        "discounts": [],
        "invoice": invoice,
        "livemode": True,
        "metadata": subscription["metadata"],
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": False,
                "proration_details": None,
                "subscription": subscription["id"],
                "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        },
        "period": {"start": item["current_period_start"], "end": item["current_period_end"]},
        "pricing": {
            "price_details": {"price": item["price"]["id"], "product": item["price"]["product"]},
            "type": "price_details",
            "unit_amount_decimal": item["price"]["unit_amount_decimal"],
        },
        "quantity": 1,
        "subtotal": amount,
    }


def checkout_session(key: str, created: int, customer: JSON, subscription: JSON, amount: int) -> JSON:
    """A checkout that ended in a subscription."""
    return {
        "id": key,
        "object": "checkout.session",
        "amount_subtotal": amount,
        "amount_total": amount,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "client_reference_id": subscription["metadata"].get("supabase_user_id"),
        "created": created,
        "currency": "usd",
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "customer": customer["id"],
        "customer_details": {
            "address": None,
            "email": customer["email"],
            "name": customer["name"],
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": [],
        },
        "customer_email": None,
        "expires_at": created + 86400,
        "invoice": subscription["latest_invoice"],
        "livemode": True,
        "metadata": subscription["metadata"],
        "mode": "subscription",
        "payment_intent": None,
        "payment_method_types": ["card"],
        "payment_status": "paid" if amount else "no_payment_required",
        "shipping_options": [],
        "status": "complete",
        "subscription": subscription["id"],
        "success_url": None,
        "ui_mode": "hosted",
        "url": None,
    }


def webhook_endpoint(key: str, created: int, url: str, enabled_events: list[str], api_version: str | None) -> JSON:
    return {
        "id": key,
        "object": "webhook_endpoint",
        "api_version": api_version,
        "application": None,
        "created": created,
        "description": None,
        "enabled_events": enabled_events,
        "livemode": True,
        "metadata": {},
        "status": "enabled",
        "url": url,
    }


def event(key: str, created: int, api_version: str, kind: str, data: JSON) -> JSON:
    return {
        "id": key,
        "object": "event",
        "api_version": api_version,
        "created": created,
        "data": data,
        "livemode": True,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }


def month_around(moment: int, anchor: int) -> tuple[int, int]:
    """The billing month with a moment in it. All months count from the anchor: after Jan 30 and Feb 28 comes Mar 30."""
    months = next(n for n in count() if a_month_after(anchor, n + 1) > moment)
    return a_month_after(anchor, months), a_month_after(anchor, months + 1)


def a_month_after(moment: int, months: int = 1) -> int:
    """The same day and time in the next month; the 31st becomes the month's last day."""
    start = datetime.fromtimestamp(moment, UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    for day in range(start.day, 27, -1):
        try:
            return int(start.replace(year=year, month=month + 1, day=day).timestamp())
        except ValueError:
            continue
    return int(start.replace(year=year, month=month + 1).timestamp())
